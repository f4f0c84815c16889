/* detached.c: /generate by way of a job: with Prefer: respond-async the answer is 202 and the job's link; with
 * Idempotency-Key the client waits for its job, and the same key gets the same answer from what that job has kept, also
 * after a restart. GET /jobs/{id}/result hands out what a job of type generate has kept.
 *
 * A client that waits is an entry in a list, made before its job can end. Whoever sees a job end wakes those of its
 * entries that sleep and marks the others, who then do not go to sleep. Locks: the list's, then an exchange's.
 */
#include "api/detached.h"

#include "api/aside.h"
#include "api/hangup.h"
#include "api/jobs.h"
#include "api/jobs_generate.h"
#include "api/negotiate.h"
#include "api/work.h"
#include "training/job_folder.h"
#include "training/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct job_wait {
    struct exchange *x; // a reference
    int64_t job;
    bool over, asleep;
    struct job_wait *next;
};

struct job_waits {
    pthread_mutex_t lock;
    struct job_wait *first;
};

const struct json_field job_result_fields[] = {
    {"first", FIELD_INT32, offsetof(struct job_result, first), 0, INT32_MAX, .help = "Image to begin with."},
    {"count", FIELD_INT32, offsetof(struct job_result, count), 1, INT32_MAX,
     .help = "Images in the answer; to the end where absent."},
    {0},
};
const struct job_result job_result_defaults = {0};

/* ---- the list ---- */

int job_waits_create(struct job_waits **ret_waits)
{
    struct job_waits *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    pthread_mutex_init(&w->lock, NULL);
    *ret_waits = w;
    return 0;
}

void job_waits_free(struct job_waits *w)
{
    if (!w)
        return;
    pthread_mutex_destroy(&w->lock);
    free(w);
}

void job_waits_end(struct api *a, int64_t job)
{
    struct job_waits *w = a->job_waits;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    for (struct job_wait *e = w->first; e; e = e->next) {
        if (job && e->job != job)
            continue;
        e->over = true;
        if (e->asleep)
            exchange_wake(e->x);
    }
    pthread_mutex_unlock(&w->lock);
}

static bool wait_add(struct exchange *x, int64_t job)
{
    struct job_waits *w = x->api->job_waits;
    struct job_wait *e = calloc(1, sizeof(*e));
    if (!e) {
        problem_set(&x->aside.problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
        return false;
    }
    *e = (struct job_wait){.x = x, .job = job};
    exchange_retain(x);
    pthread_mutex_lock(&w->lock);
    e->next = w->first;
    w->first = e;
    pthread_mutex_unlock(&w->lock);
    return true;
}

/* x's entry; NULL: none. Locked. */
static struct job_wait *wait_find(struct job_waits *w, const struct exchange *x)
{
    struct job_wait *e = w->first;
    while (e && e->x != x)
        e = e->next;
    return e;
}

static void wait_remove(struct exchange *x)
{
    struct job_waits *w = x->api->job_waits;
    pthread_mutex_lock(&w->lock);
    struct job_wait *e = wait_find(w, x), **at = &w->first;
    while (*at != e)
        at = &(*at)->next;
    if (e)
        *at = e->next;
    pthread_mutex_unlock(&w->lock);
    if (e)
        exchange_release(x);
    free(e);
}

/* ---- what a job has kept; helper thread ---- */

static void result_headers(struct exchange *x, const struct result *r)
{
    char etag[ETAG_BYTES];
    const char *type = x->route->offers[x->offer];
    result_etag(r->recipe, type, x->offer == RESULT_JSON, etag);
    jobs_header(x, "X-Seed", "%" PRIu64, r->seed);
    jobs_header(x, "X-Model", "%s", r->model);
    jobs_header(x, "Vary", "Accept");
    if (r->recipe)
        jobs_header(x, "ETag", "%s", etag);
    jobs_header(x, "Server-Timing", "queue;dur=%.3f, sample;dur=%.3f", r->timing.queue_ms, r->timing.sample_ms);
    x->aside.content_type = type;
}

/* A whole picture of many images may be larger than any answer. */
static bool picture_fits(struct exchange *x, const struct picture *p)
{
    const struct request_limits *limits = &x->settings->now.limits;
    int64_t nrow = p->nrow < p->n ? p->nrow : p->n, rows = (p->n + nrow - 1) / nrow;
    int64_t width = (nrow * (p->width + PICTURE_PADDING) + PICTURE_PADDING) * p->scale;
    int64_t height = (rows * (p->height + PICTURE_PADDING) + PICTURE_PADDING) * p->scale;
    if (width <= PICTURE_MAX_SIDE && height <= PICTURE_MAX_SIDE && 3 * width * height <= limits->max_picture_bytes)
        return true;
    problem_set(&x->aside.problem, PROBLEM_BAD_FIELD, "count",
                "the picture would be %" PRId64 " x %" PRId64
                " pixels: ask for fewer images with first and count, or for "
                "another type",
                width, height);
    return false;
}

static void kept_answer(struct exchange *x, int64_t job, const struct job_result *range)
{
    struct kept_result k;
    struct error err = {0};
    int folder;
    int rc = job_folder_open(job_runner_root(x->api->options.runner), job, 0, &folder, &err);
    if (rc == 0) {
        rc = kept_result_read(folder, range->first, range->count, &x->settings->now.limits, &k, &err);
        close(folder);
    }
    if (rc) {
        problem_from_error(&x->aside.problem, rc == -EINVAL ? PROBLEM_BAD_FIELD : PROBLEM_JOBS_STORE, &err);
        return;
    }
    if (k.problem.kind) {
        x->aside.problem = k.problem;
    } else if (x->offer != RESULT_PNG || picture_fits(x, &k.result.picture)) {
        rc = result_write(&k.result, (enum result_form)x->offer, &x->aside.text);
        if (rc)
            problem_set(&x->aside.problem, rc == -ENOMEM ? PROBLEM_OUT_OF_MEMORY : PROBLEM_BAD_FIELD, "count",
                        "the images cannot be encoded in one answer");
        else
            result_headers(x, &k.result);
    }
    kept_result_done(&k);
}

/* The answer of a job that was waited for, or that a key names again. */
static void job_answer(struct exchange *x, const struct job *job)
{
    jobs_header(x, "Content-Location", "/jobs/%" PRId64 "/result", job->id);
    switch (job->state) {
    case JOB_STATE_SUCCEEDED:
    case JOB_STATE_FAILED:
        kept_answer(x, job->id, &job_result_defaults);
        break;
    case JOB_STATE_CANCELLED:
        problem_set(&x->aside.problem, PROBLEM_WRONG_STATE, NULL, "job %" PRId64 " was cancelled", job->id);
        break;
    default:
        problem_set(&x->aside.problem, PROBLEM_DRAINING, NULL, "the daemon is stopping; job %" PRId64 " goes on later",
                    job->id);
        x->aside.problem.retry_after_s = 5;
        jobs_header(x, "Location", "/jobs/%" PRId64, job->id);
    }
}

static void waited_aside(struct exchange *x)
{
    struct error err = {0};
    struct job job;
    int rc = job_store_get(x->api->options.jobs, x->aside.job, &job, &err);
    if (rc) {
        jobs_problem(x, rc, &err);
        return;
    }
    job_answer(x, &job);
    job_done(&job);
}

/* ---- submission; helper thread ---- */

static bool submit(struct exchange *x, bool *ret_existed)
{
    struct text config = {0};
    generate_config_write(&x->work->recipe, DDIMD_VERSION, x->api->options.device, &config);
    struct job_new j = {.type = GENERATE_JOB_TYPE,
                        .name = "",
                        .device = GENERATE_JOB_DEVICE,
                        .config = config.failed ? NULL : text_string(&config)};
    bool good = jobs_submit(x, &j, &x->aside.job, ret_existed);
    text_done(&config);
    return good;
}

static void detach_aside(struct exchange *x)
{
    struct error err = {0};
    struct job job;
    bool existed;
    if (!submit(x, &existed))
        return;
    job_runner_wake(x->api->options.runner);
    int rc = job_store_get(x->api->options.jobs, x->aside.job, &job, &err);
    if (rc) {
        jobs_problem(x, rc, &err);
        return;
    }
    x->aside.status = 202;
    jobs_header(x, "Location", "/jobs/%" PRId64, job.id);
    jobs_header(x, "Preference-Applied", "respond-async");
    job_write(&job, true, &x->aside.text);
    job_done(&job);
}

/* The key was used before, for this job. True: it is to be waited for once more. */
static bool used_before(struct exchange *x, const struct job *job)
{
    struct error err = {0};
    enum job_state was;
    if (strcmp(job->type, GENERATE_JOB_TYPE)) {
        problem_set(&x->aside.problem, PROBLEM_KEY_REUSED, NULL, "this key was used for job %" PRId64 " of type %s",
                    job->id, job->type);
    } else if (job->state == JOB_STATE_CANCELLED) { // its client hung up
        int rc = job_store_resume(x->api->options.jobs, job->id, &was, &err);
        if (rc == 0)
            return true;
        jobs_problem(x, rc, &err);
    } else if (job_state_ended(job->state)) {
        job_answer(x, job);
    } else {
        problem_set(&x->aside.problem, PROBLEM_KEY_IN_USE, NULL,
                    "the request with this key still runs, as job %" PRId64, job->id);
        jobs_header(x, "Location", "/jobs/%" PRId64, job->id);
    }
    return false;
}

static void wait_aside(struct exchange *x)
{
    struct error err = {0};
    struct job job;
    bool existed, again = false;
    if (!submit(x, &existed))
        return;
    int rc = job_store_get(x->api->options.jobs, x->aside.job, &job, &err);
    if (rc) {
        jobs_problem(x, rc, &err);
        return;
    }
    again = existed && used_before(x, &job);
    job_done(&job);
    if ((!existed || again) && wait_add(x, x->aside.job))
        job_runner_wake(x->api->options.runner);
}

/* ---- HTTP thread ---- */

static void wait_over(struct exchange *x)
{
    hangup_unwatch(x->api->hangup, x->watch);
    x->watch = WATCH_NONE;
    wait_remove(x);
    jobs_aside(x, waited_aside);
}

/* Sleeps until the job has ended, where there is one to wait for. */
static void wait_begin(struct exchange *x)
{
    struct job_waits *w = x->api->job_waits;
    pthread_mutex_lock(&w->lock);
    struct job_wait *e = wait_find(w, x);
    bool over = e && e->over;
    if (e && !over) {
        e->asleep = true;
        exchange_wait(x, wait_over);
    }
    pthread_mutex_unlock(&w->lock);
    if (!e)
        jobs_answer(x);
    else if (over)
        wait_over(x);
    else
        work_watch_client(x);
}

bool detach(struct exchange *x)
{
    bool jobs = x->api->options.jobs != NULL;
    bool apart = jobs && negotiate_prefers(exchange_request_header(x, "Prefer"), "respond-async");
    bool key = exchange_request_header(x, "Idempotency-Key") != NULL;
    if (!apart && !key)
        return false;
    if (!jobs_read_key(x))
        return true;
    if (apart)
        jobs_aside(x, detach_aside);
    else if (strcmp(x->route->offers[x->offer], "text/event-stream") == 0)
        exchange_fail(x, PROBLEM_BAD_FIELD,
                      "Idempotency-Key goes with answers that can be kept, not with a stream of "
                      "events; with Prefer: respond-async there is one of the job");
    else
        jobs_aside_then(x, wait_aside, wait_begin);
    return true;
}

/* Helper thread. What else runs for x meanwhile knows nothing of this; the wake that follows is one too many at most.
 */
static void hangup_aside(struct exchange *x)
{
    struct job_waits *w = x->api->job_waits;
    pthread_mutex_lock(&w->lock);
    struct job_wait *e = wait_find(w, x);
    int64_t job = e && !e->over ? e->job : 0;
    pthread_mutex_unlock(&w->lock);
    if (job && job_store_cancel(x->api->options.jobs, job, NULL, NULL) == 0)
        job_runner_wake(x->api->options.runner);
}

void job_waits_hangup(struct exchange *x)
{
    struct job_waits *w = x->api->job_waits;
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    bool waits = wait_find(w, x) != NULL;
    pthread_mutex_unlock(&w->lock);
    if (waits)
        asides_add(x->api->asides, x, hangup_aside); // without memory the job ends as it would have
}

/* ---- GET /jobs/{id}/result ---- */

static void result_aside(struct exchange *x)
{
    struct job_result f = job_result_defaults;
    struct job job;
    if (!jobs_read_fields(x, &f, NULL, NULL) || !jobs_get(x, &job))
        return;
    if (strcmp(job.type, GENERATE_JOB_TYPE))
        problem_set(&x->aside.problem, PROBLEM_NO_SUCH_FILE, NULL,
                    "job %" PRId64 " is of type %s: only %s jobs have images", job.id, job.type, GENERATE_JOB_TYPE);
    else if (job.state == JOB_STATE_SUCCEEDED)
        kept_answer(x, job.id, &f);
    else
        problem_set(&x->aside.problem, PROBLEM_WRONG_STATE, NULL, "job %" PRId64 " is %s%s%s: it has no result", job.id,
                    job_state_name(job.state), job.end.message[0] ? ": " : "", job.end.message);
    job_done(&job);
}

void handle_job_result(struct exchange *x)
{
    jobs_aside(x, result_aside);
}
