/* job_type.h: the kinds of jobs: what each may be told, and which launcher runs it. All else is the same for all kinds:
 * states, queue, events, idempotency, restarts (docs/JOBS.md).
 *
 * The table itself is the api's (api/jobs_types.c), since it knows what a client may ask for; the runner is given it.
 *
 * A job of any kind speaks by files in its folder, whoever runs it:
 * - job.json, which it is given: its configuration;
 * - metrics.jsonl: records {"event": "step", "step": 7, "steps": 100, ...}; at its end {"event": "end", "end":
 * "finished" | "early" | "stopped", ...} (training/follow.h);
 * - checkpoints/state.safetensors or, of what has no tensors to keep, checkpoints/state.json (follow_state_write): what
 *   it goes on from. Started again in a folder that holds one, it goes on;
 * - log: for people; its last line says why it failed;
 * - exit: its exit code, written last, by whoever runs it (LAUNCH_EXIT_NAME).
 * Constant data, any thread.
 */
#ifndef DDIMD_TRAINING_JOB_TYPE_H
#define DDIMD_TRAINING_JOB_TYPE_H

#include "kernels/error.h"
#include "training/jobs.h"

#include <jansson.h>

enum job_place {
    JOB_IN_PROCESS, // ddimd-train [verb] CONFIG --out FOLDER --resume ..., by the process launcher (launcher.h)
    JOB_IN_DAEMON,  // inside the daemon, beside its other work, by a launcher that the daemon brings
    N_JOB_PLACES,
};

/* What the check of a configuration says. */
struct job_plan {
    char device[JOB_DEVICE_BYTES]; // jobs of one device run one after the other
    json_t *config;                // as it would run, every key present; owned
    json_t *estimate;              // what it would take, an object; owned
};

struct job_type {
    const char *name; // as clients say it
    enum job_place place;
    const char *verb; // first argument of ddimd-train, NULL: none
    int32_t at_once;  // how many run at once on their device; 0: as the runner's options say
    bool store_plan;  // a job is stored with the plan's configuration, not the client's
    /* Checks a client's configuration before it is queued, as far as that goes without starting it. context: the api's
     * options. *ret_plan: job_plan_done. 0, -EINVAL (field: the key's path within the configuration), -ENOMEM. */
    int (*check)(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err);
};

/* Frees what the plan owns. */
static inline void job_plan_done(struct job_plan *plan)
{
    json_decref(plan->config);
    json_decref(plan->estimate);
}

#endif
