/* problem.h: what went wrong with a request, as RFC 9457 problem details.
 *
 * One table of kinds gives status, type, title and the text that GET /problems/{name} explains it with. Plain data, no
 * allocation.
 */
#ifndef DDIMD_API_PROBLEM_H
#define DDIMD_API_PROBLEM_H

#include "api/text.h"
#include "kernels/error.h"

enum problem_kind {
    PROBLEM_NONE,
    PROBLEM_BAD_REQUEST,
    PROBLEM_BAD_FIELD,
    PROBLEM_BAD_BODY,
    PROBLEM_NO_KEY,
    PROBLEM_FORBIDDEN,
    PROBLEM_FOREIGN_ORIGIN,
    PROBLEM_NOT_FOUND,
    PROBLEM_NO_SUCH_MODEL,
    PROBLEM_NO_SUCH_JOB,
    PROBLEM_NO_SUCH_FILE,
    PROBLEM_METHOD_NOT_ALLOWED,
    PROBLEM_NOT_ACCEPTABLE,
    PROBLEM_REQUEST_TIMEOUT,
    PROBLEM_WRONG_STATE,
    PROBLEM_BODY_TOO_LARGE,
    PROBLEM_URI_TOO_LONG,
    PROBLEM_UNSUPPORTED_MEDIA_TYPE,
    PROBLEM_FOREIGN_HOST,
    PROBLEM_CANNOT_RUN,
    PROBLEM_KEY_REUSED,
    PROBLEM_KEY_IN_USE,
    PROBLEM_RATE_EXCEEDED,
    PROBLEM_SHARE_EXCEEDED,
    PROBLEM_HEADERS_TOO_LARGE,
    PROBLEM_CLIENT_GONE,
    PROBLEM_NOT_FINITE,
    PROBLEM_BAD_MODEL,
    PROBLEM_INTERNAL,
    PROBLEM_TRANSFER_CODING,
    PROBLEM_QUEUE_FULL,
    PROBLEM_TOO_MANY_CONNECTIONS,
    PROBLEM_STARTING,
    PROBLEM_DRAINING,
    PROBLEM_DEVICE_LOST,
    PROBLEM_NO_JOBS,
    PROBLEM_JOBS_STORE,
    PROBLEM_OUT_OF_MEMORY,
    PROBLEM_TIMEOUT,
    PROBLEM_HTTP_VERSION,
    PROBLEM_COUNT
};

struct problem_info {
    int status;
    const char *name;  // the type is "/problems/NAME"
    const char *title; // the same for every occurrence
    const char *help;  // what to do about it
};
extern const struct problem_info problem_infos[PROBLEM_COUNT];

struct problem {
    enum problem_kind kind;
    char detail[512];
    char field[128];    // "" where no field is at fault
    char nearest[64];   // the nearest known name, or ""
    char allowed[1024]; // JSON: what would be right, or ""
    int retry_after_s;  // 0: no such header
};

/* Fills *p (everything but allowed, nearest and retry_after_s, which are cleared) and returns -EINVAL, so that callers
 * write `return problem_set(p, ...)`. field may be NULL. */
int problem_set(struct problem *p, enum problem_kind kind, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* From a lower layer's error: kind with its message, field and nearest name. */
int problem_from_error(struct problem *p, enum problem_kind kind, const struct error *err);

/* allowed = a JSON array of the NULL-terminated names (cut where they do not fit), or {"minimum": , "maximum": }. */
void problem_allow_names(struct problem *p, const char *const *names);
void problem_allow_range(struct problem *p, double minimum, double maximum);

/* The JSON document. request_id is the `instance`. */
void problem_write(const struct problem *p, const char *request_id, struct text *ret_json);
/* The kind with this name, PROBLEM_NONE if there is none. */
enum problem_kind problem_find(const char *name);

#endif
