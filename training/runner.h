/* runner.h: starts queued jobs, follows the running ones, and judges their ends.
 *
 * One thread of the daemon turns rounds: take over new records, ask cancelled jobs to stop (SIGTERM to the group, after
 * a grace SIGKILL), judge the ended, start the next in the queue where a device is free, remove folders of deleted
 * jobs. A round comes when a process ends, when somebody calls job_runner_wake, and at every tick. All that must last
 * is in the store; what the runner keeps in memory it finds again after a restart: jobs that run on are followed on,
 * those that died meanwhile are resumed from their last checkpoint.
 *
 * A round that fails (disk full, database locked, folder gone) is told once through `report`, readable with
 * job_runner_trouble, and tried again at the next tick; nothing is given up but what can never work.
 */
#ifndef DDIMD_TRAINING_RUNNER_H
#define DDIMD_TRAINING_RUNNER_H

#include "kernels/error.h"
#include "training/job_type.h"
#include "training/launcher.h"

#include <stdbool.h>

struct job_runner_options {
    const struct job_type *types; // n_types of them; borrowed
    int32_t n_types;
    const struct job_launcher *in_daemon; // runs those of JOB_IN_DAEMON; borrowed, outlives the runner; NULL: none
    const char *program;                  // path of ddimd-train
    const char *folder;                   // absolute path of the state folder; jobs' folders are in folder/jobs
    const char *directory;           // that the program works in: its data sets' paths are relative to it; NULL: any
    const char *const *program_args; // more arguments for the program, NULL-terminated; NULL: none
    int32_t nice;                    // 0..19
    bool idle;                       // SCHED_IDLE: generation goes first
    int32_t threads;                 // of a job; 0: as many as cores
    int32_t per_device;              // jobs at once on one device; 0: 1
    int32_t tick_ms;                 // 0: 500
    int32_t grace_ms;                // from SIGTERM to SIGKILL; 0: 60000
    /* For the daemon's log, from the runner's thread. job 0: about the runner. NULL: nobody is told. */
    void (*report)(void *arg, int64_t job, const char *message);
    void *arg;
};

struct job_runner;

/* options are copied, their strings too; the store outlives the runner. 0, -ENOMEM, errors of the folder. */
int job_runner_create(struct job_store *store, const struct job_runner_options *options, struct job_runner **ret_runner,
                      struct error *err);

/* Starts the thread. 0, -EAGAIN. */
int job_runner_start(struct job_runner *runner, struct error *err);

/* There is something to do: a new job, a cancelled one. Any thread, also from a signal handler. */
void job_runner_wake(struct job_runner *runner);

/* Ends the thread after its round, and lets go of the jobs: processes run on, what runs inside the daemon stops where
 * it can go on from, which is waited for. Idempotent. */
void job_runner_stop(struct job_runner *runner);

/* Stops, frees. NULL is fine. */
void job_runner_free(struct job_runner *runner);

/* One round, for who has a thread of his own; not while job_runner_start's runs. */
void job_runner_round(struct job_runner *runner);

/* What stands in the way at present: true and *ret_error, or false. Any thread. */
bool job_runner_trouble(struct job_runner *runner, struct error *ret_error);

/* The descriptor of folder/jobs, for reading what lies in jobs' folders (job_folder.h). Valid as long as the runner. */
int job_runner_root(const struct job_runner *runner);

#endif
