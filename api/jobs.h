/* jobs.h: what the files of /jobs share.
 *
 * The store of jobs waits for the disk, so whatever asks it runs aside (aside.h), and what waits for news of a job is
 * fed by a thread of its own (jobs_events.c). Nothing here knows how a job runs: it reads and writes the store, wakes
 * the runner, and reads files beneath the job's folder.
 */
#ifndef DDIMD_API_JOBS_H
#define DDIMD_API_JOBS_H

#include "api/private.h"
#include "sampling/models.h"
#include "training/job_type.h"
#include "training/jobs.h"

/* ---- for handlers, HTTP thread ---- */

/* Runs aside(x) on a helper thread, then answers with what it left in x->aside; where this daemon has no jobs, that is
 * the answer. */
void jobs_aside(struct exchange *x, void (*aside)(struct exchange *x));
/* The same with a continuation of the caller's own. */
void jobs_aside_then(struct exchange *x, void (*aside)(struct exchange *x), void (*next)(struct exchange *x));

/* The continuation that jobs_aside() has: answers with what is in x->aside, headers with problems too. */
void jobs_answer(struct exchange *x);

/* ---- for what runs aside ---- */

/* The job's number that the path names, the first of its names; 0 where that is no number. */
int64_t jobs_path_id(const struct exchange *x);
/* Reads the header Idempotency-Key into x->aside.key, "" where there is none. false: a problem was answered. */
bool jobs_read_key(struct exchange *x);
/* The path's second name. */
const char *jobs_path_part(const struct exchange *x);
/* Reads the query (and the body where the route takes one) into `into`, which holds the route's defaults. *ret_object
 * as in fields_read_struct(), NULL where it is not wanted. false: the problem is in x->aside. */
bool jobs_read_fields(struct exchange *x, void *into, uint64_t *ret_given, json_t **ret_object);
/* Queues a job, under x->aside.key where that is not empty. j->config NULL: no memory. The caller wakes the runner.
 * false: the problem is in x->aside. */
bool jobs_submit(struct exchange *x, struct job_new *j, int64_t *ret_id, bool *ret_existed);
/* An error of the store as a problem in x->aside. */
void jobs_problem(struct exchange *x, int rc, const struct error *err);
/* A header for the answer. */
void jobs_header(struct exchange *x, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The job of the path, or a problem. false: the problem is there. */
bool jobs_get(struct exchange *x, struct job *ret_job);
/* Opens a file (or with O_DIRECTORY a folder) beneath the folder of the path's job. 0, -ENOENT. */
int jobs_open_file(struct exchange *x, const char *name, int flags, int *ret_fd);
int jobs_open_file_of(struct exchange *x, int64_t job, const char *name, int flags, int *ret_fd);
/* Whole file into x->aside.text, or a problem. */
void jobs_send_file(struct exchange *x, int fd, int64_t offset, int64_t bytes);

/* A job as an object; full: with its configuration. */
void job_write(const struct job *job, bool full, struct text *t);
/* A member: RFC 3339 with milliseconds, null for 0. */
void job_time_write(struct text *t, const char *key, int64_t ms);

/* Jobs for GET /metrics into x->aside.text. */
void job_gauges_aside(struct exchange *x);

/* ---- requests that wait for a job of type generate (detached.c) ---- */

struct job_waits;
int job_waits_create(struct job_waits **ret_waits); // 0, -ENOMEM
void job_waits_free(struct job_waits *w);           // nobody waits; NULL is fine
/* The job has ended, or the daemon lets go of it (job 0: of all): those who wait look at it. Any thread. */
void job_waits_end(struct api *a, int64_t job);
/* For a request that hung up while it waited: its job is cancelled, on a helper thread. x->lock is not held. */
void job_waits_hangup(struct exchange *x);

/* ---- streams of events ---- */

struct job_streams;
int job_streams_create(struct api *a, struct job_streams **ret_streams); // 0, -ENOMEM, -EAGAIN
/* All streams end with what they have. Before the connections are closed; idempotent. */
void job_streams_end(struct job_streams *s);
void job_streams_free(struct job_streams *s); // ended, and no connection is left; NULL is fine

/* ---- configurations ---- */

/* Floating-point operations a second that a training job would reach on the device; 0: nothing tells. basis: what tells
 * it ("job 7", "model digits"), "" where nothing does. */
enum { JOB_PACE_BYTES = MODEL_NAME_BYTES + 8 };
double job_pace(const struct api_options *o, const char *device, char basis[JOB_PACE_BYTES]);

/* Checks a training configuration that a client sent: its keys, its data set, which lies beneath the folder of data
 * sets, and what it will take. As struct job_type says; context: struct api_options. */
int job_train_check(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err);
/* The same of an evaluation (docs/QUALITY.md): model and extractor are names. */
int job_evaluate_check(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err);

/* Opens a path that a client named beneath the daemon's folder of data sets, and gives the whole of it. field: its key.
 * 0, -EINVAL (leads out, is not there, too long). */
int job_dataset_path(const struct api_options *o, const char *field, const char *path, size_t bytes, char *ret_path,
                     struct error *err);

extern const char *const job_type_names[]; // of api_job_types, NULL-terminated
extern const struct json_field job_submit_fields[], job_list_fields[], job_move_fields[], job_events_fields[],
    job_metrics_fields[], job_log_fields[], job_publish_fields[], job_result_fields[];
extern const struct job_submit {
    int type; // index in api_job_types
    char name[JOB_NAME_BYTES];
    const json_t *config;
    bool dry_run;
} job_submit_defaults;
extern const struct job_list {
    int state;
    char type[JOB_TYPE_BYTES];
    int32_t limit;
    int64_t after;
} job_list_defaults;
extern const struct job_move {
    int32_t position;
} job_move_defaults;
extern const struct job_events {
    int64_t after;
} job_events_defaults;
extern const struct job_metrics {
    int32_t max_points;
} job_metrics_defaults;
extern const struct job_log {
    int64_t offset;
    int32_t limit;
} job_log_defaults;
extern const struct job_result {
    int32_t first, count; // count 0: to the end
} job_result_defaults;
extern const struct job_publish {
    int64_t job;
    const json_t *checkpoint; // NULL: best
} job_publish_defaults;

#endif
