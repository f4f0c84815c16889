/* outcome.c: see outcome.h. */
#include "clients/ddimctl/outcome.h"

#include "clients/ddimctl/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct outcome_info outcome_infos[] = {
    {OUTCOME_OK, "Done."},
    {OUTCOME_FAILED, "Something failed here: a file cannot be written, a picture cannot be shown."},
    {OUTCOME_USAGE, "The command line is wrong."},
    {OUTCOME_REFUSED,
     "The daemon refused the request: a field or a configuration is wrong (400, 413, 422 and their like)."},
    {OUTCOME_NOT_FOUND, "There is no such model, job or file (404)."},
    {OUTCOME_FORBIDDEN, "The key is missing, wrong, or not allowed to do this (401, 403)."},
    {OUTCOME_WRONG_STATE, "The job is not in a state in which this is possible (409)."},
    {OUTCOME_BUSY, "The daemon is busy, starting or stopping, also after the retries (429, 503)."},
    {OUTCOME_UNREACHABLE, "No daemon answers at this address, or the connection broke, also after the retries."},
    {OUTCOME_TIME_OUT, "The time given has passed (504)."},
    {OUTCOME_SERVER, "The daemon failed (other 5xx)."},
    {OUTCOME_JOB_FAILED, "The job that was followed failed."},
    {OUTCOME_JOB_CANCELLED, "The job that was followed was cancelled."},
    {OUTCOME_DIFFERS, "The replayed picture is not identical."},
    {OUTCOME_INTERRUPTED, "Interrupted from the keyboard. A generation is given up; a job that was followed goes on."},
    {0, NULL},
};

enum outcome outcome_of_status(long status)
{
    switch (status) {
    case 401:
    case 403:
        return OUTCOME_FORBIDDEN;
    case 404:
        return OUTCOME_NOT_FOUND;
    case 408:
    case 504:
        return OUTCOME_TIME_OUT;
    case 409:
        return OUTCOME_WRONG_STATE;
    case 429:
    case 503:
        return OUTCOME_BUSY;
    default:
        return status >= 500 ? OUTCOME_SERVER : status >= 400 ? OUTCOME_REFUSED : OUTCOME_OK;
    }
}

/* "allowed: linear, quadratic" or "allowed: 0 to 20". */
static void tell_allowed(const json_t *allowed)
{
    const json_t *item;
    size_t i;
    if (json_is_object(allowed)) {
        fprintf(stderr, "  allowed: %.9g to %.9g\n", json_number_value(json_object_get(allowed, "minimum")),
                json_number_value(json_object_get(allowed, "maximum")));
    } else if (json_array_size(allowed)) {
        fputs("  allowed:", stderr);
        json_array_foreach(allowed, i, item)
            fprintf(stderr, "%s %s", i ? "," : "", json_is_string(item) ? json_string_value(item) : "?");
        fputs("\n", stderr);
    }
}

enum outcome outcome_tell(const json_t *problem, long status, bool json)
{
    enum outcome code = outcome_of_status(status);
    const char *title = json_string_value(json_object_get(problem, "title"));
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    const char *field = json_string_value(json_object_get(problem, "field"));
    const char *nearest = json_string_value(json_object_get(problem, "nearest"));
    const char *request = json_string_value(json_object_get(problem, "instance"));
    if (json && json_is_object(problem)) {
        json_dumpf(problem, stderr, JSON_COMPACT);
        fputs("\n", stderr);
        return code;
    }
    if (!detail)
        return outcome_fail(code, "the server answered %ld%s%s", status, title ? ": " : "", title ? title : "");
    if (field && !strstr(detail, field))
        outcome_fail(code, "%s %s", field, detail);
    else
        outcome_fail(code, "%s", detail);
    tell_allowed(json_object_get(problem, "allowed"));
    if (nearest && !strstr(detail, nearest))
        fprintf(stderr, "  did you mean %s?\n", nearest);
    if (status >= 500 && status != 503 && request)
        fprintf(stderr, "  the daemon's log says more about request %s\n", request);
    return code;
}

enum outcome outcome_fail(enum outcome code, const char *format, ...)
{
    char *message = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&message, format, args) < 0)
        message = NULL;
    va_end(args);
    if (message)
        text_tame(message);
    fprintf(stderr, "ddimctl: %s\n", message ? message : "no memory");
    free(message);
    return code;
}
