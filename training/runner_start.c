/* runner_start.c: from a queued row to a running process: the folder, the configuration in it, the process at its gate,
 * the row, and then the gate.
 */
#include "training/runner_private.h"

#include "model/file.h"
#include "training/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_NAME "job.json"

enum { RETRY_MS = 5000, MAX_PATH = 4096 };

// Whether a failure to start will pass: a full disk may be emptied, a missing program or folder is not coming back.
static bool may_pass(int rc)
{
    return rc != -ENOENT && rc != -EACCES && rc != -ENOEXEC && rc != -EINVAL && rc != -ELOOP && rc != -ENOTDIR;
}

// The job's folder with the configuration in it and nothing of an older end; what the program will go on from.
static int prepare_folder(struct job_runner *r, const struct job *job, int *ret_fd, struct job_start *ret_start,
                          struct error *err)
{
    struct follow_state state = {.step = -1};
    int fd, rc = job_folder_open(r->root_fd, job->id, job->checkpoint_step < 0, &fd, err);
    if (rc == -ENOENT)
        return error_set(err, rc, NULL, "its folder is gone, and with it the checkpoint of step %lld",
                         (long long)job->checkpoint_step);
    if (rc < 0)
        return rc;
    rc = follow_state(fd, &state, err);
    if (rc == -ENOENT)
        rc = 0;
    if (rc == 0)
        rc = follow_rewind(fd, state.step >= 0 ? state.metrics_bytes : 0, &ret_start->record_offset, err);
    if (rc == 0 && unlinkat(fd, LAUNCH_EXIT_NAME, 0) < 0 && errno != ENOENT)
        rc = error_set(err, -errno, NULL, "cannot write into the job's folder: %s", strerror(errno));
    if (rc == 0)
        rc = file_write(fd, CONFIG_NAME, job->config, strlen(job->config), err);
    if (rc < 0) {
        close(fd);
        return rc;
    }
    ret_start->checkpoint_step = state.step;
    *ret_fd = fd;
    return 0;
}

// Starts it, held at its gate.
static int launch(struct job_runner *r, const struct job *job, int folder_fd, struct launched *ret_launched,
                  struct error *err)
{
    char folder[MAX_PATH], config[MAX_PATH + 16], threads[16];
    const char *args[9 + RUNNER_MAX_ARGS], *const rest[] = {config, "--out", folder, "--resume"};
    int n = 0, log_fd;
    const struct job_type *type = runner_type(r, job->type);
    if (!type)
        return error_set(err, -EINVAL, NULL, "this daemon runs no jobs of type %s", job->type);
    if (type->verb)
        args[n++] = type->verb;
    memcpy(args + n, rest, sizeof rest);
    n += sizeof rest / sizeof rest[0];
    if (snprintf(folder, sizeof folder, "%s/jobs/%lld", r->folder, (long long)job->id) >= (int)sizeof folder)
        return error_set(err, -ENAMETOOLONG, NULL, "the state folder's name is too long");
    snprintf(config, sizeof config, "%s/" CONFIG_NAME, folder);
    snprintf(threads, sizeof threads, "%d", r->options.threads);
    if (r->options.threads > 0) {
        args[n++] = "--threads";
        args[n++] = threads;
    }
    for (int i = 0; r->args[i]; i++)
        args[n++] = r->args[i];
    args[n] = NULL;
    int rc = job_file_open(folder_fd, FOLLOW_LOG_NAME, O_WRONLY | O_CREAT | O_APPEND, &log_fd);
    if (rc < 0)
        return error_set(err, rc, NULL, "cannot open the job's log: %s", strerror(-rc));
    const struct job_launcher *launcher = runner_launcher(r, type);
    struct launch l = {.job = job->id,
                       .program = r->program,
                       .args = args,
                       .folder = folder,
                       .directory = r->directory,
                       .log_fd = log_fd,
                       .nice = r->options.nice,
                       .idle = r->options.idle};
    rc = launcher->start(launcher, &l, ret_launched, err);
    close(log_fd);
    return rc;
}

// All of a start. On failure the job is queued as before. -EPERM: another action came first, which is no failure.
static int start(struct job_runner *r, const struct job *job, struct error *err)
{
    struct job_start begin = {0};
    struct watch *w = runner_add_watch(r, job->id);
    if (!w)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = prepare_folder(r, job, &w->folder_fd, &begin, err);
    if (rc == 0)
        rc = launch(r, job, w->folder_fd, &w->process, err);
    if (rc == 0) {
        begin.process = w->process.identity;
        rc = job_store_start(r->store, job->id, &begin, err);
    }
    if (rc < 0) {
        if (w->process.launcher)
            w->process.launcher->forget(&w->process);
        if (w->folder_fd >= 0)
            close(w->folder_fd);
        r->n_watches--; // it is the last
        return rc;
    }
    w->offset = begin.record_offset;
    w->checkpoint_step = begin.checkpoint_step;
    strcpy(w->device, job->device);
    w->process.launcher->release(&w->process);
    runner_report(r, job->id, begin.checkpoint_step > 0 ? "started from its last checkpoint" : "started");
    return 0;
}

static void fail(struct job_runner *r, int64_t id, const struct error *why)
{
    struct error err = {0};
    struct job_end end = {.kind = JOB_END_START};
    snprintf(end.message, sizeof end.message, "%.250s", why->message);
    if (job_store_end(r->store, id, JOB_ACTION_FAIL, &end, 0, &err) < 0)
        runner_note_trouble(r, id, &err);
    else
        runner_report(r, id, end.message);
}

static bool is_free(const struct job_runner *r, const struct job *job)
{
    const struct job_type *type = runner_type(r, job->type);
    int32_t busy = 0, most = type && type->at_once ? type->at_once : r->options.per_device;
    for (int32_t i = 0; i < r->n_watches; i++)
        busy += strcmp(r->watches[i].device, job->device) == 0;
    return busy < most;
}

void runner_start_queued(struct job_runner *r)
{
    struct job_filter queue = {.in_queue_order = true, .limit = JOB_MAX_LIST};
    struct job *jobs;
    int32_t n;
    struct error err = {0};
    if (runner_clock_ms(CLOCK_MONOTONIC) < r->not_before_ms) {
        r->round_had_trouble = r->has_trouble; // what it waits for has not passed yet
        return;
    }
    if (job_store_list(r->store, &queue, &jobs, &n, &err) < 0) {
        runner_note_trouble(r, 0, &err);
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        if (!is_free(r, &jobs[i]))
            continue;
        int rc = start(r, &jobs[i], &err);
        if (rc == 0 || rc == -EPERM)
            continue; // started, or cancelled meanwhile
        if (may_pass(rc)) {
            r->not_before_ms = runner_clock_ms(CLOCK_MONOTONIC) + RETRY_MS;
            runner_note_trouble(r, jobs[i].id, &err);
            break;
        }
        fail(r, jobs[i].id, &err);
    }
    job_list_free(jobs, n);
}
