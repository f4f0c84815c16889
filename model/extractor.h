/* extractor.h: images to feature vectors and logits, by a network that a file holds: a classifier of our own
 * (classifier.h) or FID's Inception (inception.h).
 *
 * It computes in f32 on any device that has the operations. One thread at a time (the device's worker).
 */
#ifndef DDIMD_MODEL_EXTRACTOR_H
#define DDIMD_MODEL_EXTRACTOR_H

#include "kernels/backend.h"
#include "model/config.h"
#include "model/resize.h"

struct extractor;

struct extractor_info {
    const char *kind;                // "classifier", "inception"
    char digest[64 + 1];             // SHA-256 of the file
    int32_t height, width, channels; // of the images that it takes; 0: any
    int32_t n_features, n_logits;
    const struct data_config *data; // names of the classes; NULL where they are not the images' (Inception)
    bool resizes;                   // by the resize that it was opened with
    bool published;                 // Inception's public weights
};

/* dir_fd, name: openat. resize: how Inception's input is made; a classifier takes images of its own size as they are.
 * 0, -ENOENT, -EINVAL (the file), -ENOTSUP (the device has no primitive for a layer), -EIO, -ENOMEM. The device
 * outlives it. */
int extractor_open(struct device *d, int dir_fd, const char *name, enum resize resize, struct extractor **ret_extractor,
                   struct error *err);
void extractor_close(struct extractor *e); // NULL is fine

const struct extractor_info *extractor_info(const struct extractor *e);

/* Whether it takes images of this size: 0, -EINVAL. */
int extractor_accepts(const struct extractor *e, int32_t height, int32_t width, int32_t channels, struct error *err);

/* pixels: [n, height, width, channels], of an accepted size. ret_features: [n, n_features]; ret_logits: [n, n_logits].
 * 0, -EIO (device lost), -ENOMEM. */
int extractor_run(struct extractor *e, const uint8_t *pixels, int64_t n, int32_t height, int32_t width,
                  int32_t channels, float *ret_features, float *ret_logits, struct error *err);

#endif
