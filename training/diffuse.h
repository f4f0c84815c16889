/* diffuse.h: what a training step draws at random, and the noised images made of it.
 *
 * Everything is Philox of (seed, step, position in the batch), so a step can be repeated without its predecessors.
 * Host memory only. One thread per object.
 */
#ifndef DDIMD_TRAINING_DIFFUSE_H
#define DDIMD_TRAINING_DIFFUSE_H

#include "model/config.h"

#include <stddef.h>

/* A batch as the network takes it; dense, [n, ...]. */
struct noised_batch {
    int32_t n, capacity;
    size_t elements;   // of an image
    float *x;          // [n, H, W, C]: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps
    float *eps;        // [n, H, W, C]
    float *t;          // [n], whole numbers
    int32_t *y;        // [n], num_classes is the null class
    int32_t *key;      // [n, 4]: dropout key (graph_dropout)
    float *loss_scale; // [n]: weight of the image's loss before the mean, 1 without min-SNR
};

int noised_batch_init(struct noised_batch *b, int32_t capacity, size_t elements); // 0, -ENOMEM
void noised_batch_done(struct noised_batch *b);                                   // zeroed is fine

struct diffuser {
    int32_t T, null_class;
    float *signal, *noise; // [T]: sqrt(alpha_bar), sqrt(1 - alpha_bar)
    float *loss_scale;     // [T]
    float label_dropout;
    bool antithetic;
    uint64_t noise_key, choice_key, dropout_key;
};

/* min_snr_gamma 0: every timestep weighs 1, else min(SNR, gamma) / SNR, which is Hang et al. 2023 (arXiv:2303.09556)
 * for a network that predicts the noise. 0, -ENOMEM. */
int diffuser_init(struct diffuser *d, const struct diffusion_config *c, int32_t null_class, float label_dropout,
                  double min_snr_gamma, bool antithetic, uint64_t seed);
void diffuser_done(struct diffuser *d); // zeroed is fine

/* b = the batch of training step `step`: x0 [n, H, W, C], labels y [n], n <= capacity. Timesteps are uniform; labels
 * become the null class with the given probability. */
void diffuser_draw(const struct diffuser *d, const float *x0, const int32_t *y, int32_t n, uint32_t step,
                   struct noised_batch *b);

/* b = a validation batch: image `index` of the held-out ones has the same noise and a timestep spread evenly over 0 ..
 * T - 1 each time; labels stay. first: index of the first; total: of all held-out images. */
void diffuser_fix(const struct diffuser *d, const float *x0, const int32_t *y, int32_t n, int64_t first, int64_t total,
                  struct noised_batch *b);

/* b = x0 at given timesteps with given noise; for tests against the oracle. */
void diffuser_set(const struct diffuser *d, const float *x0, const int32_t *y, const int32_t *t, const float *eps,
                  int32_t n, struct noised_batch *b);

#endif
