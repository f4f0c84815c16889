/* routes.c: see routes.h. */
#include "api/jobs.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char *const pictures[] = {"image/png",         "application/json",  "application/zip",
                                       "application/x-npy", "text/event-stream", NULL};
static const char *const results[] = {"image/png", "application/json", "application/zip", "application/x-npy", NULL};
static const char *const json[] = {"application/json", NULL};
static const char *const html[] = {"text/html", NULL};
static const char *const page_types[] = {"text/javascript", "text/css", "application/json", "image/svg+xml", NULL};
static const char *const plain[] = {"text/plain", NULL};
static const char *const objects[] = {"application/json", NULL};
static const char *const fields[] = {"application/json", "application/x-www-form-urlencoded", NULL};
static const char *const events[] = {"text/event-stream", NULL};
static const char *const curves[] = {"application/json", "text/csv", NULL};
static const char *const png[] = {"image/png", NULL};
static const char *const reports[] = {"application/json", "text/markdown", "text/csv", "image/png", NULL};

#define SAMPLING_PROBLEMS                                                                                              \
    PROBLEM_NO_SUCH_MODEL, PROBLEM_SHARE_EXCEEDED, PROBLEM_QUEUE_FULL, PROBLEM_STARTING, PROBLEM_DRAINING,             \
        PROBLEM_DEVICE_LOST, PROBLEM_NOT_FINITE, PROBLEM_BAD_MODEL
static const enum problem_kind generate_problems[] = {
    PROBLEM_BAD_BODY,  PROBLEM_TIMEOUT, PROBLEM_KEY_REUSED, PROBLEM_KEY_IN_USE,
    SAMPLING_PROBLEMS, PROBLEM_NO_JOBS, PROBLEM_JOBS_STORE, 0};
static const enum problem_kind replay_problems[] = {PROBLEM_BAD_BODY, SAMPLING_PROBLEMS, 0};
static const enum problem_kind model_problems[] = {PROBLEM_BAD_BODY, PROBLEM_NO_SUCH_MODEL, PROBLEM_BAD_MODEL, 0};
static const enum problem_kind load_problems[] = {PROBLEM_BAD_BODY,      PROBLEM_NO_SUCH_MODEL, PROBLEM_BAD_MODEL,
                                                  PROBLEM_OUT_OF_MEMORY, PROBLEM_DEVICE_LOST,   0};
static const enum problem_kind ready_problems[] = {PROBLEM_STARTING, 0};
static const enum problem_kind lookup_problems[] = {PROBLEM_NOT_FOUND, 0};
static const enum problem_kind no_problems[] = {0};
#define JOB_PROBLEMS PROBLEM_NO_JOBS, PROBLEM_JOBS_STORE
static const enum problem_kind jobs_problems[] = {JOB_PROBLEMS, 0};
static const enum problem_kind submit_problems[] = {PROBLEM_BAD_BODY, PROBLEM_CANNOT_RUN, PROBLEM_KEY_REUSED,
                                                    JOB_PROBLEMS, 0};
static const enum problem_kind job_problems[] = {PROBLEM_NO_SUCH_JOB, JOB_PROBLEMS, 0};
static const enum problem_kind file_problems[] = {PROBLEM_NO_SUCH_JOB, PROBLEM_NO_SUCH_FILE, JOB_PROBLEMS, 0};
static const enum problem_kind action_problems[] = {PROBLEM_BAD_BODY, PROBLEM_NO_SUCH_JOB, PROBLEM_WRONG_STATE,
                                                    JOB_PROBLEMS, 0};
static const enum problem_kind result_problems[] = {PROBLEM_NO_SUCH_JOB, PROBLEM_NO_SUCH_FILE, PROBLEM_WRONG_STATE,
                                                    JOB_PROBLEMS, 0};
static const enum problem_kind publish_problems[] = {PROBLEM_BAD_BODY,      PROBLEM_NO_SUCH_JOB, PROBLEM_NO_SUCH_FILE,
                                                     PROBLEM_NO_SUCH_MODEL, PROBLEM_BAD_MODEL,   PROBLEM_OUT_OF_MEMORY,
                                                     PROBLEM_DEVICE_LOST,   JOB_PROBLEMS,        0};

const struct route route_table[] = {
    {"/", METHOD_GET, handle_page, html, NULL, no_fields, "page", "A page to try the daemon with",
     .problems = no_problems, .access = ACCESS_OPEN},
    {"/web/{file}", METHOD_GET, handle_page_file, page_types, NULL, no_fields, "pageFile", "A file of the page",
     .problems = lookup_problems, .access = ACCESS_OPEN},
    {"/generate", METHOD_GET | METHOD_POST, handle_generate, pictures, fields, generate_fields, "generate",
     "Generate images", .problems = generate_problems, .access = ACCESS_GENERATE},
    {"/schedule", METHOD_GET, handle_schedule, json, NULL, schedule_fields, "schedule",
     "The exact rows that a sampling method runs", .problems = model_problems, .access = ACCESS_ANY},
    {"/replay", METHOD_POST, handle_replay, json, png, no_fields, "replay", "Generate a PNG of ours again and compare",
     .problems = replay_problems, .access = ACCESS_GENERATE},
    {"/capabilities", METHOD_GET, handle_capabilities, json, NULL, no_fields, "capabilities",
     "Limits, models, methods, measured step times", .problems = no_problems, .access = ACCESS_ANY},
    {"/queue", METHOD_GET, handle_queue, json, NULL, no_fields, "queue", "Generations that wait and run, oldest first",
     .problems = no_problems, .access = ACCESS_ANY},
    {"/models", METHOD_GET, handle_models, json, NULL, no_fields, "models", "All models", .problems = no_problems,
     .access = ACCESS_ANY},
    {"/models/{name}", METHOD_GET, handle_model, json, NULL, no_fields, "model", "One model",
     .problems = model_problems, .access = ACCESS_ANY},
    {"/models/{name}/load", METHOD_POST, handle_model_load, json, NULL, no_fields, "modelLoad", "Make a model resident",
     .problems = load_problems, .access = ACCESS_ADMIN},
    {"/models/{name}/unload", METHOD_POST, handle_model_unload, json, NULL, no_fields, "modelUnload",
     "Let go of a resident model; requests under way keep it", .problems = model_problems, .access = ACCESS_ADMIN},
    {"/models/{name}/default", METHOD_POST, handle_model_default, json, NULL, no_fields, "modelDefault",
     "Make a model the default", .problems = load_problems, .access = ACCESS_ADMIN},
    {"/models/{name}/from-job", METHOD_POST, handle_model_from_job, json, objects, job_publish_fields, "modelFromJob",
     "Publish a training result under this name, without a dropped request", .problems = publish_problems,
     .defaults = &job_publish_defaults, .schema = "Publish", .status = 201, .access = ACCESS_ADMIN},
    {"/models/{name}/rollback", METHOD_POST, handle_model_rollback, json, NULL, no_fields, "modelRollback",
     "Go back to what was served under this name before the last publication", .problems = publish_problems,
     .access = ACCESS_ADMIN},
    {"/jobs", METHOD_GET, handle_jobs, json, NULL, job_list_fields, "jobs", "Jobs, newest first",
     .problems = jobs_problems, .defaults = &job_list_defaults, .access = ACCESS_TRAIN},
    {"/jobs", METHOD_POST, handle_job_submit, json, objects, job_submit_fields, "jobSubmit",
     "Queue a job; the header Idempotency-Key makes it safe to send again", .problems = submit_problems,
     .defaults = &job_submit_defaults, .schema = "Job", .status = 201, .access = ACCESS_TRAIN},
    {"/jobs/{id}", METHOD_GET, handle_job, json, NULL, no_fields, "job", "One job", .problems = job_problems,
     .access = ACCESS_TRAIN},
    {"/jobs/{id}", METHOD_DELETE, handle_job_delete, json, NULL, no_fields, "jobDelete",
     "Remove an ended job with all that it produced", .problems = action_problems, .status = 204,
     .access = ACCESS_TRAIN},
    {"/jobs/{id}/cancel", METHOD_POST, handle_job_cancel, json, NULL, no_fields, "jobCancel",
     "Stop a job, after a checkpoint; says what it was", .problems = action_problems, .access = ACCESS_TRAIN},
    {"/jobs/{id}/resume", METHOD_POST, handle_job_resume, json, NULL, no_fields, "jobResume",
     "Go on from the last checkpoint of a failed or cancelled job", .problems = action_problems,
     .access = ACCESS_TRAIN},
    {"/jobs/{id}/retry", METHOD_POST, handle_job_retry, json, NULL, no_fields, "jobRetry",
     "A new job with the configuration of an ended one", .problems = action_problems, .status = 201,
     .access = ACCESS_TRAIN},
    {"/jobs/{id}/move", METHOD_POST, handle_job_move, json, objects, job_move_fields, "jobMove",
     "Give a queued job another place in the queue", .problems = action_problems, .defaults = &job_move_defaults,
     .schema = "Move", .access = ACCESS_TRAIN},
    {"/jobs/{id}/events", METHOD_GET, handle_job_events, events, NULL, job_events_fields, "jobEvents",
     "What happens to a job, as server-sent events; goes on after Last-Event-ID", .problems = job_problems,
     .defaults = &job_events_defaults, .access = ACCESS_TRAIN},
    {"/jobs/{id}/metrics", METHOD_GET, handle_job_metrics, curves, NULL, job_metrics_fields, "jobMetrics",
     "The curve of a run, thinned by minimum and maximum", .problems = job_problems, .defaults = &job_metrics_defaults,
     .access = ACCESS_TRAIN},
    {"/jobs/{id}/log", METHOD_GET, handle_job_log, plain, NULL, job_log_fields, "jobLog",
     "The program's output from a byte on; X-Log-Next says where to go on", .problems = job_problems,
     .defaults = &job_log_defaults, .access = ACCESS_TRAIN},
    {"/jobs/{id}/samples", METHOD_GET, handle_job_samples, json, NULL, no_fields, "jobSamples",
     "The epochs that have a grid of samples", .problems = job_problems, .access = ACCESS_TRAIN},
    {"/jobs/{id}/samples/{epoch}.png", METHOD_GET, handle_job_sample, png, NULL, no_fields, "jobSample",
     "The grid of samples of an epoch", .problems = file_problems, .access = ACCESS_TRAIN},
    {"/jobs/{id}/report/{file}", METHOD_GET, handle_job_report, reports, NULL, no_fields, "jobReport",
     "What an evaluation has found so far: report.json, report.md, report.csv, report.png", .problems = file_problems,
     .access = ACCESS_TRAIN},
    {"/jobs/{id}/checkpoints", METHOD_GET, handle_job_checkpoints, json, NULL, no_fields, "jobCheckpoints",
     "The models that a job has kept", .problems = job_problems, .access = ACCESS_TRAIN},
    {"/jobs/{id}/result", METHOD_GET, handle_job_result, results, NULL, job_result_fields, "jobResult",
     "The images of a finished job of type generate, as the answer at once would have been",
     .problems = result_problems, .defaults = &job_result_defaults, .access = ACCESS_GENERATE},
    {"/healthz", METHOD_GET, handle_healthz, json, NULL, no_fields, "healthz", "The process turns",
     .problems = no_problems, .access = ACCESS_OPEN},
    {"/readyz", METHOD_GET, handle_readyz, json, NULL, NULL, "readyz", "Requests can be served; ?verbose lists why not",
     .problems = ready_problems, .access = ACCESS_OPEN},
    {"/version", METHOD_GET, handle_version, json, NULL, no_fields, "version", "What runs here",
     .problems = no_problems, .access = ACCESS_OPEN},
    {"/metrics", METHOD_GET, handle_metrics, plain, NULL, no_fields, "metrics", "Prometheus metrics",
     .problems = no_problems, .access = ACCESS_OPEN},
    {"/openapi.json", METHOD_GET, handle_openapi, json, NULL, no_fields, "openapi", "This interface as OpenAPI 3.1",
     .problems = no_problems, .access = ACCESS_OPEN},
    {"/problems/{name}", METHOD_GET, handle_problem, plain, NULL, no_fields, "problem",
     "What a problem's type means and what to do", .problems = lookup_problems, .access = ACCESS_OPEN},
    {0},
};

/* Names of models and problems: what may stand for {name}. None begins with a dot. */
static size_t name_span(const char *p)
{
    size_t n = 0;
    if (*p == '.')
        return 0;
    while (isalnum((unsigned char)p[n]) || (p[n] && strchr("._-", p[n])))
        n++;
    return n;
}

bool route_is_name(const char *name)
{
    size_t n = name_span(name);
    return n && n < MODEL_NAME_BYTES && name[n] == '\0';
}

static bool path_matches(const char *pattern, const char *path, char *ret_name)
{
    size_t used = 0;
    ret_name[0] = '\0';
    while (*pattern) {
        if (*pattern == '{') {
            size_t n = name_span(path), suffix = strcspn(strchr(pattern, '}') + 1, "/");
            n = n > suffix ? n - suffix : 0; // what follows the brace belongs to the path, not to the name
            if (n == 0 || used + (used > 0) + n >= MODEL_NAME_BYTES)
                return false;
            used += (size_t)sprintf(ret_name + used, "%s%.*s", used ? "/" : "", (int)n, path);
            path += n;
            pattern = strchr(pattern, '}') + 1;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

const struct route *route_find(const char *path, char *ret_name)
{
    if (strncmp(path, "/v1", 3) == 0 && (path[3] == '/' || path[3] == '\0'))
        path = path[3] ? path + 3 : "/";
    for (const struct route *r = route_table; r->path; r++)
        if (path_matches(r->path, path, ret_name))
            return r;
    return NULL;
}

const struct route *route_choose(const struct route *r, const char *method)
{
    for (const struct route *o = r; o->path && strcmp(o->path, r->path) == 0; o++)
        if (o->methods & route_method(method))
            return o;
    return r;
}

void route_allow(const struct route *r, char *ret_allow, size_t bytes)
{
    unsigned methods = 0;
    for (const struct route *o = route_table; o->path; o++)
        methods |= strcmp(o->path, r->path) == 0 ? o->methods : 0;
    snprintf(ret_allow, bytes, "%s%s%sOPTIONS", methods & METHOD_GET ? "GET, HEAD, " : "",
             methods & METHOD_POST ? "POST, " : "", methods & METHOD_DELETE ? "DELETE, " : "");
}

unsigned route_method(const char *method)
{
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return METHOD_GET;
    if (strcmp(method, "DELETE") == 0)
        return METHOD_DELETE;
    return strcmp(method, "POST") == 0 ? METHOD_POST : 0;
}
