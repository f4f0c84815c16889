/* dataset.c: the list of kinds, and what all kinds share: opening, reading by index, splitting, permuting.
 */
#include "model/dataset_readers.h"

#include "kernels/philox.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *const dataset_kind_names[DATASET_KIND_COUNT + 1] = {"mnist", "folder", "cifar10", NULL};

typedef int (*dataset_opener)(const struct dataset_options *o, struct dataset *d, struct error *err);
static const dataset_opener openers[DATASET_KIND_COUNT] = {
    [DATASET_MNIST] = dataset_mnist_open,
    [DATASET_FOLDER] = dataset_folder_open,
    [DATASET_CIFAR10] = dataset_cifar10_open,
};

/* ---- paths ---- */

static int openat_beneath(int dir_fd, const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof how);
    return fd < 0 ? -errno : fd;
}

int dataset_openat(const struct dataset *d, const char *path, int flags)
{
    if (d->confined)
        return openat_beneath(d->dir_fd, path, flags);
    int fd = openat(d->dir_fd, path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int dataset_open_path(const struct dataset_options *o, int flags, int *ret_fd, struct error *err)
{
    int root = o->root ? open(o->root, O_PATH | O_DIRECTORY | O_CLOEXEC) : AT_FDCWD;
    if (root < 0 && o->root)
        return error_set(err, -errno, "dataset.path", "the folder of data sets, %s: %s", o->root, strerror(errno));
    int fd = o->root ? openat_beneath(root, o->path, flags) : open(o->path, flags | O_CLOEXEC);
    int r = fd >= 0 ? 0 : o->root ? fd : -errno;
    if (o->root)
        close(root);
    if (r == -EXDEV)
        return error_set(err, -EINVAL, "dataset.path", "%s leads out of the folder of data sets", o->path);
    if (r < 0)
        return error_set(err, r, "dataset.path", "%s: %s", o->path, strerror(-r));
    *ret_fd = fd;
    return 0;
}

/* ---- opening and reading ---- */

int dataset_open(const struct dataset_options *o, struct dataset **ret_dataset, struct error *err)
{
    assert(o->height > 0 && o->width > 0 && (o->channels == 1 || o->channels == 3) && o->n_threads > 0);
    struct dataset *d = calloc(1, sizeof *d);
    if (!d)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    d->height = o->height;
    d->width = o->width;
    d->channels = o->channels;
    d->dir_fd = -1;
    d->confined = o->root != NULL;
    int r = o->download && !o->look_only ? dataset_download(o, err) : 0;
    if (r == 0)
        r = openers[o->kind](o, d, err);
    if (r == 0 && d->n == 0)
        r = error_set(err, -ENOENT, "dataset.path", "%s holds no readable image", o->path);
    if (r < 0) {
        dataset_close(d);
        return r;
    }
    *ret_dataset = d;
    return 0;
}

void dataset_close(struct dataset *d)
{
    if (!d)
        return;
    for (int64_t i = 0; d->files && i < d->n; i++)
        free(d->files[i]);
    free(d->files);
    if (d->dir_fd >= 0)
        close(d->dir_fd);
    free(d->labels);
    free(d->classes);
    free(d->pixels);
    free(d);
}

int dataset_read(const struct dataset *d, int64_t index, uint8_t *ret_pixels, int32_t *ret_label)
{
    assert(index >= 0 && index < d->n);
    size_t bytes = (size_t)d->height * d->width * d->channels;
    if (d->pixels) {
        memcpy(ret_pixels, d->pixels + (size_t)index * bytes, bytes);
        *ret_label = d->labels[index];
        return 0;
    }
    for (int64_t k = 0; k < d->n; k++) {
        int64_t i = (index + k) % d->n;
        int r = dataset_image_load(d, d->files[i], ret_pixels);
        if (r == -ENOMEM)
            return r;
        if (r == 0) {
            *ret_label = d->labels[i];
            return 0;
        }
    }
    return -EIO;
}

int dataset_append(struct dataset *d, int64_t *capacity, const uint8_t *pixels, int32_t h, int32_t w, int32_t c,
                   int32_t label)
{
    size_t bytes = (size_t)d->height * d->width * d->channels;
    if (d->n == *capacity) {
        int64_t cap = *capacity ? *capacity * 2 : 256;
        uint8_t *p = realloc(d->pixels, (size_t)cap * bytes);
        if (!p)
            return -ENOMEM;
        d->pixels = p;
        int32_t *l = realloc(d->labels, (size_t)cap * sizeof *l);
        if (!l)
            return -ENOMEM;
        d->labels = l;
        *capacity = cap;
    }
    int r = dataset_image_fit(pixels, h, w, c, d->height, d->width, d->channels, d->pixels + (size_t)d->n * bytes);
    if (r < 0)
        return r;
    d->labels[d->n++] = label;
    return 0;
}

int dataset_name_classes(struct dataset *d, int32_t n, const char *const *names)
{
    d->classes = calloc((size_t)n, sizeof *d->classes);
    if (!d->classes)
        return -ENOMEM;
    for (int32_t i = 0; i < n; i++) {
        if (names)
            snprintf(d->classes[i], sizeof d->classes[i], "%s", names[i]);
        else
            snprintf(d->classes[i], sizeof d->classes[i], "%d", i);
    }
    d->n_classes = n;
    return 0;
}

void dataset_permutation(int64_t *p, int64_t n, uint64_t key, uint32_t number)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        struct philox_block b = philox4x32_10(key, (uint32_t)i, (uint32_t)((uint64_t)i >> 32), number, 0);
        uint64_t r = (uint64_t)b.v[1] << 32 | b.v[0];
        int64_t j = (int64_t)((unsigned __int128)r * (uint64_t)(i + 1) >> 64);
        int64_t t = p[i];
        p[i] = p[j];
        p[j] = t;
    }
}

static int compare_index(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int dataset_split(int64_t n, int64_t n_held_out, uint64_t seed, int64_t **ret_train, int64_t **ret_held_out)
{
    if (n_held_out < 0 || n_held_out >= n)
        return -EINVAL;
    int64_t n_train = n - n_held_out;
    int64_t *train = malloc((size_t)n * sizeof *train);
    int64_t *held_out = malloc((size_t)(n_held_out + 1) * sizeof *held_out);
    if (!train || !held_out) {
        free(train);
        free(held_out);
        return -ENOMEM;
    }
    dataset_permutation(train, n, seed, 0);
    memcpy(held_out, train + n_train, (size_t)n_held_out * sizeof *held_out);
    qsort(train, (size_t)n_train, sizeof *train, compare_index);
    qsort(held_out, (size_t)n_held_out, sizeof *held_out, compare_index);
    *ret_train = train;
    *ret_held_out = held_out;
    return 0;
}
