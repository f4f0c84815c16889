/* job_end.h: what the end of a job's process means: the one place that decides between done, failed, cancelled and once
 * more. Pure functions, any thread.
 */
#ifndef DDIMD_TRAINING_JOB_END_H
#define DDIMD_TRAINING_JOB_END_H

#include "training/job_state.h"
#include "training/jobs.h"

/* What was seen of an end. */
struct job_ending {
    int end;                 // of launcher_ended: exit code, negative signal, LAUNCH_UNKNOWN, LAUNCH_NEVER
    bool rebooted;           // the machine restarted meanwhile
    bool out_of_memory;      // the kernel killed some process for lack of memory just now
    int64_t checkpoint_step; // of the checkpoint that is there now, -1: none
    const char *last_words;  // last line of the log
};

/* Deaths without a new checkpoint after which a job is failed. */
enum { JOB_MAX_DEATHS = 2 };

/* job: as it was while running; its outcome is what the program's last record says ("finished", "early", "stopped", ""
 * where it came to none). Returns SUCCEED, FAIL, STOP or REQUEUE; *ret_deaths: deaths since the last new checkpoint. */
enum job_action job_end_judge(const struct job *job, const struct job_ending *ending, struct job_end *ret_end,
                              int32_t *ret_deaths);

/* "exit", "signal", "killed", "out of memory", "lost", "reboot", "start"; "" for JOB_END_NONE. */
const char *job_end_name(enum job_end_kind kind);

#endif
