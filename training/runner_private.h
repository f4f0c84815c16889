/* runner_private.h: what the files of the runner share. All of it belongs to the runner's thread but for the trouble.
 */
#ifndef DDIMD_TRAINING_RUNNER_PRIVATE_H
#define DDIMD_TRAINING_RUNNER_PRIVATE_H

#include "training/follow.h"
#include "training/launcher.h"
#include "training/runner.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <time.h>

enum { RUNNER_MAX_ARGS = 16 };

/* A running job. */
struct watch {
    int64_t id;
    struct launched process;
    char device[JOB_DEVICE_BYTES];
    int folder_fd;           // -1: gone
    int64_t offset;          // of its records that are in the store
    int64_t checkpoint_step; // that the store knows of
    ino_t state_inode;       // of the state file that was looked at last
    struct timespec state_time;
    int64_t term_ms; // CLOCK_MONOTONIC of SIGTERM, 0: not sent
    bool killed;     // SIGKILL was sent
    bool ended;      // the rest says how; kept until the store has it
    int end;         // of launcher_ended
    bool rebooted, out_of_memory;
};

struct job_runner {
    struct job_store *store;
    struct job_runner_options options; // its strings are borrowed no more: see below
    char *program, *folder, *directory, *args[RUNNER_MAX_ARGS + 1];
    int root_fd, wake_fd;
    bool adopted; // the jobs of the daemon's former life are watched
    struct watch *watches;
    int32_t n_watches;
    struct follow_batch *batch;
    int64_t oom_kills;     // at the end of the last round
    int64_t not_before_ms; // CLOCK_MONOTONIC: nothing is started before, after a failure
    pthread_t thread;
    bool has_thread;
    _Atomic bool stopping;
    pthread_mutex_t trouble_mutex;
    bool has_trouble, round_had_trouble;
    struct error trouble;
};

int64_t runner_clock_ms(int clock);
void runner_report(struct job_runner *r, int64_t job, const char *message);
void runner_note_trouble(struct job_runner *r, int64_t job, const struct error *err);

/* A new watch without process or folder; NULL without memory. Other watches may move. */
struct watch *runner_add_watch(struct job_runner *r, int64_t id);

/* The kind of that name, NULL where this daemon has none or lacks the launcher for it. */
const struct job_type *runner_type(const struct job_runner *r, const char *name);
const struct job_launcher *runner_launcher(const struct job_runner *r, const struct job_type *type);

/* Starts queued jobs where their device is free, in the queue's order. */
void runner_start_queued(struct job_runner *r);

#endif
