/* outcome.h: how a command can end: exit codes, and what is said on the way out.
 *
 * One table gives every code its meaning; --help and the manual page print it. Scripts rely on the numbers: never
 * change one.
 */
#ifndef DDIMCTL_OUTCOME_H
#define DDIMCTL_OUTCOME_H

#include <jansson.h>
#include <stdbool.h>

enum outcome {
    OUTCOME_OK = 0,
    OUTCOME_FAILED = 1,
    OUTCOME_USAGE = 2,
    OUTCOME_REFUSED = 3,
    OUTCOME_NOT_FOUND = 4,
    OUTCOME_FORBIDDEN = 5,
    OUTCOME_WRONG_STATE = 6,
    OUTCOME_BUSY = 7,
    OUTCOME_UNREACHABLE = 8,
    OUTCOME_TIME_OUT = 9,
    OUTCOME_SERVER = 10,
    OUTCOME_JOB_FAILED = 11,
    OUTCOME_JOB_CANCELLED = 12,
    OUTCOME_DIFFERS = 13,
    OUTCOME_INTERRUPTED = 130,
};

struct outcome_info {
    enum outcome code;
    const char *meaning; // NULL ends the table
};
extern const struct outcome_info outcome_infos[];

/* Of an answer's status; 2xx is OK. */
enum outcome outcome_of_status(long status);

/* Says on stderr what the daemon's problem document says: the option at fault, what is allowed, what was probably
 * meant. json: the document itself on one line instead. problem may be NULL or not an object; then status alone is
 * told. Returns the outcome of the status. */
enum outcome outcome_tell(const json_t *problem, long status, bool json);

/* "ddimctl: ..." on stderr; returns the code. Control characters of the text are replaced. */
enum outcome outcome_fail(enum outcome code, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
