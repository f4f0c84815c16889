/* job_state.c: the table. Rows are states, columns actions; a test walks all of it. */
#include "training/job_state.h"

#include <string.h>

#define QUEUED JOB_STATE_QUEUED
#define RUNNING JOB_STATE_RUNNING
#define SUCCEEDED JOB_STATE_SUCCEEDED
#define FAILED JOB_STATE_FAILED
#define CANCELLED JOB_STATE_CANCELLED
#define GONE JOB_STATE_GONE
#define NO JOB_STATE_REFUSED

// clang-format off
static const signed char transitions[N_JOB_STATES][N_JOB_ACTIONS] = {
    /*                      START    SUCCEED    FAIL    STOP       REQUEUE  CANCEL     RESUME  RETRY      MOVE    DELETE */
    [JOB_STATE_QUEUED]    = {RUNNING, NO,        FAILED, NO,        NO,      CANCELLED, NO,     NO,        QUEUED, NO},
    [JOB_STATE_RUNNING]   = {NO,      SUCCEEDED, FAILED, CANCELLED, QUEUED,  RUNNING,   NO,     NO,        NO,     NO},
    [JOB_STATE_SUCCEEDED] = {NO,      NO,        NO,     NO,        NO,      SUCCEEDED, NO,     SUCCEEDED, NO,     GONE},
    [JOB_STATE_FAILED]    = {NO,      NO,        NO,     NO,        NO,      FAILED,    QUEUED, FAILED,    NO,     GONE},
    [JOB_STATE_CANCELLED] = {NO,      NO,        NO,     NO,        NO,      CANCELLED, QUEUED, CANCELLED, NO,     GONE},
};
// clang-format on

const char *const job_state_names[] = {"queued", "running", "succeeded", "failed", "cancelled", NULL};

static const char *const action_names[N_JOB_ACTIONS] = {"start",  "succeed", "fail",  "stop", "requeue",
                                                        "cancel", "resume",  "retry", "move", "delete"};

enum job_state job_state_next(enum job_state state, enum job_action action)
{
    return transitions[state][action];
}

bool job_state_ended(enum job_state state)
{
    return state == JOB_STATE_SUCCEEDED || state == JOB_STATE_FAILED || state == JOB_STATE_CANCELLED;
}

const char *job_state_name(enum job_state state)
{
    return job_state_names[state];
}

const char *job_action_name(enum job_action action)
{
    return action_names[action];
}

int job_state_from_name(const char *name)
{
    for (int i = 0; i < N_JOB_STATES; i++) {
        if (strcmp(name, job_state_names[i]) == 0)
            return i;
    }
    return -1;
}
