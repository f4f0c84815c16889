/* convs.c: the yardstick: what the network's convolutions take as bare oneDNN primitives, one after the other.
 *
 * The layers are those of the graph as recorded, before fusion: upsampling is not folded into its convolution, and
 * nothing is added to the results. Each layer has its own buffers, as large as in the network.
 */
#include "bench/network.h"

#include <dnnl.h>
#include <errno.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum pass { PASS_FORWARD, PASS_BACKWARD_DATA, PASS_BACKWARD_WEIGHTS, PASS_COUNT };
static const char *const pass_names[] = {"forward", "backward_data", "backward_weights"};
enum { MAX_ARGS = 4, MAX_LAYERS = 1024 };

struct shape {
    int32_t n, h, w, c, k, r, stride, out_h, out_w;
    bool bias;
};

struct layer {
    struct shape shape;
    enum pass pass;
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t args[MAX_ARGS];
    int n_args;
    double best; // seconds
};

struct yardstick {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_data_type_t type;
    struct layer layers[MAX_LAYERS];
    int n_layers;
};

#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        dnnl_status_t status_ = (call);                                                                                \
        if (status_ != dnnl_success) {                                                                                 \
            fprintf(stderr, "%s:%d: %s: status %d\n", __FILE__, __LINE__, #call, (int)status_);                        \
            return status_ == dnnl_out_of_memory ? -ENOMEM : -ENOTSUP;                                                 \
        }                                                                                                              \
    } while (0)

static double layer_flop(const struct shape *s)
{
    return 2.0 * s->n * s->out_h * s->out_w * s->k * s->c * s->r * s->r;
}

/* A buffer of noughts and small numbers for one argument. Values do not matter to the time, denormals would. */
static int add_argument(struct yardstick *y, struct layer *l, int id, const dnnl_memory_desc_t *md)
{
    size_t bytes = dnnl_memory_desc_get_size(md);
    uint16_t *buffer = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!buffer)
        return -ENOMEM;
    for (size_t i = 0; i < bytes / 2; i++)
        buffer[i] = i % 2 ? 0x3c00 + i % 61 : 0; // as bf16 or f32: between 0 and 0.01
    dnnl_memory_t memory;
    TRY(dnnl_memory_create(&memory, md, y->engine, buffer));
    l->args[l->n_args++] = (dnnl_exec_arg_t){.arg = id, .memory = memory};
    return 0;
}

static int add_queried(struct yardstick *y, struct layer *l, int id, const_dnnl_primitive_desc_t pd, dnnl_query_t what)
{
    return add_argument(y, l, id, dnnl_primitive_desc_query_md(pd, what, 0));
}

struct descriptors {
    dnnl_memory_desc_t x, w, b, y;
};

static int describe(const struct yardstick *y, const struct shape *s, struct descriptors *d)
{
    TRY(dnnl_memory_desc_init_by_tag(&d->x, 4, (dnnl_dims_t){s->n, s->c, s->h, s->w}, y->type, dnnl_nhwc));
    TRY(dnnl_memory_desc_init_by_tag(&d->w, 4, (dnnl_dims_t){s->k, s->c, s->r, s->r}, y->type, dnnl_format_tag_any));
    TRY(dnnl_memory_desc_init_by_tag(&d->b, 1, (dnnl_dims_t){s->k}, dnnl_f32, dnnl_x));
    TRY(dnnl_memory_desc_init_by_tag(&d->y, 4, (dnnl_dims_t){s->n, s->k, s->out_h, s->out_w}, y->type, dnnl_nhwc));
    return 0;
}

/* *ret_pd: the primitive's description; forward is its hint where it is a backward one. */
static int choose(struct yardstick *y, const struct layer *l, const struct descriptors *d,
                  const_dnnl_primitive_desc_t forward, dnnl_primitive_desc_t *ret_pd)
{
    const struct shape *s = &l->shape;
    dnnl_dims_t strides = {s->stride, s->stride}, before = {s->r / 2, s->r / 2}, after;
    after[0] = (s->out_h - 1) * s->stride + s->r - s->h - before[0];
    after[1] = (s->out_w - 1) * s->stride + s->r - s->w - before[1];
    dnnl_convolution_desc_t c;
    if (l->pass == PASS_FORWARD)
        TRY(dnnl_convolution_forward_desc_init(&c, dnnl_forward_training, dnnl_convolution_direct, &d->x, &d->w,
                                               s->bias ? &d->b : NULL, &d->y, strides, before, after));
    else if (l->pass == PASS_BACKWARD_DATA)
        TRY(dnnl_convolution_backward_data_desc_init(&c, dnnl_convolution_direct, &d->x, &d->w, &d->y, strides, before,
                                                     after));
    else
        TRY(dnnl_convolution_backward_weights_desc_init(&c, dnnl_convolution_direct, &d->x, &d->w,
                                                        s->bias ? &d->b : NULL, &d->y, strides, before, after));
    TRY(dnnl_primitive_desc_create(ret_pd, &c, NULL, y->engine, forward));
    return 0;
}

static int add_arguments(struct yardstick *y, struct layer *l, const_dnnl_primitive_desc_t pd,
                         const struct descriptors *d)
{
    int rc;
    switch (l->pass) {
    case PASS_FORWARD:
        rc = add_argument(y, l, DNNL_ARG_SRC, &d->x);
        rc = rc < 0 ? rc : add_queried(y, l, DNNL_ARG_WEIGHTS, pd, dnnl_query_weights_md);
        rc = rc < 0 || !l->shape.bias ? rc : add_argument(y, l, DNNL_ARG_BIAS, &d->b);
        return rc < 0 ? rc : add_argument(y, l, DNNL_ARG_DST, &d->y);
    case PASS_BACKWARD_DATA:
        rc = add_argument(y, l, DNNL_ARG_DIFF_DST, &d->y);
        rc = rc < 0 ? rc : add_queried(y, l, DNNL_ARG_WEIGHTS, pd, dnnl_query_weights_md);
        return rc < 0 ? rc : add_argument(y, l, DNNL_ARG_DIFF_SRC, &d->x);
    default:
        rc = add_argument(y, l, DNNL_ARG_SRC, &d->x);
        rc = rc < 0 ? rc : add_argument(y, l, DNNL_ARG_DIFF_DST, &d->y);
        rc = rc < 0 || !l->shape.bias ? rc : add_argument(y, l, DNNL_ARG_DIFF_BIAS, &d->b);
        return rc < 0 ? rc : add_queried(y, l, DNNL_ARG_DIFF_WEIGHTS, pd, dnnl_query_diff_weights_md);
    }
}

static int add_layer(struct yardstick *y, const struct shape *s, enum pass pass)
{
    if (y->n_layers == MAX_LAYERS)
        return -ENOSPC;
    struct layer *l = &y->layers[y->n_layers++];
    struct layer forward = {.shape = *s, .pass = PASS_FORWARD};
    *l = (struct layer){.shape = *s, .pass = pass, .best = 1e9};
    struct descriptors d;
    dnnl_primitive_desc_t hint = NULL, pd = NULL;
    int rc = describe(y, s, &d);
    if (rc == 0)
        rc = choose(y, &forward, &d, NULL, &hint);
    if (rc == 0)
        rc = choose(y, l, &d, pass == PASS_FORWARD ? NULL : hint, &pd);
    if (rc < 0)
        return rc;
    TRY(dnnl_primitive_create(&l->primitive, pd));
    rc = add_arguments(y, l, pd, &d);
    dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_desc_destroy(hint);
    return rc;
}

/* The layers of the network: the convolutions of its recorded graph. The first one's input needs no gradient. */
static int add_network(struct yardstick *y, const struct graph *g, bool train)
{
    int rc = 0;
    bool first = true;
    for (int32_t i = 0; rc == 0 && i < g->n_nodes; i++) {
        const struct node *node = &g->nodes[i];
        if (node->op != OP_CONV2D)
            continue;
        const int32_t *x = g->tensors[node->in[0]].dim, *w = g->tensors[node->in[1]].dim;
        const int32_t *out = g->tensors[node->out[0]].dim;
        struct shape s = {
            x[0], x[1], x[2], x[3], w[0], w[1], node->attr.stride, out[1], out[2], node->in[2] != TENSOR_NONE};
        rc = add_layer(y, &s, PASS_FORWARD);
        if (rc == 0 && train && !first)
            rc = add_layer(y, &s, PASS_BACKWARD_DATA);
        if (rc == 0 && train)
            rc = add_layer(y, &s, PASS_BACKWARD_WEIGHTS);
        first = false;
    }
    return rc;
}

static int run_once(void *context)
{
    struct yardstick *y = context;
    for (int i = 0; i < y->n_layers; i++) {
        struct layer *l = &y->layers[i];
        double start = bench_now();
        TRY(dnnl_primitive_execute(l->primitive, y->stream, l->n_args, l->args));
        TRY(dnnl_stream_wait(y->stream));
        double spent = bench_now() - start;
        if (spent < l->best)
            l->best = spent;
    }
    return 0;
}

static void print_layers(const struct yardstick *y, const char *mode)
{
    for (int i = 0; i < y->n_layers; i++) {
        const struct layer *l = &y->layers[i];
        const struct shape *s = &l->shape;
        printf("{\"layer\": %d, \"mode\": \"%s\", \"pass\": \"%s\", \"batch\": %d, \"h\": %d, \"w\": %d, \"c\": %d, "
               "\"k\": %d, \"r\": %d, \"stride\": %d, \"ms\": %.4f, \"gflop_per_s\": %.1f}\n",
               i, mode, pass_names[l->pass], s->n, s->h, s->w, s->c, s->k, s->r, s->stride, l->best * 1e3,
               layer_flop(s) / l->best * 1e-9);
    }
}

static void done(struct yardstick *y)
{
    for (int i = 0; i < y->n_layers; i++) {
        struct layer *l = &y->layers[i];
        for (int k = 0; k < l->n_args; k++) {
            void *buffer = NULL;
            dnnl_memory_get_data_handle(l->args[k].memory, &buffer);
            dnnl_memory_destroy(l->args[k].memory);
            free(buffer);
        }
        dnnl_primitive_destroy(l->primitive);
    }
    dnnl_stream_destroy(y->stream);
    dnnl_engine_destroy(y->engine);
    free(y);
}

int bench_convolutions(const struct bench *b, bool train, bool per_layer)
{
    tensor_id none = TENSOR_NONE;
    const char *mode = b->precision == DTYPE_F32 ? "f32" : "bf16";
    struct yardstick *y = calloc(1, sizeof(*y));
    struct graph *g = graph_create(b->batch, b->precision, false);
    if (!y || !g)
        return -ENOMEM;
    omp_set_num_threads(b->n_threads);
    y->type = b->precision == DTYPE_F32 ? dnnl_f32 : dnnl_bf16;
    TRY(dnnl_engine_create(&y->engine, dnnl_cpu, 0));
    TRY(dnnl_stream_create(&y->stream, y->engine, dnnl_stream_default_flags));
    int rc = bench_record_forward((void *)b, g, &none, &none);
    if (rc == 0)
        rc = add_network(y, g, train);
    graph_free(g);
    double flop = 0, best = rc < 0 ? rc : bench_best(b->seconds, run_once, y);
    for (int i = 0; i < y->n_layers; i++)
        flop += layer_flop(&y->layers[i].shape);
    if (best > 0) {
        if (per_layer)
            print_layers(y, mode);
        printf(
            "{\"who\": \"onednn\", \"mode\": \"%s\", \"work\": \"%s\", \"batch\": %d, \"threads\": %d, \"layers\": %d, "
            "\"ms\": %.3f, \"gflop_per_s\": %.1f, \"gflop\": %.3f}\n",
            mode, train ? "train-convolutions" : "convolutions", b->batch, b->n_threads, y->n_layers, best * 1e3,
            flop / best * 1e-9, flop * 1e-9);
    }
    done(y);
    return best > 0 ? 0 : (int)best;
}
