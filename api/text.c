/* text.c: see text.h. */
#include "api/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_done(struct text *t)
{
    free(t->data);
    *t = (struct text){0};
}

bool text_reserve(struct text *t, size_t n)
{
    if (t->failed || n > SIZE_MAX / 4 || t->length > SIZE_MAX / 4) {
        t->failed = true;
        return false;
    }
    if (t->capacity - t->length >= n)
        return true;
    size_t capacity = t->capacity ? t->capacity : 256;
    while (capacity - t->length < n)
        capacity *= 2;
    char *data = realloc(t->data, capacity);
    if (!data) {
        t->failed = true;
        return false;
    }
    t->data = data;
    t->capacity = capacity;
    return true;
}

void text_append(struct text *t, const void *data, size_t n)
{
    if (n && text_reserve(t, n)) {
        memcpy(t->data + t->length, data, n);
        t->length += n;
    }
}

void text_puts(struct text *t, const char *s)
{
    text_append(t, s, strlen(s));
}

void text_printf(struct text *t, const char *format, ...)
{
    char small[256];
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(small, sizeof(small), format, args);
    if (n < 0) {
        t->failed = true;
    } else if ((size_t)n < sizeof(small)) {
        text_append(t, small, (size_t)n);
    } else if (text_reserve(t, (size_t)n + 1)) {
        vsnprintf(t->data + t->length, (size_t)n + 1, format, again);
        t->length += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

const char *text_string(struct text *t)
{
    if (!text_reserve(t, 1))
        return NULL;
    t->data[t->length] = '\0';
    return t->data;
}

void text_base64(struct text *t, const void *data, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;
    if (n > SIZE_MAX / 4 || !text_reserve(t, (n + 2) / 3 * 4)) {
        t->failed = true;
        return;
    }
    char *q = t->data + t->length;
    for (; n >= 3; n -= 3, p += 3) {
        uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        *q++ = digits[v >> 18];
        *q++ = digits[v >> 12 & 63];
        *q++ = digits[v >> 6 & 63];
        *q++ = digits[v & 63];
    }
    if (n) {
        uint32_t v = (uint32_t)p[0] << 16 | (n == 2 ? (uint32_t)p[1] << 8 : 0);
        *q++ = digits[v >> 18];
        *q++ = digits[v >> 12 & 63];
        *q++ = n == 2 ? digits[v >> 6 & 63] : '=';
        *q++ = '=';
    }
    t->length = (size_t)(q - t->data);
}

static void comma(struct text *t)
{
    char last = t->length ? t->data[t->length - 1] : '[';
    if (last != '{' && last != '[' && last != ':')
        text_append(t, ",", 1);
}

void json_open(struct text *t, char bracket)
{
    comma(t);
    text_append(t, &bracket, 1);
}

void json_close(struct text *t, char bracket)
{
    text_append(t, &bracket, 1);
}

/* Bytes of the UTF-8 character at s (RFC 3629: shortest form, no surrogates, up to U+10FFFF); 0 where there is none. */
static size_t utf8_span(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : u[0] < 0xc2 ? 0 : u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : u[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    bool wrong = (u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) || (u[0] == 0xf0 && u[1] < 0x90) ||
                 (u[0] == 0xf4 && u[1] > 0x8f);
    return wrong ? 0 : n;
}

/* What is no UTF-8 (a client's field, a cut message) becomes U+FFFD: the answer stays JSON. */
static void json_escaped(struct text *t, const char *s)
{
    text_append(t, "\"", 1);
    for (const char *run = s;;) {
        unsigned char c = (unsigned char)*s;
        size_t n = utf8_span(s);
        if (n && c >= 0x20 && c != '"' && c != '\\' && c != 0x7f) {
            s += n;
            continue;
        }
        text_append(t, run, (size_t)(s - run));
        if (!c)
            break;
        if (c == '"' || c == '\\')
            text_printf(t, "\\%c", c);
        else
            text_printf(t, "\\u%04x", n ? c : 0xfffd);
        run = ++s;
    }
    text_append(t, "\"", 1);
}

void json_key(struct text *t, const char *key)
{
    comma(t);
    json_escaped(t, key);
    text_append(t, ":", 1);
}

void json_text(struct text *t, const char *s)
{
    comma(t);
    if (s)
        json_escaped(t, s);
    else
        text_puts(t, "null");
}

void json_int(struct text *t, int64_t v)
{
    comma(t);
    text_printf(t, "%lld", (long long)v);
}

void json_uint(struct text *t, uint64_t v)
{
    comma(t);
    text_printf(t, "%llu", (unsigned long long)v);
}

void json_double(struct text *t, double v)
{
    char digits[40];
    comma(t);
    if (!isfinite(v)) {
        text_puts(t, "null");
        return;
    }
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, v);
        if (strtod(digits, NULL) == v)
            break;
    }
    text_puts(t, digits);
}

void json_float(struct text *t, float v)
{
    char digits[40];
    comma(t);
    if (!isfinite(v)) {
        text_puts(t, "null");
        return;
    }
    for (int precision = 1; precision <= 9; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, (double)v);
        if (strtof(digits, NULL) == v)
            break;
    }
    text_puts(t, digits);
}

void json_bool(struct text *t, bool v)
{
    comma(t);
    text_puts(t, v ? "true" : "false");
}

void json_raw(struct text *t, const char *json)
{
    comma(t);
    text_puts(t, json);
}

void json_base64(struct text *t, const void *data, size_t n)
{
    comma(t);
    text_append(t, "\"", 1);
    text_base64(t, data, n);
    text_append(t, "\"", 1);
}

uint64_t text_hash(uint64_t seed, const void *data, size_t n)
{
    const uint8_t *p = data;
    uint64_t h = seed;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001b3);
    return h;
}
