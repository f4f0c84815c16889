/* network.c: how fast the network runs on this device: `network --help`.
 *
 * Works: forward (one eps_theta(x, t, y) call, as each sampling step makes it), train (forward, backward, AdamW with
 * EMA, repacking of the weights), convolutions and train-convolutions (the yardstick, convs.c), profile and
 * train-profile (where the time goes, profile.c). bench/run compares them with a peer.
 */
#include "bench/network.h"

#include "kernels/philox.h"
#include "kernels/program.h"
#include "model/unet.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- clock and memory ---- */

double bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_best(double seconds, int (*call)(void *context), void *context)
{
    double best = 1e9, end = 0;
    for (int i = 0; i < 3 || bench_now() < end; i++) {
        double start = bench_now();
        int rc = call(context);
        if (rc < 0)
            return rc;
        double spent = bench_now() - start;
        if (i == 1)
            end = bench_now() + seconds;
        if (i >= 2 && spent < best)
            best = spent;
    }
    return best;
}

const char *bench_mode(const struct bench *b)
{
    return b->precision == DTYPE_F32 ? "f32" : "bf16";
}

static size_t resident_bytes(void)
{
    unsigned long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%lu %lu", &total, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* ---- what is recorded ---- */

int bench_record_forward(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct bench *b = context;
    (void)ret_loss;
    (void)ret_weight;
    tensor_id x = graph_input(g, DTYPE_F32, b->height, b->width, b->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    graph_output(g, unet_record(g, &b->model, x, t, y, TENSOR_NONE), DTYPE_F32);
    return graph_error(g, NULL);
}

int bench_record_training(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct bench *b = context;
    tensor_id x = graph_input(g, DTYPE_F32, b->height, b->width, b->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    tensor_id eps = graph_input(g, DTYPE_F32, b->height, b->width, b->model.out_channels);
    *ret_weight = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id key = graph_input(g, DTYPE_I32, 1, 1, 4);
    tensor_id eps_theta = graph_cast(g, unet_record(g, &b->model, x, t, y, key), DTYPE_F32);
    *ret_loss = graph_mse(g, eps_theta, eps);
    graph_output(g, *ret_loss, DTYPE_F32);
    return graph_error(g, NULL);
}

/* ---- a network with random weights, and its batch ---- */

struct network_run {
    struct bench *bench;
    struct weights *weights;
    struct program *program;
    bool train;
    size_t n_params;
    void *inputs[BENCH_INPUTS], *output;
    size_t input_bytes[BENCH_INPUTS], output_bytes;
    float *m, *v, *ema;
    int64_t step;
    size_t resident_before; // bytes of the process with the device open, before weights and plans
};

static int upload_input(struct network_run *r, enum bench_input i, const void *from, size_t bytes)
{
    struct bench *b = r->bench;
    int rc = b->backend->alloc(b->device, bytes, &r->inputs[i]);
    r->input_bytes[i] = bytes;
    return rc < 0 ? rc : b->backend->upload(b->device, r->inputs[i], from, bytes);
}

static int upload_normal(struct network_run *r, enum bench_input i, size_t n)
{
    float *z = malloc(n * sizeof(*z));
    if (!z)
        return -ENOMEM;
    philox_normal(z, n, 1, (uint64_t)i, 0);
    int rc = upload_input(r, i, z, n * sizeof(*z));
    free(z);
    return rc;
}

static int upload_batch(struct network_run *r)
{
    struct bench *b = r->bench;
    size_t n = (size_t)b->batch, pixels = (size_t)b->height * b->width;
    float *t = calloc(n, sizeof(*t)), *weight = calloc(n, sizeof(*weight));
    int32_t *y = calloc(n, sizeof(*y)), *key = calloc(n, 4 * sizeof(*key));
    int rc = t && weight && y && key ? 0 : -ENOMEM;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        t[i] = (float)(i * 61 % 1000);
        y[i] = (int32_t)(i % (size_t)b->model.num_classes);
        weight[i] = 1.0f / (float)n;
        key[4 * i + 3] = (int32_t)i;
    }
    if (rc == 0)
        rc = upload_normal(r, BENCH_X, n * pixels * b->model.in_channels);
    if (rc == 0)
        rc = upload_normal(r, BENCH_EPS, n * pixels * b->model.out_channels);
    if (rc == 0)
        rc = upload_input(r, BENCH_T, t, n * sizeof(*t));
    if (rc == 0)
        rc = upload_input(r, BENCH_Y, y, n * sizeof(*y));
    if (rc == 0)
        rc = upload_input(r, BENCH_WEIGHT, weight, n * sizeof(*weight));
    if (rc == 0)
        rc = upload_input(r, BENCH_KEY, key, 4 * n * sizeof(*key));
    free(t);
    free(weight);
    free(y);
    free(key);
    r->output_bytes = n * (r->train ? 1 : pixels * b->model.out_channels) * sizeof(float);
    return rc < 0 ? rc : b->backend->alloc(b->device, r->output_bytes, &r->output);
}

static int create_weights(struct network_run *r, struct error *err)
{
    struct bench *b = r->bench;
    tensor_id none = TENSOR_NONE;
    struct graph *g = graph_create(1, b->precision, false);
    if (!g)
        return -ENOMEM;
    int rc = bench_record_forward(b, g, &none, &none);
    float *values = rc == 0 ? calloc(g->param_floats, sizeof(*values)) : NULL;
    if (rc == 0)
        rc = values ? 0 : -ENOMEM;
    if (rc == 0) {
        unet_initialise(g, 0, values);
        r->n_params = g->param_floats;
        rc = b->backend->weights_create(b->device, g, values, r->train, &r->weights, err);
    }
    free(values);
    graph_free(g);
    return rc;
}

/* AdamW's moments and the EMA, zero. */
static int create_moments(struct network_run *r)
{
    struct bench *b = r->bench;
    size_t bytes = r->n_params * sizeof(float);
    float *zero = calloc(r->n_params, sizeof(*zero)), **vectors[] = {&r->m, &r->v, &r->ema};
    int rc = zero ? 0 : -ENOMEM;
    for (int i = 0; rc == 0 && i < 3; i++) {
        rc = b->backend->alloc(b->device, bytes, (void **)vectors[i]);
        if (rc == 0)
            rc = b->backend->upload(b->device, *vectors[i], zero, bytes);
    }
    free(zero);
    return rc;
}

static int run_open(struct network_run *r, struct error *err)
{
    struct bench *b = r->bench;
    r->resident_before = resident_bytes();
    struct program_options options = {.compute = b->precision, .training = r->train, .strand_images = b->strand_images};
    program_record record = r->train ? bench_record_training : bench_record_forward;
    int rc = create_weights(r, err);
    if (rc == 0)
        rc = program_create(b->device, r->weights, record, b, &options, &r->program, err);
    if (rc == 0)
        rc = program_prepare(r->program, b->batch, err);
    if (rc == 0 && !r->train)
        b->backend->weights_seal(r->weights);
    if (rc == 0 && r->train)
        rc = create_moments(r);
    return rc < 0 ? rc : upload_batch(r);
}

static void run_close(struct network_run *r)
{
    struct bench *b = r->bench;
    float *vectors[] = {r->m, r->v, r->ema};
    for (int i = 0; i < 3; i++)
        if (vectors[i])
            b->backend->free(b->device, vectors[i], r->n_params * sizeof(float));
    for (int i = 0; i < BENCH_INPUTS; i++)
        if (r->inputs[i])
            b->backend->free(b->device, r->inputs[i], r->input_bytes[i]);
    if (r->output)
        b->backend->free(b->device, r->output, r->output_bytes);
    program_free(r->program);
    if (r->weights)
        b->backend->weights_free(r->weights);
}

static int run_call(void *context)
{
    struct network_run *r = context;
    struct bench *b = r->bench;
    float first;
    int rc = program_run(r->program, b->batch, (const void *const *)r->inputs, &r->output, NULL);
    if (rc < 0)
        return rc;
    if (!r->train)
        return b->backend->download(b->device, &first, r->output, sizeof(first)); // waits
    struct adamw o = {.lr = 2e-4f,
                      .beta1 = 0.9f,
                      .beta2 = 0.999f,
                      .eps = 1e-8f,
                      .weight_decay = 1e-4f,
                      .scale = 1,
                      .ema_decay = 0.9999f,
                      .step = ++r->step};
    rc = b->backend->adamw(b->device, b->backend->weights_master(r->weights), program_gradient(r->program), r->m, r->v,
                           r->ema, r->n_params, &o);
    if (rc == 0)
        rc = b->backend->weights_repack(r->weights);
    return rc < 0 ? rc : b->backend->download(b->device, &first, r->output, sizeof(first));
}

static void print_speed(const struct network_run *r, double seconds)
{
    const struct bench *b = r->bench;
    double flop = (double)model_config_flop(&b->model, b->height, b->width);
    printf("{\"who\": \"ddimd\", \"mode\": \"%s\", \"work\": \"%s\", \"batch\": %d, \"threads\": %d, \"ms\": %.3f, "
           "\"images_per_s\": %.2f, \"gflop_per_s\": %.1f, \"gflop_per_image\": %.3f, \"nodes\": %d, "
           "\"device_mib\": %.1f, \"weights_mib\": %.1f, \"arena_mib\": %.1f, \"resident_before_mib\": %.1f, "
           "\"resident_mib\": %.1f}\n",
           bench_mode(b), r->train ? "train" : "forward", b->batch, b->n_threads, seconds * 1e3, b->batch / seconds,
           flop * b->batch * (r->train ? 3 : 1) / seconds * 1e-9, flop * 1e-9, program_n_nodes(r->program),
           (double)((struct device_base *)b->device)->bytes_in_use / 0x1p20,
           (double)b->backend->weights_bytes(r->weights) / 0x1p20, (double)program_arena_bytes(r->program) / 0x1p20,
           (double)r->resident_before / 0x1p20, (double)resident_bytes() / 0x1p20);
}

static int bench_speed(struct bench *b, bool train, struct error *err)
{
    struct network_run r = {.bench = b, .train = train};
    int rc = run_open(&r, err);
    if (rc == 0) {
        double best = bench_best(b->seconds, run_call, &r);
        if (best > 0)
            print_speed(&r, best);
        else
            rc = (int)best;
    }
    run_close(&r);
    return rc;
}

static int bench_profile(struct bench *b, bool train, bool per_node, struct error *err)
{
    struct network_run r = {.bench = b, .train = train};
    struct profile *profile = NULL;
    int calls = 0, rc = profile_begin(b, &profile);
    if (rc == 0)
        rc = run_open(&r, err);
    for (int i = 0; rc == 0 && i < 2; i++)
        rc = run_call(&r);
    if (rc == 0)
        profile_reset(profile);
    for (double end = bench_now() + b->seconds; rc == 0 && bench_now() < end; calls++)
        rc = run_call(&r);
    if (rc == 0)
        profile_print(profile, b, train ? "train" : "forward", calls, per_node);
    run_close(&r);
    profile_end(profile, b);
    return rc;
}

/* ---- command line ---- */

static const struct option options[] = {{"backend", required_argument, NULL, 'd'},
                                        {"work", required_argument, NULL, 'w'},
                                        {"precision", required_argument, NULL, 'p'},
                                        {"batch", required_argument, NULL, 'b'},
                                        {"threads", required_argument, NULL, 't'},
                                        {"seconds", required_argument, NULL, 's'},
                                        {"size", required_argument, NULL, 'z'},
                                        {"model", required_argument, NULL, 'm'},
                                        {"strand-images", required_argument, NULL, 'i'},
                                        {"each", no_argument, NULL, 'e'},
                                        {"help", no_argument, NULL, 'h'},
                                        {0}};
static const char usage[] =
    "network [options]: speed of the UNet, as JSON lines\n"
    "  --backend NAME       cpu | cuda | auto (cpu)\n"
    "  --work WORK          forward | train | convolutions | train-convolutions | profile | train-profile (forward)\n"
    "  --precision P        f32 | bf16 (bf16)\n"
    "  --batch N            images (16)\n"
    "  --threads N          (2)\n"
    "  --seconds S          for the timed calls (5)\n"
    "  --size N             height and width (32)\n"
    "  --model JSON         as in a checkpoint; absent keys have the reference's values\n"
    "  --strand-images N    most images that one thread's plan takes at once (0: the engine's choice)\n"
    "  --each               a line for each layer or node too\n";

struct command {
    struct bench bench;
    const char *backend, *work, *model;
    bool each;
};

static int parse_command(int argc, char **argv, struct command *c)
{
    struct bench *b = &c->bench;
    *b = (struct bench){.precision = DTYPE_BF16, .n_threads = 2, .batch = 16, .seconds = 5, .height = 32, .width = 32};
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'd':
            c->backend = optarg;
            break;
        case 'w':
            c->work = optarg;
            break;
        case 'p':
            b->precision = strcmp(optarg, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16;
            break;
        case 'b':
            b->batch = atoi(optarg);
            break;
        case 't':
            b->n_threads = atoi(optarg);
            break;
        case 's':
            b->seconds = atof(optarg);
            break;
        case 'z':
            b->height = b->width = atoi(optarg);
            break;
        case 'm':
            c->model = optarg;
            break;
        case 'i':
            b->strand_images = atoi(optarg);
            break;
        case 'e':
            c->each = true;
            break;
        default:
            fputs(usage, o == 'h' ? stdout : stderr);
            return -EINVAL;
        }
    }
    return b->batch < 1 || b->n_threads < 1 || optind != argc ? -EINVAL : 0;
}

static int open_device(struct bench *b, const char *backend, struct error *err)
{
    char threads[16];
    snprintf(threads, sizeof(threads), "%d", b->n_threads);
    b->backend = backend_find(backend, err);
    if (!b->backend)
        return -ENODEV;
    int rc = b->backend->open(b->backend == &backend_cpu ? threads : "", &b->device, err);
    if (rc == 0)
        fprintf(stderr, "%s\n", ((struct device_base *)b->device)->description);
    return rc;
}

static int run_command(struct command *c, struct error *err)
{
    struct bench *b = &c->bench;
    bool train = strncmp(c->work, "train", 5) == 0;
    if (strstr(c->work, "convolutions"))
        return bench_convolutions(b, train, c->each);
    int rc = open_device(b, c->backend, err);
    if (rc < 0)
        return rc;
    if (strstr(c->work, "profile"))
        rc = bench_profile(b, train, c->each, err);
    else
        rc = bench_speed(b, train, err);
    if (rc < 0 && ((struct device_base *)b->device)->failure[0])
        error_set(err, rc, NULL, "%s", ((struct device_base *)b->device)->failure);
    b->backend->close(b->device);
    return rc;
}

int main(int argc, char **argv)
{
    struct command c = {.backend = "cpu", .work = "forward", .model = "{}"};
    struct error err = {0};
    if (parse_command(argc, argv, &c) < 0)
        return 2;
    json_t *json = json_loads(c.model, 0, NULL);
    int rc = json ? model_config_parse(json, "model", &c.bench.model, &err)
                  : error_set(&err, -EINVAL, "model", "This is not JSON.");
    json_decref(json);
    if (rc == 0)
        rc = run_command(&c, &err);
    if (rc < 0)
        fprintf(stderr, "network: %s%s%s\n", err.field, *err.field ? ": " : "",
                *err.message ? err.message : strerror(-rc));
    return rc < 0;
}
