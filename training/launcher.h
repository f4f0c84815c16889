/* launcher.h: how jobs run: the interface of launchers, and the one that runs processes on this machine.
 *
 * To it, a job is a process group that is told everything in its arguments and lives on when the daemon dies. Its
 * leader is a shell of a few lines, for two things that must hold whatever happens to the daemon:
 * - the gate: nothing runs before the daemon has the leader's identity on disk. Were the daemon killed between the
 *   start and the database's commit, the leader would end by itself: no job ever runs without a row that knows it;
 * - the end: the leader writes the program's exit status into the job's folder, so that it can be told also by a daemon
 *   that is not its parent.
 * One thread per process.
 */
#ifndef DDIMD_TRAINING_LAUNCHER_H
#define DDIMD_TRAINING_LAUNCHER_H

#include "kernels/error.h"
#include "training/jobs.h"

#include <stdbool.h>

struct launch {
    int64_t job;
    const char *program;     // path of the program; a launcher inside the daemon needs none
    const char *const *args; // its arguments from argv[1], NULL-terminated
    const char *folder;      // path of the job's folder: its configuration, and the file that tells its end
    const char *directory;   // that it works in; NULL: as the daemon
    int log_fd;              // its stdout and stderr
    int32_t nice;            // 0..19
    bool idle;               // SCHED_IDLE: runs where nobody else wants the core
};

/* What launcher_ended says besides exit codes (0..255) and signals (their negative). */
enum {
    LAUNCH_UNKNOWN = -1000,
    LAUNCH_NEVER = -1001, // the gate did not open: the daemon died first
};

#define LAUNCH_EXIT_NAME "exit" // file in the job's folder with the exit status, as $? has it

/* A running job as this daemon sees it. */
struct launched {
    const struct job_launcher *launcher; // that it belongs to; NULL: none, it was not found
    struct job_process identity;         // of the group's leader, whose pid is the group's number; or of the daemon
    int pidfd;                           // readable once it has ended
    int gate;                            // waits for release; -1: runs
    bool is_child;                       // started by this daemon, not found again
    void *task;                          // the launcher's own
};

/* A launcher. All functions are called by the runner's thread, and behave as those of the process launcher below, which
 * say what each returns. One that runs jobs inside the daemon finds none of a former life (launcher_gone), takes
 * SIGTERM as a wish to stop where it can go on from, SIGKILL as one to stop at once. */
struct job_launcher {
    int (*start)(const struct job_launcher *self, const struct launch *launch, struct launched *ret_launched,
                 struct error *err);
    void (*release)(struct launched *l);
    int (*find)(const struct job_launcher *self, const struct job_process *identity, struct launched *ret_launched);
    int (*signal)(const struct launched *l, int signal);
    bool (*ended)(struct launched *l, int folder_fd, int *ret_end);
    /* The daemon lets go, since the job's end is in the store, it never began, or the daemon ends. In the last case a
     * process goes on; what runs inside the daemon is stopped as by SIGTERM, and waited for. */
    void (*forget)(struct launched *l);
    void *context; // the launcher's own
};

/* Processes on this machine: the functions below. */
extern const struct job_launcher launcher_processes;

/* Starts it, held at the gate. 0, -ENOENT or -EACCES (no such program), -EAGAIN, -ENOMEM, ... */
int launcher_start(const struct launch *launch, struct launched *ret_launched, struct error *err);

/* Opens the gate. After this the program runs. */
void launcher_release(struct launched *l);

/* Finds the process group of that leader. *ret_launched: attached where it lives. 0; -ESRCH where it is gone;
 * -ENODATA where it is gone because the machine restarted. */
int launcher_find(const struct job_process *identity, struct launched *ret_launched);

/* Sends a signal to the whole group. Not after launcher_ended said true. -ESRCH: it is gone. */
int launcher_signal(const struct launched *l, int signal);

/* Whether it has ended. *ret_end: the program's exit code, the negative of the signal that ended it, LAUNCH_UNKNOWN or
 * LAUNCH_NEVER.
 * What is left of the group is killed. folder_fd: the job's folder, -1 where that is gone. */
bool launcher_ended(struct launched *l, int folder_fd, int *ret_end);

/* How the program of a group ended that launcher_find did not find, from its folder. */
int launcher_read_end(int folder_fd);

/* What find says of a job that ran inside a daemon which is gone: -ENODATA where the machine restarted, else -ESRCH. */
int launcher_gone(const struct job_process *identity);

/* This process as a job's. 0, -ESRCH, -EIO. */
int launcher_self(struct job_process *ret_identity);

/* Writes the file that tells the end. 0 or negative errno. */
int launcher_write_end(int folder_fd, int exit_code);

/* Closes the descriptors. The group goes on, unless it waits at the gate: then it ends. */
void launcher_forget(struct launched *l);

/* Number of processes that the kernel has killed for lack of memory since it started; -1: not known. */
int64_t launcher_oom_kills(void);

#endif
