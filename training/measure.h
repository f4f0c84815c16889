/* measure.h: a set of images as evaluations see it: features and logits by an extractor, statistics as they come, and
 * the metrics of one set against another (model/metrics.h).
 *
 * One thread (the device's worker).
 */
#ifndef DDIMD_TRAINING_MEASURE_H
#define DDIMD_TRAINING_MEASURE_H

#include "model/extractor.h"
#include "model/metrics.h"

#include <stdbool.h>

struct measured {
    struct extractor *extractor;
    int64_t capacity, n;
    struct moments moments;
    float *features;    // [capacity, n_features], NULL where they are not kept
    float *logits;      // [capacity, n_logits]
    int64_t *confusion; // [classes, classes]: asked for, recognised; NULL where the extractor has no classes
    int32_t n_classes;  // 0: none
    float *batch;       // work space
};

/* keep: keep features, for KID, precision and recall, neighbours. 0, -ENOMEM. */
int measured_init(struct measured *m, struct extractor *e, int64_t capacity, bool keep, struct error *err);
void measured_done(struct measured *m); // zeroed is fine

/* Adds n images of an accepted size with their classes (NULL: none are known). 0, -EIO, -ENOMEM. */
int measured_add(struct measured *m, const uint8_t *pixels, int32_t n, int32_t height, int32_t width, int32_t channels,
                 const int32_t *classes, struct error *err);
/* The same from features and logits of the same extractor. */
void measured_add_features(struct measured *m, const float *features, const float *logits, int32_t n,
                           const int32_t *classes);

struct measures {
    int64_t n;
    double frechet; // NAN: not measured, as below
    struct spread inception_score, kid;
    double precision, recall, accuracy;
};

struct measures_wanted {
    bool kid, precision_recall;
};

/* Of `m` against `real`. What there are too few images for is NAN. 0, -EDOM, -ENOMEM. */
int measures_take(const struct measured *m, const struct measured *real, const struct measures_wanted *w,
                  struct measures *ret_measures, struct error *err);

#endif
