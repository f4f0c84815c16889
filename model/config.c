/* config.c: see config.h. Reading, checking and writing; sizes are counted in config_count.c. */
#include "model/config.h"

#include "model/json.h"
#include "model/schedule.h"

#include <errno.h>
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GROUPS = 32, // of every group norm: channel counts are multiples of it
    MAX_CHANNELS = 8192,
    MAX_RES_BLOCKS = 16,
    MAX_HEADS = 256,
    MAX_SIDE = 1024,
};

static const char *const block_order_names[] = {"fused", "preact", NULL};
static const char *const mode_names[] = {"L", "RGB", NULL};
enum { MODE_L, MODE_RGB };

#define AT(member) offsetof(struct model_config, member)
static const struct json_field model_fields[] = {
    {"in_channels", FIELD_INT32, AT(in_channels), 1, 3, .help = "channels of an image: 1 or 3"},
    {"out_channels", FIELD_INT32, AT(out_channels), 1, 3, .help = "as in_channels: the network predicts the noise"},
    {"model_channels", FIELD_INT32, AT(model_channels), GROUPS, 2048, .help = "width of the first level"},
    {"channel_mult", FIELD_INT32_LIST, AT(channel_mult), 1, 64, .min_items = 1, .max_items = MODEL_MAX_LEVELS,
     .count_offset = AT(n_levels), .help = "width of each level, in model_channels"},
    {"num_res_blocks", FIELD_INT32, AT(num_res_blocks), 1, MAX_RES_BLOCKS, .help = "residual blocks in each level"},
    {"attention_resolutions", FIELD_INT32_LIST, AT(attention_resolutions), 1, 1024, .max_items = MODEL_MAX_LEVELS,
     .count_offset = AT(n_attention),
     .help = "downsampling factors of the levels that attend; others are ignored, as the reference does"},
    {"dropout", FIELD_FLOAT, AT(dropout), 0, 0.999, .help = "probability of dropping an activation while training"},
    {"conv_resample", FIELD_BOOL, AT(conv_resample), .help = "convolutions at down- and upsampling"},
    {"num_heads", FIELD_INT32, AT(num_heads), 1, MAX_HEADS, .help = "heads of each attention block"},
    {"num_classes", FIELD_INT32, AT(num_classes), 1, MODEL_MAX_CLASSES, .help = "classes without the null class"},
    {"residual_block", FIELD_ENUM, AT(residual_block), .names = block_order_names, .help = "order inside a block"},
    {0},
};
#undef AT

static const struct json_field diffusion_fields[] = {
    {"T", FIELD_INT32, offsetof(struct diffusion_config, T), 1, MODEL_MAX_STEPS, .help = "diffusion steps"},
    {"beta", FIELD_DOUBLE_LIST, offsetof(struct diffusion_config, beta), 0, 1, .min_items = 2, .max_items = 2,
     .above_min = true, .help = "variance of the noise added by the first and the last step"},
    {0},
};

/* What is fixed of `data`; classes depend on the model. */
struct data_keys {
    int32_t n_sides;
    int32_t image_size[2]; // H, W
    enum { DATA_MODE_L = MODE_L, DATA_MODE_RGB = MODE_RGB } mode;
    const json_t *classes;
};
static const struct json_field data_fields[] = {
    {"image_size", FIELD_INT32_LIST, offsetof(struct data_keys, image_size), 1, MAX_SIDE, .min_items = 2,
     .max_items = 2, .count_offset = offsetof(struct data_keys, n_sides), .help = "height and width in pixels"},
    {"mode", FIELD_ENUM, offsetof(struct data_keys, mode), .names = mode_names, .help = "grey or colour"},
    {"classes", FIELD_JSON, offsetof(struct data_keys, classes), .nullable = true, .help = "name of each class"},
    {0},
};

const struct model_config model_config_default = {
    .in_channels = 3,
    .out_channels = 3,
    .model_channels = 128,
    .n_levels = 4,
    .channel_mult = {1, 2, 2, 2},
    .num_res_blocks = 2,
    .n_attention = 1,
    .attention_resolutions = {2},
    .dropout = 0.1f,
    .conv_resample = true,
    .num_heads = 4,
    .num_classes = 10,
    .residual_block = BLOCK_ORDER_FUSED,
};

const struct diffusion_config diffusion_config_default = {.T = 1000, .beta = {1e-4, 0.02}};

/* path.name[i] into field[JSON_PATH_BYTES]. */
static void item_path(char *field, const char *path, const char *name, int32_t i)
{
    char list[JSON_PATH_BYTES];
    json_path_item(field, json_path(list, path, name), (size_t)i);
}

/* ---- model ---- */

static int check_channels(const struct model_config *c, const char *path, struct error *err)
{
    char field[JSON_PATH_BYTES];
    if (c->in_channels == 2)
        return error_set(err, -EINVAL, json_path(field, path, "in_channels"), "must be 1 or 3, not 2");
    if (c->out_channels != c->in_channels)
        return error_set(err, -EINVAL, json_path(field, path, "out_channels"),
                         "must equal in_channels (%d), not %d: the network predicts the noise of its input",
                         c->in_channels, c->out_channels);
    if (c->model_channels % GROUPS)
        return error_set(err, -EINVAL, json_path(field, path, "model_channels"), "must be a multiple of %d, not %d",
                         GROUPS, c->model_channels);
    for (int32_t i = 0; i < c->n_levels; i++)
        if (c->channel_mult[i] * c->model_channels > MAX_CHANNELS) {
            item_path(field, path, "channel_mult", i);
            return error_set(err, -EINVAL, field, "%d times model_channels is above %d channels", c->channel_mult[i],
                             MAX_CHANNELS);
        }
    return 0;
}

static int check_attention(const struct model_config *c, const char *path, struct error *err)
{
    char field[JSON_PATH_BYTES];
    json_path(field, path, "num_heads");
    for (int32_t level = 0; level < c->n_levels; level++) {
        int32_t channels = c->channel_mult[level] * c->model_channels;
        bool attends = model_config_attends(c, level) || level == c->n_levels - 1; // the middle always does
        if (attends && channels % c->num_heads)
            return error_set(err, -EINVAL, field, "must divide the %d channels of level %d, not %d", channels, level,
                             c->num_heads);
    }
    return 0;
}

bool model_config_attends(const struct model_config *c, int32_t level)
{
    for (int32_t i = 0; i < c->n_attention; i++)
        if (c->attention_resolutions[i] == 1 << level)
            return true;
    return false;
}

int model_config_parse(const json_t *json, const char *path, struct model_config *ret_config, struct error *err)
{
    struct model_config c = model_config_default;
    int rc = json_fields_read(json, path, model_fields, &c, NULL, err);
    if (!rc)
        rc = check_channels(&c, path, err);
    if (!rc)
        rc = check_attention(&c, path, err);
    if (rc)
        return rc;
    for (int32_t i = c.n_levels; i < MODEL_MAX_LEVELS; i++)
        c.channel_mult[i] = 0;
    for (int32_t i = c.n_attention; i < MODEL_MAX_LEVELS; i++)
        c.attention_resolutions[i] = 0;
    *ret_config = c;
    return 0;
}

json_t *model_config_json(const struct model_config *c)
{
    return json_fields_write(model_fields, c);
}

json_t *model_config_schema(void)
{
    return json_fields_schema(model_fields, &model_config_default);
}

/* ---- diffusion ---- */

/* Sampling divides by sqrt(alpha_bar) and sqrt(1 - alpha_bar). */
static int check_schedule(const struct diffusion_config *c, const char *path, struct error *err)
{
    float *alpha_bar = malloc((size_t)c->T * sizeof(*alpha_bar));
    if (!alpha_bar)
        return error_set(err, -ENOMEM, path, "out of memory");
    schedule_alpha_bar(c, alpha_bar);
    bool strict = alpha_bar[0] < 1.0f;
    for (int32_t t = 1; t < c->T; t++)
        strict = strict && alpha_bar[t] < alpha_bar[t - 1];
    float last = alpha_bar[c->T - 1];
    free(alpha_bar);
    char field[JSON_PATH_BYTES];
    json_path(field, path, "beta");
    if (last < FLT_MIN)
        return error_set(err, -EINVAL, field, "is too large: nothing is left of the signal after %d steps", c->T);
    if (!strict)
        return error_set(err, -EINVAL, field, "is too small: the signal must shrink at each of the %d steps", c->T);
    return 0;
}

int diffusion_config_parse(const json_t *json, const char *path, struct diffusion_config *ret_config, struct error *err)
{
    struct diffusion_config c = diffusion_config_default;
    int rc = json_fields_read(json, path, diffusion_fields, &c, NULL, err);
    if (rc)
        return rc;
    char field[JSON_PATH_BYTES];
    if (c.beta[1] < c.beta[0])
        return error_set(err, -EINVAL, json_path(field, path, "beta"), "must not descend: [%g, %g]", c.beta[0],
                         c.beta[1]);
    rc = check_schedule(&c, path, err);
    if (!rc)
        *ret_config = c;
    return rc;
}

json_t *diffusion_config_json(const struct diffusion_config *c)
{
    return json_fields_write(diffusion_fields, c);
}

json_t *diffusion_config_schema(void)
{
    return json_fields_schema(diffusion_fields, &diffusion_config_default);
}

/* ---- data ---- */

static int check_sides(const struct data_keys *k, const char *path, const struct model_config *model, struct error *err)
{
    char field[JSON_PATH_BYTES];
    int32_t factor = 1 << (model->n_levels - 1);
    for (int i = 0; i < 2; i++)
        if (k->image_size[i] % factor) {
            item_path(field, path, "image_size", i);
            return error_set(err, -EINVAL, field, "must be a multiple of %d (%d levels), not %d", factor,
                             model->n_levels, k->image_size[i]);
        }
    if ((k->mode == DATA_MODE_L ? 1 : 3) != model->in_channels)
        return error_set(err, -EINVAL, json_path(field, path, "mode"), "must be \"%s\" for %d input channels",
                         model->in_channels == 1 ? "L" : "RGB", model->in_channels);
    return 0;
}

static int read_class(const json_t *json, const char *field, int32_t i, char (*classes)[MODEL_CLASS_NAME_BYTES],
                      struct error *err)
{
    const char *name = json_string_value(json);
    if (!name || !*name || strlen(name) >= MODEL_CLASS_NAME_BYTES)
        return error_set(err, -EINVAL, field, "must be a string of 1 to %d bytes", MODEL_CLASS_NAME_BYTES - 1);
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7F)
            return error_set(err, -EINVAL, field, "must not have control characters");
    for (int32_t j = 0; j < i; j++)
        if (!strcmp(classes[j], name))
            return error_set(err, -EINVAL, field, "has the name of class %d", j);
    memcpy(classes[i], name, strlen(name) + 1);
    return 0;
}

/* json NULL: "0", "1", ... */
static int read_classes(const json_t *json, const char *path, int32_t n, char (**ret_classes)[MODEL_CLASS_NAME_BYTES],
                        struct error *err)
{
    char field[JSON_PATH_BYTES];
    if (json && (!json_is_array(json) || json_array_size(json) != (size_t)n))
        return error_set(err, -EINVAL, json_path(field, path, "classes"), "must be a list of num_classes (%d) names",
                         n);
    char(*classes)[MODEL_CLASS_NAME_BYTES] = calloc((size_t)n, sizeof(*classes));
    if (!classes)
        return error_set(err, -ENOMEM, path, "out of memory");
    for (int32_t i = 0; i < n; i++) {
        if (!json) {
            snprintf(classes[i], sizeof(classes[i]), "%d", i);
            continue;
        }
        item_path(field, path, "classes", i);
        int rc = read_class(json_array_get(json, (size_t)i), field, i, classes, err);
        if (rc) {
            free(classes);
            return rc;
        }
    }
    *ret_classes = classes;
    return 0;
}

int data_config_parse(const json_t *json, const char *path, const struct model_config *model,
                      struct data_config *ret_config, struct error *err)
{
    struct data_keys k = {.image_size = {32, 32}, .mode = model->in_channels == 1 ? DATA_MODE_L : DATA_MODE_RGB};
    int rc = json_fields_read(json, path, data_fields, &k, NULL, err);
    if (!rc)
        rc = check_sides(&k, path, model, err);
    struct data_config c = {.height = k.image_size[0],
                            .width = k.image_size[1],
                            .channels = model->in_channels,
                            .n_classes = model->num_classes};
    if (!rc)
        rc = read_classes(k.classes, path, c.n_classes, &c.classes, err);
    if (!rc)
        *ret_config = c;
    return rc;
}

void data_config_done(struct data_config *c)
{
    free(c->classes);
    c->classes = NULL;
    c->n_classes = 0;
}

json_t *data_config_json(const struct data_config *c)
{
    json_t *classes = json_array();
    for (int32_t i = 0; classes && i < c->n_classes; i++)
        if (json_array_append_new(classes, json_string(c->classes[i]))) {
            json_decref(classes);
            return NULL;
        }
    return json_pack("{s[ii] ss so}", "image_size", c->height, c->width, "mode", c->channels == 1 ? "L" : "RGB",
                     "classes", classes);
}
