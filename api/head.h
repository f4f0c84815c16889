/* head.h: the bytes of a request, looked at before anything acts on them: its head, and where its body ends.
 *
 * RFC 9112, and strict where leniency lets two readers of the same bytes disagree: lines end with CR LF, a length and a
 * transfer coding exclude each other, none is given twice, no line is folded. What passes here libmicrohttpd takes,
 * too. Pure functions of their arguments, nothing is allocated.
 */
#ifndef DDIMD_API_HEAD_H
#define DDIMD_API_HEAD_H

#include "api/problem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REQUEST_ID_BYTES = 65 };

struct head_limits {
    size_t max_target_bytes; // of the address in the request line
    size_t max_field_bytes;  // of all header lines together
    int max_fields;          // header lines
};

struct head {
    size_t bytes;           // of the head, its empty line included
    const char *method;     // in the data, not terminated
    size_t method_bytes;    //
    bool chunked, expects;  // Transfer-Encoding: chunked; Expect: 100-continue
    uint64_t content_bytes; // Content-Length, 0 where there is none
};

/* Reads the head that data[n] begins with. searched: how many of the bytes were there at the last call, which found no
 * end. Returns 1 (*ret_head is filled), 0 (its end is not there yet and nothing is wrong so far), -EINVAL (*ret_problem
 * says what). */
int head_read(const char *data, size_t n, size_t searched, const struct head_limits *limits, struct head *ret_head,
              struct problem *ret_problem);
/* X-Request-Id of a head that may be broken or incomplete, where it is a short token; "" otherwise. */
void head_request_id(const char *data, size_t n, char ret_id[REQUEST_ID_BYTES]);
/* Whether a client may name its request so: 1 to 64 letters, digits, '-', '_', '.'. */
bool head_is_request_id(const char *id, size_t n);

/* Where in the body a reader of it is. */
enum body_place {
    BODY_END,
    BODY_PLAIN,
    BODY_SIZE,
    BODY_EXTENSION,
    BODY_SIZE_LF,
    BODY_DATA,
    BODY_DATA_CR,
    BODY_DATA_LF,
    BODY_TRAILER,
    BODY_TRAILER_LF
};
struct body {
    enum body_place place;
    uint64_t left;    // of a plain body, or of the chunk
    uint64_t content; // bytes of content so far
    int digits;       // of the chunk's size
    size_t overhead;  // bytes of extensions and trailers so far
    size_t line;      // bytes of the trailer's line so far
};
void body_begin(const struct head *h, struct body *ret_body);
/* Takes the next bytes. Returns how many of them belong to the body, framing included, or -EINVAL where they are no
 * chunks. place is BODY_END once it is complete. */
ptrdiff_t body_take(struct body *b, const char *data, size_t n);

#endif
