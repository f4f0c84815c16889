/* error.h: what went wrong, for a person.
 *
 * Functions return 0 or a negative errno; where a person must read the reason, a trailing `struct error *` carries it.
 * Owned by the caller, plain data, no allocation. Any thread, one at a time per object.
 */
#ifndef DDIMD_ERROR_H
#define DDIMD_ERROR_H

struct error {
    int code;          // negative errno, 0 = none
    char field[128];   // path of the field at fault ("optimizer.lr", "class"), "" where there is none
    char message[384]; // one sentence, no newline: what is wrong and what would be right
    char nearest[64];  // the nearest known name, "" where there is none
};

/* Fills *err (NULL: nothing) and returns code, so that callers write `return error_set(err, -EINVAL, "steps", "...");`.
 * field may be NULL. The message is cut where it is too long. */
int error_set(struct error *err, int code, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The candidate with the smallest edit distance to name, NULL if none is within a third of its length (at least 2
 * edits). names: NULL-terminated. Returns one of the pointers in names. */
const char *error_nearest_name(const char *name, const char *const *names);

#endif
