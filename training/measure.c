/* measure.c: see measure.h.
 */
#include "training/measure.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 256 };

int measured_init(struct measured *m, struct extractor *e, int64_t capacity, bool keep, struct error *err)
{
    const struct extractor_info *info = extractor_info(e);
    size_t n = (size_t)capacity, d = (size_t)info->n_features, k = (size_t)info->n_logits;
    *m = (struct measured){.extractor = e, .capacity = capacity, .n_classes = info->data ? info->n_logits : 0};
    int rc = moments_init(&m->moments, info->n_features);
    m->logits = malloc(n * k * sizeof *m->logits);
    m->batch = malloc(BATCH * d * sizeof *m->batch);
    if (keep)
        m->features = malloc(n * d * sizeof *m->features);
    if (m->n_classes)
        m->confusion = calloc(k * k, sizeof *m->confusion);
    if (rc == 0 && m->logits && m->batch && (m->features || !keep) && (m->confusion || !m->n_classes))
        return 0;
    measured_done(m);
    return error_set(err, -ENOMEM, "n", "not enough memory for the features of %lld images", (long long)capacity);
}

void measured_done(struct measured *m)
{
    moments_done(&m->moments);
    free(m->features);
    free(m->logits);
    free(m->confusion);
    free(m->batch);
    *m = (struct measured){0};
}

static int32_t highest(const float *v, int32_t n)
{
    int32_t best = 0;
    for (int32_t k = 1; k < n; k++)
        best = v[k] > v[best] ? k : best;
    return best;
}

/* What is behind the n_logits already in place. */
static void count(struct measured *m, const float *features, int32_t n, const int32_t *classes)
{
    int32_t k = extractor_info(m->extractor)->n_logits;
    moments_add(&m->moments, features, n);
    for (int32_t i = 0; i < n && m->n_classes && classes; i++)
        if (classes[i] < m->n_classes)
            m->confusion[(int64_t)classes[i] * k + highest(m->logits + (m->n + i) * k, k)]++;
    m->n += n;
}

int measured_add(struct measured *m, const uint8_t *pixels, int32_t n, int32_t height, int32_t width, int32_t channels,
                 const int32_t *classes, struct error *err)
{
    const struct extractor_info *info = extractor_info(m->extractor);
    size_t bytes = (size_t)height * (size_t)width * (size_t)channels;
    assert(m->n + n <= m->capacity);
    for (int32_t first = 0; first < n; first += BATCH) {
        int32_t part = n - first < BATCH ? n - first : BATCH;
        float *features = m->features ? m->features + m->n * info->n_features : m->batch;
        int rc = extractor_run(m->extractor, pixels + (size_t)first * bytes, part, height, width, channels, features,
                               m->logits + m->n * info->n_logits, err);
        if (rc < 0)
            return rc;
        count(m, features, part, classes ? classes + first : NULL);
    }
    return 0;
}

void measured_add_features(struct measured *m, const float *features, const float *logits, int32_t n,
                           const int32_t *classes)
{
    const struct extractor_info *info = extractor_info(m->extractor);
    size_t d = (size_t)info->n_features, k = (size_t)info->n_logits;
    assert(m->n + n <= m->capacity);
    memcpy(m->logits + (size_t)m->n * k, logits, (size_t)n * k * sizeof *logits);
    if (m->features)
        memcpy(m->features + (size_t)m->n * d, features, (size_t)n * d * sizeof *features);
    count(m, features, n, classes);
}

/* ---- metrics ---- */

static int frechet(const struct measured *a, const struct measured *b, double *ret_distance, struct error *err)
{
    size_t d = (size_t)a->moments.d;
    double *v = malloc(2 * (d + d * d) * sizeof *v);
    if (!v)
        return error_set(err, -ENOMEM, NULL, "out of memory for a matrix of features");
    double *mean_a = v, *mean_b = v + d, *covariance_a = v + 2 * d, *covariance_b = v + 2 * d + d * d;
    moments_finish(&a->moments, mean_a, covariance_a);
    moments_finish(&b->moments, mean_b, covariance_b);
    int rc = metric_frechet(a->moments.d, &(struct gaussian){mean_a, covariance_a},
                            &(struct gaussian){mean_b, covariance_b}, ret_distance, err);
    free(v);
    return rc;
}

static double accuracy(const struct measured *m)
{
    int64_t right = 0, all = 0;
    for (int32_t i = 0; i < m->n_classes; i++)
        for (int32_t j = 0; j < m->n_classes; j++) {
            all += m->confusion[i * m->n_classes + j];
            right += i == j ? m->confusion[i * m->n_classes + j] : 0;
        }
    return all ? (double)right / (double)all : NAN;
}

int measures_take(const struct measured *m, const struct measured *real, const struct measures_wanted *w,
                  struct measures *ret_measures, struct error *err)
{
    const struct extractor_info *info = extractor_info(m->extractor);
    const struct spread none = {NAN, NAN};
    struct measures r = {.n = m->n,
                         .frechet = NAN,
                         .inception_score = none,
                         .kid = none,
                         .precision = NAN,
                         .recall = NAN,
                         .accuracy = accuracy(m)};
    int64_t least = m->n < real->n ? m->n : real->n;
    int rc = least >= 2 ? frechet(m, real, &r.frechet, err) : 0;
    if (rc == 0 && m->n >= METRICS_SPLITS)
        rc = metric_inception_score(m->logits, m->n, info->n_logits, METRICS_SPLITS, &r.inception_score, err);
    bool kept = m->features && real->features;
    if (rc == 0 && w->kid && kept && least >= METRICS_KID_SUBSET_SIZE)
        rc = metric_kid(m->features, m->n, real->features, real->n, info->n_features, METRICS_KID_SUBSETS,
                        METRICS_KID_SUBSET_SIZE, &r.kid, err);
    if (rc == 0 && w->precision_recall && kept && least > METRICS_NEIGHBOURS)
        rc = metric_precision_recall(m->features, m->n, real->features, real->n, info->n_features, METRICS_NEIGHBOURS,
                                     &r.precision, &r.recall, err);
    if (rc == 0)
        *ret_measures = r;
    return rc;
}
