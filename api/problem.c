/* problem.c: see problem.h. */
#include "api/problem.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const struct problem_info problem_infos[PROBLEM_COUNT] = {
    [PROBLEM_NONE] = {200, "none", "OK", "Nothing is wrong."},
    [PROBLEM_BAD_REQUEST] = {400, "bad-request", "This is not a request of HTTP/1.1",
                             "The detail says what is wrong with its lines. The connection is closed."},
    [PROBLEM_BAD_FIELD] = {400, "bad-field", "A field is wrong",
                           "The member `field` names it; `allowed` or `nearest` says what would be right. "
                           "GET /openapi.json lists every field with its type, range and default."},
    [PROBLEM_BAD_BODY] = {400, "bad-body", "The body cannot be read",
                          "Send a JSON object, or a form as application/x-www-form-urlencoded."},
    [PROBLEM_NO_KEY] = {401, "no-key", "A key is needed",
                        "Send the header Authorization: Bearer KEY, with a key of this daemon."},
    [PROBLEM_FORBIDDEN] = {403, "forbidden", "The key's roles do not allow this",
                           "The detail names the role; GET /openapi.json says which role each path needs."},
    [PROBLEM_FOREIGN_ORIGIN] = {403, "foreign-origin", "Pages of other sites may not do this",
                                "The daemon's option `origins` lists the sites whose pages may."},
    [PROBLEM_NOT_FOUND] = {404, "not-found", "No such path", "GET /openapi.json lists the paths."},
    [PROBLEM_NO_SUCH_MODEL] = {404, "no-such-model", "No such model", "GET /models lists the models."},
    [PROBLEM_NO_SUCH_JOB] = {404, "no-such-job", "No such job", "GET /jobs lists the jobs."},
    [PROBLEM_NO_SUCH_FILE] = {404, "no-such-file", "The job has no such file",
                              "GET /jobs/{id}/samples and /checkpoints list what there is."},
    [PROBLEM_METHOD_NOT_ALLOWED] = {405, "method-not-allowed", "The path does not answer to this method",
                                    "The header Allow lists the methods that it answers to."},
    [PROBLEM_NOT_ACCEPTABLE] = {406, "not-acceptable", "No form of the answer is acceptable",
                                "The header Accept asks for none of the media types in `allowed`."},
    [PROBLEM_REQUEST_TIMEOUT] = {408, "request-timeout", "The request did not arrive in time",
                                 "Send it again, without pauses; the connection is closed."},
    [PROBLEM_WRONG_STATE] = {409, "wrong-state", "Not possible in the job's state",
                             "The detail says the state; GET /jobs/{id} says more."},
    [PROBLEM_BODY_TOO_LARGE] = {413, "body-too-large", "The body is too large", "The detail says the limit."},
    [PROBLEM_URI_TOO_LONG] = {414, "uri-too-long", "The address is too long",
                              "Send the fields as a form or as JSON in the body of a POST."},
    [PROBLEM_UNSUPPORTED_MEDIA_TYPE] = {415, "unsupported-media-type", "The body's media type is not read here",
                                        "Set Content-Type to one of the types in `allowed`."},
    [PROBLEM_FOREIGN_HOST] = {421, "foreign-host", "The daemon does not answer to this name",
                              "Use localhost or the address; the daemon's option `hosts` lists the names that it "
                              "answers to."},
    [PROBLEM_CANNOT_RUN] = {422, "cannot-run", "The configuration cannot run",
                            "The member `field` names the key at fault; POST /jobs?dry_run=true checks without "
                            "queueing."},
    [PROBLEM_KEY_REUSED] = {422, "key-reused", "The Idempotency-Key was used for another request",
                            "Use a new key for a new job."},
    [PROBLEM_KEY_IN_USE] = {409, "key-in-use", "The request with this Idempotency-Key is still running",
                            "Ask again with the same key later; Location says which job it is."},
    [PROBLEM_RATE_EXCEEDED] = {429, "rate-exceeded", "Too many requests with this key",
                               "Retry-After says when there is room for another."},
    [PROBLEM_SHARE_EXCEEDED] = {429, "share-exceeded", "This client's share of the queue is used up",
                                "Wait for some of your requests to end; Retry-After says how long that takes."},
    [PROBLEM_HEADERS_TOO_LARGE] = {431, "headers-too-large", "The header fields are too large",
                                   "The detail says the limit."},
    [PROBLEM_CLIENT_GONE] = {499, "client-gone", "The client hung up",
                             "The request was given up because the connection was closed from the other side."},
    [PROBLEM_NOT_FINITE] = {500, "not-finite", "The sampler diverged",
                            "An image's state was no longer finite. Lower guidance, set clip, or look at the model."},
    [PROBLEM_BAD_MODEL] = {500, "bad-model", "The model cannot be loaded", "The detail says what is wrong with it."},
    [PROBLEM_INTERNAL] = {500, "internal", "The daemon failed", "The daemon's log says more, by the request's id."},
    [PROBLEM_TRANSFER_CODING] = {501, "transfer-coding", "The transfer coding is not read here",
                                 "Send the body with Content-Length or with Transfer-Encoding: chunked."},
    [PROBLEM_QUEUE_FULL] = {503, "queue-full", "The queue is full",
                            "Retry-After says when there is room, from the backlog and the measured step time."},
    [PROBLEM_TOO_MANY_CONNECTIONS] = {503, "too-many-connections", "There are too many connections",
                                      "Use fewer connections, one after the other, or come back later."},
    [PROBLEM_STARTING] = {503, "starting", "The daemon is starting", "GET /readyz answers 200 once it can serve."},
    [PROBLEM_DRAINING] = {503, "draining", "The daemon is stopping", "Requests under way end; new ones are refused."},
    [PROBLEM_DEVICE_LOST] = {503, "device-lost", "The device failed", "The daemon ends so that it is started again."},
    [PROBLEM_NO_JOBS] = {503, "no-jobs", "This daemon runs no jobs", "Start it with --state FOLDER."},
    [PROBLEM_JOBS_STORE] = {503, "jobs-store", "The store of jobs failed",
                            "The detail says what stands in the way; nothing that was accepted is lost."},
    [PROBLEM_OUT_OF_MEMORY] = {503, "out-of-memory", "The daemon has no memory for this", "Ask for less, or later."},
    [PROBLEM_TIMEOUT] = {504, "timeout", "The time given has passed",
                         "Raise timeout_ms, or ask for fewer images or steps."},
    [PROBLEM_HTTP_VERSION] = {505, "http-version", "This version of HTTP is not spoken here", "Speak HTTP/1.1."},
};

int problem_set(struct problem *p, enum problem_kind kind, const char *field, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    p->kind = kind;
    snprintf(p->field, sizeof(p->field), "%s", field ? field : "");
    vsnprintf(p->detail, sizeof(p->detail), format, args);
    p->nearest[0] = p->allowed[0] = '\0';
    p->retry_after_s = 0;
    va_end(args);
    return -EINVAL;
}

int problem_from_error(struct problem *p, enum problem_kind kind, const struct error *err)
{
    problem_set(p, kind, err->field, "%s", err->message);
    snprintf(p->nearest, sizeof(p->nearest), "%s", err->nearest);
    return -EINVAL;
}

void problem_allow_names(struct problem *p, const char *const *names)
{
    struct text t = {0};
    json_open(&t, '[');
    for (; *names && t.length + strlen(*names) + 8 < sizeof(p->allowed); names++)
        json_text(&t, *names);
    json_close(&t, ']');
    const char *json = text_string(&t);
    snprintf(p->allowed, sizeof(p->allowed), "%s", json ? json : "");
    text_done(&t);
}

void problem_allow_range(struct problem *p, double minimum, double maximum)
{
    snprintf(p->allowed, sizeof(p->allowed), "{\"minimum\":%.17g,\"maximum\":%.17g}", minimum, maximum);
}

void problem_write(const struct problem *p, const char *request_id, struct text *ret_json)
{
    const struct problem_info *info = &problem_infos[p->kind];
    json_open(ret_json, '{');
    json_key(ret_json, "type");
    text_printf(ret_json, "\"/problems/%s\"", info->name);
    json_key(ret_json, "title");
    json_text(ret_json, info->title);
    json_key(ret_json, "status");
    json_int(ret_json, info->status);
    json_key(ret_json, "detail");
    json_text(ret_json, p->detail);
    json_key(ret_json, "instance");
    json_text(ret_json, request_id);
    if (p->field[0]) {
        json_key(ret_json, "field");
        json_text(ret_json, p->field);
    }
    if (p->allowed[0]) {
        json_key(ret_json, "allowed");
        json_raw(ret_json, p->allowed);
    }
    if (p->nearest[0]) {
        json_key(ret_json, "nearest");
        json_text(ret_json, p->nearest);
    }
    if (p->retry_after_s) {
        json_key(ret_json, "retry_after");
        json_int(ret_json, p->retry_after_s);
    }
    json_close(ret_json, '}');
}

enum problem_kind problem_find(const char *name)
{
    for (int k = PROBLEM_NONE + 1; k < PROBLEM_COUNT; k++)
        if (strcmp(problem_infos[k].name, name) == 0)
            return (enum problem_kind)k;
    return PROBLEM_NONE;
}
