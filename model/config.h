/* config.h: what a model is, as the JSON of checkpoints and training configurations says it, checked.
 *
 * Plain data, no pointers into JSON. Any thread.
 */
#ifndef DDIMD_MODEL_CONFIG_H
#define DDIMD_MODEL_CONFIG_H

#include "kernels/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { MODEL_MAX_LEVELS = 8, MODEL_MAX_CLASSES = 1000, MODEL_CLASS_NAME_BYTES = 64, MODEL_MAX_STEPS = 10000 };

enum block_order { BLOCK_ORDER_FUSED, BLOCK_ORDER_PREACT };

struct model_config {
    int32_t in_channels, out_channels, model_channels;
    int32_t n_levels, channel_mult[MODEL_MAX_LEVELS];
    int32_t num_res_blocks;
    int32_t n_attention, attention_resolutions[MODEL_MAX_LEVELS]; // downsampling factors, as the reference counts them
    float dropout;
    bool conv_resample;
    int32_t num_heads, num_classes;
    enum block_order residual_block;
};

struct diffusion_config {
    int32_t T;
    double beta[2];
};

struct data_config {
    int32_t height, width, channels;         // channels: 1 for mode "L", 3 for "RGB"
    char (*classes)[MODEL_CLASS_NAME_BYTES]; // [num_classes], owned; names default to "0", "1", ...
    int32_t n_classes;
};

/* The reference's defaults: what absent keys mean. */
extern const struct model_config model_config_default;
extern const struct diffusion_config diffusion_config_default;

/* Fill *ret_x from JSON; absent keys keep the reference's defaults, unknown ones are errors that name the nearest.
 * path: prefix for err->field ("model"). All are checked against each other and against limits (channels a multiple of
 * 32, sizes divisible by the downsampling, T <= MODEL_MAX_STEPS, ...). Return 0, -EINVAL, -ENOMEM; *ret_x untouched on
 * failure. */
int model_config_parse(const json_t *json, const char *path, struct model_config *ret_config, struct error *err);
int diffusion_config_parse(const json_t *json, const char *path, struct diffusion_config *ret_config,
                           struct error *err);
int data_config_parse(const json_t *json, const char *path, const struct model_config *model,
                      struct data_config *ret_config, struct error *err);
void data_config_done(struct data_config *c);

/* The same as JSON, every key present. New reference, NULL without memory. */
json_t *model_config_json(const struct model_config *c);
json_t *diffusion_config_json(const struct diffusion_config *c);
json_t *data_config_json(const struct data_config *c);

/* JSON Schema with the defaults. New reference, NULL without memory. */
json_t *model_config_schema(void);
json_t *diffusion_config_schema(void);

/* Whether the residual blocks of a level (downsampling 2^level) are followed by attention. The middle block always is.
 */
bool model_config_attends(const struct model_config *c, int32_t level);

/* Parameters, and floating-point operations of one forward pass of one image (2 per multiply-add; convolutions, matrix
 * products, attention). */
int64_t model_config_parameters(const struct model_config *c);
int64_t model_config_flop(const struct model_config *c, int32_t height, int32_t width);

#endif
