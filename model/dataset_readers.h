/* dataset_readers.h: what the kinds of datasets share; for dataset*.c only.
 *
 * An opener fills a zeroed struct dataset (size and channels are set) and may leave it half built on failure:
 * dataset_close copes.
 */
#ifndef DDIMD_MODEL_DATASET_READERS_H
#define DDIMD_MODEL_DATASET_READERS_H

#include "model/dataset.h"

int dataset_mnist_open(const struct dataset_options *o, struct dataset *d, struct error *err);
int dataset_folder_open(const struct dataset_options *o, struct dataset *d, struct error *err);
int dataset_cifar10_open(const struct dataset_options *o, struct dataset *d, struct error *err);

/* Appends one image of h x w x c (c 1 or 3) to d->pixels and d->labels, which have room for *capacity images and grow
 * by doubling. 0, -ENOMEM. */
int dataset_append(struct dataset *d, int64_t *capacity, const uint8_t *pixels, int32_t h, int32_t w, int32_t c,
                   int32_t label);

/* Names "0", "1", ... where names is NULL. 0, -ENOMEM. */
int dataset_name_classes(struct dataset *d, int32_t n, const char *const *names);

/* Decodes a PNG or JPEG file (told by its first bytes, not by its name) to 8-bit RGB or, with channels 1, luma; alpha
 * is laid over black. A damaged or truncated file is not an image. *ret_pixels malloc'd, [h, w, channels]. 0, -EINVAL
 * (not an image, or past 16384 on a side or 2^26 pixels), -EFBIG (file past 64 MiB), -EIO, -ENOENT, -ENOMEM. */
int dataset_image_load(int dir_fd, const char *name, int32_t channels, uint8_t **ret_pixels, int32_t *ret_h,
                       int32_t *ret_w);

/* Fits pixels [h, w, c] into [H, W, C]: channels repeated or turned to luma, then, where sizes differ, resampled in
 * both directions by a filter as wide as the reduction (Mitchell and Netravali 1988). 0, -ENOMEM. */
int dataset_image_fit(const uint8_t *pixels, int32_t h, int32_t w, int32_t c, int32_t H, int32_t W, int32_t C,
                      uint8_t *ret_pixels);

#endif
