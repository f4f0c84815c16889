/* json_file.h: JSON that people write: a file whose lines may hold comments, and errors that say where.
 *
 * A comment begins with // outside of a string and ends with its line. Errors read "FILE:LINE: FIELD what is wrong",
 * with the line on which the field stands. Any thread.
 */
#ifndef DDIMD_MODEL_JSON_FILE_H
#define DDIMD_MODEL_JSON_FILE_H

#include "model/json.h"

struct json_file {
    const char *path; // borrowed
    char *text;       // [bytes], comments blanked
    size_t bytes;
    json_t *json;
};

/* Reads and parses a file of at most 1 MiB. field: what an error about the file itself is about ("config"). 0; -ENOENT,
 * -EACCES and the like (it cannot be opened), -EIO, -EINVAL (too large, not JSON), -ENOMEM. */
int json_file_open(const char *path, const char *field, struct json_file *ret_file, struct error *err);
void json_file_done(struct json_file *f); // may be zeroed

/* json_fields_read() of the whole file. */
int json_file_read(const struct json_file *f, const struct json_field *fields, void *into, uint64_t *ret_given,
                   struct error *err);
/* Puts file and line before an error about err->field; returns rc. */
int json_file_error(const struct json_file *f, int rc, struct error *err);

/* The line, from 1, on which the value (or its key) with this path stands in valid JSON text: "a", "a.b", "a[2].b".
 * Where the path leads nowhere, that of the last part that is there. */
int json_text_line(const char *text, size_t n, const char *path);

#endif
