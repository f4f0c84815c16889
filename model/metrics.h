/* metrics.h: what papers report of a set of generated images, from features and logits of an extractor.
 *
 * Conventions are those of torch-fidelity 0.4 and pytorch-fid 0.3: covariances over n - 1, Inception Score over ten
 * shuffled splits, KID over a hundred subsets of a thousand, improved precision and recall with k = 3; the random
 * subsets are the same ones (subset.h). Everything is float64 inside; matrix work is BLAS and LAPACK. Features are
 * [n, d] f32, one row per image. Any thread, one at a time per object.
 */
#ifndef DDIMD_MODEL_METRICS_H
#define DDIMD_MODEL_METRICS_H

#include "kernels/error.h"

#include <stdint.h>

enum {
    METRICS_SEED = 2020, // of torch-fidelity's subsets
    METRICS_SPLITS = 10,
    METRICS_KID_SUBSETS = 100,
    METRICS_KID_SUBSET_SIZE = 1000,
    METRICS_NEIGHBOURS = 3
};

/* Mean and covariance, gathered as images come: no feature is kept. */
struct moments {
    int32_t d;
    int64_t n;
    double *shift; // [d] the first block's mean, against cancellation
    double *sum;   // [d] of x - shift
    double *outer; // [d, d] lower triangle of the sum of (x - shift)^T (x - shift)
    double *block; // [MOMENTS_BLOCK, d] work space
};

int moments_init(struct moments *m, int32_t d); // 0, -ENOMEM
void moments_done(struct moments *m);           // zeroed is fine
void moments_add(struct moments *m, const float *features, int64_t n);
/* mean [d] and covariance [d, d] (over n - 1, symmetric) of at least two images. */
void moments_finish(const struct moments *m, double *ret_mean, double *ret_covariance);

struct gaussian {
    const double *mean;       // [d]
    const double *covariance; // [d, d], symmetric, positive semidefinite
};

/* Frechet distance (Dowson & Landau 1982; FID where the features are Inception's, Heusel et al. 2017):
 * |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)). The last trace is the sum of the singular values of A^(1/2) B^(1/2),
 * exact to rounding for singular covariances (fewer images than features) too. 0, -ENOMEM, -EDOM (not finite, or LAPACK
 * did not converge). */
int metric_frechet(int32_t d, const struct gaussian *a, const struct gaussian *b, double *ret_distance,
                   struct error *err);

struct spread {
    double mean, std; // std over n
};
struct spread metrics_spread(const double *values, int32_t n);

/* Inception Score (Salimans et al. 2016): exp of the mean KL of p(y|x) from p(y), by split. logits: [n, classes].
 * 0, -EINVAL (fewer images than splits), -ENOMEM. */
int metric_inception_score(const float *logits, int64_t n, int32_t classes, int32_t splits, struct spread *ret_score,
                           struct error *err);

/* Kernel Inception Distance (Binkowski et al. 2018): unbiased MMD^2 with the kernel (x y / d + 1)^3, over subsets.
 * 0, -EINVAL (fewer images than a subset has), -ENOMEM. */
int metric_kid(const float *a, int64_t n_a, const float *b, int64_t n_b, int32_t d, int32_t subsets,
               int32_t subset_size, struct spread *ret_distance, struct error *err);

/* Improved precision and recall (Kynkaanniemi et al. 2019): the share of generated images within the k-th neighbour's
 * distance of some real one, and the other way round. 0, -EINVAL (k or fewer images), -ENOMEM. */
int metric_precision_recall(const float *generated, int64_t n_generated, const float *real, int64_t n_real, int32_t d,
                            int32_t k, double *ret_precision, double *ret_recall, struct error *err);

/* The nearest `real` row of each of n rows, by Euclidean distance. ret_index, ret_distance: [n]. 0, -ENOMEM. */
int metric_nearest(const float *rows, int64_t n, const float *real, int64_t n_real, int32_t d, int64_t *ret_index,
                   double *ret_distance);

#endif
