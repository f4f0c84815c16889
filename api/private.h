/* private.h: struct api, and the handlers that the table of routes names. */
#ifndef DDIMD_API_PRIVATE_H
#define DDIMD_API_PRIVATE_H

#include "api/conn.h"
#include "api/exchange.h"

enum { STATUS_KINDS = 26 };

struct hangup;
struct asides;
struct job_streams;
struct crowd;
struct front;

/* Settings as one request sees them. */
struct settings {
    atomic_int refs;
    struct api_settings now;
};

struct api {
    struct api_options options;
    struct front *fronts; // [n_fronts]
    unsigned n_fronts;
    int listen_fd;
    struct crowd *crowd;
    struct conn_limits limits;
    struct hangup *hangup;
    struct asides *asides;
    struct job_streams *job_streams; // NULL without jobs
    struct job_waits *job_waits;     // likewise
    pthread_mutex_t publish_lock;    // files of models change one at a time
    atomic_int state;                // enum api_state
    _Atomic int64_t alive_ns;
    atomic_uint serial; // of requests, for their ids
    uint32_t instance;  // random, likewise
    int64_t started_ns;

    pthread_mutex_t lock; // live exchanges: requests that began and did not end
    pthread_cond_t idle;
    int n_live, n_busy; // busy: wholly received, not yet wholly answered
    struct exchange *newest, *oldest;
    struct tls_credentials *credentials; // locked, too; NULL: not secure
    struct settings *settings;           // locked, too

    /* metrics */
    _Atomic uint64_t answers[ROUTE_MAX_COUNT + 1][STATUS_KINDS]; // the last row: no route
    _Atomic uint64_t images, encode_ns, encodes, answer_bytes;
    struct scheduler_histogram request_seconds; // with lock held
};

int64_t now_ns(void); // CLOCK_MONOTONIC
/* A new id for a request. */
void api_request_id(struct api *a, char ret_id[REQUEST_ID_BYTES]);
void api_log(struct api *a, int priority, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A reference to the settings of now. */
struct settings *settings_get(struct api *a);
void settings_release(struct settings *s); // NULL is fine

/* True where generations are taken; else the problem is answered. */
bool api_check_ready(struct exchange *x);
/* Why it is not ready, NULL where it is. */
const char *api_unready(struct api *a);

/* What a failure of model_store_acquire() is for a client. name: "" is the default. */
void api_model_problem(const char *name, int rc, const struct error *err, struct problem *ret_problem);

void metrics_init(struct api *a);
/* Counts an answered request. route NULL: none. */
void metrics_count(struct api *a, const struct route *route, int status, double seconds);

/* handlers */
void handle_generate(struct exchange *x);
void handle_replay(struct exchange *x);
void handle_schedule(struct exchange *x);
void handle_models(struct exchange *x);
void handle_model(struct exchange *x);
void handle_model_load(struct exchange *x);
void handle_model_unload(struct exchange *x);
void handle_model_default(struct exchange *x);
void handle_model_from_job(struct exchange *x);
void handle_model_rollback(struct exchange *x);
void handle_jobs(struct exchange *x);
void handle_job_submit(struct exchange *x);
void handle_job(struct exchange *x);
void handle_job_delete(struct exchange *x);
void handle_job_cancel(struct exchange *x);
void handle_job_resume(struct exchange *x);
void handle_job_retry(struct exchange *x);
void handle_job_move(struct exchange *x);
void handle_job_events(struct exchange *x);
void handle_job_metrics(struct exchange *x);
void handle_job_log(struct exchange *x);
void handle_job_samples(struct exchange *x);
void handle_job_sample(struct exchange *x);
void handle_job_report(struct exchange *x);
void handle_job_checkpoints(struct exchange *x);
void handle_job_result(struct exchange *x);
void handle_capabilities(struct exchange *x);
void handle_healthz(struct exchange *x);
void handle_readyz(struct exchange *x);
void handle_version(struct exchange *x);
void handle_metrics(struct exchange *x);
void handle_openapi(struct exchange *x);
void handle_problem(struct exchange *x);
void handle_page(struct exchange *x);
void handle_page_file(struct exchange *x);
void handle_queue(struct exchange *x);

#endif
