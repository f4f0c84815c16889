/* text.h: text as people read it in a terminal: its width, cut to fit, without control characters; numbers with units.
 *
 * Pure functions but for the locale (LC_CTYPE, set once by main). Names and messages come from others, so nothing of
 * theirs reaches the terminal with its control characters.
 */
#ifndef DDIMCTL_TEXT_H
#define DDIMCTL_TEXT_H

#include <stddef.h>
#include <stdint.h>

enum { TEXT_NUMBER_BYTES = 32 };

/* Bytes that grow. data is NUL-terminated once anything was added; free() it. */
struct buffer {
    char *data;
    size_t n, room;
};
/* 0, -ENOMEM. */
int buffer_add(struct buffer *b, const void *data, size_t n);
int buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Replaces control characters but newline and tab by '?', in place. Returns text. */
char *text_tame(char *text);
/* Columns that text takes in a terminal. */
int text_columns(const char *text);
/* How many bytes of text fit into so many columns. */
size_t text_fit(const char *text, int columns);

/* Each writes into buffer[TEXT_NUMBER_BYTES] and returns it. */
const char *text_duration(double seconds, char *buffer); // "0.35 s", "4:07", "1:02:03", "2 d 3 h"; negative: "?"
const char *text_bytes(int64_t bytes, char *buffer);     // "17.4 MiB"
const char *text_count(int64_t n, char *buffer);         // "35.7 M"

#endif
