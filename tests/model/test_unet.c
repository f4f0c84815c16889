/* test_unet.c: the recorded network against the oracle: parameters, output, loss and gradients; and the network against
 * itself: an image's bits do not depend on its batch or on threads.
 *
 * Fixtures: tests/fixtures/make_unet.py. Errors are norms of differences over norms of references. Tolerances are about
 * three times what AVX-512 measures in f32 (forward 2e-6, gradient 3e-6, worst parameter 2e-5), where other processors
 * add in another order, and half as much again in bf16 (forward 1.4e-2, gradient 2e-2, worst parameter 9e-2).
 */
#include "kernels/philox.h"
#include "kernels/program.h"
#include "model/unet.h"
#include "tests/support/device.h"
#include "tests/support/unet_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const networks[] = {"unet_flat",        "unet_fused",      "unet_preact",    "unet_fused_pool",
                                       "unet_preact_pool", "unet_fused_deep", "unet_preact_all"};
enum { N_NETWORKS = sizeof(networks) / sizeof(networks[0]) };

/* ---- a network on a device ---- */

struct network {
    const struct backend *backend;
    struct device *device;
    const struct model_config *model;
    int32_t height, width;
    bool train;
    struct graph *graph; // for its parameter table
    struct weights *weights;
    struct program *program;
};

/* Inputs x, t, y (training: eps and weight too); outputs eps_theta (training: loss too). */
static int record(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct network *n = context;
    tensor_id x = graph_input(g, DTYPE_F32, n->height, n->width, n->model->in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    tensor_id eps_theta = graph_cast(g, unet_record(g, n->model, x, t, y, TENSOR_NONE), DTYPE_F32);
    graph_output(g, eps_theta, DTYPE_F32);
    if (n->train) {
        tensor_id eps = graph_input(g, DTYPE_F32, n->height, n->width, n->model->out_channels);
        *ret_weight = graph_input(g, DTYPE_F32, 1, 1, 1);
        *ret_loss = graph_mse(g, eps_theta, eps);
        graph_output(g, *ret_loss, DTYPE_F32);
    }
    return graph_error(g, NULL);
}

static struct graph *record_alone(const struct network *n)
{
    tensor_id loss = TENSOR_NONE, weight = TENSOR_NONE;
    struct error err = {0};
    struct graph *g = graph_create(1, DTYPE_F32, n->train);
    assert_non_null(g);
    record((void *)n, g, &loss, &weight);
    if (graph_error(g, &err) < 0)
        fail_msg("%s", err.message);
    return g;
}

static void check(int rc, const struct error *err)
{
    if (rc < 0)
        fail_msg("%s (%d)", err->message, rc);
}

struct setting {
    enum dtype compute;
    const char *threads;
    bool train;
    int32_t strand_images;
};

static void network_open(struct network *n, const struct model_config *model, int32_t height, int32_t width,
                         uint64_t seed, const struct setting *s)
{
    struct error err = {0};
    *n = (struct network){
        .backend = test_backend(), .model = model, .height = height, .width = width, .train = s->train};
    check(n->backend->open(test_threads(s->threads), &n->device, &err), &err);
    n->graph = record_alone(n);
    float *values = unet_fixture_weights(n->graph, seed);
    check(n->backend->weights_create(n->device, n->graph, values, s->train, &n->weights, &err), &err);
    struct program_options options = {.compute = s->compute, .training = s->train, .strand_images = s->strand_images};
    check(program_create(n->device, n->weights, record, n, &options, &n->program, &err), &err);
    free(values);
}

static void network_close(struct network *n)
{
    program_free(n->program);
    n->backend->weights_free(n->weights);
    assert_int_equal(((struct device_base *)n->device)->bytes_in_use, 0);
    n->backend->close(n->device);
    graph_free(n->graph);
}

static void *to_device(const struct network *n, const void *from, size_t bytes)
{
    void *memory = NULL;
    assert_int_equal(n->backend->alloc(n->device, bytes, &memory), 0);
    assert_int_equal(n->backend->upload(n->device, memory, from, bytes), 0);
    return memory;
}

struct batch {
    const float *x, *t;
    const int32_t *y;
    const float *eps; // training only, as loss
    float *eps_theta, *loss;
};

static void network_run(const struct network *n, int32_t rows, const struct batch *b)
{
    struct error err = {0};
    size_t image = (size_t)n->height * n->width * n->model->in_channels * 4;
    size_t bytes[] = {rows * image, rows * 4u, rows * 4u, rows * image, rows * 4u};
    float *weight = malloc(bytes[4]);
    for (int32_t i = 0; i < rows; i++)
        weight[i] = 1.0f / (float)rows;
    const void *from[] = {b->x, b->t, b->y, b->eps, weight};
    void *inputs[5], *outputs[2];
    int n_in = n->train ? 5 : 3, n_out = n->train ? 2 : 1;
    for (int i = 0; i < n_in; i++)
        inputs[i] = to_device(n, from[i], bytes[i]);
    for (int i = 0; i < n_out; i++)
        outputs[i] = to_device(n, from[i], bytes[i]); // sizes of x and of t
    check(program_run(n->program, rows, (const void *const *)inputs, outputs, &err), &err);
    assert_int_equal(n->backend->download(n->device, b->eps_theta, outputs[0], bytes[0]), 0);
    if (n->train)
        assert_int_equal(n->backend->download(n->device, b->loss, outputs[1], bytes[1]), 0);
    for (int i = 0; i < n_in; i++)
        n->backend->free(n->device, inputs[i], bytes[i]);
    for (int i = 0; i < n_out; i++)
        n->backend->free(n->device, outputs[i], bytes[i]);
    free(weight);
}

/* The backend runs f32 everywhere, bf16 where its processor does. */
static bool device_runs(enum dtype compute)
{
    struct error err = {0};
    struct device *d = NULL;
    check(test_backend()->open(test_threads("1"), &d, &err), &err);
    bool runs = compute == DTYPE_F32 || ((struct device_base *)d)->native == DTYPE_BF16;
    test_backend()->close(d);
    return runs;
}

static double relative_error(const float *a, const float *reference, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - reference[i]) * ((double)a[i] - reference[i]);
        norm += (double)reference[i] * reference[i];
    }
    return sqrt(difference / norm);
}

/* ---- the oracle ---- */

/* Names and order are the state_dict's, the flat layout is aligned and has no overlaps. */
static void test_parameters(void **state)
{
    (void)state;
    for (int i = 0; i < N_NETWORKS; i++) {
        struct unet_fixture f;
        unet_fixture_open(FIXTURES, networks[i], &f);
        struct network n = {.model = &f.model, .height = f.height, .width = f.width};
        struct graph *g = record_alone(&n);
        json_t *names = unet_fixture_json(&f, "parameters");
        assert_int_equal(g->n_params, json_array_size(names));
        size_t end = 0, elements = 0;
        for (int32_t k = 0; k < g->n_params; k++) {
            const struct param *p = &g->params[k];
            size_t size = (size_t)p->dim[0] * p->dim[1] * p->dim[2] * p->dim[3];
            assert_string_equal(p->name, json_string_value(json_array_get(names, (size_t)k)));
            assert_true(p->offset >= end && p->offset % 16 == 0);
            end = p->offset + size;
            elements += size;
        }
        assert_true(end <= g->param_floats);
        assert_int_equal(elements, model_config_parameters(&f.model));
        json_decref(names);
        graph_free(g);
        unet_fixture_close(&f);
    }
}

static struct batch fixture_batch(const struct unet_fixture *f, size_t *ret_elements, int32_t *ret_rows)
{
    size_t n_x, n_t;
    struct batch b = {.x = unet_fixture_f32(f, "x", &n_x),
                      .t = unet_fixture_f32(f, "t", &n_t),
                      .y = unet_fixture_i32(f, "y", &n_t),
                      .eps = unet_fixture_f32(f, "eps", &n_x)};
    b.eps_theta = malloc(n_x * sizeof(float));
    b.loss = malloc(n_t * sizeof(float));
    *ret_elements = n_x;
    *ret_rows = (int32_t)n_t;
    return b;
}

static void check_forward(const char *name, const struct setting *s, double tolerance)
{
    struct unet_fixture f;
    struct network n;
    size_t elements, n_reference;
    int32_t rows;
    unet_fixture_open(FIXTURES, name, &f);
    network_open(&n, &f.model, f.height, f.width, f.seed, s);
    struct batch b = fixture_batch(&f, &elements, &rows);
    network_run(&n, rows, &b);
    const float *reference = unet_fixture_f32(&f, "eps_theta", &n_reference);
    assert_int_equal(n_reference, elements);
    double error = relative_error(b.eps_theta, reference, elements);
    print_message("%s, %s, %s threads: %.2e\n", name, s->compute == DTYPE_F32 ? "f32" : "bf16", s->threads, error);
    assert_true(error <= tolerance);
    free(b.eps_theta);
    free(b.loss);
    network_close(&n);
    unet_fixture_close(&f);
}

static void test_forward_f32(void **state)
{
    (void)state;
    for (int i = 0; i < N_NETWORKS; i++) {
        check_forward(networks[i], &(struct setting){DTYPE_F32, "1", false, 0}, 6e-6);
        check_forward(networks[i], &(struct setting){DTYPE_F32, "2", false, 1}, 6e-6);
    }
}

static void test_forward_bf16(void **state)
{
    (void)state;
    if (!device_runs(DTYPE_BF16)) {
        print_message("this processor does not compute in bf16\n");
        skip();
    }
    for (int i = 0; i < N_NETWORKS; i++)
        check_forward(networks[i], &(struct setting){DTYPE_BF16, "2", false, 0}, 2e-2);
}

/* Every parameter's gradient by name. A parameter counts by its own norm, or by 1e-3 of the whole gradient's where that
 * is more: some gradients are zero but for rounding, such as that of a bias before a norm with one channel per group.
 * Returns the largest error of a parameter. */
static double gradient_error(const struct network *n, const struct unet_fixture *f, const float *gradient,
                             double *ret_total)
{
    size_t n_norm, n_projection;
    const float *norm = unet_fixture_f32(f, "gradient_norm", &n_norm);
    const float *projection = unet_fixture_f32(f, "gradient_projection", &n_projection);
    assert_int_equal(n_norm, n->graph->n_params);
    assert_int_equal(n_projection, n_norm * DIGEST_PROJECTIONS);
    double whole = 0, difference = 0, worst = 0;
    for (size_t i = 0; i < n_norm; i++)
        whole += (double)norm[i] * norm[i];
    whole = sqrt(whole);
    for (int32_t i = 0; i < n->graph->n_params; i++) {
        struct digest_error e = digest_compare(n->graph, i, gradient, f->seed, norm, projection);
        double error = e.difference / fmax(e.norm, 1e-3 * whole);
        difference += e.difference * e.difference;
        if (error > worst)
            worst = error;
    }
    *ret_total = sqrt(difference) / whole;
    return worst;
}

/* Biases, gammas and betas, element by element. */
static double rank1_error(const struct network *n, const struct unet_fixture *f, const float *gradient)
{
    size_t n_reference, at = 0;
    const float *reference = unet_fixture_f32(f, "gradient_rank1", &n_reference);
    float *ours = malloc(n_reference * sizeof(*ours));
    for (int32_t i = 0; i < n->graph->n_params; i++) {
        const struct param *p = &n->graph->params[i];
        if (p->file_rank != 1)
            continue;
        assert_true(at + (size_t)p->dim[3] <= n_reference);
        memcpy(ours + at, gradient + p->offset, (size_t)p->dim[3] * sizeof(*ours));
        at += (size_t)p->dim[3];
    }
    assert_int_equal(at, n_reference);
    double error = relative_error(ours, reference, n_reference);
    free(ours);
    return error;
}

static void check_gradient(const char *name, const struct setting *s, double tolerance, double tolerance_worst)
{
    struct unet_fixture f;
    struct network n;
    size_t elements, n_loss;
    int32_t rows;
    unet_fixture_open(FIXTURES, name, &f);
    network_open(&n, &f.model, f.height, f.width, f.seed, s);
    struct batch b = fixture_batch(&f, &elements, &rows);
    for (int run = 0; run < 2; run++) // the second shows that gradients are written, not added
        network_run(&n, rows, &b);
    const float *loss = unet_fixture_f32(&f, "loss", &n_loss);
    float *gradient = malloc(n.graph->param_floats * sizeof(float));
    assert_int_equal(
        n.backend->download(n.device, gradient, program_gradient(n.program), n.graph->param_floats * sizeof(float)), 0);
    double total, worst = gradient_error(&n, &f, gradient, &total), rank1 = rank1_error(&n, &f, gradient);
    double loss_error = relative_error(b.loss, loss, n_loss);
    print_message("%s, %s, %s threads: loss %.2e, gradient %.2e, rank 1 %.2e, worst parameter %.2e\n", name,
                  s->compute == DTYPE_F32 ? "f32" : "bf16", s->threads, loss_error, total, rank1, worst);
    assert_true(loss_error <= tolerance && total <= tolerance && rank1 <= tolerance && worst <= tolerance_worst);
    free(gradient);
    free(b.eps_theta);
    free(b.loss);
    network_close(&n);
    unet_fixture_close(&f);
}

static void test_gradient_f32(void **state)
{
    (void)state;
    for (int i = 0; i < N_NETWORKS; i++) {
        check_gradient(networks[i], &(struct setting){DTYPE_F32, "1", true, 0}, 1e-5, 6e-5);
        check_gradient(networks[i], &(struct setting){DTYPE_F32, "2", true, 1}, 1e-5, 6e-5);
    }
}

static void test_gradient_bf16(void **state)
{
    (void)state;
    if (!device_runs(DTYPE_BF16)) {
        print_message("this processor does not compute in bf16\n");
        skip();
    }
    for (int i = 0; i < N_NETWORKS; i++)
        check_gradient(networks[i], &(struct setting){DTYPE_BF16, "2", true, 0}, 3e-2, 1.3e-1);
}

/* ---- batches ---- */

enum { MAX_ROWS = 33 };
static const int32_t batch_sizes[] = {1, 2, 3, 7, 16, 33};

static void fill_batch(const struct network *n, struct batch *b)
{
    size_t image = (size_t)n->height * n->width * n->model->in_channels;
    float *x = malloc(MAX_ROWS * image * sizeof(*x)), *t = malloc(MAX_ROWS * sizeof(*t));
    int32_t *y = malloc(MAX_ROWS * sizeof(*y));
    for (int32_t i = 0; i < MAX_ROWS; i++) {
        philox_normal(x + i * image, image, 7, (uint64_t)i, 0);
        t[i] = (float)(i * 307 % 1000);
        y[i] = i % (n->model->num_classes + 1);
    }
    *b = (struct batch){.x = x, .t = t, .y = y, .eps_theta = malloc(MAX_ROWS * image * sizeof(float))};
}

static void free_batch(struct batch *b)
{
    free((void *)b->x);
    free((void *)b->t);
    free((void *)b->y);
    free(b->eps_theta);
}

/* Runs images [first, first + rows) as one batch; their eps_theta must be `alone`'s bit by bit. */
static void check_part(const struct network *n, const struct batch *b, int32_t first, int32_t rows, const float *alone)
{
    size_t image = (size_t)n->height * n->width * n->model->in_channels;
    struct batch part = {b->x + first * image, b->t + first, b->y + first, NULL, b->eps_theta, NULL};
    network_run(n, rows, &part);
    for (int32_t i = 0; i < rows; i++)
        if (memcmp(b->eps_theta + i * image, alone + (first + i) * image, image * sizeof(float)) != 0)
            fail_msg("image %d of a batch of %d has other bits than alone", first + i, rows);
}

/* All batch sizes, with 1 and 2 threads, against each image alone on one thread. */
static void check_batches(const struct model_config *model, int32_t height, int32_t width, enum dtype compute)
{
    float *alone = NULL;
    for (int threads = 1; threads <= 2; threads++) {
        struct network n;
        struct batch b;
        network_open(&n, model, height, width, 11,
                     &(struct setting){compute, threads == 1 ? "1" : "2", false, threads == 1 ? 0 : 4});
        fill_batch(&n, &b);
        size_t image = (size_t)height * width * model->in_channels;
        if (!alone)
            alone = malloc(MAX_ROWS * image * sizeof(*alone));
        for (int32_t i = 0; threads == 1 && i < MAX_ROWS; i++) {
            struct batch one = {b.x + i * image, b.t + i, b.y + i, NULL, alone + i * image, NULL};
            network_run(&n, 1, &one);
        }
        for (size_t k = 0; k < sizeof(batch_sizes) / sizeof(batch_sizes[0]); k++) {
            check_part(&n, &b, 0, batch_sizes[k], alone);
            if (batch_sizes[k] < MAX_ROWS / 2)
                check_part(&n, &b, MAX_ROWS - batch_sizes[k], batch_sizes[k], alone);
        }
        free_batch(&b);
        network_close(&n);
    }
    free(alone);
}

static void check_batches_of_fixtures(enum dtype compute)
{
    static const char *const names[] = {"unet_fused_deep", "unet_preact_all", "unet_preact_pool"};
    if (!device_runs(compute)) {
        print_message("this processor does not compute in bf16\n");
        skip();
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct unet_fixture f;
        unet_fixture_open(FIXTURES, names[i], &f);
        check_batches(&f.model, f.height, f.width, compute);
        unet_fixture_close(&f);
    }
}

static void test_batches_f32(void **state)
{
    (void)state;
    check_batches_of_fixtures(DTYPE_F32);
}

static void test_batches_bf16(void **state)
{
    (void)state;
    check_batches_of_fixtures(DTYPE_BF16);
}

/* The default network: its layers are wide enough for the library's other kernels. */
static void test_batches_default(void **state)
{
    (void)state;
    check_batches(&model_config_default, 32, 32, DTYPE_F32);
    if (device_runs(DTYPE_BF16))
        check_batches(&model_config_default, 32, 32, DTYPE_BF16);
    else
        print_message("this processor does not compute in bf16\n");
}

/* ---- initialisation ---- */

static void check_moments(const char *name, const float *v, size_t n, double bound, bool uniform)
{
    double sum = 0, squares = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        sum += v[i];
        squares += (double)v[i] * v[i];
        largest = fmax(largest, fabs(v[i]));
    }
    double deviation = uniform ? bound / sqrt(3) : 1;
    if (fabs(sum / (double)n) > 5 * deviation / sqrt((double)n) ||
        fabs(sqrt(squares / (double)n) / deviation - 1) > 0.1 || (uniform && largest > bound * (1 + 1e-6)))
        fail_msg("%s: mean %g, deviation %g, largest %g, bound %g", name, sum / (double)n, sqrt(squares / (double)n),
                 largest, bound);
}

/* PyTorch's defaults: U(-1/sqrt(fan in), 1/sqrt(fan in)) for filters, matrices and their biases, N(0, 1) for the
 * embedding, 1 and 0 for norms. */
static void test_initialise(void **state)
{
    (void)state;
    struct network n = {.model = &model_config_default, .height = 32, .width = 32};
    struct graph *g = record_alone(&n);
    float *v = malloc(g->param_floats * sizeof(*v)), *again = malloc(g->param_floats * sizeof(*again));
    unet_initialise(g, 5, v);
    unet_initialise(g, 5, again);
    assert_memory_equal(v, again, g->param_floats * sizeof(*v));
    unet_initialise(g, 6, again);
    double bound = 0;
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        size_t fan_in = (size_t)p->dim[1] * p->dim[2] * p->dim[3], size = fan_in * p->dim[0];
        if (strstr(p->name, "norm")) {
            bool gamma = strstr(p->name, ".weight") != NULL;
            for (size_t k = 0; k < size; k++)
                assert_true(v[p->offset + k] == (gamma ? 1.0f : 0.0f));
            continue;
        }
        assert_memory_not_equal(v + p->offset, again + p->offset, size * sizeof(*v));
        if (p->file_rank != 1)
            bound = 1 / sqrt((double)fan_in); // a bias has its weight's
        if (size > 100)
            check_moments(p->name, v + p->offset, size, bound, strcmp(p->name, "class_embed.weight") != 0);
    }
    free(v);
    free(again);
    graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameters),      cmocka_unit_test(test_initialise),
        cmocka_unit_test(test_forward_f32),     cmocka_unit_test(test_forward_bf16),
        cmocka_unit_test(test_gradient_f32),    cmocka_unit_test(test_gradient_bf16),
        cmocka_unit_test(test_batches_f32),     cmocka_unit_test(test_batches_bf16),
        cmocka_unit_test(test_batches_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
