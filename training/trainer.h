/* trainer.h: a run of training from its configuration to its last checkpoint.
 *
 * One call, one thread (plus the loader's workers and the device's). Everything that the run leaves is in its folder
 * (folder.h). A run that is stopped and resumed leaves the same bytes in its model files as one that was not.
 */
#ifndef DDIMD_TRAINING_TRAINER_H
#define DDIMD_TRAINING_TRAINER_H

#include "training/config.h"
#include "training/folder.h"
#include "training/runs.h"
#include "training/state.h"

#include <signal.h>
#include <stdio.h>

enum trainer_end { TRAINER_FINISHED, TRAINER_EARLY, TRAINER_STOPPED };

struct trainer_outcome {
    enum trainer_end end;
    struct train_state state;
    char model[RUN_PATH_BYTES]; // the model file to use: best where there is one, else last
};

/* 0; -EINVAL (configuration: err->field), -ENOENT (data), -EEXIST (the folder holds a run and resume is off), -EBUSY (a
 * process trains there), -ERANGE (the loss is not finite, again and again), -ECANCELED
 * (stopped while it fetched its data), -ENOTSUP (device), -ENOMEM, -ENOSPC, -EIO.
 */
int trainer_run(const struct train_config *c, const struct run_options *o, struct trainer_outcome *ret_outcome,
                struct error *err);

/* Steps in a row whose loss or gradient is not finite, after which a run fails. */
enum { TRAINER_MAX_SKIPPED = 10 };

#endif
