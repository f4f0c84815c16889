/* loader.c: a ring of batches between worker threads and one consumer.
 *
 * Batches have serial numbers s = epoch * batches_per_epoch + number; batch s lives in slot s mod prefetch. A worker
 * claims the next serial while it is less than `prefetch` ahead of the consumer, copies its indices under the lock (the
 * epoch's permutation is kept for one epoch only: claims ascend), fills the slot without it, and marks it ready. A seek
 * stops claims, waits until no worker is filling, and moves both ends.
 */
#include "model/loader.h"

#include "kernels/philox.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STREAM_ORDER = 1, STREAM_FLIP = 2 }; // of the two keys made from the seed

struct slot {
    struct loader_batch batch;
    int64_t serial; // that it holds when ready
    bool ready;
    int status;
    uint8_t *pixels; // one image
};

struct loader {
    struct loader_options o;
    int64_t per_epoch;
    size_t elements; // of an image
    uint64_t order_key, flip_key;

    pthread_mutex_t lock;
    pthread_cond_t work, done; // something to claim; something became ready or idle
    int64_t claimed, consumed; // next serials
    int32_t filling;           // workers at work
    bool held, stop;
    int64_t *order; // [n] positions of order_epoch
    int64_t order_epoch;
    struct slot *slots; // [prefetch]
    pthread_t *threads;
    int32_t n_threads;
    double wait_seconds;
};

static uint64_t derived_key(uint64_t seed, uint32_t stream)
{
    struct philox_block b = philox4x32_10(seed, stream, 0, 0, 0x6C6F6164u);
    return (uint64_t)b.v[1] << 32 | b.v[0];
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Lock held (or no workers): names the batch in its slot and copies the indices of its images. */
static void assign(struct loader *l, struct slot *s, int64_t serial)
{
    struct loader_batch *b = &s->batch;
    b->epoch = serial / l->per_epoch;
    b->number = serial % l->per_epoch;
    if (l->o.shuffle && l->order_epoch != b->epoch) {
        dataset_permutation(l->order, l->o.n, l->order_key, (uint32_t)b->epoch);
        l->order_epoch = b->epoch;
    }
    int64_t first = b->number * l->o.batch_size, left = l->o.n - first;
    b->n = left < l->o.batch_size ? (int32_t)left : l->o.batch_size;
    for (int32_t i = 0; i < b->n; i++)
        b->index[i] = l->o.indices[l->o.shuffle ? l->order[first + i] : first + i];
    s->serial = serial;
    s->ready = false;
}

static bool flipped(const struct loader *l, int64_t epoch, int64_t index)
{
    if (l->o.flip <= 0)
        return false;
    struct philox_block b =
        philox4x32_10(l->flip_key, (uint32_t)index, (uint32_t)((uint64_t)index >> 32), (uint32_t)epoch, 0);
    return philox_uniform(b.v[0]) < l->o.flip;
}

/* p / 127.5 - 1, left to right or right to left. */
static void normalise(const uint8_t *p, int32_t h, int32_t w, int32_t c, bool flip, float *x)
{
    for (int32_t r = 0; r < h; r++)
        for (int32_t q = 0; q < w; q++)
            for (int32_t k = 0; k < c; k++)
                x[((size_t)r * w + q) * c + k] =
                    (float)p[((size_t)r * w + (flip ? w - 1 - q : q)) * c + k] / 127.5f - 1.0f;
}

static void fill(const struct loader *l, struct slot *s)
{
    const struct dataset *d = l->o.dataset;
    struct loader_batch *b = &s->batch;
    s->status = 0;
    for (int32_t i = 0; i < b->n; i++) {
        int r = dataset_read(d, b->index[i], s->pixels, &b->y[i]);
        if (r < 0) {
            s->status = r;
            return;
        }
        normalise(s->pixels, d->height, d->width, d->channels, flipped(l, b->epoch, b->index[i]),
                  b->x + (size_t)i * l->elements);
    }
}

static void *worker(void *context)
{
    struct loader *l = context;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->claimed >= l->consumed + l->o.prefetch)
            pthread_cond_wait(&l->work, &l->lock);
        if (l->stop)
            break;
        struct slot *s = &l->slots[l->claimed % l->o.prefetch];
        assign(l, s, l->claimed++);
        l->filling++;
        pthread_mutex_unlock(&l->lock);
        fill(l, s);
        pthread_mutex_lock(&l->lock);
        l->filling--;
        s->ready = true;
        pthread_cond_broadcast(&l->done);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static int allocate(struct loader *l)
{
    size_t batch = (size_t)l->o.batch_size;
    l->slots = calloc((size_t)l->o.prefetch, sizeof *l->slots);
    l->order = malloc((size_t)l->o.n * sizeof *l->order);
    l->threads = calloc((size_t)l->o.num_workers + 1, sizeof *l->threads);
    if (!l->slots || !l->order || !l->threads)
        return -ENOMEM;
    for (int32_t i = 0; i < l->o.prefetch; i++) {
        struct slot *s = &l->slots[i];
        s->serial = -1;
        s->batch.x = malloc(batch * l->elements * sizeof(float));
        s->batch.y = malloc(batch * sizeof(int32_t));
        s->batch.index = malloc(batch * sizeof(int64_t));
        s->pixels = malloc(l->elements);
        if (!s->batch.x || !s->batch.y || !s->batch.index || !s->pixels)
            return -ENOMEM;
    }
    return 0;
}

int loader_create(const struct loader_options *o, struct loader **ret_loader, struct error *err)
{
    assert(o->n > 0 && o->batch_size > 0 && o->prefetch > 0 && o->num_workers >= 0);
    int64_t per_epoch = o->drop_last ? o->n / o->batch_size : (o->n + o->batch_size - 1) / o->batch_size;
    if (per_epoch == 0)
        return error_set(err, -EINVAL, "dataset.batch_size",
                         "%d is more than the %lld training images (drop_last is on)", o->batch_size, (long long)o->n);
    struct loader *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    l->o = *o;
    l->per_epoch = per_epoch;
    l->elements = (size_t)o->dataset->height * o->dataset->width * o->dataset->channels;
    l->order_key = derived_key(o->seed, STREAM_ORDER);
    l->flip_key = derived_key(o->seed, STREAM_FLIP);
    l->order_epoch = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->done, NULL);
    int r = allocate(l);
    while (r == 0 && l->n_threads < o->num_workers) {
        r = -pthread_create(&l->threads[l->n_threads], NULL, worker, l);
        l->n_threads += r == 0;
    }
    if (r < 0) {
        loader_free(l);
        return error_set(err, r, NULL, "cannot start the data loader: %s", strerror(-r));
    }
    *ret_loader = l;
    return 0;
}

void loader_free(struct loader *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int32_t i = 0; i < l->n_threads; i++)
        pthread_join(l->threads[i], NULL);
    for (int32_t i = 0; l->slots && i < l->o.prefetch; i++) {
        free(l->slots[i].batch.x);
        free(l->slots[i].batch.y);
        free(l->slots[i].batch.index);
        free(l->slots[i].pixels);
    }
    free(l->slots);
    free(l->order);
    free(l->threads);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->done);
    free(l);
}

int64_t loader_batches_per_epoch(const struct loader *l)
{
    return l->per_epoch;
}

void loader_seek(struct loader *l, int64_t epoch, int64_t number)
{
    assert(epoch >= 0 && number >= 0 && number < l->per_epoch);
    pthread_mutex_lock(&l->lock);
    assert(!l->held);
    l->claimed = INT64_MAX; // nothing to claim until the new place is set
    while (l->filling)
        pthread_cond_wait(&l->done, &l->lock);
    for (int32_t i = 0; i < l->o.prefetch; i++)
        l->slots[i].ready = false;
    l->consumed = l->claimed = epoch * l->per_epoch + number;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

int loader_next(struct loader *l, const struct loader_batch **ret_batch)
{
    double start = now();
    pthread_mutex_lock(&l->lock);
    assert(!l->held);
    struct slot *s = &l->slots[l->consumed % l->o.prefetch];
    if (l->n_threads == 0) {
        assign(l, s, l->consumed);
        fill(l, s);
        s->ready = true;
    }
    while (!s->ready || s->serial != l->consumed)
        pthread_cond_wait(&l->done, &l->lock);
    l->held = true;
    l->wait_seconds += now() - start;
    pthread_mutex_unlock(&l->lock);
    if (s->status < 0) {
        loader_release(l);
        return s->status;
    }
    *ret_batch = &s->batch;
    return 0;
}

void loader_release(struct loader *l)
{
    pthread_mutex_lock(&l->lock);
    assert(l->held);
    l->slots[l->consumed % l->o.prefetch].ready = false;
    l->held = false;
    l->consumed++;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

double loader_wait_seconds(const struct loader *l)
{
    return l->wait_seconds;
}
