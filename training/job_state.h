/* job_state.h: the states of a job and everything that may happen to it, as one table.
 *
 *     queued -> running -> succeeded | failed | cancelled -> queued (resume) | gone (delete)
 *
 * Every change of a job's state, by a client or by the runner, is one action looked up here; there is no other path.
 * Pure functions, any thread.
 */
#ifndef DDIMD_TRAINING_JOB_STATE_H
#define DDIMD_TRAINING_JOB_STATE_H

#include <stdbool.h>

enum job_state {
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SUCCEEDED,
    JOB_STATE_FAILED,
    JOB_STATE_CANCELLED,
    N_JOB_STATES,
    JOB_STATE_GONE = -1,    // the action deletes the job
    JOB_STATE_REFUSED = -2, // the action is not possible in this state (409)
};

enum job_action {
    JOB_ACTION_START,   // runner: its process runs
    JOB_ACTION_SUCCEED, // runner: its process ended well
    JOB_ACTION_FAIL,    // runner: ended badly for good, or could never start
    JOB_ACTION_STOP,    // runner: ended because a client cancelled it
    JOB_ACTION_REQUEUE, // runner: died or was interrupted, goes on from its last checkpoint
    JOB_ACTION_CANCEL,  // client; of a running job: asks for it, the end follows as STOP (or SUCCEED)
    JOB_ACTION_RESUME,  // client: goes on from its last checkpoint
    JOB_ACTION_RETRY,   // client: a new job with the same configuration; this one stays as it is
    JOB_ACTION_MOVE,    // client: to another place in the queue
    JOB_ACTION_DELETE,  // client: row, events and folder
    N_JOB_ACTIONS,
};

/* The state after the action; JOB_STATE_GONE, JOB_STATE_REFUSED. */
enum job_state job_state_next(enum job_state state, enum job_action action);

/* Succeeded, failed or cancelled. */
bool job_state_ended(enum job_state state);

/* "queued", "cancel". */
const char *job_state_name(enum job_state state);
const char *job_action_name(enum job_action action);

/* The state of that name, -1 (JOB_STATE_GONE) if there is none. */
int job_state_from_name(const char *name);

/* All names in order, NULL-terminated, for error messages and schemas. */
extern const char *const job_state_names[];

#endif
