/* jobs.c: see jobs.h. */
#include "daemon/jobs.h"

#include "api/api.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

/* What happened to a job, from the runner: one line with all that tells its story. */
static void on_report(void *context, int64_t id, const char *message)
{
    struct jobs *j = context;
    struct job job;
    if (!id) {
        log_line(j->log, LOG_WARNING, "jobs: %s", message);
        return;
    }
    if (job_store_get(j->store, id, &job, NULL)) {
        log_line(j->log, LOG_WARNING, "job id=%" PRId64 " what=\"%s\"", id, message);
        return;
    }
    bool ended = job.ended_ms >= job.started_ms && job.state != JOB_STATE_RUNNING;
    char run[48] = "";
    if (ended && job.started_ms)
        snprintf(run, sizeof(run), " run_s=%.3f", (double)(job.ended_ms - job.started_ms) / 1e3);
    log_line(j->log, job.state == JOB_STATE_FAILED ? LOG_WARNING : LOG_INFO,
             "job id=%" PRId64 " type=%s state=%s attempt=%" PRId32 " step=%" PRId64 " steps=%" PRId64
             " queue_s=%.3f%s what=\"%s\"",
             id, job.type, job_state_name(job.state), job.attempts, job.step, job.total_steps,
             job.started_ms ? (double)(job.started_ms - job.created_ms) / 1e3 : 0, run, message);
    job_done(&job);
}

/* Makes the folder where it is missing, and its path absolute: jobs outlive this process and its folder. */
static int folder_resolve(const char *path, char to[OPTION_PATH_BYTES], struct error *err)
{
    char resolved[PATH_MAX];
    if (mkdir(path, 0750) < 0 && errno != EEXIST)
        return error_set(err, -errno, "state", "the folder %s cannot be made: %s", path, strerror(errno));
    if (!realpath(path, resolved))
        return error_set(err, -errno, "state", "the folder %s cannot be found: %s", path, strerror(errno));
    snprintf(to, OPTION_PATH_BYTES, "%s", resolved);
    return 0;
}

static int datasets_resolve(struct jobs *j, const struct options *o, struct error *err)
{
    char path[OPTION_PATH_BYTES + 16];
    if (o->datasets[0])
        return folder_resolve(o->datasets, j->datasets, err);
    snprintf(path, sizeof(path), "%s/datasets", j->state);
    return folder_resolve(path, j->datasets, err);
}

/* As told, or the program of that name beside this one. */
static int trainer_resolve(struct jobs *j, const struct options *o, struct error *err)
{
    char own[OPTION_PATH_BYTES - 16];
    if (o->trainer[0]) {
        if (!realpath(o->trainer, j->trainer))
            return error_set(err, -errno, "trainer", "%s cannot be found: %s", o->trainer, strerror(errno));
        return 0;
    }
    ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);
    if (n < 0)
        return error_set(err, -errno, "trainer", "this program's own path cannot be read: %s", strerror(errno));
    own[n] = '\0';
    *(strrchr(own, '/') + 1) = '\0';
    snprintf(j->trainer, sizeof(j->trainer), "%sddimd-train", own);
    return 0;
}

int jobs_open(struct jobs *j, const struct options *o, const struct job_launcher *in_daemon, const struct log *log,
              struct error *err)
{
    j->log = log;
    if (!o->state[0])
        return 0;
    int rc = folder_resolve(o->state, j->state, err);
    if (rc == 0)
        rc = datasets_resolve(j, o, err);
    if (rc == 0)
        rc = folder_resolve(o->models, j->models, err);
    if (rc == 0)
        rc = trainer_resolve(j, o, err);
    if (rc == 0)
        rc = job_store_open(j->state, NULL, &j->store, err);
    if (rc)
        return rc;
    const char *const args[] = {"--datasets", j->datasets, "--models", j->models, NULL};
    struct job_runner_options r = {.types = api_job_types,
                                   .n_types = api_n_job_types,
                                   .in_daemon = in_daemon,
                                   .program = j->trainer,
                                   .folder = j->state,
                                   .program_args = args,
                                   .directory = j->datasets,
                                   .nice = o->job_nice,
                                   .idle = o->job_nice == 19,
                                   .threads = o->job_threads,
                                   .per_device = o->jobs_per_device,
                                   .grace_ms = o->job_grace_seconds * 1000,
                                   .report = on_report,
                                   .arg = j};
    return job_runner_create(j->store, &r, &j->runner, err);
}

int jobs_start(struct jobs *j, struct error *err)
{
    return j->runner ? job_runner_start(j->runner, err) : 0;
}

void jobs_stop(struct jobs *j)
{
    if (j->runner)
        job_runner_stop(j->runner);
}

void jobs_close(struct jobs *j)
{
    job_runner_free(j->runner);
    job_store_close(j->store);
    *j = (struct jobs){0};
}
