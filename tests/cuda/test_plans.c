/* test_plans.c: whether the real cuDNN has engines for every graph that the backend would build on a GPU that is not
 * here but described (devices/NAME.json), for the seed network in bf16 and f32, from 1 image to 512, in training too,
 * and for the table of operations. Lowers as on a GPU, on the stand-in's runtime; runs nothing.
 *
 * usage: test_plans DEVICE.json [verbose]
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/engine.h"
#include "kernels/plan.h"
#include "model/unet.h"
#include "tests/support/op_run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct backend ddimd_backend;

static int failures, n_plans, n_own;
static bool verbose, brief;

static char *read_text(const char *path)
{
    static char text[8192];
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (f)
        fclose(f);
    return n ? text : NULL;
}

/* What device_open() makes, with a description in the place of cuDNN's handle. */
static int open_described(struct device *d, dnn_descriptor properties, struct error *err)
{
    d->base = (struct device_base){.backend = &ddimd_backend, .n_threads = 1, .whole_images = CUDA_WHOLE_IMAGES};
    int rc = CUDA(d, cudaStreamCreateWithPriority(&d->stream, cudaStreamNonBlocking, 0), err);
    if (rc == 0)
        rc = CUDA(d, cudaMallocHost((void **)&d->staging.memory, CUDA_STAGING_BYTES), err);
    for (int i = 0; i < 2 && rc == 0; i++)
        rc = CUDA(d, cudaEventCreateWithFlags(&d->staging.done[i], cudaEventDisableTiming), err);
    return rc ? rc : engines_create_described(properties, &d->engines, err);
}

/* ---- the seed network ---- */

struct network {
    struct model_config model;
    struct graph *graph;
    struct weights *weights;
    size_t scratch_bytes;
};

/* The graph of a batch as program.c and the learner make it. */
static struct graph *record(const struct model_config *m, int32_t n, enum dtype compute, bool training)
{
    struct graph *g = graph_create(n, compute, training);
    tensor_id x = graph_input(g, DTYPE_F32, 32, 32, m->in_channels), t = graph_input(g, DTYPE_F32, 1, 1, 1),
              y = graph_input(g, DTYPE_I32, 1, 1, 1), key = TENSOR_NONE, eps, weight, loss;
    if (training)
        key = graph_input(g, DTYPE_I32, 1, 1, 4);
    tensor_id eps_theta = unet_record(g, m, x, t, y, key);
    if (!training) {
        graph_output(g, eps_theta, DTYPE_F32);
        graph_fuse(g);
    } else {
        eps = graph_input(g, DTYPE_F32, 32, 32, m->out_channels);
        weight = graph_input(g, DTYPE_F32, 1, 1, 1);
        loss = graph_mse(g, graph_cast(g, eps_theta, DTYPE_F32), eps);
        graph_output(g, loss, DTYPE_F32);
        graph_fuse(g);
        graph_gradient(g, loss, weight);
    }
    graph_place_views(g);
    return g;
}

static int lower_network(struct device *d, struct weights **w, const struct model_config *m, int32_t n,
                         enum dtype compute, bool training)
{
    struct graph *g = record(m, n, compute, training);
    struct error err = {0};
    struct plan plan = {0};
    size_t scratch = 0;
    int rc = graph_error(g, &err);
    if (rc == 0 && !*w) {
        float *zeros = calloc(g->param_floats, sizeof(float));
        rc = zeros ? ddimd_backend.weights_create(d, g, zeros, true, w, &err) : -ENOMEM;
        free(zeros);
    }
    if (rc == 0)
        rc = plan_init(&plan, g);
    for (int32_t k = 0; k < g->n_nodes && rc == 0; k++) {
        struct primitive *p = NULL;
        const struct lowering l = {g, &g->nodes[k], plan.places, *w, 1};
        rc = ddimd_backend.lower[g->nodes[k].op](d, &l, &p, &err);
        if (rc == 0) {
            scratch = p->scratch_bytes > scratch ? p->scratch_bytes : scratch;
            p->free(p);
        }
    }
    printf("%s of %d images in %s: %s, %d nodes, arena %zu MiB, scratch %zu MiB\n", training ? "training" : "sampling",
           n, compute == DTYPE_BF16 ? "bf16" : "f32", rc ? err.message : "every layer has an engine", g->n_nodes,
           plan.arena_bytes >> 20, scratch >> 20);
    failures += rc != 0;
    plan_done(&plan);
    graph_free(g);
    return rc;
}

static void check_network(struct device *d)
{
    static const int32_t batches[] = {1, 64, 512};
    const struct model_config seed = {.in_channels = 3,
                                      .out_channels = 3,
                                      .model_channels = 128,
                                      .channel_mult = {1, 2, 2, 2},
                                      .n_levels = 4,
                                      .num_res_blocks = 2,
                                      .attention_resolutions = {2},
                                      .n_attention = 1,
                                      .dropout = 0.1f,
                                      .conv_resample = true,
                                      .num_heads = 4,
                                      .num_classes = 10,
                                      .residual_block = BLOCK_ORDER_FUSED};
    struct weights *w = NULL;
    for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++)
        if (!brief || batches[i] == 64)
            lower_network(d, &w, &seed, batches[i], DTYPE_BF16, false);
    lower_network(d, &w, &seed, 128, DTYPE_BF16, true);
    if (!brief) {
        lower_network(d, &w, &seed, 2, DTYPE_F32, false);
        lower_network(d, &w, &seed, 2, DTYPE_F32, true);
    }
    ddimd_backend.weights_free(w);
}

/* ---- the table of operations ---- */

static void check_cases(struct device *d)
{
    for (int i = 0; i < N_OP_CASES; i++)
        for (int t = 0; t < 2; t++) {
            const struct op_case *c = &op_cases[i];
            const struct op_run_options o = {.n = c->n, .compute = t ? DTYPE_BF16 : DTYPE_F32, .n_threads = 1};
            struct error err = {0};
            struct op_run *r = op_run_create(d, c, &o, &err);
            int rc = op_run_lower(r, &err);
            if (rc)
                printf("%s in %s: %s\n", c->name, t ? "bf16" : "f32", err.message);
            failures += rc != 0;
            op_run_free(r);
        }
}

static void tell_plan(const struct dnn_shape *s, int64_t n, const struct dnn_plan *p)
{
    static const char *const kinds[] = {"conv", "conv data", "conv weights", "attention", "attention backward"};
    n_plans++;
    if (verbose)
        printf("  %-18s %s n %3d %3dx%-3d %4d->%-4d %dx%d /%d%s%s heads %d x %d: engine %d of %d, %zu KiB\n",
               kinds[s->kind], s->in == DTYPE_BF16 ? "bf16" : "f32 ", (int)n, s->h, s->w, s->c, s->k, s->r, s->r,
               s->stride, s->bias ? " +bias" : "", s->residual ? " +residual" : "", s->heads, s->size, (int)p->engine,
               p->n_offered, p->workspace_bytes >> 10);
}

static void tell_refusal(const struct dnn_shape *s, const char *why)
{
    n_own++;
    printf("  refused: kind %d %s->%s %dx%d %d->%d %dx%d /%d%s%s, heads %d x %d, %d tokens: %s\n", s->kind,
           s->in == DTYPE_BF16 ? "bf16" : "f32", s->out == DTYPE_BF16 ? "bf16" : "f32", s->h, s->w, s->c, s->k, s->r,
           s->r, s->stride, s->bias ? " +bias" : "", s->residual ? " +residual" : "", s->heads, s->size, s->tokens,
           why);
}

int main(int argc, char **argv)
{
    struct device d = {0};
    struct error err = {0};
    dnn_descriptor properties;
    char *json = argc > 1 ? read_text(argv[1]) : NULL;
    verbose = argc > 2 && !strcmp(argv[2], "verbose");
    brief = argc > 2 && !strcmp(argv[2], "brief");
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!json) {
        fprintf(stderr, "usage: test_plans DEVICE.json [verbose | brief]\n");
        return 2;
    }
    if (CUDNN(NULL, dnn_describe_device(json, &properties), &err) || open_described(&d, properties, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    check_network(&d);
    if (!brief)
        check_cases(&d);
    engines_tell(d.engines, tell_plan, tell_refusal);
    printf("%d plans, %d graphs refused and done otherwise, %d failures\n", n_plans, n_own, failures);
    engines_free(d.engines);
    cudnnBackendDestroyDescriptor(properties);
    return failures != 0;
}
