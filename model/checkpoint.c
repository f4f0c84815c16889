/* checkpoint.c: see checkpoint.h. */
#include "model/checkpoint.h"

#include "model/file.h"
#include "model/json.h"
#include "model/params.h"
#include "model/safetensors.h"
#include "model/unet.h"

#include <assert.h>
#include <errno.h>

enum { METADATA_VERSION = 1 };

static_assert((int)CHECKPOINT_DIGEST_CHARS == (int)FILE_SHA256_CHARS, "a digest is a SHA-256");

/* ---- metadata ---- */

struct metadata {
    int32_t version;
    const json_t *model, *diffusion, *data, *training;
};

static const struct json_field metadata_fields[] = {
    {"version", FIELD_INT32, offsetof(struct metadata, version), .required = true},
    {"model", FIELD_JSON, offsetof(struct metadata, model), .required = true},
    {"diffusion", FIELD_JSON, offsetof(struct metadata, diffusion), .required = true},
    {"data", FIELD_JSON, offsetof(struct metadata, data), .required = true},
    {"training", FIELD_JSON, offsetof(struct metadata, training), .nullable = true},
    {0},
};

/* The version first: what a later one has besides is not an unknown key. */
static int check_version(const json_t *json, struct error *err)
{
    const json_t *version = json_object_get(json, "version");
    if (!json_is_object(json) || !json_is_integer(version))
        return error_set(err, -EINVAL, "version", "the model file's metadata has no version");
    if (json_integer_value(version) != METADATA_VERSION)
        return error_set(err, -EINVAL, "version",
                         "the model file has version %lld of its metadata; this program reads %d",
                         (long long)json_integer_value(version), METADATA_VERSION);
    return 0;
}

static int parse_metadata(const json_t *json, struct checkpoint *c, struct error *err)
{
    struct metadata m = {0};
    int rc = check_version(json, err);
    if (!rc)
        rc = json_fields_read(json, "", metadata_fields, &m, NULL, err);
    if (!rc)
        rc = model_config_parse(m.model, "model", &c->model, err);
    if (!rc)
        rc = diffusion_config_parse(m.diffusion, "diffusion", &c->diffusion, err);
    if (!rc)
        rc = data_config_parse(m.data, "data", &c->model, &c->data, err);
    if (!rc)
        c->training = json_incref((json_t *)m.training);
    return rc;
}

static int read_metadata(struct checkpoint *c, struct error *err)
{
    json_t *json = NULL;
    int rc = params_metadata(c->tensors, &json, err);
    if (!rc)
        rc = parse_metadata(json, c, err);
    json_decref(json);
    return rc;
}

/* A graph of the network, for its parameter table. */
static int record(const struct checkpoint *c, struct graph **ret_graph, struct error *err)
{
    struct graph *g = graph_create(1, DTYPE_F32, false);
    if (!g)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    tensor_id x = graph_input(g, DTYPE_F32, c->data.height, c->data.width, c->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    unet_record(g, &c->model, x, t, y, TENSOR_NONE);
    int rc = graph_error(g, err);
    if (rc)
        graph_free(g);
    else
        *ret_graph = g;
    return rc;
}

/* ---- reading ---- */

int checkpoint_open(int dir_fd, const char *name, struct checkpoint *ret_checkpoint, struct error *err)
{
    struct checkpoint c = {0};
    struct graph *g = NULL;
    int rc = safetensors_open(dir_fd, name, &c.tensors, err);
    if (!rc)
        rc = read_metadata(&c, err);
    if (!rc)
        rc = record(&c, &g, err);
    if (!rc)
        rc = params_check(c.tensors, g, err);
    if (!rc)
        rc = safetensors_load(c.tensors, err);
    graph_free(g);
    if (rc) {
        checkpoint_close(&c);
        return rc;
    }
    safetensors_digest(c.tensors, c.digest);
    *ret_checkpoint = c;
    return 0;
}

void checkpoint_close(struct checkpoint *c)
{
    safetensors_close(c->tensors);
    json_decref(c->training);
    data_config_done(&c->data);
    *c = (struct checkpoint){0};
}

int checkpoint_read_params(const struct checkpoint *c, const struct graph *g, float *values, struct error *err)
{
    return params_read(c->tensors, g, values, err);
}

/* ---- writing ---- */

static json_t *build_metadata(const struct model_config *model, const struct diffusion_config *diffusion,
                              const struct data_config *data, const json_t *training)
{
    json_t *json = json_pack("{si so so so}", "version", METADATA_VERSION, "model", model_config_json(model),
                             "diffusion", diffusion_config_json(diffusion), "data", data_config_json(data));
    if (json && training && json_object_set(json, "training", (json_t *)training)) {
        json_decref(json);
        json = NULL;
    }
    return json;
}

int checkpoint_write(const char *path, const struct model_config *model, const struct diffusion_config *diffusion,
                     const struct data_config *data, const json_t *training, const struct graph *g, const float *values,
                     const char *dtype, struct error *err)
{
    json_t *metadata = build_metadata(model, diffusion, data, training);
    if (!metadata)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = params_write(path, metadata, g, values, dtype, err);
    json_decref(metadata);
    return rc;
}
