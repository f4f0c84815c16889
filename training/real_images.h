/* real_images.h: the real images of an evaluation: a part of a data set, its digest, and its features, kept between
 * runs.
 *
 * One thread, plus those that decode.
 */
#ifndef DDIMD_TRAINING_REAL_IMAGES_H
#define DDIMD_TRAINING_REAL_IMAGES_H

#include "training/evaluate_config.h"
#include "training/measure.h"
#include "training/progress.h"
#include "training/runs.h"

struct real_images {
    struct dataset *dataset;
    int64_t *all[2]; // arrays that belong to it
    const int64_t *indices;
    int64_t n;
    const int64_t *held_out; // the part that training holds out, n_held_out 0: none
    int64_t n_held_out;
    size_t bytes;        // of an image
    char digest[64 + 1]; // SHA-256 of sizes, labels and decoded pixels of `indices`, in order
};

/* field: prefix of err->field ("reference"). As dataset_open(), -EINVAL (more held out than there are). */
int real_images_open(const struct evaluate_data *d, int32_t channels, const char *field, const struct run_options *o,
                     struct progress *progress, struct real_images *ret_images, struct error *err);
void real_images_close(struct real_images *r); // zeroed is fine

/* Image i of `indices`, or of another list of the data set's. 0, -EIO, -ENOMEM. */
int real_images_read(const struct real_images *r, const int64_t *indices, int64_t n, uint8_t *ret_pixels,
                     int32_t *ret_labels, struct error *err);

/* Measures n images of a list. ret_measured: to measured_done(). */
int real_images_measure(const struct real_images *r, const int64_t *indices, int64_t n, struct extractor *e, bool keep,
                        struct measured *ret_measured, struct error *err);

/* The same for `indices`, from the folder `cache` where it has them (by digests of pixels, extractor and resize), and
 * into it. cache: "" for none. *ret_cached: it had them. */
int real_images_measure_cached(const struct real_images *r, struct extractor *e, bool keep, const char *cache,
                               const char *resize, struct measured *ret_measured, bool *ret_cached, struct error *err);

/* The nearest real image of each of n images [n, H, W, C], by the distance of pixels. ret_index: position in `indices`;
 * ret_distance: root of the mean squared difference, of 0..255. */
int real_images_nearest(const struct real_images *r, const uint8_t *pixels, int64_t n, int64_t *ret_index,
                        double *ret_distance, struct error *err);

#endif
