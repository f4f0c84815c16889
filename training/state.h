/* state.h: where a run is, and the file that it goes on from.
 *
 * The state file is a safetensors file: four flat f32 vectors in the engine's layout (weights, ema, exp_avg,
 * exp_avg_sq), and the counters as JSON in `__metadata__`. With it a run goes on bit for bit. One thread per object.
 */
#ifndef DDIMD_TRAINING_STATE_H
#define DDIMD_TRAINING_STATE_H

#include "training/config.h"
#include "training/learner.h"

enum { TRAIN_BANDS = 10 }; // of timesteps, T / 10 each

/* Sums of the images' losses since something. */
struct loss_sums {
    double sum, band_sum[TRAIN_BANDS];
    int64_t n, band_n[TRAIN_BANDS];
};

struct train_state {
    int64_t step;         // batches drawn, skipped ones included: the counter of everything random
    int64_t updates;      // optimiser steps
    int64_t epoch, batch; // whole epochs done; batches done of the present one
    int64_t images;       // seen
    int64_t skipped;      // steps left out for a loss that was not finite
    int32_t skipped_in_row;
    struct loss_sums interval, epoch_losses; // since the last metrics line; in this epoch
    double train_loss, val_loss;             // of the last whole epoch; NAN: none yet
    double best;                             // of the monitored metric; NAN: none yet
    int64_t best_epoch;
    int32_t epochs_without_best;
    int32_t micro_batch;   // images at once, as memory allowed (learner_micro_batch)
    int64_t metrics_bytes; // length of metrics.jsonl that belongs to this state
    double seconds;        // of training, over all its parts
};

/* The beginning: zeros and NANs. */
struct train_state train_state_initial(void);

/* Writes state, configuration and the learner's vectors, durably. dir_fd, name: openat. 0, -ENOMEM, -EIO (device), or
 * the file's error. */
int train_state_save(int dir_fd, const char *name, const struct train_state *s, const struct train_config *c,
                     struct learner *l, struct error *err);

/* Reads a state, checks that it belongs to this configuration (train_config_compatible) and network, and sets the
 * learner's vectors. 0, -ENOENT, -EINVAL (err says what does not fit), -ENOMEM, -EIO. *ret_state is untouched on
 * failure; the learner's vectors may not be. */
int train_state_load(int dir_fd, const char *name, const struct train_config *c, struct learner *l,
                     struct train_state *ret_state, struct error *err);

#endif
