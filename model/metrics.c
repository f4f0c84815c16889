/* metrics.c: moments, Frechet distance, Inception Score; see metrics.h. */
#include "model/metrics.h"

#include "model/subset.h"

#include <assert.h>
#include <cblas.h>
#include <errno.h>
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MOMENTS_BLOCK = 256 };

/* ---- moments ---- */

int moments_init(struct moments *m, int32_t d)
{
    size_t n = (size_t)d;
    *m = (struct moments){.d = d};
    m->shift = calloc(n, sizeof(double));
    m->sum = calloc(n, sizeof(double));
    m->outer = calloc(n * n, sizeof(double));
    m->block = malloc(MOMENTS_BLOCK * n * sizeof(double));
    if (m->shift && m->sum && m->outer && m->block)
        return 0;
    moments_done(m);
    return -ENOMEM;
}

void moments_done(struct moments *m)
{
    free(m->shift);
    free(m->sum);
    free(m->outer);
    free(m->block);
    *m = (struct moments){0};
}

static void set_shift(struct moments *m, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int32_t k = 0; k < m->d; k++)
            m->shift[k] += x[i * m->d + k];
    for (int32_t k = 0; k < m->d; k++)
        m->shift[k] /= (double)n;
}

static void add_block(struct moments *m, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        for (int32_t k = 0; k < m->d; k++) {
            double v = (double)x[i * m->d + k] - m->shift[k];
            m->block[i * m->d + k] = v;
            m->sum[k] += v;
        }
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, m->d, (int)n, 1.0, m->block, m->d, 1.0, m->outer, m->d);
    m->n += n;
}

void moments_add(struct moments *m, const float *features, int64_t n)
{
    for (int64_t first = 0; first < n; first += MOMENTS_BLOCK) {
        int64_t count = n - first < MOMENTS_BLOCK ? n - first : MOMENTS_BLOCK;
        const float *x = features + first * m->d;
        if (m->n == 0)
            set_shift(m, x, count);
        add_block(m, x, count);
    }
}

void moments_finish(const struct moments *m, double *ret_mean, double *ret_covariance)
{
    double n = (double)m->n;
    assert(m->n >= 2);
    for (int32_t k = 0; k < m->d; k++)
        ret_mean[k] = m->shift[k] + m->sum[k] / n;
    for (size_t i = 0, d = (size_t)m->d; i < d; i++)
        for (size_t j = 0; j <= i; j++)
            ret_covariance[i * d + j] = ret_covariance[j * d + i] =
                (m->outer[i * d + j] - m->sum[i] * m->sum[j] / n) / (n - 1);
}

/* ---- Frechet distance ---- */

static int lapack_failed(int32_t info, const char *routine, struct error *err)
{
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return error_set(err, -ENOMEM, NULL, "out of memory for a matrix of features");
    return error_set(err, -EDOM, NULL, "the features' covariance has no square root (%s: %d)", routine, info);
}

/* A factor F [d, d], column-major, with F F^T = covariance: eigenvectors scaled by the roots of their eigenvalues.
 * Those that a singular covariance leaves as rounding around zero are zero: their roots would be 1e8 times as large. */
static int factor(int32_t d, const double *covariance, double *ret_factor, struct error *err)
{
    size_t n = (size_t)d;
    double *eigenvalues = malloc(n * sizeof(double));
    if (!eigenvalues)
        return error_set(err, -ENOMEM, NULL, "out of memory for a matrix of features");
    memcpy(ret_factor, covariance, n * n * sizeof(double));
    int32_t info = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', d, ret_factor, d, eigenvalues);
    double rounding = info == 0 ? (double)d * DBL_EPSILON * fabs(eigenvalues[n - 1]) : 0; // they ascend
    for (size_t j = 0; info == 0 && j < n; j++)
        cblas_dscal(d, eigenvalues[j] > rounding ? sqrt(eigenvalues[j]) : 0.0, ret_factor + j * n, 1);
    free(eigenvalues);
    return info ? lapack_failed(info, "dsyevd", err) : 0;
}

/* The sum of the singular values of m [d, d], which is overwritten. */
static int nuclear_norm(int32_t d, double *m, double *ret_norm, struct error *err)
{
    double *values = malloc((size_t)d * sizeof(double)), unused = 0, sum = 0;
    if (!values)
        return error_set(err, -ENOMEM, NULL, "out of memory for a matrix of features");
    int32_t info = LAPACKE_dgesdd(LAPACK_COL_MAJOR, 'N', d, d, m, d, values, &unused, 1, &unused, 1);
    for (int32_t k = 0; info == 0 && k < d; k++)
        sum += values[k];
    free(values);
    if (info)
        return lapack_failed(info, "dgesdd", err);
    *ret_norm = sum;
    return 0;
}

static bool all_finite(const double *v, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= isfinite(v[i]) != 0;
    return finite;
}

int metric_frechet(int32_t d, const struct gaussian *a, const struct gaussian *b, double *ret_distance,
                   struct error *err)
{
    size_t n = (size_t)d, bytes = n * n * sizeof(double);
    double distance = 0, root = 0;
    if (!all_finite(a->covariance, n * n) || !all_finite(b->covariance, n * n) || !all_finite(a->mean, n) ||
        !all_finite(b->mean, n))
        return error_set(err, -EDOM, NULL, "features are not finite");
    double *fa = malloc(bytes), *fb = malloc(bytes), *product = malloc(bytes);
    int rc = fa && fb && product ? 0 : error_set(err, -ENOMEM, NULL, "out of memory for a matrix of features");
    if (rc == 0)
        rc = factor(d, a->covariance, fa, err);
    if (rc == 0)
        rc = factor(d, b->covariance, fb, err);
    if (rc == 0) {
        cblas_dgemm(CblasColMajor, CblasTrans, CblasNoTrans, d, d, d, 1.0, fa, d, fb, d, 0.0, product, d);
        rc = nuclear_norm(d, product, &root, err);
    }
    free(fa);
    free(fb);
    free(product);
    if (rc < 0)
        return rc;
    for (size_t k = 0; k < n; k++) {
        double difference = a->mean[k] - b->mean[k];
        distance += difference * difference + a->covariance[k * n + k] + b->covariance[k * n + k];
    }
    *ret_distance = distance - 2 * root;
    return 0;
}

/* ---- Inception Score ---- */

static void log_softmax(const float *logits, int32_t classes, double *ret_log_p)
{
    double max = logits[0], sum = 0;
    for (int32_t k = 1; k < classes; k++)
        max = logits[k] > max ? logits[k] : max;
    for (int32_t k = 0; k < classes; k++)
        sum += exp(logits[k] - max);
    for (int32_t k = 0; k < classes; k++)
        ret_log_p[k] = logits[k] - max - log(sum);
}

/* exp of the mean over the split's images of KL(p(y|x) || p(y)). log_p, q: work space of `classes`. */
static double split_score(const float *logits, const int64_t *order, int64_t n, int32_t classes, double *log_p,
                          double *q)
{
    double negative_entropy = 0, cross = 0;
    memset(q, 0, (size_t)classes * sizeof(double));
    for (int64_t i = 0; i < n; i++) {
        log_softmax(logits + order[i] * classes, classes, log_p);
        for (int32_t k = 0; k < classes; k++) {
            double p = exp(log_p[k]);
            negative_entropy += p * log_p[k];
            q[k] += p;
        }
    }
    for (int32_t k = 0; k < classes; k++)
        cross += q[k] > 0 ? q[k] * log(q[k] / (double)n) : 0;
    return exp((negative_entropy - cross) / (double)n);
}

struct spread metrics_spread(const double *values, int32_t n)
{
    struct spread s = {0};
    for (int32_t i = 0; i < n; i++)
        s.mean += values[i] / n;
    for (int32_t i = 0; i < n; i++)
        s.std += (values[i] - s.mean) * (values[i] - s.mean) / n;
    s.std = sqrt(s.std);
    return s;
}

int metric_inception_score(const float *logits, int64_t n, int32_t classes, int32_t splits, struct spread *ret_score,
                           struct error *err)
{
    if (splits < 1 || n < splits)
        return error_set(err, -EINVAL, "n", "%lld images are too few for %d splits", (long long)n, splits);
    int64_t *order = malloc((size_t)n * sizeof *order);
    double *log_p = malloc(2 * (size_t)classes * sizeof *log_p), *scores = malloc((size_t)splits * sizeof *scores);
    int rc = order && log_p && scores ? 0 : error_set(err, -ENOMEM, NULL, "out of memory for a score");
    struct subset_source source;
    if (rc == 0) {
        subset_seed(&source, METRICS_SEED);
        subset_permutation(&source, n, order);
    }
    for (int64_t i = 0; rc == 0 && i < splits; i++) {
        int64_t first = i * n / splits, last = (i + 1) * n / splits;
        scores[i] = split_score(logits, order + first, last - first, classes, log_p, log_p + classes);
    }
    if (rc == 0)
        *ret_score = metrics_spread(scores, splits);
    free(order);
    free(log_p);
    free(scores);
    return rc;
}
