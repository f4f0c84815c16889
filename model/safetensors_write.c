/* safetensors_write.c: writing, and the number formats of weights; see safetensors.h. */
#include "model/safetensors.h"

#include "model/file.h"
#include "model/json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const safetensors_dtype_names[SAFETENSORS_DTYPE_COUNT + 1] = {
    "BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "U32", "I32", "F32", "U64", "I64", "F64", NULL};

size_t safetensors_dtype_bytes(enum safetensors_dtype dtype)
{
    static const uint8_t bytes[SAFETENSORS_DTYPE_COUNT] = {1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8};
    return bytes[dtype];
}

int64_t safetensor_elements(const struct safetensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

/* ---- number formats ---- */

static uint32_t float_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
}

static float bits_float(uint32_t bits)
{
    float v;
    memcpy(&v, &bits, sizeof(v));
    return v;
}

static float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    if (exponent == 31) // infinite, NaN
        return bits_float(sign | 0x7F800000 | fraction << 13);
    if (exponent == 0) // zero, subnormal
        return bits_float(sign | float_bits((float)fraction * 0x1p-24f));
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t f32_to_f16(float v)
{
    uint32_t bits = float_bits(v), magnitude = bits & 0x7FFFFFFF;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7F800000) // NaN, kept quiet
        return sign | 0x7E00;
    if (magnitude >= 0x477FF000) // 65520: half way to what would be the next exponent
        return sign | 0x7C00;
    if (magnitude < 0x38800000) // below 2^-14: a whole number of 2^-24, which the default rounding makes
        return sign | (uint16_t)lrintf(bits_float(magnitude) * 0x1p24f);
    uint32_t odd = magnitude >> 13 & 1;
    return sign | (uint16_t)((magnitude - (112u << 23) + 0xFFF + odd) >> 13);
}

static uint16_t f32_to_bf16(float v)
{
    uint32_t bits = float_bits(v);
    if ((bits & 0x7FFFFFFF) > 0x7F800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

int safetensor_to_f32(const struct safetensor *t, size_t first, size_t n, float *ret_values)
{
    const char *data = (const char *)t->data + first * safetensors_dtype_bytes(t->dtype);
    if (t->dtype == SAFETENSORS_F32) {
        memcpy(ret_values, data, n * sizeof(float));
        return 0;
    }
    if (t->dtype != SAFETENSORS_BF16 && t->dtype != SAFETENSORS_F16)
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, data + 2 * i, sizeof(half));
        ret_values[i] = t->dtype == SAFETENSORS_BF16 ? bits_float((uint32_t)half << 16) : f16_to_f32(half);
    }
    return 0;
}

int safetensor_from_f32(enum safetensors_dtype dtype, const float *values, size_t n, void *ret_data)
{
    if (dtype == SAFETENSORS_F32) {
        memcpy(ret_data, values, n * sizeof(float));
        return 0;
    }
    if (dtype != SAFETENSORS_BF16 && dtype != SAFETENSORS_F16)
        return -EINVAL;
    uint16_t infinity = dtype == SAFETENSORS_BF16 ? 0x7F80 : 0x7C00;
    bool overflow = false;
    for (size_t i = 0; i < n; i++) {
        uint16_t half = dtype == SAFETENSORS_BF16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
        overflow |= (half & 0x7FFF) == infinity && isfinite(values[i]);
        memcpy((char *)ret_data + 2 * i, &half, sizeof(half));
    }
    return overflow ? -ERANGE : 0;
}

/* ---- writing ---- */

/* Size in bytes, 0 with *ret_ok false where the shape is none. */
static uint64_t tensor_bytes(const struct safetensor *t, bool *ret_ok)
{
    uint64_t bytes = safetensors_dtype_bytes(t->dtype);
    *ret_ok = t->rank >= 0 && t->rank <= SAFETENSORS_MAX_RANK;
    for (int32_t i = 0; *ret_ok && i < t->rank; i++)
        *ret_ok = t->dim[i] >= 0 && !__builtin_mul_overflow(bytes, (uint64_t)t->dim[i], &bytes) && bytes <= INT64_MAX;
    return *ret_ok ? bytes : 0;
}

static json_t *describe_tensor(const struct safetensor *t, uint64_t begin, uint64_t end)
{
    json_t *shape = json_array();
    for (int32_t i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->dim[i]));
    return json_pack("{ss so s[II]}", "dtype", safetensors_dtype_names[t->dtype], "shape", shape, "data_offsets",
                     (json_int_t)begin, (json_int_t)end);
}

static int add_metadata(json_t *header, const struct safetensors_entry *metadata, size_t n, struct error *err)
{
    json_t *strings = json_object();
    for (size_t i = 0; i < n; i++)
        if (json_object_set_new(strings, metadata[i].key, json_string(metadata[i].value))) {
            json_decref(strings);
            return error_set(err, -EINVAL, NULL, "metadata is not UTF-8");
        }
    return json_object_set_new(header, "__metadata__", strings) ? error_set(err, -ENOMEM, NULL, "out of memory") : 0;
}

static int add_tensors(json_t *header, const struct safetensor *tensors, size_t n, struct error *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const struct safetensor *t = &tensors[i];
        bool ok;
        uint64_t bytes = tensor_bytes(t, &ok);
        size_t name_bytes = strlen(t->name);
        for (size_t c = 0; ok && c < name_bytes; c++)
            ok = t->name[c] >= ' ' && t->name[c] <= '~';
        if (!ok || name_bytes == 0 || name_bytes > SAFETENSORS_MAX_NAME || json_object_get(header, t->name) ||
            !strcmp(t->name, "__metadata__") || bytes > (uint64_t)INT64_MAX - at)
            return error_set(err, -EINVAL, t->name, "tensor \"%.100s\" cannot be written: its name or shape", t->name);
        if (json_object_set_new(header, t->name, describe_tensor(t, at, at + bytes)))
            return error_set(err, -ENOMEM, NULL, "out of memory");
        at += bytes;
    }
    return 0;
}

/* The file's first part: length, header, spaces up to a multiple of 8. */
static int build_head(const struct safetensor *tensors, size_t n, const struct safetensors_entry *metadata,
                      size_t n_metadata, char **ret_head, size_t *ret_n_head, struct error *err)
{
    json_t *header = json_object();
    int rc = header ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    if (!rc && n_metadata)
        rc = add_metadata(header, metadata, n_metadata, err);
    if (!rc)
        rc = add_tensors(header, tensors, n, err);
    if (!rc) {
        size_t length = json_dumpb(header, NULL, 0, JSON_COMPACT), padded = (length + 7) / 8 * 8;
        char *head = length > 0 && padded <= SAFETENSORS_MAX_HEADER ? malloc(8 + padded) : NULL;
        if (head) {
            for (int i = 0; i < 8; i++)
                head[i] = (char)((uint64_t)padded >> 8 * i);
            memset(head + 8, ' ', padded);
            json_dumpb(header, head + 8, length, JSON_COMPACT);
            *ret_head = head;
            *ret_n_head = 8 + padded;
        } else {
            rc = padded > SAFETENSORS_MAX_HEADER ? error_set(err, -EINVAL, NULL, "the header would be too long")
                                                 : error_set(err, -ENOMEM, NULL, "out of memory");
        }
    }
    json_decref(header);
    return rc;
}

int safetensors_write(int dir_fd, const char *path, const struct safetensor *tensors, size_t n,
                      const struct safetensors_entry *metadata, size_t n_metadata, struct error *err)
{
    char *head = NULL;
    size_t n_head = 0;
    int rc = build_head(tensors, n, metadata, n_metadata, &head, &n_head, err);
    if (rc)
        return rc;
    struct file_writer w;
    rc = file_writer_open(dir_fd, path, &w, err);
    if (!rc) {
        rc = file_writer_append(&w, head, n_head, err);
        for (size_t i = 0; !rc && i < n; i++) {
            bool ok;
            rc = file_writer_append(&w, tensors[i].data, (size_t)tensor_bytes(&tensors[i], &ok), err);
        }
        if (!rc)
            rc = file_writer_commit(&w, err);
        else
            file_writer_abort(&w);
    }
    free(head);
    return rc;
}
