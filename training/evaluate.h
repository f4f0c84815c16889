/* evaluate.h: how good the averaged weights are: the loss on held-out images, and a grid to look at.
 *
 * Held-out images, their timesteps and their noise are the same each time, so that the numbers of epochs and of runs
 * compare. One thread.
 */
#ifndef DDIMD_TRAINING_EVALUATE_H
#define DDIMD_TRAINING_EVALUATE_H

#include "model/dataset.h"
#include "training/config.h"
#include "training/learner.h"
#include "training/teacher.h"

struct evaluator {
    int64_t n;
    float *x0;  // [n, H, W, C]
    int32_t *y; // [n]
    size_t elements;
    struct noised_batch batch;
    float *eps_theta; // of a batch
};

/* Reads the images of indices[n]. 0, -ENOMEM, -EIO. */
int evaluator_init(struct evaluator *e, const struct dataset *d, const int64_t *indices, int64_t n, struct error *err);
void evaluator_done(struct evaluator *e); // zeroed is fine

/* The mean over held-out images of the mean over elements of (eps_theta - eps)^2, labels kept; eps is the
 * teacher's where there is one (NULL: none). 0, -EIO, -ENOMEM. */
int evaluator_loss(struct evaluator *e, const struct diffuser *d, struct teacher *teacher, struct learner *l,
                   double *ret_loss, struct error *err);

/* Samples c->sample.n images, class by class round, and writes them as one PNG. dir_fd, name: openat. */
int evaluate_grid(const struct train_config *c, struct learner *l, int dir_fd, const char *name, struct error *err);

#endif
