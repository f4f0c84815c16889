/* runs.c: see runs.h.
 */
#include "training/runs.h"

#include "model/image.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPLIT_KEY = 0x73706C74 }; // the held-out images are the same for every seed

int run_dataset_open(const struct train_dataset *d, int32_t channels, const struct run_options *run,
                     void (*warn)(void *context, const char *message), void *context, struct dataset **ret_dataset,
                     struct error *err)
{
    struct dataset_options o = {.kind = d->kind,
                                .path = d->path,
                                .root = run->datasets,
                                .download = d->download,
                                .mirror = run->mirror,
                                .stop = run->stop,
                                .train = d->train,
                                .height = d->image_size[0],
                                .width = d->image_size[1],
                                .channels = channels,
                                .n_suffixes = d->n_suffixes,
                                .cache_bytes = (size_t)d->cache_mib << 20,
                                .n_threads = d->num_workers > 0 ? d->num_workers : 1,
                                .warn = warn,
                                .context = context};
    memcpy(o.suffix, d->suffix, sizeof o.suffix);
    return dataset_open(&o, ret_dataset, err);
}

int run_dataset_split(const struct train_validation *v, int64_t n, int64_t **ret_train, int64_t *ret_n_train,
                      int64_t **ret_held_out, int64_t *ret_n_held_out, struct error *err)
{
    int64_t n_held_out = v->images > 0 ? v->images : (int64_t)ceil(v->fraction * (double)n);
    int r = dataset_split(n, n_held_out, SPLIT_KEY, ret_train, ret_held_out);
    if (r == -EINVAL)
        return error_set(err, r, "validation", "%lld held-out images of %lld leave nothing to train on",
                         (long long)n_held_out, (long long)n);
    if (r < 0)
        return error_set(err, r, NULL, "out of memory");
    *ret_n_train = n - n_held_out;
    *ret_n_held_out = n_held_out;
    return 0;
}

int run_dataset_read(const struct dataset *d, const int64_t *indices, int32_t n, float *ret_x, int32_t *ret_y,
                     struct error *err)
{
    size_t elements = (size_t)d->height * d->width * d->channels;
    uint8_t *pixels = malloc(elements);
    int r = pixels ? 0 : -ENOMEM;
    for (int32_t i = 0; r == 0 && i < n; i++) {
        r = dataset_read(d, indices[i], pixels, &ret_y[i]);
        if (r == 0)
            image_from_uint8(pixels, elements, ret_x + (size_t)i * elements);
    }
    free(pixels);
    return r < 0 ? error_set(err, r, "dataset.path", r == -ENOMEM ? "out of memory" : "images cannot be read") : 0;
}

int run_device_open(int device, int32_t threads, struct device **ret_device, struct error *err)
{
    char options[32] = "";
    const struct backend *b = backend_find(train_device_names[device], err);
    if (b != &backend_cpu)
        snprintf(options, sizeof options, "0,low"); // gives way to a daemon on the same GPU
    else if (threads > 0)
        snprintf(options, sizeof options, "%d", threads);
    return b ? b->open(options, ret_device, err) : -ENOTSUP;
}

enum dtype run_precision(enum train_precision p, const struct device *d)
{
    const struct device_base *base = (const struct device_base *)d;
    return p == TRAIN_AUTO ? base->native : p == TRAIN_F32 ? DTYPE_F32 : DTYPE_BF16;
}

struct adamw run_adamw(const struct train_optimizer *o, const struct train_ema *ema, double lr, int64_t update)
{
    double decay = ema->decay;
    if (ema->ramp)
        decay = fmin(decay, (1.0 + (double)update) / (10.0 + (double)update));
    return (struct adamw){.lr = (float)lr,
                          .beta1 = (float)o->beta1,
                          .beta2 = (float)o->beta2,
                          .eps = 1e-8f,
                          .weight_decay = (float)o->weight_decay,
                          .scale = 1.0f,
                          .ema_decay = (float)decay,
                          .step = update};
}
