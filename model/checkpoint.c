/* checkpoint.c: see checkpoint.h. */
#include "model/checkpoint.h"

#include "model/file.h"
#include "model/json.h"
#include "model/safetensors.h"
#include "model/unet.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char metadata_key[] = "ddimd";
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
    const char *text = safetensors_metadata(c->tensors, metadata_key);
    if (!text)
        return error_set(err, -EINVAL, NULL, "not a model of ddimd: __metadata__ has no \"%s\"", metadata_key);
    json_t *json = NULL;
    int rc = json_parse(text, strlen(text), &json, err);
    if (!rc)
        rc = parse_metadata(json, c, err);
    json_decref(json);
    return rc;
}

/* ---- the tensors that a configuration asks for ---- */

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

/* The parameter as a file has it: [K, C, R, S], [K, C] or [C]; name and shape, dtype F32. */
static struct safetensor param_tensor(const struct param *p)
{
    struct safetensor t = {.name = p->name, .dtype = SAFETENSORS_F32, .rank = p->file_rank};
    const int32_t *d = p->dim;
    if (p->file_rank == 4)
        memcpy(t.dim, (int64_t[]){d[0], d[3], d[1], d[2]}, 4 * sizeof(int64_t));
    else if (p->file_rank == 2)
        memcpy(t.dim, (int64_t[]){d[0], d[3]}, 2 * sizeof(int64_t));
    else
        t.dim[0] = d[3];
    return t;
}

static int error_param(const struct param *p, const char *what, struct error *err)
{
    return error_set(err, -EINVAL, p->name, "tensor \"%s\" %s", p->name, what);
}

/* The file's tensor of a parameter, its shape and dtype checked. */
static int find_param(const struct safetensors *s, const struct param *p, const struct safetensor **ret_tensor,
                      struct error *err)
{
    const struct safetensor *t = safetensors_find(s, p->name);
    if (!t)
        return error_param(p, "is missing", err);
    struct safetensor want = param_tensor(p);
    if (t->rank != want.rank || memcmp(t->dim, want.dim, sizeof(want.dim)))
        return error_param(p, "has not the shape that the configuration asks for", err);
    if (t->dtype != SAFETENSORS_F32 && t->dtype != SAFETENSORS_BF16 && t->dtype != SAFETENSORS_F16)
        return error_param(p, "is neither F32 nor BF16 nor F16", err);
    *ret_tensor = t;
    return 0;
}

static const struct param *param_named(const struct graph *g, const char *name)
{
    for (int32_t i = 0; i < g->n_params; i++)
        if (!strcmp(g->params[i].name, name))
            return &g->params[i];
    return NULL;
}

static int check_tensors(const struct safetensors *s, const struct graph *g, struct error *err)
{
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct safetensor *t;
        int rc = find_param(s, &g->params[i], &t, err);
        if (rc)
            return rc;
    }
    if (safetensors_count(s) == (size_t)g->n_params)
        return 0;
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const char *name = safetensors_at(s, i)->name;
        if (!param_named(g, name))
            return error_set(err, -EINVAL, name, "tensor \"%.96s\" is no part of the configured network", name);
    }
    return 0;
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
        rc = check_tensors(c.tensors, g, err);
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

/* [C, R * S] of one k to [R * S, C], or back. */
static void transpose(const float *from, size_t rows, size_t columns, float *ret_to)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            ret_to[j * rows + i] = from[i * columns + j];
}

static bool all_finite(const float *v, size_t n)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= isfinite(v[i]) != 0;
    return finite;
}

/* slice: [C * R * S] of work space. */
static int read_param(const struct safetensor *t, const struct param *p, float *slice, float *ret_values,
                      struct error *err)
{
    size_t c = (size_t)p->dim[3], rs = (size_t)p->dim[1] * (size_t)p->dim[2], n = c * rs;
    for (size_t k = 0; k < (size_t)p->dim[0]; k++) {
        float *to = ret_values + k * n;
        int rc = safetensor_to_f32(t, k * n, n, rs == 1 ? to : slice);
        assert(rc == 0);
        if (rs != 1)
            transpose(slice, c, rs, to);
        if (!all_finite(to, n))
            return error_param(p, "has a value that is not a finite number", err);
    }
    return 0;
}

static size_t largest_slice(const struct graph *g)
{
    size_t largest = 1;
    for (int32_t i = 0; i < g->n_params; i++) {
        const int32_t *d = g->params[i].dim;
        size_t n = (size_t)d[1] * (size_t)d[2] * (size_t)d[3];
        largest = n > largest ? n : largest;
    }
    return largest;
}

int checkpoint_read_params(const struct checkpoint *c, const struct graph *g, float *values, struct error *err)
{
    float *slice = malloc(largest_slice(g) * sizeof(float));
    if (!slice)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    memset(values, 0, g->param_floats * sizeof(float));
    int rc = 0;
    for (int32_t i = 0; !rc && i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        const struct safetensor *t;
        rc = find_param(c->tensors, p, &t, err);
        if (!rc)
            rc = read_param(t, p, slice, values + p->offset, err);
    }
    free(slice);
    return rc;
}

/* ---- writing ---- */

static char *build_metadata(const struct model_config *model, const struct diffusion_config *diffusion,
                            const struct data_config *data, const json_t *training)
{
    json_t *json = json_pack("{si so so so}", "version", METADATA_VERSION, "model", model_config_json(model),
                             "diffusion", diffusion_config_json(diffusion), "data", data_config_json(data));
    if (json && training && json_object_set(json, "training", (json_t *)training)) {
        json_decref(json);
        json = NULL;
    }
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(json);
    return text;
}

static int write_param(const struct param *p, const float *values, enum safetensors_dtype dtype, float *slice,
                       char *ret_data, struct error *err)
{
    size_t c = (size_t)p->dim[3], rs = (size_t)p->dim[1] * (size_t)p->dim[2], n = c * rs;
    for (size_t k = 0; k < (size_t)p->dim[0]; k++) {
        const float *from = values + k * n;
        if (rs != 1)
            transpose(from, rs, c, slice);
        int rc =
            safetensor_from_f32(dtype, rs == 1 ? from : slice, n, ret_data + k * n * safetensors_dtype_bytes(dtype));
        if (rc)
            return error_set(err, rc, p->name, "tensor \"%s\" has a value that does not fit %s", p->name,
                             safetensors_dtype_names[dtype]);
    }
    return 0;
}

/* Describes g's parameters as tensors in `data` (NULL: sizes only). Returns the bytes of all. */
static size_t lay_out(const struct graph *g, enum safetensors_dtype dtype, char *data, struct safetensor *ret_tensors)
{
    size_t at = 0;
    for (int32_t i = 0; i < g->n_params; i++) {
        ret_tensors[i] = param_tensor(&g->params[i]);
        ret_tensors[i].dtype = dtype;
        ret_tensors[i].data = data ? data + at : NULL;
        at += (size_t)safetensor_elements(&ret_tensors[i]) * safetensors_dtype_bytes(dtype);
    }
    return at;
}

static int parse_dtype(const char *name, enum safetensors_dtype *ret_dtype, struct error *err)
{
    static const enum safetensors_dtype allowed[] = {SAFETENSORS_F32, SAFETENSORS_BF16, SAFETENSORS_F16};
    for (size_t i = 0; i < sizeof(allowed) / sizeof(*allowed); i++)
        if (!strcmp(name, safetensors_dtype_names[allowed[i]])) {
            *ret_dtype = allowed[i];
            return 0;
        }
    return json_error_choice(err, "dtype", name, (const char *const[]){"F32", "BF16", "F16", NULL});
}

int checkpoint_write(const char *path, const struct model_config *model, const struct diffusion_config *diffusion,
                     const struct data_config *data, const json_t *training, const struct graph *g, const float *values,
                     const char *dtype_name, struct error *err)
{
    enum safetensors_dtype dtype = SAFETENSORS_F32;
    int rc = parse_dtype(dtype_name, &dtype, err);
    if (rc)
        return rc;
    struct safetensor *tensors = calloc((size_t)g->n_params + 1, sizeof(*tensors));
    char *weights = tensors ? malloc(lay_out(g, dtype, NULL, tensors) + 1) : NULL;
    float *slice = malloc(largest_slice(g) * sizeof(float));
    char *metadata = build_metadata(model, diffusion, data, training);
    if (!tensors || !weights || !slice || !metadata)
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    else
        lay_out(g, dtype, weights, tensors);
    for (int32_t i = 0; !rc && i < g->n_params; i++)
        rc = write_param(&g->params[i], values + g->params[i].offset, dtype, slice, (char *)tensors[i].data, err);
    struct safetensors_entry entry = {metadata_key, metadata};
    if (!rc)
        rc = safetensors_write(AT_FDCWD, path, tensors, (size_t)g->n_params, &entry, 1, err);
    free(metadata);
    free(slice);
    free(weights);
    free(tensors);
    return rc;
}
