/* classify_learner.h: a classifier in training on one device: weights, their average, moments, and the two programs.
 *
 * One thread (the device's worker). Arguments and results are host arrays. It knows nothing of data sets or files.
 */
#ifndef DDIMD_TRAINING_CLASSIFY_LEARNER_H
#define DDIMD_TRAINING_CLASSIFY_LEARNER_H

#include "kernels/backend.h"
#include "model/classifier.h"

struct classify_learner;

struct classify_learner_options {
    struct device *device; // outlives the learner
    struct classifier_config classifier;
    int32_t height, width;
    enum dtype precision; // of training; classifying is in f32
    int32_t batch_size;   // most images at once
    uint64_t seed;        // of the initial weights and of dropout
};

/* 0, -EINVAL, -ENOTSUP (no primitive for a layer), -ENOMEM, -EIO. */
int classify_learner_create(const struct classify_learner_options *o, struct classify_learner **ret_learner,
                            struct error *err);
void classify_learner_free(struct classify_learner *l); // NULL is fine

/* The parameter table; its param_floats is the length of the flat vectors. */
const struct graph *classify_learner_graph(const struct classify_learner *l);

/* Loss (cross-entropy, the batch's mean) and gradient of n <= batch_size images; then one AdamW step with o, whose
 * scale is set so that the gradient's norm is at most clip (0: no limit). A loss or gradient that is not finite changes
 * nothing and is -ERANGE. x: [n, H, W, C] in [-1, 1]; y: [n]; step: the dropout's. 0, -ERANGE, -EIO, -ENOMEM. */
int classify_learner_step(struct classify_learner *l, int32_t n, const float *x, const int32_t *y, uint32_t step,
                          double clip, const struct adamw *o, double *ret_loss, struct error *err);

/* By the averaged weights: the sum of the losses and the number of right answers of n <= batch_size images. 0, -EIO. */
int classify_learner_test(struct classify_learner *l, int32_t n, const float *x, const int32_t *y, double *ret_loss,
                          int32_t *ret_right, struct error *err);

/* The averaged weights, flat. 0, -EIO. */
int classify_learner_get(struct classify_learner *l, float *ret_values);

#endif
