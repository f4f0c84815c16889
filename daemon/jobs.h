/* jobs.h: the daemon's part in jobs: where they are kept, which program runs them, and how politely. */
#ifndef DDIMD_DAEMON_JOBS_H
#define DDIMD_DAEMON_JOBS_H

#include "daemon/log.h"
#include "daemon/options.h"
#include "training/runner.h"

struct jobs {
    struct job_store *store; // NULL: no jobs (--state was not given)
    struct job_runner *runner;
    const struct log *log;
    char state[OPTION_PATH_BYTES], datasets[OPTION_PATH_BYTES], models[OPTION_PATH_BYTES],
        trainer[OPTION_PATH_BYTES]; // absolute
};

/* Opens what --state names; nothing without it. in_daemon: launcher of jobs that run in this process. Starts no job
 * yet. On failure jobs_close() is still called. 0, -EBUSY (another daemon has the folder), errors of files. */
int jobs_open(struct jobs *j, const struct options *o, const struct job_launcher *in_daemon, const struct log *log,
              struct error *err);
/* Running jobs are followed on, queued ones start. 0, -EAGAIN. */
int jobs_start(struct jobs *j, struct error *err);
/* The runner ends, for good: processes go on without it, what runs inside the daemon has stopped where it can go on
 * from. While the scheduler still turns. */
void jobs_stop(struct jobs *j);
void jobs_close(struct jobs *j);

#endif
