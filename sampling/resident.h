/* resident.h: one model on the device: loading, measuring, its end. For models.c.
 */
#ifndef DDIMD_SAMPLING_RESIDENT_H
#define DDIMD_SAMPLING_RESIDENT_H

#include "sampling/models.h"

struct resident_options {
    struct device *const *devices;
    int32_t n_devices;
    struct scheduler *scheduler;
    int precision;    // enum dtype, -1: the device's
    int32_t max_rows; // 0: by measurement
    int32_t capacity; // 0: by size
};

/* Uploads, measures and attaches the model of c, which may be closed afterwards. One reference. Any thread but the
 * worker's callbacks; the device's work goes through scheduler_call. 0, -EINVAL, -ENOTSUP, -ENOMEM, -ERANGE (canary),
 * -EIO. */
int resident_load(const struct resident_options *o, const char *name, const struct checkpoint *c,
                  struct resident_model **ret_model, struct error *err);
int resident_references(const struct resident_model *r);

/* The smallest of the measured sizes whose time per row is within 5 % of the best. n >= 1. */
int32_t resident_knee(const int32_t *rows, const double *seconds, int32_t n);

#endif
