/* op_run.c: see op_run.h. */
#include "tests/support/op_run.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- shapes ---- */

struct shape_writer {
    struct op_shape *s;
    int32_t n;
    enum dtype compute;
};

static struct op_tensor tensor(const struct shape_writer *w, enum op_kind kind, int32_t n, int32_t h, int32_t width,
                               int32_t c)
{
    enum dtype dtype = kind == OP_KIND_VALUE ? w->compute : kind == OP_KIND_I32 ? DTYPE_I32 : DTYPE_F32;
    bool per_image = kind == OP_KIND_VALUE || kind == OP_KIND_F32 || kind == OP_KIND_I32;
    return (struct op_tensor){kind, {n, h, width, c}, dtype, per_image};
}

static void in(struct shape_writer *w, enum op_kind kind, int32_t n, int32_t h, int32_t width, int32_t c)
{
    assert(w->s->n_in < OP_MAX_IN);
    w->s->in[w->s->n_in++] = tensor(w, kind, n, h, width, c);
}

static void out(struct shape_writer *w, enum op_kind kind, int32_t n, int32_t h, int32_t width, int32_t c)
{
    assert(w->s->n_out < OP_MAX_OUT);
    w->s->out[w->s->n_out++] = tensor(w, kind, n, h, width, c);
}

/* A value of the batch, or none. */
static void in_value(struct shape_writer *w, bool exists, int32_t h, int32_t width, int32_t c)
{
    in(w, exists ? OP_KIND_VALUE : OP_KIND_NONE, w->n, h, width, c);
}

static void out_value(struct shape_writer *w, bool exists, int32_t h, int32_t width, int32_t c)
{
    out(w, exists ? OP_KIND_VALUE : OP_KIND_NONE, w->n, h, width, c);
}

/* Outputs along an axis of n for a window of r. */
static int32_t windows(const struct op_case *c, int32_t n, int32_t r)
{
    return c->valid ? (n - r) / c->stride + 1 : (n + c->stride - 1) / c->stride;
}

static void conv_shape(struct shape_writer *w, const struct op_case *c)
{
    int32_t scale = c->upsample ? 2 : 1, columns = c->s ? c->s : c->r, h = windows(c, c->h * scale, c->r),
            width = windows(c, c->w * scale, columns);
    if (c->op == OP_CONV2D) {
        in_value(w, true, c->h, c->w, c->c);
        in(w, OP_KIND_PARAM, c->k, c->r, columns, c->c);
        in(w, c->bias ? OP_KIND_PARAM : OP_KIND_NONE, 1, 1, 1, c->k);
        in_value(w, c->residual, h, width, c->k);
        out_value(w, true, h, width, c->k);
    } else if (c->op == OP_CONV2D_BACKWARD_DATA) {
        in_value(w, true, h, width, c->k);
        in(w, OP_KIND_PARAM, c->k, c->r, columns, c->c);
        in_value(w, c->more, c->h, c->w, c->c);
        out_value(w, true, c->h, c->w, c->c);
    } else {
        in_value(w, true, c->h, c->w, c->c);
        in_value(w, true, h, width, c->k);
        out(w, OP_KIND_GRADIENT, c->k, c->r, columns, c->c);
        out(w, c->bias ? OP_KIND_GRADIENT : OP_KIND_NONE, 1, 1, 1, c->k);
    }
}

static void linear_shape(struct shape_writer *w, const struct op_case *c)
{
    if (c->op == OP_LINEAR_BACKWARD_DATA)
        in_value(w, c->more, 1, 1, c->c);
    else
        in_value(w, true, 1, 1, c->c);
    for (int32_t i = 0; i < c->terms; i++) {
        int32_t k = c->k + 3 * i;
        bool bias = c->bias && i != 1; // the second has none
        if (c->op == OP_LINEAR) {
            in(w, OP_KIND_PARAM, k, 1, 1, c->c);
            in(w, bias ? OP_KIND_PARAM : OP_KIND_NONE, 1, 1, 1, k);
            out_value(w, true, 1, 1, k);
        } else if (c->op == OP_LINEAR_BACKWARD_DATA) {
            in_value(w, true, 1, 1, k);
            in(w, OP_KIND_PARAM, k, 1, 1, c->c);
        } else {
            in_value(w, true, 1, 1, k);
            out(w, OP_KIND_GRADIENT, k, 1, 1, c->c);
            out(w, bias ? OP_KIND_GRADIENT : OP_KIND_NONE, 1, 1, 1, k);
        }
    }
    if (c->op == OP_LINEAR_BACKWARD_DATA)
        out_value(w, true, 1, 1, c->c);
}

static void group_norm_shape(struct shape_writer *w, const struct op_case *c)
{
    in_value(w, true, c->h, c->w, c->c);
    in(w, OP_KIND_PARAM, 1, 1, 1, c->c);
    in(w, OP_KIND_PARAM, 1, 1, 1, c->c);
    in_value(w, c->pre, 1, 1, c->c);
    in_value(w, c->post, 1, 1, c->c);
    if (c->op == OP_GROUP_NORM) {
        out_value(w, true, c->h, c->w, c->c);
        out(w, c->stats ? OP_KIND_F32 : OP_KIND_NONE, w->n, 1, 1, c->groups);
        out(w, c->stats ? OP_KIND_F32 : OP_KIND_NONE, w->n, 1, 1, c->groups);
        return;
    }
    in(w, OP_KIND_F32, w->n, 1, 1, c->groups);
    in(w, OP_KIND_F32, w->n, 1, 1, c->groups);
    in_value(w, true, c->h, c->w, c->c);
    in_value(w, c->more, c->h, c->w, c->c);
    out_value(w, true, c->h, c->w, c->c);
    out(w, OP_KIND_GRADIENT, 1, 1, 1, c->c);
    out(w, OP_KIND_GRADIENT, 1, 1, 1, c->c);
    out_value(w, c->pre, 1, 1, c->c);
    out_value(w, c->post, 1, 1, c->c);
}

static void attention_shape(struct shape_writer *w, const struct op_case *c)
{
    in_value(w, true, c->h, c->w, 3 * c->c);
    if (c->op == OP_ATTENTION) {
        out_value(w, true, c->h, c->w, c->c);
        out(w, c->stats ? OP_KIND_F32 : OP_KIND_NONE, w->n, 1, c->h * c->w, c->heads);
        return;
    }
    in_value(w, true, c->h, c->w, c->c);
    in(w, OP_KIND_F32, w->n, 1, c->h * c->w, c->heads);
    in_value(w, true, c->h, c->w, c->c);
    out_value(w, true, c->h, c->w, 3 * c->c);
}

static void embedding_shape(struct shape_writer *w, const struct op_case *c)
{
    if (c->op == OP_EMBEDDING)
        in(w, OP_KIND_PARAM, c->k, 1, 1, c->c);
    if (c->op == OP_TIMESTEP_EMBEDDING)
        in(w, OP_KIND_F32, w->n, 1, 1, 1);
    else
        in(w, OP_KIND_I32, w->n, 1, 1, 1);
    if (c->op == OP_EMBEDDING_BACKWARD) {
        in_value(w, true, 1, 1, c->c);
        out(w, OP_KIND_GRADIENT, c->k, 1, 1, c->c);
    } else {
        out_value(w, true, 1, 1, c->c);
    }
}

static void mse_shape(struct shape_writer *w, const struct op_case *c)
{
    in_value(w, true, c->h, c->w, c->c);
    in_value(w, true, c->h, c->w, c->c);
    if (c->op == OP_MSE_BACKWARD) {
        in(w, OP_KIND_F32, w->n, 1, 1, 1);
        out_value(w, true, c->h, c->w, c->c);
    } else {
        out(w, OP_KIND_F32, w->n, 1, 1, 1);
    }
}

static void pool_shape(struct shape_writer *w, const struct op_case *c)
{
    bool back = c->op == OP_GLOBAL_MEAN_BACKWARD;
    in_value(w, true, back ? 1 : c->h, back ? 1 : c->w, c->c);
    if (c->op == OP_POOL)
        out_value(w, true, windows(c, c->h, c->r), windows(c, c->w, c->r), c->c);
    else
        out_value(w, true, back ? c->h : 1, back ? c->w : 1, c->c);
}

static void cross_entropy_shape(struct shape_writer *w, const struct op_case *c)
{
    in(w, OP_KIND_F32, w->n, 1, 1, c->c);
    in(w, OP_KIND_I32, w->n, 1, 1, 1);
    if (c->op == OP_CROSS_ENTROPY_BACKWARD)
        in(w, OP_KIND_F32, w->n, 1, 1, 1);
    out(w, OP_KIND_F32, w->n, 1, 1, c->op == OP_CROSS_ENTROPY ? 1 : c->c);
}

/* Operations of one or two values and a result. */
static void pixel_shape(struct shape_writer *w, const struct op_case *c)
{
    bool halves = c->op == OP_UPSAMPLE2X_BACKWARD || c->op == OP_AVG_POOL2X;
    bool doubles = c->op == OP_UPSAMPLE2X || c->op == OP_AVG_POOL2X_BACKWARD;
    int32_t h = c->h, width = c->w;
    if (c->op == OP_CAST && !c->stats)
        in(w, OP_KIND_F32, w->n, h, width, c->c);
    else
        in_value(w, true,
                 halves && c->op != OP_AVG_POOL2X  ? 2 * h
                 : c->op == OP_AVG_POOL2X_BACKWARD ? h / 2
                                                   : h,
                 halves && c->op != OP_AVG_POOL2X  ? 2 * width
                 : c->op == OP_AVG_POOL2X_BACKWARD ? width / 2
                                                   : width,
                 c->c);
    const struct op_tensor *x = &w->s->in[0];
    h = doubles ? 2 * x->dim[1] : halves ? x->dim[1] / 2 : x->dim[1];
    width = doubles ? 2 * x->dim[2] : halves ? x->dim[2] / 2 : x->dim[2];
    if (c->op == OP_SILU_BACKWARD || c->op == OP_ADD)
        in_value(w, true, c->h, c->w, c->c);
    if (c->op == OP_CONCAT)
        in_value(w, true, c->h, c->w, c->k);
    if (c->op == OP_ADD_CHANNEL)
        in_value(w, true, 1, 1, c->c);
    if (c->op == OP_DROPOUT || c->op == OP_DROPOUT_BACKWARD)
        in(w, OP_KIND_I32, w->n, 1, 1, 4);
    if (c->op == OP_ADD_CHANNEL_BACKWARD)
        out_value(w, true, 1, 1, c->c);
    else if (c->op == OP_CAST && c->stats)
        out(w, OP_KIND_F32, w->n, h, width, c->c);
    else
        out_value(w, true, h, width, c->op == OP_CONCAT ? c->c + c->k : c->op == OP_SLICE ? c->c - c->k : c->c);
}

void op_case_shape(const struct op_case *c, int32_t n, enum dtype compute, struct op_shape *ret_shape)
{
    struct shape_writer w = {ret_shape, n, compute};
    *ret_shape = (struct op_shape){0};
    ret_shape->attr = (struct node_attr){.stride = c->stride,
                                         .valid = c->valid,
                                         .window = c->op == OP_POOL ? c->r : 0,
                                         .max = c->max,
                                         .upsample2x = c->upsample,
                                         .groups = c->groups,
                                         .eps = 1e-5f,
                                         .silu = c->silu,
                                         .heads = c->heads,
                                         .channel = c->op == OP_SLICE ? c->k : 0,
                                         .rate = c->rate,
                                         .stream = 7};
    switch (c->op) {
    case OP_CONV2D:
    case OP_CONV2D_BACKWARD_DATA:
    case OP_CONV2D_BACKWARD_WEIGHTS:
        conv_shape(&w, c);
        break;
    case OP_LINEAR:
    case OP_LINEAR_BACKWARD_DATA:
    case OP_LINEAR_BACKWARD_WEIGHTS:
        linear_shape(&w, c);
        break;
    case OP_GROUP_NORM:
    case OP_GROUP_NORM_BACKWARD:
        group_norm_shape(&w, c);
        break;
    case OP_ATTENTION:
    case OP_ATTENTION_BACKWARD:
        attention_shape(&w, c);
        break;
    case OP_EMBEDDING:
    case OP_EMBEDDING_BACKWARD:
    case OP_TIMESTEP_EMBEDDING:
        embedding_shape(&w, c);
        break;
    case OP_MSE:
    case OP_MSE_BACKWARD:
        mse_shape(&w, c);
        break;
    case OP_POOL:
    case OP_GLOBAL_MEAN:
    case OP_GLOBAL_MEAN_BACKWARD:
        pool_shape(&w, c);
        break;
    case OP_CROSS_ENTROPY:
    case OP_CROSS_ENTROPY_BACKWARD:
        cross_entropy_shape(&w, c);
        break;
    default:
        pixel_shape(&w, c);
    }
}

size_t op_tensor_elements(const struct op_tensor *t)
{
    return (size_t)t->dim[0] * (size_t)t->dim[1] * (size_t)t->dim[2] * (size_t)t->dim[3];
}

/* ---- values ---- */

static uint32_t hash(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t x = a * 0x9E3779B1u ^ b * 0x85EBCA77u ^ c * 0xC2B2AE3Du;
    for (int i = 0; i < 3; i++) {
        x ^= x >> 15;
        x *= 0x2C1B3C6Du;
    }
    return x ^ x >> 14;
}

void op_case_values(const struct op_case *c, const struct op_shape *s, int i, int32_t first_image, void *ret_values)
{
    const struct op_tensor *t = &s->in[i];
    size_t images = t->per_image ? (size_t)t->dim[0] : 1, elements = op_tensor_elements(t) / images;
    float scale = t->kind == OP_KIND_PARAM && t->dim[1] * t->dim[2] * t->dim[3] > 1 && t->dim[0] > 1 ? 0.125f : 1.0f;
    for (size_t image = 0; image < images; image++)
        for (size_t e = 0; e < elements; e++) {
            uint32_t r = hash((uint32_t)e, (uint32_t)i, (uint32_t)image + (t->per_image ? (uint32_t)first_image : 0));
            size_t at = image * elements + e;
            if (t->kind == OP_KIND_I32)
                ((int32_t *)ret_values)[at] = (int32_t)(c->k ? r % (uint32_t)c->k : r % 1000);
            else
                ((float *)ret_values)[at] = scale * ((float)(r % 255) - 127.0f) / 128.0f;
        }
    bool positive = c->op == OP_GROUP_NORM_BACKWARD && i == 6; // 1 / std
    for (size_t e = 0; positive && e < images * elements; e++)
        ((float *)ret_values)[e] = 1.5f + ((float *)ret_values)[e];
}

/* ---- running ---- */

enum { GUARD_BYTES = 256, CANARY = 0xA5 };

struct buffer {
    struct op_tensor t;
    char *bytes, *before; // on the host; before: inputs as they were set
    void *device;         // what the operation sees
    size_t size, first;   // first: offset of element 0
    size_t pitch;
    bool shared; // an output in an input's buffer
};

struct op_run {
    struct device *device;
    const struct backend *backend;
    const struct op_case *c;
    struct op_run_options o;
    struct op_shape shape;
    struct graph *graph;
    float *params;
    struct weights *weights;
    struct place *places;
    struct primitive *primitive;
    struct buffer in[OP_MAX_IN], out[OP_MAX_OUT], scratch;
    char *base[BASE_FIRST_IO + OP_MAX_IN + OP_MAX_OUT];
    bool stale; // the host has not seen the last run
};

static bool is_value(const struct op_tensor *t)
{
    return t->kind == OP_KIND_VALUE;
}

static void buffer_create(struct op_run *r, struct buffer *b, const struct op_tensor *t, bool view)
{
    size_t element = dtype_bytes(t->dtype), pixels = op_tensor_elements(t) / (size_t)t->dim[3];
    b->t = *t;
    b->pitch = (size_t)t->dim[3] + (view ? 6 : 0);
    b->first = GUARD_BYTES + (view ? 3 * element : 0);
    b->size = (2 * GUARD_BYTES + pixels * b->pitch * element + 63) / 64 * 64;
    b->bytes = aligned_alloc(64, b->size);
    b->before = malloc(b->size);
    int rc = r->backend->alloc(r->device, b->size, &b->device);
    assert(b->bytes && b->before && rc == 0);
    memset(b->bytes, CANARY, b->size);
    memcpy(b->before, b->bytes, b->size);
}

static uint16_t to_bf16(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static char *element_at(const struct buffer *b, size_t e)
{
    size_t c = (size_t)b->t.dim[3];
    return b->bytes + b->first + (e / c * b->pitch + e % c) * dtype_bytes(b->t.dtype);
}

/* Which input output 0 may replace (graph.h, "In place"), -1 for none. */
static int in_place_input(const struct op_case *c)
{
    switch (c->op) {
    case OP_CONV2D:
        return c->residual ? 3 : -1;
    case OP_GROUP_NORM:
    case OP_SILU:
    case OP_ADD_CHANNEL:
    case OP_DROPOUT:
    case OP_DROPOUT_BACKWARD:
        return 0;
    case OP_ADD:
    case OP_SILU_BACKWARD:
        return 1;
    case OP_GROUP_NORM_BACKWARD:
        return c->more ? 8 : 7;
    default:
        return -1;
    }
}

static void create_buffers(struct op_run *r)
{
    int replaced = r->o.in_place ? in_place_input(r->c) : -1;
    for (int i = 0; i < r->shape.n_in; i++)
        if (r->shape.in[i].kind != OP_KIND_NONE && r->shape.in[i].kind != OP_KIND_PARAM)
            buffer_create(r, &r->in[i], &r->shape.in[i], r->o.views && is_value(&r->shape.in[i]));
    for (int i = 0; i < r->shape.n_out; i++)
        if (i == 0 && replaced >= 0) {
            r->out[0] = r->in[replaced];
            r->out[0].shared = true;
        } else if (r->shape.out[i].kind != OP_KIND_NONE) {
            buffer_create(r, &r->out[i], &r->shape.out[i], r->o.views && is_value(&r->shape.out[i]));
        }
}

static tensor_id add_tensor(struct op_run *r, const struct op_tensor *t, const char *kind, int i)
{
    char name[32];
    if (t->kind == OP_KIND_NONE)
        return TENSOR_NONE;
    snprintf(name, sizeof(name), "%s%d", kind, i);
    if (t->kind == OP_KIND_PARAM)
        return graph_param(r->graph, name, t->dim[0], t->dim[1], t->dim[2], t->dim[3], 4);
    return graph_tensor(r->graph, t->dtype, TENSOR_VALUE, t->dim);
}

static void create_graph(struct op_run *r)
{
    tensor_id in_ids[OP_MAX_IN], out_ids[OP_MAX_OUT];
    r->graph = graph_create(r->o.n, r->o.compute, true);
    assert(r->graph);
    for (int i = 0; i < r->shape.n_in; i++)
        in_ids[i] = add_tensor(r, &r->shape.in[i], "in", i);
    for (int i = 0; i < r->shape.n_out; i++)
        out_ids[i] = add_tensor(r, &r->shape.out[i], "out", i);
    int rc = graph_node(r->graph, r->c->op, &r->shape.attr, in_ids, r->shape.n_in, out_ids, r->shape.n_out);
    assert(!rc && !graph_error(r->graph, NULL));
    r->params = calloc(r->graph->param_floats + 1, sizeof(float));
    r->places = calloc((size_t)r->graph->n_tensors, sizeof(*r->places));
    assert(r->params && r->places);
}

static struct place place_of(struct op_run *r, const struct buffer *b, int32_t base)
{
    r->base[base] = b->device;
    return (struct place){base, (int32_t)b->pitch, b->first};
}

static void create_places(struct op_run *r)
{
    const struct node *n = &r->graph->nodes[0];
    for (int32_t t = 0; t < r->graph->n_tensors; t++)
        r->places[t].base = -1;
    for (int i = 0; i < n->n_in; i++)
        if (r->in[i].bytes)
            r->places[n->in[i]] = place_of(r, &r->in[i], BASE_FIRST_IO + i);
    for (int i = 0; i < n->n_out; i++)
        if (r->out[i].bytes)
            r->places[n->out[i]] = place_of(r, &r->out[i], BASE_FIRST_IO + OP_MAX_IN + i);
}

struct op_run *op_run_create(struct device *d, const struct op_case *c, const struct op_run_options *o,
                             struct error *err)
{
    struct op_run *r = calloc(1, sizeof(*r));
    assert(r);
    r->device = d;
    r->backend = ((struct device_base *)d)->backend;
    r->c = c;
    r->o = *o;
    op_case_shape(c, o->n, o->compute, &r->shape);
    create_buffers(r);
    create_graph(r);
    create_places(r);
    return r;
}

static void buffer_free(struct op_run *r, struct buffer *b)
{
    if (b->shared)
        return;
    if (b->device)
        r->backend->free(r->device, b->device, b->size);
    free(b->bytes);
    free(b->before);
}

void op_run_free(struct op_run *r)
{
    if (!r)
        return;
    if (r->primitive)
        r->primitive->free(r->primitive);
    r->backend->weights_free(r->weights);
    for (int i = 0; i < OP_MAX_IN; i++)
        buffer_free(r, &r->in[i]);
    for (int i = 0; i < OP_MAX_OUT; i++)
        buffer_free(r, &r->out[i]);
    buffer_free(r, &r->scratch);
    graph_free(r->graph);
    free(r->params);
    free(r->places);
    free(r);
}

const struct op_shape *op_run_shape(const struct op_run *r)
{
    return &r->shape;
}

void op_run_set(struct op_run *r, int i, const void *values)
{
    const struct op_tensor *t = &r->shape.in[i];
    size_t n = op_tensor_elements(t);
    if (t->kind == OP_KIND_NONE)
        return;
    if (t->kind == OP_KIND_PARAM) {
        int32_t index = r->graph->tensors[r->graph->nodes[0].in[i]].index;
        memcpy(r->params + r->graph->params[index].offset, values, n * sizeof(float));
        return;
    }
    struct buffer *b = &r->in[i];
    for (size_t e = 0; e < n; e++) {
        if (t->dtype == DTYPE_BF16) {
            uint16_t h = to_bf16(((const float *)values)[e]);
            memcpy(element_at(b, e), &h, 2);
        } else {
            memcpy(element_at(b, e), (const char *)values + 4 * e, 4);
        }
    }
    memcpy(b->before, b->bytes, b->size);
}

static int copy_buffer(struct op_run *r, struct buffer *b, bool up)
{
    if (!b->bytes || b->shared)
        return 0;
    return up ? r->backend->upload(r->device, b->device, b->bytes, b->size)
              : r->backend->download(r->device, b->bytes, b->device, b->size);
}

static int copy_all(struct op_run *r, bool up)
{
    int rc = copy_buffer(r, &r->scratch, up);
    for (int i = 0; i < OP_MAX_IN && rc == 0; i++)
        rc = copy_buffer(r, &r->in[i], up);
    for (int i = 0; i < OP_MAX_OUT && rc == 0; i++)
        rc = copy_buffer(r, &r->out[i], up);
    return rc;
}

int op_run_lower(struct op_run *r, struct error *err)
{
    int rc = r->backend->weights_create(r->device, r->graph, r->params, false, &r->weights, err);
    if (rc)
        return rc;
    struct lowering l = {r->graph, &r->graph->nodes[0], r->places, r->weights, r->o.n_threads};
    rc = r->backend->lower[r->c->op](r->device, &l, &r->primitive, err);
    if (rc)
        return rc;
    r->backend->weights_seal(r->weights);
    struct op_tensor scratch = {
        OP_KIND_F32, {1, 1, 1, (int32_t)(r->primitive->scratch_bytes / 4 + 1)}, DTYPE_F32, false};
    buffer_create(r, &r->scratch, &scratch, false);
    r->base[BASE_SCRATCH] = (char *)r->scratch.device + GUARD_BYTES;
    return copy_all(r, true);
}

int op_run_execute(struct op_run *r)
{
    r->stale = true;
    return r->primitive->run(r->primitive, &(struct frame){r->base});
}

/* Brings back what the last run left on the device. */
static void look(const struct op_run *r)
{
    int rc = r->stale ? copy_all((struct op_run *)r, false) : 0;
    assert(rc == 0);
    ((struct op_run *)r)->stale = false;
}

void op_run_get(const struct op_run *r, int i, float *ret_values)
{
    const struct buffer *b = &r->out[i];
    look(r);
    for (size_t e = 0; e < op_tensor_elements(&b->t); e++) {
        uint16_t h;
        if (b->t.dtype == DTYPE_F32) {
            memcpy(&ret_values[e], element_at(b, e), 4);
        } else {
            memcpy(&h, element_at(b, e), 2);
            ret_values[e] = from_bf16(h);
        }
    }
}

size_t op_run_bytes(const struct op_run *r, int i, void *ret_bytes)
{
    const struct buffer *b = &r->out[i];
    size_t element = dtype_bytes(b->t.dtype), n = op_tensor_elements(&b->t);
    look(r);
    for (size_t e = 0; e < n; e++)
        memcpy((char *)ret_bytes + e * element, element_at(b, e), element);
    return n * element;
}

/* Bytes outside the tensor that are not what they were. */
static size_t damage_outside(const struct buffer *b)
{
    size_t damage = 0, element = dtype_bytes(b->t.dtype), row = (size_t)b->t.dim[3] * element,
           pitch = b->pitch * element, pixels = op_tensor_elements(&b->t) / (size_t)b->t.dim[3];
    for (size_t i = 0; i < b->size; i++) {
        bool inside = i >= b->first && (i - b->first) / pitch < pixels && (i - b->first) % pitch < row;
        damage += !inside && b->bytes[i] != b->before[i];
    }
    return damage;
}

size_t op_run_damage(const struct op_run *r)
{
    size_t damage = 0;
    look(r);
    for (int i = 0; i < r->shape.n_in; i++)
        if (r->in[i].bytes) {
            bool replaced = r->out[0].shared && r->out[0].bytes == r->in[i].bytes;
            if (replaced)
                damage += damage_outside(&r->in[i]);
            else
                for (size_t k = 0; k < r->in[i].size; k++)
                    damage += r->in[i].bytes[k] != r->in[i].before[k];
        }
    for (int i = 0; i < r->shape.n_out; i++)
        if (r->out[i].bytes && !r->out[i].shared)
            damage += damage_outside(&r->out[i]);
    return damage + damage_outside(&r->scratch);
}
