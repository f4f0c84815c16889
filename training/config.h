/* config.h: a training configuration (DESIGN 5): JSON in, a checked struct out.
 *
 * Plain data. Any thread. The tables in config.c are the list of keys, their limits, defaults and help.
 */
#ifndef DDIMD_TRAINING_CONFIG_H
#define DDIMD_TRAINING_CONFIG_H

#include "model/config.h"
#include "model/dataset.h"
#include "model/json.h"

enum { TRAIN_PATH_BYTES = 1024 };

enum lr_schedule { LR_CONSTANT, LR_COSINE };
enum monitor { MONITOR_VAL_LOSS, MONITOR_LOSS };
enum monitor_mode { MONITOR_MIN, MONITOR_MAX };
enum train_precision { TRAIN_AUTO, TRAIN_F32, TRAIN_BF16 };

struct train_config {
    struct model_config model;
    struct diffusion_config diffusion;
    struct train_dataset {
        enum dataset_kind kind;
        char path[TRAIN_PATH_BYTES];
        bool download, train;
        int32_t n_sides, image_size[2]; // H, W
        int mode;                       // as in the model file's "data": 0 is "L", 1 is "RGB"
        int32_t n_suffixes;
        char suffix[DATASET_MAX_SUFFIXES][DATASET_SUFFIX_BYTES];
        int32_t batch_size;
        bool shuffle, drop_last, pin_memory;
        int32_t num_workers;
        int32_t cache_mib; // decoded images are kept where all fit
        float flip;
    } dataset;
    struct train_optimizer {
        double lr, lr_min, weight_decay, beta1, beta2;
        int64_t warmup_steps;
        enum lr_schedule schedule;
        double grad_clip; // 0: none
    } optimizer;
    struct train_ema {
        double decay; // 0: the weights themselves
        bool ramp;
    } ema;
    struct train_checkpoint {
        int32_t save_freq; // epochs
        enum monitor monitor;
        enum monitor_mode mode;
        bool save_best_only;
        int32_t keep_last; // 0: all
        int dtype;         // index in train_dtype_names
    } checkpoint;
    struct train_validation {
        int64_t images; // 0: `fraction` of them
        double fraction;
    } validation;
    struct train_early_stopping {
        int32_t patience; // epochs without a better metric; 0: off
        double min_delta;
    } early_stopping;
    struct train_sample {
        int32_t n, steps, every; // images, sampling steps, epochs between grids; every 0: none
        float guidance;
        uint64_t seed;
    } sample;
    struct train_distill {
        char teacher[TRAIN_PATH_BYTES]; // model file, "" for none: the noise to predict is what was added
        float guidance;
    } distill;
    int32_t epochs;
    int32_t log_steps;   // steps between lines of metrics.jsonl
    int32_t micro_batch; // images that pass through the network at once; 0: the whole batch
    float label_dropout;
    double min_snr_gamma; // 0: every timestep weighs the same
    bool antithetic;      // timesteps in pairs t, T - 1 - t
    uint64_t seed;
    char resume[TRAIN_PATH_BYTES]; // a state file, "" for none
    int device;                    // index in train_device_names
    enum train_precision precision;
};

extern const char *const train_device_names[];    // "auto", "cpu", "cuda", NULL
extern const char *const train_precision_names[]; // "auto", "f32", "bf16", NULL
extern const char *const train_dtype_names[];     // "F32", "BF16", "F16", NULL

/* 0, -EINVAL (err->field names the key, err->nearest the nearest known one), -ENOMEM. *ret_config is untouched on
 * failure. */
int train_config_parse(const json_t *json, struct train_config *ret_config, struct error *err);

/* Reads a file, applies `n_sets` assignments "key.path=value" (value: JSON, or a plain string) in their order, parses.
 * 0, -ENOENT and other errno of opening it, -EINVAL, -ENOMEM. */
int train_config_load(const char *path, const char *const *sets, int32_t n_sets, struct train_config *ret_config,
                      struct error *err);

/* The first half of it: the file with the assignments, any kind of configuration. *ret_json: new reference. */
int train_config_read(const char *path, const char *const *sets, int32_t n_sets, json_t **ret_json, struct error *err);

/* What absent keys mean, and the tables of objects that other kinds of configuration have too. */
extern const struct train_config train_config_default;
extern const struct json_field train_dataset_fields[], train_optimizer_fields[], train_ema_fields[],
    train_checkpoint_fields[], train_validation_fields[];

/* The same as JSON, every key present. New reference, NULL without memory. */
json_t *train_config_json(const struct train_config *c);

/* JSON Schema of a configuration, with the defaults. New reference, NULL without memory. */
json_t *train_config_schema(void);

/* Whether a run that began with `then` can go on with `now`: everything that the steps depend on must be equal except
 * the optimizer's numbers, min_snr_gamma, epochs and what is only written or watched. 0, or -EINVAL with the first key
 * that differs.
 */
int train_config_compatible(const struct train_config *then, const struct train_config *now, struct error *err);

/* The learning rate of a step (from 0) out of total: linear warm-up, then constant, or half a cosine from lr to
 * lr_min. */
double train_config_lr(const struct train_optimizer *o, int64_t step, int64_t total);

#endif
