/* error.c: see error.h. */
#include "kernels/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, int code, const char *field, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        snprintf(err->field, sizeof(err->field), "%s", field ? field : "");
        vsnprintf(err->message, sizeof(err->message), format, args);
        err->nearest[0] = '\0';
        va_end(args);
    }
    return code;
}

/* Levenshtein distance; names longer than the row are cut. */
static int edit_distance(const char *a, const char *b)
{
    int row[65];
    int nb = (int)strnlen(b, 64);
    for (int j = 0; j <= nb; j++)
        row[j] = j;
    for (int i = 0; i < 64 && a[i]; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 0; j < nb; j++) {
            int substitute = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            int insert = (row[j] < diagonal ? row[j] : diagonal) + 1;
            row[j + 1] = substitute < insert ? substitute : insert;
        }
    }
    return row[nb];
}

const char *error_nearest_name(const char *name, const char *const *names)
{
    int limit = (int)strnlen(name, 64) / 3;
    int best = limit > 2 ? limit : 2;
    const char *nearest = NULL;
    for (; *names; names++) {
        int d = edit_distance(name, *names);
        if (d <= best && (!nearest || d < best)) {
            best = d;
            nearest = *names;
        }
    }
    return nearest;
}
