/* dataset.h: labelled images from files, as 8-bit pixels of one size.
 *
 * Kinds are a table of openers (dataset.c). Small sets are decoded once and kept; larger ones are decoded when asked.
 * Opening is for one thread (it may start threads of its own and ends them); reading an opened set is for any number.
 * It knows nothing of epochs, batches or flips: that is loader.h.
 */
#ifndef DDIMD_MODEL_DATASET_H
#define DDIMD_MODEL_DATASET_H

#include "model/config.h"

#include <signal.h>
#include <stddef.h>

enum dataset_kind { DATASET_MNIST, DATASET_FOLDER, DATASET_CIFAR10, DATASET_KIND_COUNT };
extern const char *const dataset_kind_names[DATASET_KIND_COUNT + 1]; // NULL-terminated

enum { DATASET_MAX_SUFFIXES = 8, DATASET_SUFFIX_BYTES = 8 };

struct dataset_options {
    enum dataset_kind kind;
    const char *path; // a folder, or of "cifar10" and "folder" an archive
    const char *root; // path is relative to this folder and never leads out of it; NULL: as it stands
    bool train;       // the training part where the set has two
    int32_t height, width, channels;
    int32_t n_suffixes; // of kind "folder", without the dot, compared without case; 0: png, jpg, jpeg
    char suffix[DATASET_MAX_SUFFIXES][DATASET_SUFFIX_BYTES];
    size_t cache_bytes; // decode once and keep where all pixels fit in this
    int32_t n_threads;  // that decode while opening, >= 1
    bool look_only;     // number and classes are wanted; nothing will be read
    bool download;      // fetch what is missing of "cifar10" and "mnist"
    const char *mirror; // from this address instead of the usual one, "http://host/folder/"; NULL: the usual
    const volatile sig_atomic_t *stop; // gives up a download when it becomes 1; NULL: never
    /* A sentence for the log ("a.png: not an image, left out"), only from dataset_open's thread. NULL: not wanted. */
    void (*warn)(void *context, const char *message);
    void *context;
};

struct dataset {
    int32_t height, width, channels;
    int64_t n;
    int32_t *labels; // [n], in [0, n_classes)
    int32_t n_classes;
    char (*classes)[MODEL_CLASS_NAME_BYTES]; // [n_classes]
    uint8_t *pixels;                         // [n, H, W, C], NULL where images are decoded when asked
    int64_t n_skipped;                       // images that could not be read when the set was opened
    int dir_fd;                              // -1, or the folder that files are relative to
    bool confined;                           // nothing outside that folder is read
    char **files;                            // [n] with dir_fd, else NULL
};

/* 0; -ECANCELED: stopped; -ENOENT: no such folder, or none of the set's files or no image in it; -EINVAL: a file that
 * is not what it should be; -ENOMEM; -EIO. err names field "dataset.path" and the file at fault. */
int dataset_open(const struct dataset_options *o, struct dataset **ret_dataset, struct error *err);
void dataset_close(struct dataset *d); // NULL is fine

/* Images of the whole set as it is published, of 10 classes; 0: of kinds that are not. */
int64_t dataset_published_images(enum dataset_kind kind, bool train);

/* Pixels of one image, [H, W, C]. Where a file has become unreadable since, the next readable one takes its place (with
 * its label): a function of index and files alone. 0, -EIO: none is readable, -ENOMEM. */
int dataset_read(const struct dataset *d, int64_t index, uint8_t *ret_pixels, int32_t *ret_label);

/* Splits 0 .. n - 1 into training images and held-out ones, both ascending; which ones depends on n, n_held_out and
 * seed alone. Arrays malloc'd, in one allocation each. 0, -EINVAL: nothing would be left to train on, -ENOMEM. */
int dataset_split(int64_t n, int64_t n_held_out, uint64_t seed, int64_t **ret_train, int64_t **ret_held_out);

/* Fills p with a permutation of 0 .. n - 1 (Fisher and Yates) that depends on key and number alone. */
void dataset_permutation(int64_t *p, int64_t n, uint64_t key, uint32_t number);

#endif
