/* classify_learner.c: see classify_learner.h. */
#include "training/classify_learner.h"

#include "kernels/program.h"
#include "model/unet.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum { IN_X, IN_Y, IN_KEY, IN_WEIGHT, N_INPUTS };

struct buffer {
    void *memory;
    size_t bytes;
};

struct classify_learner {
    struct classify_learner_options o;
    struct device *device;
    const struct backend *backend;
    struct graph *graph; // for its parameter table
    struct weights *weights, *ema;
    struct program *train, *test;
    struct buffer m, v, in[N_INPUTS], losses, logits;
    float *host_losses, *host_logits, *host_weight; // [batch_size, ...]
    int32_t *host_key;
    size_t elements; // of an image
    bool ema_stale;
};

/* ---- recording ---- */

static int record(const struct classify_learner *l, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    tensor_id features, key = TENSOR_NONE;
    tensor_id x = graph_input(g, DTYPE_F32, l->o.height, l->o.width, l->o.classifier.in_channels);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    if (g->training) {
        key = graph_input(g, DTYPE_I32, 1, 1, 4);
        *ret_weight = graph_input(g, DTYPE_F32, 1, 1, 1);
    }
    tensor_id logits = classifier_record(g, &l->o.classifier, x, key, &features);
    tensor_id loss = graph_cross_entropy(g, logits, y);
    if (g->training)
        *ret_loss = loss;
    graph_output(g, loss, DTYPE_F32);
    if (!g->training)
        graph_output(g, logits, DTYPE_F32);
    return graph_error(g, NULL);
}

static int record_program(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    return record(context, g, ret_loss, ret_weight);
}

/* ---- making ---- */

static int allocate(struct classify_learner *l, struct buffer *b, size_t bytes)
{
    int rc = l->backend->alloc(l->device, bytes, &b->memory);
    if (rc == 0)
        b->bytes = bytes;
    return rc;
}

static int allocate_all(struct classify_learner *l)
{
    size_t n = (size_t)l->o.batch_size, classes = (size_t)l->o.classifier.num_classes,
           flat = l->graph->param_floats * sizeof(float);
    const struct {
        struct buffer *buffer;
        size_t bytes;
    } wanted[] = {{&l->m, flat},
                  {&l->v, flat},
                  {&l->in[IN_X], n * l->elements * 4},
                  {&l->in[IN_Y], n * 4},
                  {&l->in[IN_KEY], n * 16},
                  {&l->in[IN_WEIGHT], n * 4},
                  {&l->losses, n * 4},
                  {&l->logits, n * classes * 4}};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof wanted / sizeof wanted[0]; i++)
        rc = allocate(l, wanted[i].buffer, wanted[i].bytes);
    l->host_losses = malloc(n * sizeof(float));
    l->host_logits = malloc(n * classes * sizeof(float));
    l->host_weight = malloc(n * sizeof(float));
    l->host_key = malloc(n * 4 * sizeof(int32_t));
    return rc == 0 && l->host_losses && l->host_logits && l->host_weight && l->host_key ? 0 : -ENOMEM;
}

static int create_weights(struct classify_learner *l, struct error *err)
{
    float *values = calloc(l->graph->param_floats, sizeof *values);
    if (!values)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = l->backend->upload(l->device, l->m.memory, values, l->m.bytes);
    if (rc == 0)
        rc = l->backend->upload(l->device, l->v.memory, values, l->v.bytes);
    unet_initialise(l->graph, l->o.seed, values);
    if (rc == 0)
        rc = l->backend->weights_create(l->device, l->graph, values, true, &l->weights, err);
    if (rc == 0)
        rc = l->backend->weights_create(l->device, l->graph, values, true, &l->ema, err);
    free(values);
    return rc;
}

int classify_learner_create(const struct classify_learner_options *o, struct classify_learner **ret_learner,
                            struct error *err)
{
    const struct program_options train = {.compute = o->precision, .training = true}, test = {.compute = DTYPE_F32};
    struct classify_learner *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    l->o = *o;
    l->device = o->device;
    l->backend = ((struct device_base *)o->device)->backend;
    l->elements = (size_t)o->height * (size_t)o->width * (size_t)o->classifier.in_channels;
    l->graph = graph_create(1, DTYPE_F32, false);
    tensor_id none;
    int rc = l->graph ? record(l, l->graph, &none, &none) : -ENOMEM;
    if (rc < 0 && l->graph)
        graph_error(l->graph, err);
    if (rc == 0 && (rc = allocate_all(l)) < 0)
        error_set(err, rc, NULL, "not enough memory for the optimiser and a batch");
    if (rc == 0)
        rc = create_weights(l, err);
    if (rc == 0)
        rc = program_create(l->device, l->weights, record_program, l, &train, &l->train, err);
    if (rc == 0)
        rc = program_create(l->device, l->ema, record_program, l, &test, &l->test, err);
    if (rc == 0)
        rc = program_prepare(l->train, o->batch_size, err);
    if (rc < 0) {
        classify_learner_free(l);
        return rc;
    }
    *ret_learner = l;
    return 0;
}

void classify_learner_free(struct classify_learner *l)
{
    if (!l)
        return;
    program_free(l->train);
    program_free(l->test);
    if (l->weights)
        l->backend->weights_free(l->weights);
    if (l->ema)
        l->backend->weights_free(l->ema);
    struct buffer *const buffers[] = {
        &l->m, &l->v, &l->in[IN_X], &l->in[IN_Y], &l->in[IN_KEY], &l->in[IN_WEIGHT], &l->losses, &l->logits};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        if (buffers[i]->memory)
            l->backend->free(l->device, buffers[i]->memory, buffers[i]->bytes);
    graph_free(l->graph);
    free(l->host_losses);
    free(l->host_logits);
    free(l->host_weight);
    free(l->host_key);
    free(l);
}

const struct graph *classify_learner_graph(const struct classify_learner *l)
{
    return l->graph;
}

/* ---- a step ---- */

static int put(struct classify_learner *l, int input, const void *from, size_t bytes)
{
    assert(bytes <= l->in[input].bytes);
    return l->backend->upload(l->device, l->in[input].memory, from, bytes);
}

static void fill_keys(struct classify_learner *l, int32_t n, uint32_t step)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t *key = l->host_key + 4 * i;
        key[0] = (int32_t)(uint32_t)l->o.seed;
        key[1] = (int32_t)(uint32_t)(l->o.seed >> 32);
        key[2] = (int32_t)step;
        key[3] = i;
        l->host_weight[i] = 1.0f / (float)n;
    }
}

static int lost(int rc, struct error *err)
{
    return error_set(err, rc, NULL, "the device is lost");
}

int classify_learner_step(struct classify_learner *l, int32_t n, const float *x, const int32_t *y, uint32_t step,
                          double clip, const struct adamw *o, double *ret_loss, struct error *err)
{
    const struct backend *b = l->backend;
    size_t count = (size_t)n, flat = l->graph->param_floats;
    double loss = 0, squares = 0;
    int rc;
    fill_keys(l, n, step);
    if ((rc = put(l, IN_X, x, count * l->elements * 4)) < 0 || (rc = put(l, IN_Y, y, count * 4)) < 0 ||
        (rc = put(l, IN_KEY, l->host_key, count * 16)) < 0 || (rc = put(l, IN_WEIGHT, l->host_weight, count * 4)) < 0)
        return lost(rc, err);
    const void *inputs[N_INPUTS];
    for (int i = 0; i < N_INPUTS; i++)
        inputs[i] = l->in[i].memory;
    void *outputs[] = {l->losses.memory};
    if ((rc = program_run(l->train, n, inputs, outputs, err)) < 0)
        return rc;
    if ((rc = b->download(l->device, l->host_losses, l->losses.memory, count * 4)) < 0 ||
        (rc = b->sum_of_squares(l->device, program_gradient(l->train), flat, &squares)) < 0)
        return lost(rc, err);
    for (int32_t i = 0; i < n; i++)
        loss += l->host_losses[i] / (double)n;
    if (!isfinite(loss) || !isfinite(squares))
        return error_set(err, -ERANGE, "optimizer.lr", "the loss is not finite; a lower learning rate may help");
    struct adamw update = *o;
    update.scale = clip > 0 ? (float)fmin(1.0, clip / (sqrt(squares) + 1e-6)) : 1.0f;
    rc = b->adamw(l->device, b->weights_master(l->weights), program_gradient(l->train), l->m.memory, l->v.memory,
                  b->weights_master(l->ema), flat, &update);
    l->ema_stale = true;
    if (rc == 0)
        rc = b->weights_repack(l->weights);
    *ret_loss = loss;
    return rc < 0 ? lost(rc, err) : 0;
}

/* ---- the averaged weights ---- */

static int32_t highest(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t k = 1; k < n; k++)
        if (logits[k] > logits[best])
            best = k;
    return best;
}

int classify_learner_test(struct classify_learner *l, int32_t n, const float *x, const int32_t *y, double *ret_loss,
                          int32_t *ret_right, struct error *err)
{
    size_t count = (size_t)n;
    int32_t classes = l->o.classifier.num_classes, right = 0;
    double loss = 0;
    int rc = l->ema_stale ? l->backend->weights_repack(l->ema) : 0;
    l->ema_stale = l->ema_stale && rc < 0;
    if (rc < 0 || (rc = put(l, IN_X, x, count * l->elements * 4)) < 0 || (rc = put(l, IN_Y, y, count * 4)) < 0)
        return lost(rc, err);
    const void *inputs[] = {l->in[IN_X].memory, l->in[IN_Y].memory};
    void *outputs[] = {l->losses.memory, l->logits.memory};
    if ((rc = program_run(l->test, n, inputs, outputs, err)) < 0)
        return rc;
    if ((rc = l->backend->download(l->device, l->host_losses, l->losses.memory, count * 4)) < 0 ||
        (rc = l->backend->download(l->device, l->host_logits, l->logits.memory, count * (size_t)classes * 4)) < 0)
        return lost(rc, err);
    for (int32_t i = 0; i < n; i++) {
        loss += l->host_losses[i];
        right += highest(l->host_logits + i * classes, classes) == y[i];
    }
    *ret_loss = loss;
    *ret_right = right;
    return 0;
}

int classify_learner_get(struct classify_learner *l, float *ret_values)
{
    return l->backend->download(l->device, ret_values, l->backend->weights_master(l->ema),
                                l->graph->param_floats * sizeof(float));
}
