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

/* Fetches the files of o's kind and part that are not in its folder, which is made where it is missing. 0, -ECANCELED,
 * -EINVAL (kind, or a file that is not what it should be), -ENOENT (not at that address), -EIO (network), -ENOSPC, ...
 */
int dataset_download(const struct dataset_options *o, struct error *err);
#define DATASET_CIFAR10_FOLDER "cifar-10-batches-bin"
#define DATASET_CIFAR10_ARCHIVE "cifar-10-binary.tar.gz"

/* Appends one image of h x w x c (c 1 or 3) to d->pixels and d->labels, which have room for *capacity images and grow
 * by doubling. 0, -ENOMEM. */
int dataset_append(struct dataset *d, int64_t *capacity, const uint8_t *pixels, int32_t h, int32_t w, int32_t c,
                   int32_t label);

/* Names "0", "1", ... where names is NULL. 0, -ENOMEM. */
int dataset_name_classes(struct dataset *d, int32_t n, const char *const *names);

/* Opens dataset.path: beneath o->root where there is one, whatever links say. flags: of open(2). 0, negative errno. */
int dataset_open_path(const struct dataset_options *o, int flags, int *ret_fd, struct error *err);

/* Opens a path within the set's folder, beneath it where the set has a root. A descriptor or negative errno (-EXDEV:
 * leads out). */
int dataset_openat(const struct dataset *d, const char *path, int flags);

/* Paths within a folder or an archive, '/' between their parts; of a folder, one at the end. */
struct paths {
    char **v;
    size_t n, capacity;
};
void paths_done(struct paths *p);
/* Takes over path, also on failure; NULL is -ENOMEM. */
int paths_add(struct paths *p, char *path);
/* Whether a file is one of the set's by its suffix. Hidden ones are not. */
bool paths_wanted(const struct dataset_options *o, const char *path);

/* Chooses the images and their classes (dataset_folder.c says how), takes their paths out of `all`: files, labels, n
 * and classes of d. wrapped: an outermost folder around everything is entered first, as archives have it. 0, -EINVAL
 * (too many classes), -ENOMEM. */
int dataset_arrange(const struct dataset_options *o, struct paths *all, bool wrapped, struct dataset *d,
                    struct error *err);

enum { DATASET_MAX_FILE_BYTES = 64 << 20 };

/* Decodes a PNG or JPEG file (told by its first bytes, not by its name) and fits it to the set's size; alpha is laid
 * over black. A damaged or truncated file is not an image. 0, -EINVAL (not an image, or past 16384 on a side or 2^26
 * pixels), -ENOMEM. */
int dataset_image_decode(const struct dataset *d, const uint8_t *file, size_t n, uint8_t *ret_pixels);
/* The same from one of its files. Also -EFBIG, -EIO, -ENOENT, -EXDEV. */
int dataset_image_load(const struct dataset *d, const char *name, uint8_t *ret_pixels);

/* Fits pixels [h, w, c] into [H, W, C]: channels repeated or turned to luma, then, where sizes differ, resampled in
 * both directions by a filter as wide as the reduction (Mitchell and Netravali 1988). 0, -ENOMEM. */
int dataset_image_fit(const uint8_t *pixels, int32_t h, int32_t w, int32_t c, int32_t H, int32_t W, int32_t C,
                      uint8_t *ret_pixels);

#endif
