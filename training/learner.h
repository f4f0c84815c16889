/* learner.h: a network in training on one device: weights, their average, moments, and the two programs.
 *
 * One thread (the device's worker). Arguments are host arrays; results too. It knows nothing of data sets, epochs or
 * files.
 */
#ifndef DDIMD_TRAINING_LEARNER_H
#define DDIMD_TRAINING_LEARNER_H

#include "kernels/backend.h"
#include "model/schedule.h"
#include "training/diffuse.h"

struct learner;

struct learner_options {
    struct device *device; // outlives the learner
    struct model_config model;
    int32_t height, width;
    enum dtype precision;
    int32_t batch_size;
    int32_t micro_batch;   // most images at once; 0: batch_size. Fewer where memory lacks, see learner_micro_batch
    int32_t forward_batch; // rows of the program that validates and samples
    uint64_t seed;         // of the initial weights
    const float *values;   // initial weights instead (flat, see learner_graph), or NULL
};

/* 0, -EINVAL, -ENOTSUP (no primitive for a layer), -ENOMEM, -EIO. */
int learner_create(const struct learner_options *o, struct learner **ret_learner, struct error *err);
void learner_free(struct learner *l); // NULL is fine

/* The parameter table; its param_floats is the length of every flat vector. */
const struct graph *learner_graph(const struct learner *l);

/* Images that pass through the network at once: halved whenever the device lacks memory for more, at first or later.
 * The batch stays the same; how its sum is rounded depends on this number, so a run that goes on takes it along. */
int32_t learner_micro_batch(const struct learner *l);
int learner_set_micro_batch(struct learner *l, int32_t n, struct error *err); // 0, -ENOMEM, ...; halves as well

/* Loss and gradient of a batch: ret_losses[n] is each image's mean of (eps_theta - eps)^2, unscaled; the gradient that
 * stays on the device is that of mean over n of loss_scale loss. *ret_norm: its L2 norm (not finite where it is not).
 * 0, -EIO (device lost), -ENOMEM. */
int learner_gradient(struct learner *l, const struct noised_batch *b, float *ret_losses, double *ret_norm,
                     struct error *err);

/* One AdamW step with that gradient, and the average. ema_decay 0 makes the average the weights themselves. 0, -EIO. */
int learner_update(struct learner *l, const struct adamw *o);

/* eps_theta of the averaged weights: any n, in pieces of forward_batch. x, ret_eps: [n, H, W, C]. 0, -EIO, -ENOMEM. */
int learner_forward(struct learner *l, int32_t n, const float *x, const float *t, const int32_t *y, float *ret_eps,
                    struct error *err);

/* Images of the averaged weights by a sampling table: image i starts from the noise of (seed, i). classes: [n].
 * ret_images: [n, H, W, C]. 0, -EIO, -ENOMEM. */
int learner_sample(struct learner *l, const struct step_table *table, int32_t n, const int32_t *classes, float guidance,
                   uint64_t seed, float *ret_images, struct error *err);

enum learner_vector { LEARNER_WEIGHTS, LEARNER_EMA, LEARNER_M, LEARNER_V, LEARNER_VECTOR_COUNT };

/* Copies a flat vector to or from the host. After setting weights or average, the next run uses them. 0, -EIO. */
int learner_get(struct learner *l, enum learner_vector which, float *ret_values);
int learner_set(struct learner *l, enum learner_vector which, const float *values);

size_t learner_bytes(const struct learner *l); // on the device, all of it

#endif
