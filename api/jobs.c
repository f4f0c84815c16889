/* jobs.c: POST /jobs, GET /jobs, and what is done with one job. */
#include "api/jobs.h"

#include "model/file.h"
#include "training/job_end.h"
#include "training/job_folder.h"
#include "training/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- fields ---- */

#define FIELD(type, member) offsetof(struct type, member)
const struct json_field job_submit_fields[] = {
    {"type", FIELD_ENUM, FIELD(job_submit, type), .names = job_type_names, .required = true, .help = "Kind of job."},
    {"name", FIELD_STRING, FIELD(job_submit, name), .item_bytes = JOB_NAME_BYTES, .help = "For people."},
    {"config", FIELD_JSON, FIELD(job_submit, config), .required = true,
     .help = "What to do, as its type has it; paths of data sets are relative to the daemon's folder of data sets."},
    {"dry_run", FIELD_BOOL, FIELD(job_submit, dry_run),
     .help = "Only check: answers the whole configuration and what the run would take."},
    {0},
};
const struct job_submit job_submit_defaults = {0};

const struct json_field job_list_fields[] = {
    {"state", FIELD_ENUM, FIELD(job_list, state), .names = job_state_names, .help = "Only jobs in this state."},
    {"type", FIELD_STRING, FIELD(job_list, type), .item_bytes = JOB_TYPE_BYTES, .help = "Only jobs of this type."},
    {"limit", FIELD_INT32, FIELD(job_list, limit), 1, JOB_MAX_LIST, .help = "Jobs in the answer."},
    {"after", FIELD_INT64, FIELD(job_list, after), 1, 9007199254740991.0,
     .help = "Goes on after this job, as `next` of the last answer says."},
    {0},
};
const struct job_list job_list_defaults = {.limit = 100};

const struct json_field job_move_fields[] = {
    {"position", FIELD_INT32, FIELD(job_move, position), 1, 1000000, .required = true,
     .help = "Place in the queue, from 1; past its end means its end."},
    {0},
};
const struct job_move job_move_defaults = {.position = 1};
#undef FIELD

/* ---- helpers ---- */

void jobs_answer(struct exchange *x)
{
    const char *type = x->aside.content_type ? x->aside.content_type : "application/json";
    int status = x->aside.status ? x->aside.status : 200;
    if (x->aside.problem.kind) {
        exchange_problem(x, &x->aside.problem);
        if (x->aside.problem.kind == PROBLEM_JOBS_STORE)
            exchange_header(x, "Retry-After", "5");
    } else {
        exchange_answer(x, status, status == 204 ? NULL : type, &x->aside.text);
        exchange_header(x, "Cache-Control", "no-store");
    }
    for (int i = 0; i < x->aside.n_headers; i++)
        exchange_header(x, x->aside.headers[i].name, x->aside.headers[i].value);
}

void jobs_aside_then(struct exchange *x, void (*aside)(struct exchange *x), void (*next)(struct exchange *x))
{
    if (!x->api->options.jobs)
        exchange_fail(x, PROBLEM_NO_JOBS, "this daemon was started without a folder for jobs (--state)");
    else
        exchange_aside(x, aside, next);
}

void jobs_aside(struct exchange *x, void (*aside)(struct exchange *x))
{
    jobs_aside_then(x, aside, jobs_answer);
}

int64_t jobs_path_id(const struct exchange *x)
{
    char *end;
    int64_t id = strtoll(x->name, &end, 10);
    return x->name[0] >= '1' && x->name[0] <= '9' && end - x->name < 18 && (*end == '\0' || *end == '/') ? id : 0;
}

const char *jobs_path_part(const struct exchange *x)
{
    const char *slash = strchr(x->name, '/');
    return slash ? slash + 1 : "";
}

bool jobs_read_fields(struct exchange *x, void *into, uint64_t *ret_given, json_t **ret_object)
{
    struct field_source source = {.query = x->query,
                                  .query_bytes = strlen(x->query),
                                  .body = x->body.data,
                                  .body_bytes = x->body.length,
                                  .body_is_json = true};
    json_t *object;
    if (fields_read_struct(x->route->fields, &source, into, ret_given, &object, &x->aside.problem))
        return false;
    if (ret_object)
        *ret_object = object;
    else
        json_decref(object);
    return true;
}

void jobs_problem(struct exchange *x, int rc, const struct error *err)
{
    enum problem_kind kind = rc == -ENOENT         ? PROBLEM_NO_SUCH_JOB
                             : rc == -EPERM        ? PROBLEM_WRONG_STATE
                             : rc == -EKEYREJECTED ? PROBLEM_KEY_REUSED
                             : rc == -ENOMEM       ? PROBLEM_OUT_OF_MEMORY
                             : rc == -EINVAL       ? PROBLEM_BAD_FIELD
                                                   : PROBLEM_JOBS_STORE;
    problem_from_error(&x->aside.problem, kind, err);
}

void jobs_header(struct exchange *x, const char *name, const char *format, ...)
{
    va_list args;
    int i = x->aside.n_headers;
    if (i == EXCHANGE_ASIDE_HEADERS)
        return;
    va_start(args, format);
    x->aside.headers[i].name = name;
    vsnprintf(x->aside.headers[i].value, sizeof(x->aside.headers[i].value), format, args);
    x->aside.n_headers++;
    va_end(args);
}

bool jobs_get(struct exchange *x, struct job *ret_job)
{
    struct error err = {0};
    int64_t id = jobs_path_id(x);
    int rc = id ? job_store_get(x->api->options.jobs, id, ret_job, &err) : -ENOENT;
    if (!id)
        error_set(&err, rc, NULL, "jobs have numbers; there is no job %.64s", x->name);
    if (rc)
        jobs_problem(x, rc, &err);
    return rc == 0;
}

int jobs_open_file_of(struct exchange *x, int64_t job, const char *name, int flags, int *ret_fd)
{
    int folder;
    int rc = job_folder_open(job_runner_root(x->api->options.runner), job, 0, &folder, NULL);
    if (rc)
        return rc;
    rc = job_file_open(folder, name, flags, ret_fd);
    close(folder);
    return rc;
}

int jobs_open_file(struct exchange *x, const char *name, int flags, int *ret_fd)
{
    return jobs_open_file_of(x, jobs_path_id(x), name, flags, ret_fd);
}

void jobs_send_file(struct exchange *x, int fd, int64_t offset, int64_t bytes)
{
    struct text *t = &x->aside.text;
    if (!text_reserve(t, (size_t)bytes))
        return; // answered as out of memory
    while (bytes > 0) {
        ssize_t n = pread(fd, t->data + t->length, (size_t)bytes, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            problem_set(&x->aside.problem, PROBLEM_JOBS_STORE, NULL, "a file of the job cannot be read: %s",
                        strerror(errno));
        if (n <= 0)
            return;
        t->length += (size_t)n;
        offset += n;
        bytes -= n;
    }
}

/* ---- a job as JSON ---- */

void job_time_write(struct text *t, const char *key, int64_t ms)
{
    char text[40];
    struct tm tm;
    time_t seconds = ms / 1000;
    json_key(t, key);
    if (!ms || !gmtime_r(&seconds, &tm)) {
        json_raw(t, "null");
        return;
    }
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    text_printf(t, "\"%s.%03dZ\"", text, (int)(ms % 1000));
}

static void progress_write(const struct job *j, struct text *t)
{
    int64_t eta = job_eta_ms(j);
    json_key(t, "progress");
    json_open(t, '{');
    json_key(t, "step"), json_int(t, j->step);
    json_key(t, "total_steps"), j->total_steps ? json_int(t, j->total_steps) : json_raw(t, "null");
    json_key(t, "epoch"), json_int(t, j->epoch);
    json_key(t, "fraction"),
        j->total_steps ? json_double(t, (double)j->step / (double)j->total_steps) : json_raw(t, "null");
    json_key(t, "checkpoint_step"), j->checkpoint_step >= 0 ? json_int(t, j->checkpoint_step) : json_raw(t, "null");
    json_close(t, '}');
    json_key(t, "eta_seconds"), eta >= 0 ? json_double(t, (double)eta / 1000) : json_raw(t, "null");
    json_key(t, "metrics"), json_raw(t, j->latest ? j->latest : "null");
}

static void end_write(const struct job *j, struct text *t)
{
    json_key(t, "end");
    if (j->end.kind == JOB_END_NONE) {
        json_raw(t, "null");
        return;
    }
    json_open(t, '{');
    json_key(t, "kind"), json_text(t, job_end_name(j->end.kind));
    if (j->end.kind == JOB_END_EXIT || j->end.kind == JOB_END_SIGNAL)
        json_key(t, j->end.kind == JOB_END_EXIT ? "exit_code" : "signal"), json_int(t, j->end.code);
    if (j->outcome[0])
        json_key(t, "outcome"), json_text(t, j->outcome);
    json_key(t, "message"), json_text(t, j->end.message);
    json_close(t, '}');
}

void job_write(const struct job *j, bool full, struct text *t)
{
    bool running = j->state == JOB_STATE_RUNNING;
    json_open(t, '{');
    json_key(t, "id"), json_int(t, j->id);
    json_key(t, "type"), json_text(t, j->type);
    json_key(t, "name"), json_text(t, j->name);
    json_key(t, "state"), json_text(t, job_state_name(j->state));
    json_key(t, "cancel_requested"), json_bool(t, j->cancel_requested);
    json_key(t, "queue_position"), j->queue_position ? json_int(t, j->queue_position) : json_raw(t, "null");
    json_key(t, "device"), json_text(t, j->device);
    job_time_write(t, "created", j->created_ms);
    job_time_write(t, "started", j->started_ms);
    job_time_write(t, "ended", j->ended_ms);
    json_key(t, "attempts"), json_int(t, j->attempts);
    json_key(t, "process"), running ? json_int(t, j->process.pid) : json_raw(t, "null");
    progress_write(j, t);
    end_write(j, t);
    json_key(t, "last_event"), json_int(t, j->last_event);
    if (full)
        json_key(t, "config"), json_raw(t, j->config);
    json_close(t, '}');
}

/* ---- POST /jobs ---- */

/* A member that holds an object; consumes nothing. */
static void object_write(struct text *t, const char *key, const json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_key(t, key), json_raw(t, text ? text : "null");
    free(text);
}

static void dry_run_write(struct exchange *x, const struct job_plan *plan)
{
    struct text *t = &x->aside.text;
    json_open(t, '{');
    json_key(t, "dry_run"), json_bool(t, true);
    object_write(t, "estimate", plan->estimate);
    object_write(t, "config", plan->config);
    json_close(t, '}');
}

static void get_answer(struct exchange *x, int64_t id)
{
    struct error err = {0};
    struct job job;
    int rc = job_store_get(x->api->options.jobs, id, &job, &err);
    if (rc) {
        jobs_problem(x, rc, &err);
        return;
    }
    job_write(&job, true, &x->aside.text);
    job_done(&job);
}

static void created_answer(struct exchange *x, int64_t id)
{
    x->aside.status = 201;
    jobs_header(x, "Location", "/jobs/%" PRId64, id);
    get_answer(x, id);
    job_runner_wake(x->api->options.runner);
}

bool jobs_submit(struct exchange *x, struct job_new *j, int64_t *ret_id, bool *ret_existed)
{
    struct error err = {0};
    char digest[FILE_SHA256_CHARS + 1];
    if (x->aside.key[0]) {
        struct text request = {0};
        text_printf(&request, "%s\n", x->query);
        text_append(&request, x->body.data ? x->body.data : "", x->body.length);
        sha256_hex(text_string(&request), request.length, digest);
        text_done(&request);
        j->key = x->aside.key;
        j->digest = digest;
    }
    int rc = j->config ? job_store_submit(x->api->options.jobs, j, ret_id, ret_existed, &err)
                       : error_set(&err, -ENOMEM, NULL, "no memory for the job");
    if (rc)
        jobs_problem(x, rc, &err);
    else if (*ret_existed)
        jobs_header(x, "Idempotent-Replayed", "true");
    return rc == 0;
}

static void submit(struct exchange *x, const struct job_submit *f, const struct job_plan *plan)
{
    int64_t id;
    bool existed;
    const struct job_type *type = &api_job_types[f->type];
    char *text = json_dumps(type->store_plan ? plan->config : f->config, JSON_COMPACT);
    struct job_new j = {.type = type->name, .name = f->name, .device = plan->device, .config = text};
    if (jobs_submit(x, &j, &id, &existed))
        created_answer(x, id);
    free(text);
}

/* The configuration may be good: it is the daemon that has no descriptors or no memory just now. */
static bool is_passing(int code)
{
    return code == -EMFILE || code == -ENFILE || code == -ENOMEM || code == -EAGAIN || code == -EIO;
}

/* The field's path begins with "config", and no path of the daemon's is told. */
static void cannot_run(struct exchange *x, int rc, const struct error *err)
{
    const char *root = x->api->options.datasets;
    struct problem *p = &x->aside.problem;
    size_t n = strlen(root);
    if (is_passing(rc)) {
        problem_set(p, PROBLEM_JOBS_STORE, NULL, "the configuration cannot be checked just now: %s", strerror(-rc));
        return;
    }
    problem_from_error(p, PROBLEM_CANNOT_RUN, err);
    snprintf(p->field, sizeof(p->field), "config%s%.100s", err->field[0] ? "." : "", err->field);
    for (char *at; (at = strstr(p->detail, root)) && at[n] == '/';)
        memmove(at, at + n + 1, strlen(at + n + 1) + 1);
}

static void submit_aside(struct exchange *x)
{
    struct job_submit f = job_submit_defaults;
    struct job_plan plan = {0};
    struct error err = {0};
    json_t *object;
    if (!jobs_read_fields(x, &f, NULL, &object))
        return;
    int rc = api_job_types[f.type].check(&x->api->options, f.config, &plan, &err);
    if (rc < 0)
        cannot_run(x, rc, &err);
    else if (f.dry_run)
        dry_run_write(x, &plan);
    else
        submit(x, &f, &plan);
    job_plan_done(&plan);
    json_decref(object);
}

bool jobs_read_key(struct exchange *x)
{
    const char *key = exchange_request_header(x, "Idempotency-Key");
    size_t n = key ? strlen(key) : 0;
    if (key && (n == 0 || n >= JOB_KEY_BYTES)) {
        exchange_fail(x, PROBLEM_BAD_FIELD, "the header Idempotency-Key has 1 to %d characters", JOB_KEY_BYTES - 1);
        return false;
    }
    snprintf(x->aside.key, sizeof(x->aside.key), "%s", key ? key : "");
    return true;
}

void handle_job_submit(struct exchange *x)
{
    if (jobs_read_key(x))
        jobs_aside(x, submit_aside);
}

/* ---- GET /jobs, GET /jobs/{id} ---- */

static void list_aside(struct exchange *x)
{
    struct job_list f = job_list_defaults;
    struct error err = {0};
    struct text *t = &x->aside.text;
    struct job *jobs;
    uint64_t given;
    int32_t n;
    if (!jobs_read_fields(x, &f, &given, NULL))
        return;
    struct job_filter filter = {.state = given & 1 ? f.state : -1, // the first field of the table
                                .type = f.type[0] ? f.type : NULL,
                                .before = f.after,
                                .limit = f.limit};
    int rc = job_store_list(x->api->options.jobs, &filter, &jobs, &n, &err);
    if (rc) {
        jobs_problem(x, rc, &err);
        return;
    }
    json_open(t, '{');
    json_key(t, "jobs");
    json_open(t, '[');
    for (int32_t i = 0; i < n; i++)
        job_write(&jobs[i], false, t);
    json_close(t, ']');
    json_key(t, "next"), n == f.limit ? json_int(t, jobs[n - 1].id) : json_raw(t, "null");
    json_close(t, '}');
    job_list_free(jobs, n);
}

void handle_jobs(struct exchange *x)
{
    jobs_aside(x, list_aside);
}

static void get_aside(struct exchange *x)
{
    struct job job;
    if (!jobs_get(x, &job))
        return;
    job_write(&job, true, &x->aside.text);
    job_done(&job);
}

void handle_job(struct exchange *x)
{
    jobs_aside(x, get_aside);
}

/* ---- actions ---- */

/* Answers with the job as it is now and what it was. */
static void was_answer(struct exchange *x, int rc, enum job_state was, const struct error *err)
{
    struct text *t = &x->aside.text;
    struct job job;
    if (rc) {
        jobs_problem(x, rc, err);
        return;
    }
    job_runner_wake(x->api->options.runner);
    if (!jobs_get(x, &job))
        return;
    if (job_state_ended(job.state))
        job_waits_end(x->api, job.id); // it was queued: no runner tells of its end
    json_open(t, '{');
    json_key(t, "was"), json_text(t, job_state_name(was));
    json_key(t, "job"), job_write(&job, false, t);
    json_close(t, '}');
    job_done(&job);
}

static void cancel_aside(struct exchange *x)
{
    struct error err = {0};
    enum job_state was = JOB_STATE_QUEUED;
    int rc = job_store_cancel(x->api->options.jobs, jobs_path_id(x), &was, &err);
    was_answer(x, rc, was, &err);
}

static void resume_aside(struct exchange *x)
{
    struct error err = {0};
    enum job_state was = JOB_STATE_QUEUED;
    int rc = job_store_resume(x->api->options.jobs, jobs_path_id(x), &was, &err);
    was_answer(x, rc, was, &err);
}

static void move_aside(struct exchange *x)
{
    struct job_move f = job_move_defaults;
    struct error err = {0};
    if (!jobs_read_fields(x, &f, NULL, NULL))
        return;
    int rc = job_store_move(x->api->options.jobs, jobs_path_id(x), f.position, &err);
    was_answer(x, rc, JOB_STATE_QUEUED, &err);
}

static void retry_aside(struct exchange *x)
{
    struct error err = {0};
    int64_t id;
    int rc = job_store_retry(x->api->options.jobs, jobs_path_id(x), &id, &err);
    if (rc)
        jobs_problem(x, rc, &err);
    else
        created_answer(x, id);
}

static void delete_aside(struct exchange *x)
{
    struct error err = {0};
    int rc = job_store_delete(x->api->options.jobs, jobs_path_id(x), &err);
    if (rc) {
        jobs_problem(x, rc, &err);
        return;
    }
    x->aside.status = 204;
    job_runner_wake(x->api->options.runner);
}

void handle_job_cancel(struct exchange *x)
{
    jobs_aside(x, cancel_aside);
}

void handle_job_resume(struct exchange *x)
{
    jobs_aside(x, resume_aside);
}

void handle_job_move(struct exchange *x)
{
    jobs_aside(x, move_aside);
}

void handle_job_retry(struct exchange *x)
{
    jobs_aside(x, retry_aside);
}

void handle_job_delete(struct exchange *x)
{
    jobs_aside(x, delete_aside);
}
