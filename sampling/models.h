/* models.h: which models there are, which are resident, which is the default.
 *
 * A model's name is its file's stem ("digits" for digits.safetensors) in the models folder: [A-Za-z0-9._-], at most 64
 * characters, not starting with '.'. Files are opened beneath the folder's descriptor only. Any thread, but not the
 * worker's callbacks (loading waits for the worker); model_release() and model_retain() from everywhere.
 *
 * A resident model lives as long as the store or a request refers to it: unload, or a new file under the same name,
 * takes it from the store, and lanes in flight finish on the one they began with.
 */
#ifndef DDIMD_SAMPLING_MODELS_H
#define DDIMD_SAMPLING_MODELS_H

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "sampling/scheduler.h"

enum { MODEL_NAME_BYTES = 65, MODEL_MEASURED_SIZES = 12 };

/* Read only, but for the reference count behind priv. */
struct resident_model {
    char name[MODEL_NAME_BYTES];
    struct model_config model;
    struct diffusion_config diffusion;
    struct data_config data;
    char digest[CHECKPOINT_DIGEST_CHARS + 1];
    enum dtype precision;
    int64_t parameters;
    size_t bytes;     // on all devices: weights and lanes
    int32_t max_rows; // the knee of the measured step times: what a step carries at most
    int32_t capacity; // lanes, on each device
    int32_t n_measured, measured_rows[MODEL_MEASURED_SIZES];
    double measured_seconds[MODEL_MEASURED_SIZES]; // of one step
    struct model_lane *lane;                       // for struct generation
    struct resident_private *priv;
};

struct model_store;
struct model_store_options {
    const char *folder;
    const char *default_model; // NULL: `preferred` where there is one of that name, else the first by name
    const char *preferred;     // NULL: none; borrowed
    int precision;             // enum dtype, or -1: the device's native one
    int32_t max_rows;          // largest step; 0: by measurement, within a limit for the device
    int32_t capacity;          // lanes per model; 0: as many as fit in 64 MiB, between 2 max_rows and 4096
    size_t max_bytes;          // of resident models: the least recently used idle ones make room; 0: no limit
};
/* 0, -ENOENT or -ENOTDIR (folder), -ENOMEM. Loads nothing. devices: [of s], of one kind; they and s must
 * outlive the store and every model. */
int model_store_open(const struct model_store_options *o, struct device *const *devices, struct scheduler *s,
                     struct model_store **ret_store, struct error *err);
/* Drops the store's references. Models that requests still hold end with them. NULL is fine. */
void model_store_close(struct model_store *m);

/* A reference to the resident model (name NULL: the default), loading it where it is not resident or where its file
 * was replaced; a load that another thread began is waited for. 0, -ENOENT (err->nearest), -EINVAL (bad name, bad
 * file), -ENOTSUP (the device cannot run it), -ENOMEM (device memory, or the limit), -ERANGE (its canary step is not
 * finite), -EIO, -ESHUTDOWN (the scheduler stopped). */
int model_store_acquire(struct model_store *m, const char *name, struct resident_model **ret_model, struct error *err);
/* As acquire, for an order to load: a replaced file that cannot be loaded is an error here, while acquire goes on with
 * the model that is resident and says so in the list. */
int model_store_load(struct model_store *m, const char *name, struct resident_model **ret_model, struct error *err);
/* As acquire, but only what is resident under the name, whatever its file says: never waits for the device. Returns
 * NULL where there is none. */
struct resident_model *model_store_resident(struct model_store *m, const char *name);
void model_retain(struct resident_model *r);
void model_release(struct resident_model *r); // NULL is fine; the last one frees it, on the worker

/* Out of the store; in-flight requests keep it. 0, -ENOENT (no such file and not resident), also 0 where not resident.
 */
int model_store_unload(struct model_store *m, const char *name, struct error *err);
int model_store_set_default(struct model_store *m, const char *name, struct error *err); // 0, -ENOENT, -EINVAL
/* Device memory of the models that the store holds. Does not wait for a load. */
size_t model_store_bytes(struct model_store *m);
/* The default's name; "" where the folder has no model. */
void model_store_default(struct model_store *m, char ret_name[MODEL_NAME_BYTES]);
/* A JSON array with one object per model file, by name: name, default, resident, and as far as the file can be read
 * bytes (file), device_bytes (resident), parameters, classes, image_size, mode, T, digest, training; max_rows, lanes,
 * step_times [{rows, seconds}] where resident; error where it cannot be read. New reference, NULL without memory. */
json_t *model_store_list(struct model_store *m);
/* One such object. NULL: err (-ENOENT, -EINVAL, -ENOMEM). */
json_t *model_store_describe(struct model_store *m, const char *name, struct error *err);

#endif
