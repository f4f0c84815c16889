/* models.h: which models there are, which are resident, which is the default.
 *
 * A model's name is its file's stem in the models folder ([A-Za-z0-9._-], at most 64 characters). Files are opened
 * beneath the folder's descriptor only. Any thread; loading runs on the device's worker (scheduler_call).
 */
#ifndef DDIMD_SAMPLING_MODELS_H
#define DDIMD_SAMPLING_MODELS_H

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "sampling/scheduler.h"

enum { MODEL_NAME_BYTES = 65, MODEL_MEASURED_SIZES = 12 };

/* A resident model, reference counted: requests in flight keep the one they began with. */
struct resident_model {
    char name[MODEL_NAME_BYTES];
    struct model_config model;
    struct diffusion_config diffusion;
    struct data_config data;
    json_t *training; // or NULL
    char digest[CHECKPOINT_DIGEST_CHARS + 1];
    int64_t parameters;
    size_t bytes;      // on the device
    int32_t max_lanes; // the knee of the measured step times
    int32_t n_measured, measured_lanes[MODEL_MEASURED_SIZES];
    double measured_seconds[MODEL_MEASURED_SIZES];
    struct model_lane *lane; // scheduler.h
    struct resident_private *priv;
};

struct model_store;

struct model_store_options {
    const char *folder;        // read at open and at every look-up
    const char *default_model; // NULL: the first by name
    int precision;             // enum dtype, or -1: the device's native one
    int32_t max_rows;          // 0: chosen by measurement up to a limit
};
int model_store_open(const struct model_store_options *o, struct device *d, struct scheduler *s,
                     struct model_store **ret_store, struct error *err);
void model_store_close(struct model_store *m);

/* A reference to the resident model (NULL name: the default), loading it where it is not resident. 0, -ENOENT
 * (err->nearest), -EINVAL (bad file), -ENOMEM, -EIO. */
int model_store_acquire(struct model_store *m, const char *name, struct resident_model **ret_model, struct error *err);
void model_release(struct resident_model *r); // NULL is fine

int model_store_unload(struct model_store *m, const char *name,
                       struct error *err); // -ENOENT, -EBUSY never: in-flight requests keep it alive
int model_store_set_default(struct model_store *m, const char *name, struct error *err);
/* A JSON array with one object per model file: name, default, resident, bytes, parameters, classes, image_size, mode,
 * T, digest, training. New reference. */
json_t *model_store_list(struct model_store *m);
json_t *model_store_describe(struct model_store *m, const char *name, struct error *err);

#endif
