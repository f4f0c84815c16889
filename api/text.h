/* text.h: a growing byte buffer, and a JSON writer on it.
 *
 * jansson reads what clients send; answers are written here, since a seed needs all 64 bits and images are large. A
 * failed allocation is remembered: write on, check text.failed once at the end. Owned by one thread at a time.
 */
#ifndef DDIMD_API_TEXT_H
#define DDIMD_API_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
    char *data; // not terminated; malloc'd, NULL while empty
    size_t length, capacity;
    bool failed; // out of memory: what follows was dropped
};

void text_done(struct text *t);                               // frees; t is empty again
void text_append(struct text *t, const void *data, size_t n); // n bytes
void text_puts(struct text *t, const char *s);                // a string without its terminator
void text_base64(struct text *t, const void *data, size_t n); // RFC 4648, padded
bool text_reserve(struct text *t, size_t n);                  // room for n more bytes; false sets failed
void text_printf(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Terminated contents, owned by t; "" where empty, NULL where it failed. */
const char *text_string(struct text *t);

/* JSON. Commas come by themselves: one is put before a key or value that does not follow '{', '[' or ':'. */
void json_open(struct text *t, char bracket);  // '{' or '['
void json_close(struct text *t, char bracket); // '}' or ']'
void json_key(struct text *t, const char *key);
void json_text(struct text *t, const char *s); // UTF-8, escaped; NULL writes null
void json_int(struct text *t, int64_t v);
void json_uint(struct text *t, uint64_t v);
void json_double(struct text *t, double v); // shortest form that reads back the same; null where not finite
void json_float(struct text *t, float v);   // the same for f32
void json_bool(struct text *t, bool v);
void json_raw(struct text *t, const char *json); // a value already in JSON
void json_base64(struct text *t, const void *data, size_t n);

/* FNV-1a, 64 bits. */
uint64_t text_hash(uint64_t seed, const void *data, size_t n);
#define TEXT_HASH_SEED UINT64_C(0xcbf29ce484222325)

#endif
