/* metrics_pairs.c: metrics over pairs of images: KID, precision and recall, nearest neighbours; see metrics.h.
 *
 * Products of many rows with many are BLAS calls on blocks of at most BLOCK x BLOCK, so that memory does not grow with
 * the square of the images.
 */
#include "model/metrics.h"

#include "model/subset.h"

#include <cblas.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1024 };

static int no_memory(struct error *err)
{
    return error_set(err, -ENOMEM, NULL, "out of memory comparing images");
}

/* ---- KID ---- */

struct kid {
    int32_t d, m; // features, images of a subset
    int64_t *order;
    double *x, *y, *k; // [m, d], [m, d], [m, m]
};

static void choose(struct kid *w, struct subset_source *source, const float *from, int64_t n, double *ret_rows)
{
    subset_permutation(source, n, w->order);
    for (int32_t i = 0; i < w->m; i++)
        for (int32_t j = 0; j < w->d; j++)
            ret_rows[(size_t)i * (size_t)w->d + (size_t)j] = from[w->order[i] * w->d + j];
}

/* The sum of (x_i y_j / d + 1)^3 over all i, j; without i = j where `off_diagonal`. */
static double kernel_sum(struct kid *w, const double *x, const double *y, bool off_diagonal)
{
    double sum = 0;
    size_t m = (size_t)w->m;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, w->m, w->m, w->d, 1.0 / w->d, x, w->d, y, w->d, 0.0, w->k,
                w->m);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < m; j++) {
            double v = w->k[i * m + j] + 1;
            sum += off_diagonal && i == j ? 0 : v * v * v;
        }
    return sum;
}

static double subset_mmd2(struct kid *w)
{
    double m = w->m;
    double within = kernel_sum(w, w->x, w->x, true) + kernel_sum(w, w->y, w->y, true);
    return within / (m * (m - 1)) - 2 * kernel_sum(w, w->x, w->y, false) / (m * m);
}

int metric_kid(const float *a, int64_t n_a, const float *b, int64_t n_b, int32_t d, int32_t subsets,
               int32_t subset_size, struct spread *ret_distance, struct error *err)
{
    int64_t most = n_a > n_b ? n_a : n_b, least = n_a < n_b ? n_a : n_b;
    if (subset_size < 2 || least < subset_size)
        return error_set(err, -EINVAL, "n", "%lld images are too few for KID's subsets of %d", (long long)least,
                         subset_size);
    size_t rows = (size_t)subset_size;
    struct kid w = {.d = d, .m = subset_size};
    struct subset_source source;
    double *values = malloc((size_t)subsets * sizeof *values);
    w.order = malloc((size_t)most * sizeof *w.order);
    w.x = malloc(rows * (size_t)d * sizeof *w.x);
    w.y = malloc(rows * (size_t)d * sizeof *w.y);
    w.k = malloc(rows * rows * sizeof *w.k);
    int rc = values && w.order && w.x && w.y && w.k ? 0 : no_memory(err);
    subset_seed(&source, METRICS_SEED);
    for (int32_t i = 0; rc == 0 && i < subsets; i++) {
        choose(&w, &source, a, n_a, w.x);
        choose(&w, &source, b, n_b, w.y);
        values[i] = subset_mmd2(&w);
    }
    if (rc == 0)
        *ret_distance = metrics_spread(values, subsets);
    free(values);
    free(w.order);
    free(w.x);
    free(w.y);
    free(w.k);
    return rc;
}

/* ---- squared distances, block by block ---- */

struct distances {
    int32_t d;
    double *x, *y;           // [BLOCK, d]
    double *x_norm, *y_norm; // [BLOCK]
    double *value;           // [BLOCK, BLOCK]
};

static void distances_done(struct distances *w)
{
    free(w->x);
    free(w->y);
    free(w->x_norm);
    free(w->y_norm);
    free(w->value);
}

static int distances_init(struct distances *w, int32_t d)
{
    size_t rows = BLOCK * (size_t)d;
    *w = (struct distances){.d = d};
    w->x = malloc(rows * sizeof(double));
    w->y = malloc(rows * sizeof(double));
    w->x_norm = malloc(BLOCK * sizeof(double));
    w->y_norm = malloc(BLOCK * sizeof(double));
    w->value = malloc(BLOCK * BLOCK * sizeof(double));
    if (w->x && w->y && w->x_norm && w->y_norm && w->value)
        return 0;
    distances_done(w);
    return -ENOMEM;
}

static int64_t block_rows(int64_t n, int64_t first)
{
    return n - first < BLOCK ? n - first : BLOCK;
}

static void load_rows(const float *from, int64_t n, int32_t d, double *ret_rows, double *ret_norms)
{
    for (int64_t i = 0; i < n; i++) {
        double norm = 0;
        for (int32_t k = 0; k < d; k++) {
            double v = ret_rows[i * d + k] = from[i * d + k];
            norm += v * v;
        }
        ret_norms[i] = norm;
    }
}

/* value[i, j] = |x_i - y_j|^2 of the loaded rows, at least 0. */
static void fill(struct distances *w, int64_t nx, int64_t ny)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)nx, (int)ny, w->d, -2.0, w->x, w->d, w->y, w->d, 0.0,
                w->value, BLOCK);
    for (int64_t i = 0; i < nx; i++)
        for (int64_t j = 0; j < ny; j++) {
            double v = w->value[i * BLOCK + j] + w->x_norm[i] + w->y_norm[j];
            w->value[i * BLOCK + j] = v > 0 ? v : 0;
        }
}

/* Calls visit(context, i, j0, value + row, count) for every row i of x and every block of y. */
static void for_blocks(struct distances *w, const float *x, int64_t nx, const float *y, int64_t ny,
                       void (*visit)(void *context, int64_t i, int64_t j0, const double *value, int64_t count),
                       void *context)
{
    for (int64_t i0 = 0; i0 < nx; i0 += BLOCK) {
        int64_t rows = block_rows(nx, i0);
        load_rows(x + i0 * w->d, rows, w->d, w->x, w->x_norm);
        for (int64_t j0 = 0; j0 < ny; j0 += BLOCK) {
            int64_t columns = block_rows(ny, j0);
            load_rows(y + j0 * w->d, columns, w->d, w->y, w->y_norm);
            fill(w, rows, columns);
            for (int64_t i = 0; i < rows; i++)
                visit(context, i0 + i, j0, w->value + i * BLOCK, columns);
        }
    }
}

/* ---- precision and recall ---- */

struct radii {
    int32_t k;
    double *nearest; // [n, k + 1], ascending; the first is the image itself
};

static void keep_nearest(void *context, int64_t i, int64_t j0, const double *value, int64_t count)
{
    const struct radii *r = context;
    double *kept = r->nearest + i * (r->k + 1);
    (void)j0;
    for (int64_t j = 0; j < count; j++) {
        if (value[j] >= kept[r->k])
            continue;
        int32_t at = r->k;
        for (; at > 0 && kept[at - 1] > value[j]; at--)
            kept[at] = kept[at - 1];
        kept[at] = value[j];
    }
}

struct cover {
    const struct radii *radii; // of y
    bool *covered;             // [nx]
};

static void find_cover(void *context, int64_t i, int64_t j0, const double *value, int64_t count)
{
    const struct cover *c = context;
    int32_t k = c->radii->k;
    for (int64_t j = 0; j < count && !c->covered[i]; j++)
        c->covered[i] = value[j] <= c->radii->nearest[(j0 + j) * (k + 1) + k];
}

/* The share of x's rows that lie within the k-th neighbour's distance of some row of y. */
static int covered_share(struct distances *w, const float *x, int64_t nx, const float *y, int64_t ny, int32_t k,
                         double *ret_share)
{
    size_t kept = (size_t)ny * (size_t)(k + 1);
    struct radii r = {.k = k, .nearest = malloc(kept * sizeof(double))};
    struct cover c = {.radii = &r, .covered = calloc((size_t)nx, sizeof(bool))};
    int64_t sum = 0;
    int rc = r.nearest && c.covered ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < kept; i++)
        r.nearest[i] = INFINITY;
    if (rc == 0) {
        for_blocks(w, y, ny, y, ny, keep_nearest, &r);
        for_blocks(w, x, nx, y, ny, find_cover, &c);
        for (int64_t i = 0; i < nx; i++)
            sum += c.covered[i];
        *ret_share = (double)sum / (double)nx;
    }
    free(r.nearest);
    free(c.covered);
    return rc;
}

int metric_precision_recall(const float *generated, int64_t n_generated, const float *real, int64_t n_real, int32_t d,
                            int32_t k, double *ret_precision, double *ret_recall, struct error *err)
{
    struct distances w;
    double precision = 0, recall = 0;
    if (k < 1 || n_generated <= k || n_real <= k)
        return error_set(err, -EINVAL, "n", "precision and recall want more than %d images on both sides", k);
    int rc = distances_init(&w, d);
    if (rc < 0)
        return no_memory(err);
    rc = covered_share(&w, generated, n_generated, real, n_real, k, &precision);
    if (rc == 0)
        rc = covered_share(&w, real, n_real, generated, n_generated, k, &recall);
    distances_done(&w);
    if (rc < 0)
        return no_memory(err);
    *ret_precision = precision;
    *ret_recall = recall;
    return 0;
}

/* ---- nearest neighbours ---- */

struct nearest {
    int64_t *index;
    double *distance;
};

static void keep_one(void *context, int64_t i, int64_t j0, const double *value, int64_t count)
{
    const struct nearest *n = context;
    for (int64_t j = 0; j < count; j++)
        if (value[j] < n->distance[i]) {
            n->distance[i] = value[j];
            n->index[i] = j0 + j;
        }
}

int metric_nearest(const float *rows, int64_t n, const float *real, int64_t n_real, int32_t d, int64_t *ret_index,
                   double *ret_distance)
{
    struct distances w;
    struct nearest best = {ret_index, ret_distance};
    int rc = distances_init(&w, d);
    if (rc < 0)
        return rc;
    for (int64_t i = 0; i < n; i++) {
        ret_distance[i] = INFINITY;
        ret_index[i] = -1;
    }
    for_blocks(&w, rows, n, real, n_real, keep_one, &best);
    for (int64_t i = 0; i < n; i++)
        ret_distance[i] = sqrt(ret_distance[i]);
    distances_done(&w);
    return 0;
}
