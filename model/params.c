/* params.c: see params.h. */
#include "model/params.h"

#include "model/json.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char metadata_key[] = "ddimd";

int params_metadata(const struct safetensors *s, json_t **ret_json, struct error *err)
{
    const char *text = safetensors_metadata(s, metadata_key);
    if (!text)
        return error_set(err, -EINVAL, NULL, "not a model of ddimd: __metadata__ has no \"%s\"", metadata_key);
    return json_parse(text, strlen(text), ret_json, err);
}

/* ---- the tensors that a graph asks for ---- */

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

int params_check(const struct safetensors *s, const struct graph *g, struct error *err)
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

int params_read(const struct safetensors *s, const struct graph *g, float *values, struct error *err)
{
    float *slice = malloc(largest_slice(g) * sizeof(float));
    if (!slice)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    memset(values, 0, g->param_floats * sizeof(float));
    int rc = 0;
    for (int32_t i = 0; !rc && i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        const struct safetensor *t;
        rc = find_param(s, p, &t, err);
        if (!rc)
            rc = read_param(t, p, slice, values + p->offset, err);
    }
    free(slice);
    return rc;
}

/* ---- writing ---- */

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

int params_write(const char *path, const json_t *metadata, const struct graph *g, const float *values,
                 const char *dtype_name, struct error *err)
{
    enum safetensors_dtype dtype = SAFETENSORS_F32;
    int rc = parse_dtype(dtype_name, &dtype, err);
    if (rc)
        return rc;
    struct safetensor *tensors = calloc((size_t)g->n_params + 1, sizeof(*tensors));
    char *weights = tensors ? malloc(lay_out(g, dtype, NULL, tensors) + 1) : NULL;
    float *slice = malloc(largest_slice(g) * sizeof(float));
    char *text = json_dumps(metadata, JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (!tensors || !weights || !slice || !text)
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    else
        lay_out(g, dtype, weights, tensors);
    for (int32_t i = 0; !rc && i < g->n_params; i++)
        rc = write_param(&g->params[i], values + g->params[i].offset, dtype, slice, (char *)tensors[i].data, err);
    struct safetensors_entry entry = {metadata_key, text};
    if (!rc)
        rc = safetensors_write(AT_FDCWD, path, tensors, (size_t)g->n_params, &entry, 1, err);
    free(text);
    free(slice);
    free(weights);
    free(tensors);
    return rc;
}
