/* runs.h: what every kind of run does the same way: opening its data set and its device, splitting, one step's numbers.
 *
 * Pure functions of their arguments but for the objects that they open. One thread.
 */
#ifndef DDIMD_TRAINING_RUNS_H
#define DDIMD_TRAINING_RUNS_H

#include "kernels/backend.h"
#include "model/dataset.h"
#include "training/config.h"

#include <signal.h>
#include <stdio.h>

/* How a run is started, beside its configuration. */
struct run_options {
    const char *out;                   // folder of the run
    bool resume;                       // go on with what the folder holds
    int32_t threads;                   // of a CPU device; 0: all
    const char *datasets;              // paths of data sets are relative to this folder and stay in it; NULL: any
    const char *mirror;                // data sets are fetched from there; NULL: the usual places
    FILE *log;                         // progress and notes
    const volatile sig_atomic_t *stop; // not 0: write what there is and return
};

/* warn: as dataset_options'. As dataset_open(). */
int run_dataset_open(const struct train_dataset *d, int32_t channels, const struct run_options *o,
                     void (*warn)(void *context, const char *message), void *context, struct dataset **ret_dataset,
                     struct error *err);

/* The held-out images are the same for every seed and every kind of run. Arrays malloc'd. 0, -EINVAL, -ENOMEM. */
int run_dataset_split(const struct train_validation *v, int64_t n, int64_t **ret_train, int64_t *ret_n_train,
                      int64_t **ret_held_out, int64_t *ret_n_held_out, struct error *err);

/* Images [n, H, W, C] in [-1, 1] and their labels by index. 0, -ENOMEM, -EIO (err->field "dataset.path"). */
int run_dataset_read(const struct dataset *d, const int64_t *indices, int32_t n, float *ret_x, int32_t *ret_y,
                     struct error *err);

/* device: index in train_device_names; threads: 0: all. As backend's open(), -ENOTSUP (no such backend). */
int run_device_open(int device, int32_t threads, struct device **ret_device, struct error *err);
enum dtype run_precision(enum train_precision p, const struct device *d);

/* One step's AdamW, with scale 1; update: counts from 1. */
struct adamw run_adamw(const struct train_optimizer *o, const struct train_ema *ema, double lr, int64_t update);

#endif
