/* classifier.c: see classifier.h. */
#include "model/classifier.h"

#include "model/json.h"
#include "model/params.h"

#include <errno.h>
#include <stdio.h>

enum { GROUPS = 8, MAX_BLOCKS = 8, VERSION = 1 };
static const float norm_eps = 1e-5f;

#define AT(member) offsetof(struct classifier_config, member)
static const struct json_field classifier_fields[] = {
    {"in_channels", FIELD_INT32, AT(in_channels), 1, 3, .help = "channels of an image: 1 or 3"},
    {"channels", FIELD_INT32_LIST, AT(channels), GROUPS, 2048, .min_items = 1, .max_items = CLASSIFIER_MAX_LEVELS,
     .count_offset = AT(n_levels), .help = "width of each level, multiples of 8; the last one's are the features"},
    {"blocks", FIELD_INT32, AT(blocks), 1, MAX_BLOCKS, .help = "convolutions of each level"},
    {"dropout", FIELD_FLOAT, AT(dropout), 0, 0.9, .help = "probability of dropping a feature while training"},
    {"num_classes", FIELD_INT32, AT(num_classes), 2, MODEL_MAX_CLASSES, .help = "classes"},
    {0},
};
#undef AT

const struct classifier_config classifier_config_default = {
    .in_channels = 3,
    .n_levels = 3,
    .channels = {32, 64, 128},
    .blocks = 2,
    .dropout = 0.2f,
    .num_classes = 10,
};

int classifier_config_parse(const json_t *json, const char *path, struct classifier_config *ret_config,
                            struct error *err)
{
    char field[JSON_PATH_BYTES], list[JSON_PATH_BYTES];
    struct classifier_config c = classifier_config_default;
    int rc = json_fields_read(json, path, classifier_fields, &c, NULL, err);
    if (rc)
        return rc;
    if (c.in_channels == 2)
        return error_set(err, -EINVAL, json_path(field, path, "in_channels"), "must be 1 or 3, not 2");
    for (int32_t i = 0; i < c.n_levels; i++)
        if (c.channels[i] % GROUPS)
            return error_set(err, -EINVAL, json_path_item(field, json_path(list, path, "channels"), (size_t)i),
                             "must be a multiple of %d, not %d", GROUPS, c.channels[i]);
    *ret_config = c;
    return 0;
}

json_t *classifier_config_json(const struct classifier_config *c)
{
    return json_fields_write(classifier_fields, c);
}

int classifier_data_parse(const json_t *json, const char *path, const struct classifier_config *c,
                          struct data_config *ret_data, struct error *err)
{
    char field[JSON_PATH_BYTES];
    struct data_config data;
    /* what data_config_parse() looks at: channels, classes, and the number of halvings */
    const struct model_config as = {
        .in_channels = c->in_channels, .num_classes = c->num_classes, .n_levels = c->n_levels};
    int rc = data_config_parse(json, path, &as, &data, err);
    if (rc)
        return rc;
    int32_t unit = 1 << (c->n_levels - 1);
    if (data.height % unit || data.width % unit) {
        data_config_done(&data);
        return error_set(err, -EINVAL, json_path(field, path, "image_size"),
                         "must be multiples of %d: a classifier of %d levels halves them %d times", unit, c->n_levels,
                         c->n_levels - 1);
    }
    *ret_data = data;
    return 0;
}

/* ---- the network ---- */

static tensor_id param(struct graph *g, const char *name, int32_t level, int32_t block, const char *kind,
                       const int32_t dim[4], int32_t file_rank)
{
    char path[64];
    snprintf(path, sizeof path, "level%d.%s%d.%s", level, name, block, kind);
    return graph_param(g, path, dim[0], dim[1], dim[2], dim[3], file_rank);
}

static tensor_id record_block(struct graph *g, tensor_id x, int32_t level, int32_t block, int32_t from, int32_t to)
{
    const int32_t filter[4] = {to, 3, 3, from}, vector[4] = {1, 1, 1, to};
    tensor_id w = param(g, "conv", level, block, "weight", filter, 4);
    tensor_id b = param(g, "conv", level, block, "bias", vector, 1);
    tensor_id gamma = param(g, "norm", level, block, "weight", vector, 1);
    tensor_id beta = param(g, "norm", level, block, "bias", vector, 1);
    return graph_silu(g, graph_group_norm(g, graph_conv2d(g, x, w, b, 1), gamma, beta, GROUPS, norm_eps));
}

tensor_id classifier_record(struct graph *g, const struct classifier_config *c, tensor_id x, tensor_id key,
                            tensor_id *ret_features)
{
    int32_t from = c->in_channels, features = c->channels[c->n_levels - 1];
    if (x != TENSOR_NONE && g->tensors[x].dtype != g->compute)
        x = graph_cast(g, x, g->compute);
    for (int32_t level = 0; level < c->n_levels; level++) {
        if (level > 0)
            x = graph_avg_pool2x(g, x);
        for (int32_t block = 0; block < c->blocks; block++, from = c->channels[level])
            x = record_block(g, x, level, block, from, c->channels[level]);
    }
    x = graph_global_mean(g, x);
    *ret_features = graph_cast(g, x, DTYPE_F32);
    tensor_id w = graph_param(g, "fc.weight", c->num_classes, 1, 1, features, 2);
    tensor_id b = graph_param(g, "fc.bias", 1, 1, 1, c->num_classes, 1);
    return graph_cast(g, graph_linear(g, graph_dropout(g, x, key, c->dropout), w, b), DTYPE_F32);
}

/* ---- files ---- */

struct metadata {
    int32_t version;
    const json_t *classifier, *data, *training;
};

static const struct json_field metadata_fields[] = {
    {"version", FIELD_INT32, offsetof(struct metadata, version), VERSION, VERSION + 0.5, .required = true},
    {"classifier", FIELD_JSON, offsetof(struct metadata, classifier), .required = true},
    {"data", FIELD_JSON, offsetof(struct metadata, data), .required = true},
    {"training", FIELD_JSON, offsetof(struct metadata, training), .nullable = true},
    {0},
};

int classifier_file_parse(const json_t *metadata, struct classifier_file *ret_file, struct error *err)
{
    struct metadata m = {0};
    struct classifier_file f = {0};
    int rc = json_fields_read(metadata, "", metadata_fields, &m, NULL, err);
    if (!rc)
        rc = classifier_config_parse(m.classifier, "classifier", &f.classifier, err);
    if (!rc)
        rc = classifier_data_parse(m.data, "data", &f.classifier, &f.data, err);
    if (rc)
        return rc;
    f.training = json_incref((json_t *)m.training);
    *ret_file = f;
    return 0;
}

void classifier_file_done(struct classifier_file *f)
{
    data_config_done(&f->data);
    json_decref(f->training);
    *f = (struct classifier_file){0};
}

int classifier_write(const char *path, const struct classifier_file *f, const struct graph *g, const float *values,
                     const char *dtype, struct error *err)
{
    json_t *json = json_pack("{si so so}", "version", VERSION, "classifier", classifier_config_json(&f->classifier),
                             "data", data_config_json(&f->data));
    if (json && f->training && json_object_set(json, "training", f->training)) {
        json_decref(json);
        json = NULL;
    }
    if (!json)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = params_write(path, json, g, values, dtype, err);
    json_decref(json);
    return rc;
}
