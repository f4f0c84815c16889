/* jobs_generate.h: jobs of type generate, which run inside the daemon and share its steps with everyone.
 *
 * A job's images go through the scheduler in parts and into a file of the job as they are done, so that a stop at any
 * moment loses little, and so that the finished images can be had in any form later, byte for byte as an answer at once
 * would be. All jobs together are one client to the fair share.
 *
 * Beside what every job has (training/job_type.h), the job's folder holds
 *   recipe.json   what is being made: the text of the picture's chunk; another model or build begins anew
 *   images.npy    float32 [N * frames, H, W, C], full size from the beginning
 *   result.json   written last: sizes, names and times, or what went wrong
 */
#ifndef DDIMD_API_JOBS_GENERATE_H
#define DDIMD_API_JOBS_GENERATE_H

#include "api/recipe.h"
#include "api/result.h"
#include "training/job_type.h"
#include "training/launcher.h"

#define GENERATE_JOB_TYPE "generate"
#define GENERATE_JOB_DEVICE "lanes" // none of the devices that processes run on
enum { GENERATE_JOBS_AT_ONCE = 16 };

/* What one job may ask for. Its picture is no matter: parts of it are asked for later. */
extern const struct request_limits generate_job_limits;

struct generate_jobs_options {
    struct scheduler *scheduler; // both outlive this
    struct model_store *models;
    const char *device; // as api_options.device; copied
};

struct generate_jobs;
int generate_jobs_create(const struct generate_jobs_options *o, struct generate_jobs **ret_jobs); // 0, -ENOMEM
void generate_jobs_free(struct generate_jobs *g); // no job runs; NULL is fine
/* For the runner. Lives as long as g. */
const struct job_launcher *generate_jobs_launcher(const struct generate_jobs *g);
/* Called from the runner's thread whenever a job has ended and its end is in the store, or the daemon lets go of it.
 * Set before the runner starts. */
void generate_jobs_on_end(struct generate_jobs *g, void (*ended)(void *context, int64_t job), void *context);

/* struct job_type.check; context: struct api_options. */
int job_generate_check(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err);
/* The configuration that a job is stored with: a resolved recipe and how it is queued. */
void generate_config_write(const struct recipe *r, const char *build, const char *device, struct text *ret_json);

/* ---- finished jobs ---- */

/* What lies in a job's folder, for an answer. */
struct kept_result {
    struct result result;
    struct problem problem; // why there are no images; kind PROBLEM_NONE: there are
    char *recipe, *model;
    json_t *json; // that names point into
    float *images;
};
/* Images first to first + count (0: to the end) of the request. 0; -ENOENT: it is not finished; -EINVAL (a range that
 * is not there, or more than limits allow in one answer: err says which); -EIO, -ENOMEM. */
int kept_result_read(int folder_fd, int32_t first, int32_t count, const struct request_limits *limits,
                     struct kept_result *ret_kept, struct error *err);
void kept_result_done(struct kept_result *k); // a zeroed one is fine

/* How a job ended is written by jobs_generate.c with this. */
int kept_result_write(int folder_fd, const struct recipe *r, const struct timing *timing, const struct problem *p,
                      struct error *err);

#endif
