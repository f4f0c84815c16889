/* test_program.c: programs on the CPU backend: the same bits for any batch and any number of threads, fused or not the
 * same numbers, gradients against central differences.
 *
 * Inputs of image i are a function of i alone, so that results of different batches can be compared image by image.
 */
#include "kernels/program.h"
#include "tests/kernels/random_graph.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_IO = 8 };

/* ---- a program with its device, weights, inputs and outputs ---- */

struct rig {
    struct device *device;
    const struct backend *backend;
    struct weights *weights;
    struct program *program;
    struct graph *signature; // recorded for one image
    float *values;           // [param_floats]
    void *inputs[MAX_IO], *outputs[MAX_IO];
    size_t output_bytes[MAX_IO]; // of one image
    int32_t n;                   // images that inputs and outputs hold
};

struct rig_options {
    program_record record;
    void *context;
    struct program_options program;
    const char *threads;
    int32_t n;
};

static void require(int rc, const struct error *err, const char *what)
{
    if (rc < 0)
        fail_msg("%s: %d %s", what, rc, err->message);
}

static float *make_values(const struct graph *g)
{
    float *values = calloc(g->param_floats, sizeof(*values));
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        size_t fan = (size_t)p->dim[1] * (size_t)p->dim[2] * (size_t)p->dim[3], n = fan * (size_t)p->dim[0];
        float scale = p->file_rank == 1 ? 0.3f : sqrtf(3.0f / (float)fan);
        float mean = strstr(p->name, "norm.weight") ? 1.0f : 0.0f;
        for (size_t j = 0; j < n; j++)
            values[p->offset + j] = mean + scale * random_uniform(1000 + (uint64_t)i, j);
    }
    return values;
}

/* One input of one image: small classes, timesteps up to 1000, else uniform numbers. */
static void fill_input(const struct tensor *t, int32_t image, void *at)
{
    size_t n = tensor_elements(t);
    for (size_t j = 0; j < n; j++) {
        float u = random_uniform(77 + (uint64_t)t->index, ((uint64_t)image << 32) + j);
        if (t->dtype == DTYPE_I32 && n == 4)
            ((int32_t *)at)[j] = j == 3 ? image : (int32_t)j;
        else if (t->dtype == DTYPE_I32)
            ((int32_t *)at)[j] = image % 5;
        else
            ((float *)at)[j] = n == 1 && t->index == 1 ? floorf(500 + 500 * u) : u;
    }
}

static void rig_bind(struct rig *r, int32_t n)
{
    r->n = n;
    for (tensor_id x = 0; x < r->signature->n_tensors; x++) {
        const struct tensor *t = &r->signature->tensors[x];
        size_t bytes = tensor_elements(t) * dtype_bytes(t->dtype);
        if (t->role == TENSOR_INPUT) {
            assert_int_equal(posix_memalign(&r->inputs[t->index], 64, bytes * (size_t)n), 0);
            for (int32_t i = 0; i < n; i++)
                fill_input(t, i, (char *)r->inputs[t->index] + (size_t)i * bytes);
        } else if (t->role == TENSOR_OUTPUT) {
            assert_int_equal(posix_memalign(&r->outputs[t->index], 64, bytes * (size_t)n), 0);
            r->output_bytes[t->index] = bytes;
        }
    }
}

static struct rig rig_open(const struct rig_options *o)
{
    struct rig r = {0};
    struct error err = {0};
    tensor_id loss = TENSOR_NONE, weight = TENSOR_NONE;
    r.backend = backend_find("cpu", &err);
    assert_non_null(r.backend);
    require(r.backend->open(o->threads, &r.device, &err), &err, "open");
    r.signature = graph_create(1, o->program.compute, o->program.training);
    require(o->record(o->context, r.signature, &loss, &weight), &r.signature->error, "record");
    assert_true(r.signature->n_inputs <= MAX_IO && r.signature->n_outputs <= MAX_IO);
    r.values = make_values(r.signature);
    require(r.backend->weights_create(r.device, r.signature, r.values, true, &r.weights, &err), &err, "weights");
    require(program_create(r.device, r.weights, o->record, o->context, &o->program, &r.program, &err), &err, "create");
    rig_bind(&r, o->n);
    return r;
}

static void rig_close(struct rig *r)
{
    program_free(r->program);
    r->backend->weights_free(r->weights);
    assert_int_equal(((struct device_base *)r->device)->bytes_in_use, 0);
    r->backend->close(r->device);
    for (int i = 0; i < MAX_IO; i++) {
        free(r->inputs[i]);
        free(r->outputs[i]);
    }
    graph_free(r->signature);
    free(r->values);
}

static void rig_run(struct rig *r, int32_t n)
{
    struct error err = {0};
    for (int i = 0; i < r->signature->n_outputs; i++)
        memset(r->outputs[i], 0xff, r->output_bytes[i] * (size_t)r->n);
    require(program_run(r->program, n, (const void *const *)r->inputs, r->outputs, &err), &err, "run");
}

static double relative_error(const float *a, const float *b, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(difference / (norm > 0 ? norm : 1));
}

/* ---- batches and strands ---- */

static void check_bits(enum dtype compute, uint64_t seed)
{
    enum { N = 16 };
    static const int32_t batches[] = {1, 2, 3, 5, 7, 16}, strand_images[] = {1, 2, 3, 0};
    static const char *const threads[] = {"1", "2", "3"};
    struct random_graph network = {.seed = seed, .steps = 10};
    struct rig_options o = {random_graph_record, &network, {.compute = compute}, "1", N};
    struct rig alone = rig_open(&o);
    size_t bytes = alone.output_bytes[0];
    char *expected = malloc(bytes * N);
    for (int32_t i = 0; i < N; i++) { // one by one, each moved to the front
        for (int32_t j = 0; j < alone.signature->n_inputs; j++)
            for (tensor_id x = 0; x < alone.signature->n_tensors; x++)
                if (alone.signature->tensors[x].role == TENSOR_INPUT && alone.signature->tensors[x].index == j)
                    fill_input(&alone.signature->tensors[x], i, alone.inputs[j]);
        rig_run(&alone, 1);
        memcpy(expected + (size_t)i * bytes, alone.outputs[0], bytes);
    }
    rig_close(&alone);
    for (size_t t = 0; t < 3; t++)
        for (size_t s = 0; s < 4; s++) {
            o.threads = threads[t];
            o.program.strand_images = strand_images[s];
            struct rig r = rig_open(&o);
            for (size_t b = 0; b < 6; b++) {
                rig_run(&r, batches[b]);
                if (memcmp(r.outputs[0], expected, bytes * (size_t)batches[b]))
                    fail_msg("seed %d, %s threads, %d images per strand: other bits in a batch of %d", (int)seed,
                             threads[t], strand_images[s], batches[b]);
                for (size_t i = bytes * (size_t)batches[b]; i < bytes * N; i++) // nothing past the batch
                    assert_int_equal(((unsigned char *)r.outputs[0])[i], 0xff);
            }
            rig_close(&r);
        }
    free(expected);
}

static void test_same_bits_for_any_batch_f32(void **state)
{
    for (uint64_t seed = 0; seed < 4; seed++)
        check_bits(DTYPE_F32, seed);
}

static void test_same_bits_for_any_batch_bf16(void **state)
{
    for (uint64_t seed = 0; seed < 4; seed++)
        check_bits(DTYPE_BF16, seed);
}

static void test_running_allocates_nothing(void **state)
{
    struct random_graph network = {.seed = 3, .steps = 6};
    struct rig_options o = {random_graph_record, &network, {.compute = DTYPE_F32}, "2", 8};
    struct rig r = rig_open(&o);
    struct error err = {0};
    for (int32_t n = 1; n <= 8; n++)
        require(program_prepare(r.program, n, &err), &err, "prepare");
    r.backend->weights_seal(r.weights);
    size_t bytes = ((struct device_base *)r.device)->bytes_in_use;
    for (int32_t n = 8; n >= 1; n--)
        rig_run(&r, n);
    assert_int_equal(((struct device_base *)r.device)->bytes_in_use, bytes);
    assert_true(program_arena_bytes(r.program) > 0);
    assert_true(program_n_nodes(r.program) > 0);
    rig_close(&r);
}

static void test_fused_equals_recorded(void **state)
{
    for (int training = 0; training < 2; training++)
        for (uint64_t seed = 0; seed < 12; seed++) {
            struct random_graph network = {.seed = seed, .steps = 10, .loss = training, .dropout = 0.25f};
            struct rig_options o = {
                random_graph_record, &network, {.compute = DTYPE_F32, .training = training}, "2", 3};
            struct rig fused = rig_open(&o);
            o.program.no_fuse = true;
            struct rig recorded = rig_open(&o);
            rig_run(&fused, 3);
            rig_run(&recorded, 3);
            assert_true(program_n_nodes(fused.program) < program_n_nodes(recorded.program));
            double error = relative_error(fused.outputs[0], recorded.outputs[0], 3 * fused.output_bytes[0] / 4);
            if (!(error < 2e-6))
                fail_msg("seed %d: fused differs by %g", (int)seed, error);
            if (training) {
                error = relative_error(program_gradient(fused.program), program_gradient(recorded.program),
                                       fused.signature->param_floats);
                if (!(error < 1e-5))
                    fail_msg("seed %d: fused gradient differs by %g", (int)seed, error);
            }
            rig_close(&fused);
            rig_close(&recorded);
        }
}

/* ---- gradients ---- */

/* Sum over images of weight[n] loss[n]; the loss is the last output, the weight the last input. */
static double weighted_loss(struct rig *r, int32_t n)
{
    rig_run(r, n);
    const float *loss = r->outputs[r->signature->n_outputs - 1], *weight = r->inputs[r->signature->n_inputs - 1];
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += (double)weight[i] * (double)loss[i];
    return sum;
}

/* The loss after moving parameter i by step along the direction that `seed` gives. */
static double loss_along(struct rig *r, int32_t n, int32_t i, uint64_t seed, float step)
{
    const struct param *p = &r->signature->params[i];
    size_t count = (size_t)p->dim[0] * (size_t)p->dim[1] * (size_t)p->dim[2] * (size_t)p->dim[3];
    float *moved = malloc(count * sizeof(*moved));
    for (size_t j = 0; j < count; j++)
        moved[j] = r->values[p->offset + j] + step * random_uniform(seed, j);
    float *master = r->backend->weights_master(r->weights) + p->offset;
    assert_int_equal(r->backend->upload(r->device, master, moved, count * sizeof(*moved)), 0);
    assert_int_equal(r->backend->weights_repack(r->weights), 0);
    double loss = weighted_loss(r, n);
    assert_int_equal(r->backend->upload(r->device, master, r->values + p->offset, count * sizeof(*moved)), 0);
    free(moved);
    return loss;
}

/* Compares the gradient of every parameter with central differences of fourth order along a random direction. What
 * counts is the error against the size of the whole gradient along such a direction, for a parameter's own may vanish.
 */
static void check_gradient(const struct rig_options *o, const char *name)
{
    struct rig r = rig_open(o);
    double scale = 0;
    weighted_loss(&r, o->n);
    float *g = malloc(r.signature->param_floats * sizeof(*g));
    memcpy(g, program_gradient(r.program), r.signature->param_floats * sizeof(*g));
    for (size_t i = 0; i < r.signature->param_floats; i++)
        scale += (double)g[i] * g[i];
    scale = sqrt(scale / 3); // a direction's elements have variance 1/3
    assert_true(isfinite(scale) && scale > 0);
    for (int32_t i = 0; i < r.signature->n_params; i++) {
        const struct param *p = &r.signature->params[i];
        size_t count = (size_t)p->dim[0] * (size_t)p->dim[1] * (size_t)p->dim[2] * (size_t)p->dim[3];
        const float h = 0.01f / sqrtf((float)count);
        uint64_t seed = 5000 + (uint64_t)i;
        double expected = 0;
        for (size_t j = 0; j < count; j++)
            expected += (double)g[p->offset + j] * (double)random_uniform(seed, j);
        double slope = (8 * (loss_along(&r, o->n, i, seed, h) - loss_along(&r, o->n, i, seed, -h)) -
                        (loss_along(&r, o->n, i, seed, 2 * h) - loss_along(&r, o->n, i, seed, -2 * h))) /
                       (12.0 * (double)h);
        if (getenv("PRINT_ERRORS"))
            printf("%s %s %g\n", name, p->name, fabs(slope - expected) / scale);
        if (!(fabs(slope - expected) <= 2e-3 * scale))
            fail_msg("%s: gradient of %s is %g, differences say %g (of %g in all)", name, p->name, expected, slope,
                     scale);
    }
    free(g);
    rig_close(&r);
}

static void test_gradients_of_random_networks(void **state)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        char name[32];
        snprintf(name, sizeof(name), "seed %d", (int)seed);
        struct random_graph network = {.seed = seed, .steps = 5, .loss = true, .dropout = 0.25f};
        struct rig_options o = {random_graph_record, &network, {.compute = DTYPE_F32, .training = true}, "1", 2};
        check_gradient(&o, name);
    }
}

/* One operation between two convolutions. */
struct one_operation {
    const char *name;
    tensor_id (*record)(struct graph *g, tensor_id x, tensor_id e, tensor_id key);
    int32_t channels; // of x
};

static tensor_id vector(struct graph *g, const char *name, int32_t c)
{
    return graph_param(g, name, 1, 1, 1, c, 1);
}

static tensor_id group_norm(struct graph *g, tensor_id x)
{
    return graph_group_norm(g, x, vector(g, "norm.weight", 8), vector(g, "norm.bias", 8), 4, 1e-5f);
}

static tensor_id one_nothing(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return x;
}
static tensor_id one_conv_stride2(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_conv2d(g, x, graph_param(g, "w", 6, 3, 3, 8, 4), vector(g, "b", 6), 2);
}
static tensor_id one_conv_residual(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    tensor_id y = graph_conv2d(g, graph_silu(g, x), graph_param(g, "w", 8, 1, 1, 8, 4), vector(g, "b", 8), 1);
    return graph_add(g, y, x);
}
static tensor_id one_conv_upsampled(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_conv2d(g, graph_upsample_nearest2x(g, x), graph_param(g, "w", 4, 3, 3, 8, 4), vector(g, "b", 4), 1);
}
static tensor_id one_linears(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    tensor_id a = graph_linear(g, e, graph_param(g, "wa", 8, 1, 1, 6, 2), vector(g, "ba", 8));
    tensor_id b = graph_linear(g, e, graph_param(g, "wb", 8, 1, 1, 6, 2), TENSOR_NONE);
    return graph_add_channel(g, graph_silu(g, graph_add_channel(g, x, a)), b);
}
static tensor_id one_norm(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return group_norm(g, x);
}
static tensor_id one_norm_silu(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_silu(g, group_norm(g, x));
}
static tensor_id one_norm_post(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    tensor_id a = graph_linear(g, e, graph_param(g, "wa", 8, 1, 1, 6, 2), TENSOR_NONE);
    return graph_silu(g, graph_add_channel(g, group_norm(g, x), a));
}
static tensor_id one_norm_pre(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    tensor_id a = graph_linear(g, e, graph_param(g, "wa", 8, 1, 1, 6, 2), TENSOR_NONE);
    return graph_silu(g, group_norm(g, graph_add_channel(g, x, a)));
}
static tensor_id one_norm_with_skip(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_add(g, group_norm(g, x), x);
}
static tensor_id one_silu(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_silu(g, x);
}
static tensor_id one_add_twice(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_add(g, x, x);
}
static tensor_id one_concat(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_concat(g, graph_silu(g, x), x);
}
static tensor_id one_upsample(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_upsample_nearest2x(g, x);
}
static tensor_id one_avg_pool(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_avg_pool2x(g, x);
}
static tensor_id one_attention(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_attention(g, x, 2);
}
static tensor_id one_dropout(struct graph *g, tensor_id x, tensor_id e, tensor_id key)
{
    return graph_dropout(g, graph_dropout(g, x, key, 0.3f), key, 0.5f);
}

static const struct one_operation operations[] = {
    {"nothing", one_nothing, 8},
    {"conv stride 2", one_conv_stride2, 8},
    {"conv residual", one_conv_residual, 8},
    {"conv upsampled", one_conv_upsampled, 8},
    {"linears", one_linears, 8},
    {"norm", one_norm, 8},
    {"norm silu", one_norm_silu, 8},
    {"norm post", one_norm_post, 8},
    {"norm pre", one_norm_pre, 8},
    {"norm with skip", one_norm_with_skip, 8},
    {"silu", one_silu, 8},
    {"add twice", one_add_twice, 8},
    {"concat", one_concat, 8},
    {"upsample", one_upsample, 8},
    {"avg pool", one_avg_pool, 8},
    {"attention", one_attention, 24},
    {"dropout", one_dropout, 8},
};

/* Inputs: x, t, y, key, target, weight; output: the loss. */
static int record_one(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct one_operation *o = context;
    tensor_id x = graph_input(g, DTYPE_F32, 6, 6, 3), t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1), key = graph_input(g, DTYPE_I32, 1, 1, 4);
    tensor_id e = graph_timestep_embedding(g, t, 6);
    e = graph_add(g, graph_linear(g, e, graph_param(g, "we", 6, 1, 1, 6, 2), TENSOR_NONE),
                  graph_embedding(g, graph_param(g, "table", 5, 1, 1, 6, 2), y));
    tensor_id start = graph_param(g, "start", o->channels, 3, 3, 3, 4);
    x = graph_conv2d(g, graph_cast(g, x, g->compute), start, vector(g, "start.bias", o->channels), 1);
    x = graph_add_channel(
        g, x, graph_linear(g, e, graph_param(g, "wx", o->channels, 1, 1, 6, 2), vector(g, "bx", o->channels)));
    x = o->record(g, x, e, key);
    if (graph_error(g, NULL) < 0)
        return g->error.code;
    tensor_id end = graph_param(g, "end", 2, 3, 3, g->tensors[x].dim[3], 4);
    x = graph_cast(g, graph_conv2d(g, x, end, vector(g, "end.bias", 2), 1), DTYPE_F32);
    tensor_id target = graph_input(g, DTYPE_F32, g->tensors[x].dim[1], g->tensors[x].dim[2], 2);
    *ret_weight = graph_input(g, DTYPE_F32, 1, 1, 1);
    *ret_loss = graph_mse(g, target, x);
    graph_output(g, *ret_loss, DTYPE_F32);
    return g->error.code;
}

static void test_gradients_of_operations(void **state)
{
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        for (int no_fuse = 0; no_fuse < 2; no_fuse++) {
            struct rig_options o = {record_one,
                                    (void *)&operations[i],
                                    {.compute = DTYPE_F32, .training = true, .no_fuse = no_fuse},
                                    "1",
                                    3};
            check_gradient(&o, operations[i].name);
        }
}

/* However the batch is cut, the gradient is the same sum in another order. */
static void test_gradient_of_any_cut(void **state)
{
    static const char *const threads[] = {"1", "2", "3"};
    static const int32_t batches[] = {1, 2, 5, 7}, strand_images[] = {0, 1, 2};
    struct random_graph network = {.seed = 4, .steps = 8, .loss = true, .dropout = 0.25f};
    for (size_t b = 0; b < 4; b++) {
        float *expected = NULL;
        for (size_t t = 0; t < 3; t++)
            for (size_t s = 0; s < 3; s++) {
                struct rig_options o = {random_graph_record,
                                        &network,
                                        {.compute = DTYPE_F32, .training = true, .strand_images = strand_images[s]},
                                        threads[t],
                                        batches[b]};
                struct rig r = rig_open(&o);
                size_t n = r.signature->param_floats;
                rig_run(&r, batches[b]);
                rig_run(&r, batches[b]); // a second run starts anew
                if (!expected) {
                    expected = malloc(n * sizeof(*expected));
                    memcpy(expected, program_gradient(r.program), n * sizeof(*expected));
                }
                double error = relative_error(program_gradient(r.program), expected, n);
                if (!(error < 2e-6))
                    fail_msg("batch %d, %s threads, %d images: gradient differs by %g", batches[b], threads[t],
                             strand_images[s], error);
                rig_close(&r);
            }
        free(expected);
    }
}

static void test_gradient_in_bf16(void **state)
{
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct random_graph network = {.seed = seed, .steps = 6, .loss = true};
        struct rig_options o = {random_graph_record, &network, {.compute = DTYPE_F32, .training = true}, "2", 4};
        struct rig f32 = rig_open(&o);
        o.program.compute = DTYPE_BF16;
        struct rig bf16 = rig_open(&o);
        rig_run(&f32, 4);
        rig_run(&bf16, 4);
        double error =
            relative_error(program_gradient(bf16.program), program_gradient(f32.program), f32.signature->param_floats);
        if (getenv("PRINT_ERRORS"))
            printf("bf16 gradient, seed %d: %g\n", (int)seed, error);
        if (!(error < 2.5e-2))
            fail_msg("seed %d: bf16 gradient differs by %g", (int)seed, error);
        rig_close(&f32);
        rig_close(&bf16);
    }
}

/* A parameter that the loss does not depend on has a gradient of zeros, as the padding between parameters has. */
static int record_unused(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    tensor_id x = graph_input(g, DTYPE_F32, 2, 2, 3), target = graph_input(g, DTYPE_F32, 2, 2, 5);
    graph_param(g, "unused", 5, 3, 3, 3, 4);
    x = graph_conv2d(g, graph_cast(g, x, g->compute), graph_param(g, "used", 5, 1, 1, 3, 4), TENSOR_NONE, 1);
    *ret_weight = graph_input(g, DTYPE_F32, 1, 1, 1);
    *ret_loss = graph_mse(g, x, target);
    graph_output(g, *ret_loss, DTYPE_F32);
    return g->error.code;
}

static void test_gradient_of_unused_parameters(void **state)
{
    struct rig_options o = {record_unused, NULL, {.compute = DTYPE_F32, .training = true, .strand_images = 1}, "2", 5};
    struct rig r = rig_open(&o);
    rig_run(&r, 5);
    const float *g = program_gradient(r.program);
    size_t used = r.signature->params[1].offset;
    for (size_t i = 0; i < r.signature->param_floats; i++) {
        if (i >= used && i < used + 15)
            assert_true(g[i] != 0);
        else
            assert_true(g[i] == 0);
    }
    rig_close(&r);
}

/* ---- errors ---- */

static int record_by_batch(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    tensor_id x = graph_input(g, DTYPE_F32, 2, 2, 3);
    for (int32_t i = 0; i < g->batch; i++) // wrong: more outputs for larger batches
        graph_output(g, x, DTYPE_F32);
    if (*(int32_t *)context == g->batch)
        graph_add(g, x, graph_input(g, DTYPE_F32, 2, 2, 4));
    return g->error.code;
}

static void test_prepare_errors(void **state)
{
    int32_t failing = 4;
    struct error err = {0};
    struct rig_options o = {record_by_batch, &failing, {.compute = DTYPE_F32, .strand_images = 8}, "1", 1};
    struct rig r = rig_open(&o);
    assert_int_equal(program_prepare(r.program, 0, &err), -EINVAL);
    assert_int_equal(program_prepare(r.program, 1, &err), 0);
    assert_int_equal(program_prepare(r.program, 2, &err), -EINVAL);
    assert_non_null(strstr(err.message, "same inputs and outputs"));
    assert_int_equal(program_prepare(r.program, 4, &err), -EINVAL);
    assert_non_null(strstr(err.message, "add: a and b"));
    rig_run(&r, 1); // what was prepared still runs
    assert_memory_equal(r.outputs[0], r.inputs[0], r.output_bytes[0]);
    assert_null(program_gradient(r.program));
    rig_close(&r);
}

static void test_finds_backends(void **state)
{
    struct error err = {0};
    setenv("DDIMD_PLUGINS", "/nonexistent", 1); // whatever this machine has
    assert_ptr_equal(backend_find("cpu", &err), &backend_cpu);
    assert_ptr_equal(backend_find("auto", &err), &backend_cpu);
    assert_string_equal(err.message, "");
    assert_null(backend_find("cuda", &err));
    assert_int_equal(err.code, -ENOTSUP);
    assert_non_null(strstr(err.message, "without CUDA"));
    assert_null(backend_find("tpu", &err));
    assert_int_equal(err.code, -EINVAL);
    unsetenv("DDIMD_PLUGINS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_backends),
        cmocka_unit_test(test_prepare_errors),
        cmocka_unit_test(test_same_bits_for_any_batch_f32),
        cmocka_unit_test(test_same_bits_for_any_batch_bf16),
        cmocka_unit_test(test_running_allocates_nothing),
        cmocka_unit_test(test_fused_equals_recorded),
        cmocka_unit_test(test_gradients_of_operations),
        cmocka_unit_test(test_gradients_of_random_networks),
        cmocka_unit_test(test_gradient_of_any_cut),
        cmocka_unit_test(test_gradient_of_unused_parameters),
        cmocka_unit_test(test_gradient_in_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
