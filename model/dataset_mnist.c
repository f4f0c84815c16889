/* dataset_mnist.c: MNIST and its relatives in IDX format (http://yann.lecun.com/exdb/mnist), gzipped or not.
 *
 * Digits are 28 x 28: where the wanted size is larger they are placed in its middle on black, as is usual for diffusion
 * models (32 x 32), else resampled. Every size in a header is checked against what the file holds.
 */
#include "model/dataset_readers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { IDX_IMAGES = 0x00000803, IDX_LABELS = 0x00000801, MAX_IMAGES = 10000000, MAX_SIDE = 1024, N_CLASSES = 10 };

struct idx_file {
    gzFile file;
    char name[64];
    uint32_t dim[3];
};

static int damaged(const struct idx_file *f, struct error *err, const char *what)
{
    return error_set(err, -EINVAL, "dataset.path", "%s: %s", f->name, what);
}

static int read_exactly(const struct idx_file *f, void *to, uint32_t n, struct error *err)
{
    int got = gzread(f->file, to, n);
    if (got < 0 || (uint32_t)got != n)
        return damaged(f, err, "is truncated or damaged");
    return 0;
}

/* Opens the first of the usual names that exists. 0, -ENOENT (err untouched), -errno, -ENOMEM. */
static int idx_open(int dir_fd, const char *part, const char *what, struct idx_file *ret_file)
{
    static const char *const forms[] = {"%s-%s-ubyte.gz", "%s-%s-ubyte", "%s-%s.gz", "%s-%s"};
    static const char separator[] = {'-', '.'};
    for (size_t i = 0; i < 4; i++) {
        for (size_t s = 0; s < 2; s++) {
            char kind[32];
            snprintf(kind, sizeof kind, what, separator[s]);
            snprintf(ret_file->name, sizeof ret_file->name, forms[i], part, kind);
            int fd = openat(dir_fd, ret_file->name, O_RDONLY | O_CLOEXEC);
            if (fd < 0 && errno == ENOENT)
                continue;
            if (fd < 0)
                return -errno;
            ret_file->file = gzdopen(fd, "rb");
            if (ret_file->file)
                return 0;
            close(fd);
            return -ENOMEM;
        }
    }
    return -ENOENT;
}

static int read_header(struct idx_file *f, uint32_t magic, int rank, struct error *err)
{
    uint8_t b[16];
    int r = read_exactly(f, b, 4u + 4u * (uint32_t)rank, err);
    if (r < 0)
        return r;
    uint32_t word[4] = {0};
    for (int i = 0; i <= rank; i++)
        word[i] = (uint32_t)b[4 * i] << 24 | (uint32_t)b[4 * i + 1] << 16 | (uint32_t)b[4 * i + 2] << 8 | b[4 * i + 3];
    if (word[0] != magic)
        return damaged(f, err, "is not an IDX file of unsigned bytes with the right number of dimensions");
    if (word[1] == 0 || word[1] > MAX_IMAGES)
        return damaged(f, err, "has an impossible number of images in its header");
    if (rank == 3 && (word[2] == 0 || word[3] == 0 || word[2] > MAX_SIDE || word[3] > MAX_SIDE))
        return damaged(f, err, "has an impossible image size in its header");
    memcpy(f->dim, word + 1, sizeof f->dim);
    return 0;
}

static int at_end(const struct idx_file *f, struct error *err)
{
    uint8_t extra;
    if (gzread(f->file, &extra, 1) != 0)
        return damaged(f, err, "is longer than its header says, or damaged");
    return 0;
}

/* Copies [h, w] into the middle of a black [H, W]. */
static void place(const uint8_t *image, int32_t h, int32_t w, int32_t H, int32_t W, uint8_t *canvas)
{
    for (int32_t y = 0; y < h; y++)
        memcpy(canvas + (size_t)(y + (H - h) / 2) * W + (W - w) / 2, image + (size_t)y * w, (size_t)w);
}

static int read_images(struct idx_file *images, struct idx_file *labels, struct dataset *d, struct error *err)
{
    int32_t h = (int32_t)images->dim[1], w = (int32_t)images->dim[2];
    bool padded = d->height >= h && d->width >= w;
    uint8_t *image = malloc((size_t)h * w), *canvas = calloc((size_t)d->height, (size_t)d->width);
    int64_t capacity = 0;
    int r = image && canvas ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    for (uint32_t i = 0; r == 0 && i < images->dim[0]; i++) {
        uint8_t label;
        if ((r = read_exactly(images, image, (uint32_t)(h * w), err)) < 0 ||
            (r = read_exactly(labels, &label, 1, err)) < 0)
            break;
        if (label >= N_CLASSES) {
            r = damaged(labels, err, "has a label above 9");
            break;
        }
        if (padded) {
            place(image, h, w, d->height, d->width, canvas);
            r = dataset_append(d, &capacity, canvas, d->height, d->width, 1, label);
        } else {
            r = dataset_append(d, &capacity, image, h, w, 1, label);
        }
        if (r < 0)
            error_set(err, r, NULL, "out of memory");
    }
    free(image);
    free(canvas);
    return r;
}

static int read_pair(struct idx_file *images, struct idx_file *labels, struct dataset *d, struct error *err)
{
    int r;
    if ((r = read_header(images, IDX_IMAGES, 3, err)) < 0 || (r = read_header(labels, IDX_LABELS, 1, err)) < 0)
        return r;
    if (images->dim[0] != labels->dim[0])
        return damaged(labels, err, "has not as many labels as there are images");
    if ((r = read_images(images, labels, d, err)) < 0 || (r = at_end(images, err)) < 0 || (r = at_end(labels, err)) < 0)
        return r;
    return 0;
}

/* Opens images and labels of a part ("train", "t10k"). 0, -ENOENT where there are none. */
static int open_pair(int dir_fd, const char *part, struct idx_file *images, struct idx_file *labels, struct error *err)
{
    int r = idx_open(dir_fd, part, "images%cidx3", images);
    if (r < 0)
        return r == -ENOENT ? r : error_set(err, r, "dataset.path", "%s: %s", images->name, strerror(-r));
    r = idx_open(dir_fd, part, "labels%cidx1", labels);
    if (r == 0)
        return 0;
    gzclose(images->file);
    return error_set(err, r == -ENOENT ? -EINVAL : r, "dataset.path", "%s has no labels file beside it", images->name);
}

int dataset_mnist_open(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    struct idx_file images, labels;
    int dir_fd, r = dataset_open_path(o, O_RDONLY | O_DIRECTORY, &dir_fd, err);
    if (r < 0)
        return r;
    r = o->train ? open_pair(dir_fd, "train", &images, &labels, err) : -ENOENT;
    if (r == -ENOENT) {
        r = open_pair(dir_fd, "t10k", &images, &labels, err);
        if (r == 0 && o->train && o->warn)
            o->warn(o->context, "no train-images file: training on the t10k images");
    }
    close(dir_fd);
    if (r == -ENOENT)
        return error_set(err, r, "dataset.path",
                         "%s holds no train-images-idx3-ubyte or t10k-images-idx3-ubyte, .gz or not", o->path);
    if (r < 0)
        return r;
    r = read_pair(&images, &labels, d, err);
    gzclose(images.file);
    gzclose(labels.file);
    if (r == 0 && (r = dataset_name_classes(d, N_CLASSES, NULL)) < 0)
        error_set(err, r, NULL, "out of memory");
    return r;
}
