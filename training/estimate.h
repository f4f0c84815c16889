/* estimate.h: what a run will take, before anything of it is started.
 *
 * Pure functions of a configuration; no device, no files. Any thread.
 */
#ifndef DDIMD_TRAINING_ESTIMATE_H
#define DDIMD_TRAINING_ESTIMATE_H

#include "training/config.h"

struct train_estimate {
    int64_t parameters;
    int64_t flop_per_step;    // forward and backward (twice the forward) of a batch
    double flop;              // of the whole run: steps, validation, sample grids
    int64_t steps_per_epoch;  // 0: the number of images is not known
    int64_t steps;            // of all epochs
    int64_t memory_bytes;     // of the process at most: weights, average, moments, gradients, the activations of a
                              // batch, decoded images, and the state on its way to a file
    int64_t checkpoint_bytes; // of one model file and of the state file
};

/* n_images: of the data set, held-out ones included; 0: not known. bf16: computes in bf16. 0, -EINVAL (the network
 * cannot be recorded), -ENOMEM. */
int train_estimate(const struct train_config *c, int64_t n_images, bool bf16, struct train_estimate *ret_estimate,
                   struct error *err);

#endif
