/* text.c: see text.h. */
#include "clients/ddimctl/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

int buffer_add(struct buffer *b, const void *data, size_t n)
{
    size_t room = b->room ? b->room : 64;
    while (room < b->n + n + 1)
        room *= 2;
    if (room != b->room) {
        char *grown = realloc(b->data, room);
        if (!grown)
            return -ENOMEM;
        b->data = grown;
        b->room = room;
    }
    if (n)
        memcpy(b->data + b->n, data, n);
    b->n += n;
    b->data[b->n] = '\0';
    return 0;
}

int buffer_printf(struct buffer *b, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        return -ENOMEM;
    int rc = buffer_add(b, text, (size_t)n);
    free(text);
    return rc;
}

char *text_tame(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if ((*c < ' ' && *c != '\n' && *c != '\t') || *c == 0x7f)
            *c = '?';
        else if (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0) // U+0080 to U+009F as UTF-8
            *c = '?', c[1] = '?';
    }
    return text;
}

/* Steps over one character; *ret_columns is its width. Bytes that are no character take one column. */
static size_t character(const char *text, int *ret_columns)
{
    mbstate_t state = {0};
    wchar_t wide;
    size_t n = mbrtowc(&wide, text, strlen(text), &state);
    if (n == (size_t)-1 || n == (size_t)-2 || n == 0) {
        *ret_columns = 1;
        return 1;
    }
    int columns = wcwidth(wide);
    *ret_columns = columns >= 0 ? columns : 1;
    return n;
}

int text_columns(const char *text)
{
    int total = 0, columns;
    while (*text) {
        text += character(text, &columns);
        total += columns;
    }
    return total;
}

size_t text_fit(const char *text, int columns)
{
    size_t n = 0;
    while (text[n]) {
        int width;
        size_t bytes = character(text + n, &width);
        if (width > columns)
            break;
        columns -= width;
        n += bytes;
    }
    return n;
}

const char *text_duration(double seconds, char *buffer)
{
    if (!(seconds >= 0 && seconds < 1e10))
        return strcpy(buffer, "?");
    long s = (long)(seconds + 0.5);
    if (seconds < 9.995)
        snprintf(buffer, TEXT_NUMBER_BYTES, "%.2f s", seconds);
    else if (s < 60)
        snprintf(buffer, TEXT_NUMBER_BYTES, "%ld s", s);
    else if (s < 3600)
        snprintf(buffer, TEXT_NUMBER_BYTES, "%ld:%02ld", s / 60, s % 60);
    else if (s < 2 * 86400)
        snprintf(buffer, TEXT_NUMBER_BYTES, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buffer, TEXT_NUMBER_BYTES, "%ld d %ld h", s / 86400, s / 3600 % 24);
    return buffer;
}

static const char *with_unit(double value, double base, const char *const *units, char *buffer)
{
    int i = 0;
    while (value >= 0.9995 * base && units[i + 1]) {
        value /= base;
        i++;
    }
    snprintf(buffer, TEXT_NUMBER_BYTES, i && value < 99.95 ? "%.1f%s" : "%.0f%s", value, units[i]);
    return buffer;
}

const char *text_bytes(int64_t bytes, char *buffer)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", NULL};
    return with_unit((double)bytes, 1024, units, buffer);
}

const char *text_count(int64_t n, char *buffer)
{
    static const char *const units[] = {"", " k", " M", " G", " T", NULL};
    return with_unit((double)n, 1000, units, buffer);
}
