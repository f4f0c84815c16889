/* job_end.c: see job_end.h. Exit codes are ddimd-train's (training/main.c): 0 is finished or stopped by a signal after
 * a checkpoint, 5 is lack of memory, the others fail for a reason that trying again would meet again.
 */
#include "training/job_end.h"

#include "training/launcher.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_MEMORY = 5 };

const char *job_end_name(enum job_end_kind kind)
{
    static const char *const names[] = {"", "exit", "signal", "killed", "out of memory", "lost", "reboot", "start"};
    return names[kind];
}

static bool is_stopped(const struct job *job, int end)
{
    return end == 0 && strcmp(job->outcome, "stopped") == 0;
}

static struct job_end classify(const struct job *job, const struct job_ending *e)
{
    struct job_end end = {.kind = JOB_END_EXIT, .code = e->end};
    const char *words = e->last_words ? e->last_words : "";
    if (e->end == LAUNCH_NEVER) {
        end = (struct job_end){.kind = JOB_END_LOST};
        snprintf(end.message, sizeof end.message, "the daemon died before it ran");
    } else if (e->end == LAUNCH_UNKNOWN) {
        end = (struct job_end){.kind = e->rebooted ? JOB_END_REBOOT : JOB_END_LOST};
        snprintf(end.message, sizeof end.message, "%s", e->rebooted ? "the machine restarted" : "its process is gone");
    } else if (e->end == -SIGKILL && e->out_of_memory && !job->cancel_requested) {
        end = (struct job_end){.kind = JOB_END_OOM, .code = SIGKILL};
        snprintf(end.message, sizeof end.message, "killed by the kernel for lack of memory");
    } else if (e->end < 0) {
        end = (struct job_end){.kind = JOB_END_SIGNAL, .code = -e->end};
        snprintf(end.message, sizeof end.message, "ended by signal %d (%s)", -e->end, strsignal(-e->end));
    } else if (is_stopped(job, e->end)) {
        snprintf(end.message, sizeof end.message, "stopped by a signal after a checkpoint");
    } else if (e->end > 0) {
        end.kind = e->end == EXIT_MEMORY ? JOB_END_OOM : JOB_END_EXIT;
        snprintf(end.message, sizeof end.message, "exit code %d: %.200s", e->end, words);
    }
    return end;
}

static bool has_finished(const struct job *job, const struct job_ending *e)
{
    bool said = strcmp(job->outcome, "finished") == 0 || strcmp(job->outcome, "early") == 0;
    if (e->end == LAUNCH_UNKNOWN)
        return said; // its last act; how it was seen to end does not matter
    return e->end == 0 && !is_stopped(job, e->end) && (said || !job->cancel_requested);
}

enum job_action job_end_judge(const struct job *job, const struct job_ending *e, struct job_end *ret_end,
                              int32_t *ret_deaths)
{
    struct job_end end = classify(job, e);
    bool kept = e->checkpoint_step > job->start_checkpoint;
    int32_t deaths = kept ? 0 : job->deaths;
    enum job_action action;
    if (has_finished(job, e)) {
        end = (struct job_end){.kind = JOB_END_EXIT};
        action = JOB_ACTION_SUCCEED;
    } else if (job->cancel_requested) {
        end.kind = JOB_END_KILLED;
        snprintf(end.message, sizeof end.message, "%s",
                 e->end == 0          ? "cancelled; a checkpoint was written"
                 : e->end == -SIGKILL ? "cancelled; killed, since it did not end in time"
                                      : "cancelled");
        action = JOB_ACTION_STOP;
    } else if (e->end > 0) {
        action = JOB_ACTION_FAIL;
    } else if (is_stopped(job, e->end)) {
        action = JOB_ACTION_REQUEUE; // somebody else's SIGTERM, as when the machine shuts down: not a death
    } else if (e->end == LAUNCH_NEVER) {
        action = JOB_ACTION_REQUEUE; // nor is this one of its own
    } else if (++deaths < JOB_MAX_DEATHS) {
        action = JOB_ACTION_REQUEUE;
    } else {
        size_t n = strlen(end.message);
        snprintf(end.message + n, sizeof end.message - n, "; died %d times without a new checkpoint", deaths);
        action = JOB_ACTION_FAIL;
    }
    *ret_end = end;
    *ret_deaths = deaths;
    return action;
}
