/* evaluate_config.h: what an evaluation is told (docs/QUALITY.md): JSON in, a checked struct out.
 *
 * Plain data. Any thread. The tables in evaluate_config.c are the list of keys, their limits, defaults and help.
 */
#ifndef DDIMD_TRAINING_EVALUATE_CONFIG_H
#define DDIMD_TRAINING_EVALUATE_CONFIG_H

#include "model/resize.h"
#include "model/schedule.h"
#include "training/config.h"

enum { EVALUATE_MAX_LIST = 16, EVALUATE_NAME_BYTES = 16, EVALUATE_MAX_POINTS = 512 };

enum evaluate_part { PART_ALL, PART_TRAIN, PART_HELD_OUT };

/* Images of a data set; those that training holds out (validation.images) can be told apart. */
struct evaluate_data {
    struct train_dataset set;
    int64_t held_out;
    enum evaluate_part part;
};

struct evaluate_config {
    char model[TRAIN_PATH_BYTES]; // a model file, "": `images` are evaluated
    bool has_images;
    struct evaluate_data images, reference;
    char extractor[TRAIN_PATH_BYTES];
    enum resize resize;
    int64_t n;     // generated images of a point and seed
    int32_t seeds; // seed, seed + 1, ...
    uint64_t seed;
    struct evaluate_sampling { // every combination is a point
        bool clip;
        int32_t n_steps, steps[EVALUATE_MAX_LIST];
        int32_t n_samplers, n_methods;
        char samplers[EVALUATE_MAX_LIST][EVALUATE_NAME_BYTES], methods[EVALUATE_MAX_LIST][EVALUATE_NAME_BYTES];
        int32_t n_eta, n_guidance;
        double eta[EVALUATE_MAX_LIST], guidance[EVALUATE_MAX_LIST];
    } sampling;
    bool kid, precision_recall;
    int32_t grid;    // images of a sample grid per point; 0: none
    int32_t nearest; // generated images that are shown beside the nearest reference images; 0: none
    struct evaluate_inversion {
        int32_t images; // of the reference; 0: none
        int32_t n_steps, steps[EVALUATE_MAX_LIST];
    } inversion;
    int32_t batch;                // rows of the network at once
    char cache[TRAIN_PATH_BYTES]; // folder of reference features, "": none
    int device;
    enum train_precision precision;
};

extern const char *const evaluate_part_names[]; // "all", "train", "held_out", NULL

/* One combination. */
struct evaluate_point {
    struct sampling_recipe recipe;
    double guidance;
};

/* The combinations in the order of the report; eta is 0 for samplers that have none and counted once. ret_points:
 * [EVALUATE_MAX_POINTS]. Returns their number. */
int32_t evaluate_config_points(const struct evaluate_config *c, struct evaluate_point *ret_points);

/* As train_config_parse(), train_config_load(), train_config_json(), train_config_schema(). */
int evaluate_config_parse(const json_t *json, struct evaluate_config *ret_config, struct error *err);
json_t *evaluate_config_json(const struct evaluate_config *c);
json_t *evaluate_config_schema(void);

#endif
