/* loader.h: a dataset's images as batches, in an order that depends on (seed, epoch) alone.
 *
 * Worker threads fill batches ahead of the one consumer, at most `prefetch` of them. What an image looks like depends
 * on (seed, epoch, index) and never on the worker that read it, so 0, 1 or 16 workers give the same bytes, and a
 * position (epoch, batch) can be sought.
 */
#ifndef DDIMD_MODEL_LOADER_H
#define DDIMD_MODEL_LOADER_H

#include "model/dataset.h"

struct loader;

struct loader_options {
    const struct dataset *dataset; // outlives the loader
    const int64_t *indices;        // [n] of the dataset's images to use; outlives the loader
    int64_t n;
    int32_t batch_size;
    bool shuffle, drop_last;
    float flip; // probability of a left-right flip
    uint64_t seed;
    int32_t num_workers; // 0: loader_next does the work
    int32_t prefetch;    // batches kept ready, >= 1
};

struct loader_batch {
    int64_t epoch, number; // number of the batch within the epoch, from 0
    int32_t n;             // images: batch_size, or fewer in the last one
    float *x;              // [n, H, W, C] in [-1, 1]
    int32_t *y;            // [n]
    int64_t *index;        // [n] of the dataset's images
};

/* Begins at epoch 0, batch 0. 0, -EINVAL: not one whole batch with drop_last (err), -ENOMEM, -EAGAIN: no thread. */
int loader_create(const struct loader_options *o, struct loader **ret_loader, struct error *err);
void loader_free(struct loader *l); // NULL is fine; ends the workers

int64_t loader_batches_per_epoch(const struct loader *l);

/* The next loader_next() gives this batch. Not while a batch is held. number < batches per epoch. */
void loader_seek(struct loader *l, int64_t epoch, int64_t number);

/* The next batch; epochs follow each other without end. Valid until loader_release(); one at a time.
 * 0, -EIO: images became unreadable, -ENOMEM. */
int loader_next(struct loader *l, const struct loader_batch **ret_batch);
void loader_release(struct loader *l);

/* Seconds that loader_next() has waited (or worked, without workers) since the loader was made. */
double loader_wait_seconds(const struct loader *l);

#endif
