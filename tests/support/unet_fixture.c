/* unet_fixture.c: see unet_fixture.h, and make_unet.py for how weights and digests are made. */
#include "tests/support/unet_fixture.h"

#include "kernels/philox.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void unet_fixture_open(const char *folder, const char *name, struct unet_fixture *ret_fixture)
{
    struct error err = {0};
    struct unet_fixture f = {0};
    char path[512];
    snprintf(path, sizeof(path), "%s/%s.safetensors", folder, name);
    if (safetensors_open(AT_FDCWD, path, &f.file, &err) < 0 || safetensors_load(f.file, &err) < 0)
        fail_msg("%s: %s", path, err.message);
    json_t *model = unet_fixture_json(&f, "model"), *size = unet_fixture_json(&f, "image_size");
    if (model_config_parse(model, "model", &f.model, &err) < 0)
        fail_msg("%s: %s: %s", path, err.field, err.message);
    f.height = (int32_t)json_integer_value(json_array_get(size, 0));
    f.width = (int32_t)json_integer_value(json_array_get(size, 1));
    f.seed = unet_fixture_number(&f, "seed");
    json_decref(model);
    json_decref(size);
    *ret_fixture = f;
}

void unet_fixture_close(struct unet_fixture *f)
{
    safetensors_close(f->file);
}

json_t *unet_fixture_json(const struct unet_fixture *f, const char *key)
{
    const char *text = safetensors_metadata(f->file, key);
    assert_non_null(text);
    json_t *json = json_loads(text, 0, NULL);
    assert_non_null(json);
    return json;
}

uint64_t unet_fixture_number(const struct unet_fixture *f, const char *key)
{
    const char *text = safetensors_metadata(f->file, key);
    assert_non_null(text);
    return strtoull(text, NULL, 10);
}

static const void *tensor_data(const struct unet_fixture *f, const char *name, enum safetensors_dtype dtype,
                               size_t *ret_elements)
{
    const struct safetensor *t = safetensors_find(f->file, name);
    if (!t || t->dtype != dtype || (uintptr_t)t->data % 4 != 0)
        fail_msg("%s: missing, of another dtype, or not aligned", name);
    *ret_elements = (size_t)safetensor_elements(t);
    return t->data;
}

const float *unet_fixture_f32(const struct unet_fixture *f, const char *name, size_t *ret_elements)
{
    return tensor_data(f, name, SAFETENSORS_F32, ret_elements);
}

const int32_t *unet_fixture_i32(const struct unet_fixture *f, const char *name, size_t *ret_elements)
{
    return tensor_data(f, name, SAFETENSORS_I32, ret_elements);
}

static size_t param_elements(const struct param *p)
{
    return (size_t)p->dim[0] * p->dim[1] * p->dim[2] * p->dim[3];
}

float *unet_fixture_weights(const struct graph *g, uint64_t seed)
{
    float *values = calloc(g->param_floats, sizeof(*values));
    assert_non_null(values);
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        size_t n = param_elements(p), length = strlen(p->name);
        bool gamma = p->file_rank == 1 && strcmp(p->name + length - 7, ".weight") == 0;
        float scale = p->file_rank == 1 ? 0.25f : 1.0f / sqrtf((float)(n / (size_t)p->dim[0]));
        float *v = values + p->offset;
        philox_normal(v, n, seed, (uint64_t)i, 0);
        for (size_t k = 0; k < n; k++)
            v[k] = v[k] * scale + (gamma ? 1.0f : 0.0f);
    }
    return values;
}

struct digest_error digest_compare(const struct graph *g, int32_t i, const float *values, uint64_t seed,
                                   const float *norm, const float *projection)
{
    size_t n = param_elements(&g->params[i]);
    const float *v = values + g->params[i].offset;
    float *z = malloc(n * sizeof(*z));
    assert_non_null(z);
    double sum = 0;
    for (int k = 0; k < DIGEST_PROJECTIONS; k++) {
        double product = 0;
        philox_normal(z, n, seed, (uint64_t)i, (uint32_t)(1 + k));
        for (size_t j = 0; j < n; j++)
            product += (double)v[j] * z[j];
        double d = product - projection[i * DIGEST_PROJECTIONS + k];
        sum += d * d;
    }
    free(z);
    return (struct digest_error){sqrt(sum / DIGEST_PROJECTIONS), norm[i]};
}
