/* learner.c: see learner.h. The averaged weights are a second `struct weights` whose master the optimiser writes; their
 * packed copies are refreshed when something is to be computed with them.
 */
#include "training/learner.h"

#include "kernels/program.h"
#include "model/unet.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    IN_X,
    IN_T,
    IN_Y,
    IN_KEY,
    IN_EPS,
    IN_WEIGHT,
    N_INPUTS
}; // of the training program; the forward one has the first 3

struct buffer {
    void *memory;
    size_t bytes;
};

/* Host arrays of a sampling step, [forward_batch] each. */
struct lane_rows {
    int32_t *slot, *y;
    float *t;
    uint8_t *finite;
    struct row_update *update;
};

struct learner {
    struct learner_options o;
    const struct backend *backend;
    struct device *device;
    size_t elements; // of an image
    struct graph *graph;
    struct weights *weights, *ema;
    struct program *train, *forward;
    struct buffer m, v, sum; // flat; sum only where a batch goes in pieces
    struct buffer in[N_INPUTS], losses;
    struct buffer fx, ft, fy, feps; // of forward_batch rows
    struct buffer pool, last;       // sampling: x and the last x0 of forward_batch lanes
    struct lane_rows lanes;
    int32_t piece;         // images at once
    float *weight;         // [batch_size] on the host
    const float *gradient; // of the last learner_gradient
    bool ema_stale;        // its packed copies are older than its master
};

/* ---- recording ---- */

static int record_forward(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct learner *l = context;
    tensor_id x = graph_input(g, DTYPE_F32, l->o.height, l->o.width, l->o.model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    graph_output(g, unet_record(g, &l->o.model, x, t, y, TENSOR_NONE), DTYPE_F32);
    *ret_loss = *ret_weight = TENSOR_NONE;
    return graph_error(g, NULL);
}

static int record_train(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct learner *l = context;
    tensor_id x = graph_input(g, DTYPE_F32, l->o.height, l->o.width, l->o.model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    tensor_id key = graph_input(g, DTYPE_I32, 1, 1, 4);
    tensor_id eps = graph_input(g, DTYPE_F32, l->o.height, l->o.width, l->o.model.out_channels);
    tensor_id weight = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id eps_theta = graph_cast(g, unet_record(g, &l->o.model, x, t, y, key), DTYPE_F32);
    tensor_id loss = graph_mse(g, eps_theta, eps);
    graph_output(g, loss, DTYPE_F32);
    *ret_loss = loss;
    *ret_weight = weight;
    return graph_error(g, NULL);
}

/* ---- making ---- */

static int allocate(struct learner *l, struct buffer *b, size_t bytes)
{
    int r = l->backend->alloc(l->device, bytes, &b->memory);
    if (r == 0)
        b->bytes = bytes;
    return r;
}

static int allocate_host(struct learner *l)
{
    struct lane_rows *h = &l->lanes;
    size_t f = (size_t)l->o.forward_batch;
    l->weight = malloc((size_t)l->o.batch_size * sizeof *l->weight);
    h->slot = malloc(f * sizeof *h->slot);
    h->y = malloc(f * sizeof *h->y);
    h->t = malloc(f * sizeof *h->t);
    h->finite = malloc(f * sizeof *h->finite);
    h->update = malloc(f * sizeof *h->update);
    return l->weight && h->slot && h->y && h->t && h->finite && h->update ? 0 : -ENOMEM;
}

struct wanted {
    struct buffer *buffer;
    size_t bytes;
};

static int allocate_all(struct learner *l, const struct wanted *wanted, size_t n)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < n; i++)
        r = allocate(l, wanted[i].buffer, wanted[i].bytes);
    return r;
}

static void release(struct learner *l, struct buffer *b)
{
    if (b->memory)
        l->backend->free(l->device, b->memory, b->bytes);
    *b = (struct buffer){0};
}

/* What does not depend on how many images pass at once. */
static int allocate_buffers(struct learner *l)
{
    size_t f = (size_t)l->o.forward_batch, image = l->elements * sizeof(float);
    size_t flat = l->graph->param_floats * sizeof(float);
    const struct wanted wanted[] = {
        {&l->m, flat},   {&l->v, flat},         {&l->fx, f * image},   {&l->ft, f * 4},
        {&l->fy, f * 4}, {&l->feps, f * image}, {&l->pool, f * image}, {&l->last, f * image},
    };
    int r = allocate_all(l, wanted, sizeof wanted / sizeof wanted[0]);
    return r < 0 ? r : allocate_host(l);
}

/* Initial values into weights and average, zero moments. */
static int create_weights(struct learner *l, struct error *err)
{
    size_t n = l->graph->param_floats;
    float *values = calloc(n, sizeof *values);
    if (!values)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int r = l->backend->upload(l->device, l->m.memory, values, l->m.bytes);
    if (r == 0)
        r = l->backend->upload(l->device, l->v.memory, values, l->v.bytes);
    if (r < 0)
        error_set(err, r, NULL, "the device is lost");
    if (l->o.values)
        memcpy(values, l->o.values, n * sizeof *values);
    else
        unet_initialise(l->graph, l->o.seed, values);
    if (r == 0)
        r = l->backend->weights_create(l->device, l->graph, values, true, &l->weights, err);
    if (r == 0)
        r = l->backend->weights_create(l->device, l->graph, values, true, &l->ema, err);
    free(values);
    return r;
}

static int create_forward(struct learner *l, struct error *err)
{
    struct program_options forward = {.compute = l->o.precision};
    int r = program_create(l->device, l->ema, record_forward, l, &forward, &l->forward, err);
    return r == 0 ? program_prepare(l->forward, l->o.forward_batch, err) : r;
}

/* ---- images at once ---- */

static void drop_train(struct learner *l)
{
    program_free(l->train);
    l->train = NULL;
    l->gradient = NULL;
    for (int i = 0; i < N_INPUTS; i++)
        release(l, &l->in[i]);
    release(l, &l->losses);
    release(l, &l->sum);
}

/* Buffers and program for `piece` images at once, in place of those that were. On failure there are none. */
static int create_train(struct learner *l, int32_t piece, struct error *err)
{
    size_t n = (size_t)piece, image = l->elements * sizeof(float), flat = l->graph->param_floats * sizeof(float);
    const struct wanted wanted[] = {
        {&l->in[IN_X], n * image},   {&l->in[IN_T], n * 4},      {&l->in[IN_Y], n * 4}, {&l->in[IN_KEY], n * 16},
        {&l->in[IN_EPS], n * image}, {&l->in[IN_WEIGHT], n * 4}, {&l->losses, n * 4},   {&l->sum, flat},
    };
    struct program_options train = {.compute = l->o.precision, .training = true};
    size_t n_wanted = sizeof wanted / sizeof wanted[0] - (piece == l->o.batch_size); // a whole batch needs no sum
    drop_train(l);
    int r = allocate_all(l, wanted, n_wanted);
    if (r < 0)
        error_set(err, r, NULL, "not enough memory for a batch");
    if (r == 0)
        r = program_create(l->device, l->weights, record_train, l, &train, &l->train, err);
    if (r == 0)
        r = program_prepare(l->train, piece, err);
    if (r < 0)
        drop_train(l);
    else
        l->piece = piece;
    return r;
}

int learner_set_micro_batch(struct learner *l, int32_t n, struct error *err)
{
    assert(n > 0 && n <= l->o.batch_size);
    int r = create_train(l, n, err);
    for (; r == -ENOMEM && n > 1; r = create_train(l, n, err))
        n = (n + 1) / 2;
    return r;
}

int32_t learner_micro_batch(const struct learner *l)
{
    return l->piece;
}

/* ---- making and ending ---- */

int learner_create(const struct learner_options *o, struct learner **ret_learner, struct error *err)
{
    assert(o->batch_size > 0 && o->micro_batch >= 0 && o->micro_batch <= o->batch_size && o->forward_batch > 1);
    struct learner *l = calloc(1, sizeof *l);
    if (!l)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    l->o = *o;
    l->device = o->device;
    l->backend = ((struct device_base *)o->device)->backend;
    l->elements = (size_t)o->height * o->width * o->model.in_channels;
    l->graph = graph_create(1, DTYPE_F32, false);
    tensor_id loss, weight;
    int r = l->graph ? record_forward(l, l->graph, &loss, &weight) : -ENOMEM;
    if (r < 0 && l->graph)
        graph_error(l->graph, err);
    if (r == 0 && (r = allocate_buffers(l)) < 0)
        error_set(err, r, NULL, "not enough memory for the optimiser");
    if (r == 0)
        r = create_weights(l, err);
    if (r == 0)
        r = create_forward(l, err);
    if (r == 0)
        r = learner_set_micro_batch(l, o->micro_batch ? o->micro_batch : o->batch_size, err);
    if (r < 0) {
        learner_free(l);
        return r;
    }
    *ret_learner = l;
    return 0;
}

void learner_free(struct learner *l)
{
    if (!l)
        return;
    drop_train(l);
    program_free(l->forward);
    if (l->weights)
        l->backend->weights_free(l->weights);
    if (l->ema)
        l->backend->weights_free(l->ema);
    struct buffer *const buffers[] = {&l->m, &l->v, &l->fx, &l->ft, &l->fy, &l->feps, &l->pool, &l->last};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++)
        release(l, buffers[i]);
    graph_free(l->graph);
    free(l->weight);
    free(l->lanes.slot);
    free(l->lanes.y);
    free(l->lanes.t);
    free(l->lanes.finite);
    free(l->lanes.update);
    free(l);
}

const struct graph *learner_graph(const struct learner *l)
{
    return l->graph;
}

size_t learner_bytes(const struct learner *l)
{
    return ((const struct device_base *)l->device)->bytes_in_use;
}

/* ---- one step ---- */

static int put(struct learner *l, struct buffer *b, const void *from, size_t bytes)
{
    assert(bytes <= b->bytes);
    return l->backend->upload(l->device, b->memory, from, bytes);
}

/* Images [first, first + n) of the batch through the training program. */
static int run_piece(struct learner *l, const struct noised_batch *b, int32_t first, int32_t n, float *ret_losses,
                     struct error *err)
{
    size_t k = (size_t)first, count = (size_t)n, image = l->elements * sizeof(float);
    int r = 0;
    if ((r = put(l, &l->in[IN_X], b->x + k * l->elements, count * image)) < 0 ||
        (r = put(l, &l->in[IN_T], b->t + k, count * 4)) < 0 || (r = put(l, &l->in[IN_Y], b->y + k, count * 4)) < 0 ||
        (r = put(l, &l->in[IN_KEY], b->key + 4 * k, count * 16)) < 0 ||
        (r = put(l, &l->in[IN_EPS], b->eps + k * l->elements, count * image)) < 0 ||
        (r = put(l, &l->in[IN_WEIGHT], l->weight + k, count * 4)) < 0)
        return error_set(err, r, NULL, r == -ENOMEM ? "not enough memory for a batch" : "the device is lost");
    const void *inputs[N_INPUTS];
    for (int i = 0; i < N_INPUTS; i++)
        inputs[i] = l->in[i].memory;
    void *outputs[1] = {l->losses.memory};
    r = program_run(l->train, n, inputs, outputs, err);
    if (r == 0 && (r = l->backend->download(l->device, ret_losses, l->losses.memory, count * sizeof(float))) < 0)
        error_set(err, r, NULL, "the device is lost");
    return r;
}

/* The sum over the batch's pieces; leaves it in l->gradient. */
static int run_pieces(struct learner *l, const struct noised_batch *b, float *ret_losses, struct error *err)
{
    size_t flat = l->graph->param_floats;
    for (int32_t first = 0; first < b->n; first += l->piece) {
        int32_t n = b->n - first < l->piece ? b->n - first : l->piece;
        int r = run_piece(l, b, first, n, ret_losses + first, err);
        if (r < 0)
            return r;
        l->gradient = program_gradient(l->train);
        if (n == b->n)
            break;
        float *sum = l->sum.memory, *both[2] = {sum, program_gradient(l->train)};
        r = l->backend->sum_vectors(l->device, sum, first ? both : both + 1, first ? 2 : 1, flat);
        if (r < 0)
            return error_set(err, r, NULL, "the device is lost");
        l->gradient = sum;
    }
    return 0;
}

int learner_gradient(struct learner *l, const struct noised_batch *b, float *ret_losses, double *ret_norm,
                     struct error *err)
{
    size_t flat = l->graph->param_floats;
    double squares;
    assert(b->n > 0 && b->n <= l->o.batch_size && b->elements == l->elements);
    for (int32_t i = 0; i < b->n; i++)
        l->weight[i] = b->loss_scale[i] / (float)b->n;
    int r = run_pieces(l, b, ret_losses, err);
    while (r == -ENOMEM && l->piece > 1 && (r = learner_set_micro_batch(l, (l->piece + 1) / 2, err)) == 0)
        r = run_pieces(l, b, ret_losses, err);
    if (r < 0)
        return r;
    r = l->backend->sum_of_squares(l->device, l->gradient, flat, &squares);
    if (r < 0)
        return error_set(err, r, NULL, "the device is lost");
    *ret_norm = sqrt(squares);
    return 0;
}

int learner_update(struct learner *l, const struct adamw *o)
{
    const struct backend *b = l->backend;
    assert(l->gradient);
    int r = b->adamw(l->device, b->weights_master(l->weights), l->gradient, l->m.memory, l->v.memory,
                     b->weights_master(l->ema), l->graph->param_floats, o);
    l->ema_stale = true;
    return r < 0 ? r : b->weights_repack(l->weights);
}

/* ---- the averaged weights at work ---- */

static int refresh_ema(struct learner *l)
{
    int r = l->ema_stale ? l->backend->weights_repack(l->ema) : 0;
    if (r == 0)
        l->ema_stale = false;
    return r;
}

/* n <= forward_batch rows that are in fx on the device; eps stays in feps. */
static int run_forward(struct learner *l, int32_t n, const float *t, const int32_t *y, struct error *err)
{
    int r = put(l, &l->ft, t, (size_t)n * sizeof *t);
    if (r == 0)
        r = put(l, &l->fy, y, (size_t)n * sizeof *y);
    if (r < 0)
        return error_set(err, r, NULL, "the device is lost");
    const void *inputs[3] = {l->fx.memory, l->ft.memory, l->fy.memory};
    void *outputs[1] = {l->feps.memory};
    return program_run(l->forward, n, inputs, outputs, err);
}

int learner_forward(struct learner *l, int32_t n, const float *x, const float *t, const int32_t *y, float *ret_eps,
                    struct error *err)
{
    size_t image = l->elements * sizeof(float);
    int r = refresh_ema(l);
    for (int32_t first = 0; r == 0 && first < n; first += l->o.forward_batch) {
        int32_t count = n - first < l->o.forward_batch ? n - first : l->o.forward_batch;
        size_t at = (size_t)first * l->elements;
        if ((r = put(l, &l->fx, x + at, (size_t)count * image)) < 0)
            break;
        if ((r = run_forward(l, count, t + first, y + first, err)) < 0)
            return r;
        r = l->backend->download(l->device, ret_eps + at, l->feps.memory, (size_t)count * image);
    }
    return r < 0 ? error_set(err, r, NULL, "the device is lost") : 0;
}

/* One row of the table for lanes 0 .. n - 1 of the pool, which are images first .. of the grid. */
static int sample_step(struct learner *l, const struct step_row *row, uint32_t draw, int32_t first, int32_t n,
                       const int32_t *classes, float guidance, uint64_t seed, struct error *err)
{
    struct lane_rows *h = &l->lanes;
    bool guided = guidance != 1.0f;
    int32_t rows = guided ? 2 * n : n;
    for (int32_t i = 0; i < rows; i++) {
        h->slot[i] = i % n;
        h->t[i] = (float)row->t;
        h->y[i] = i < n ? classes[i] : l->o.model.num_classes;
    }
    for (int32_t i = 0; i < n; i++)
        h->update[i] = (struct row_update){.alpha = row->alpha,
                                           .sigma = row->sigma,
                                           .a = row->a,
                                           .b = row->b,
                                           .c = row->c,
                                           .s = row->s,
                                           .guidance = guidance,
                                           .row_cond = i,
                                           .row_uncond = guided ? n + i : -1,
                                           .slot = i,
                                           .seed = seed,
                                           .image = (uint64_t)(first + i),
                                           .draw = draw};
    int r = l->backend->gather_rows(l->device, l->pool.memory, l->elements, h->slot, rows, l->fx.memory);
    if (r == 0)
        r = run_forward(l, rows, h->t, h->y, err);
    if (r == 0)
        r = l->backend->update_rows(l->device, l->pool.memory, l->last.memory, l->feps.memory, l->elements, h->update,
                                    n, h->finite);
    return r;
}

int learner_sample(struct learner *l, const struct step_table *table, int32_t n, const int32_t *classes, float guidance,
                   uint64_t seed, float *ret_images, struct error *err)
{
    int32_t most = guidance == 1.0f ? l->o.forward_batch : l->o.forward_batch / 2;
    int r = refresh_ema(l);
    for (int32_t first = 0; r == 0 && first < n; first += most) {
        int32_t count = n - first < most ? n - first : most;
        for (int32_t i = 0; r == 0 && i < count; i++)
            r = l->backend->fill_noise(l->device, l->pool.memory, l->elements, i, seed, (uint64_t)(first + i));
        for (int32_t k = 0; r == 0 && k < table->n_rows; k++)
            r = sample_step(l, &table->rows[k], 1 + (uint32_t)k, first, count, classes + first, guidance, seed, err);
        if (r == 0)
            r = l->backend->download(l->device, ret_images + (size_t)first * l->elements, l->pool.memory,
                                     (size_t)count * l->elements * sizeof(float));
    }
    return r < 0 ? error_set(err, r, NULL, "sampling failed: %s", strerror(-r)) : 0;
}

/* ---- flat vectors ---- */

static void *vector(struct learner *l, enum learner_vector which)
{
    switch (which) {
    case LEARNER_WEIGHTS:
        return l->backend->weights_master(l->weights);
    case LEARNER_EMA:
        return l->backend->weights_master(l->ema);
    case LEARNER_M:
        return l->m.memory;
    case LEARNER_V:
        return l->v.memory;
    default:
        assert(!"no such vector");
        return NULL;
    }
}

int learner_get(struct learner *l, enum learner_vector which, float *ret_values)
{
    return l->backend->download(l->device, ret_values, vector(l, which), l->graph->param_floats * sizeof(float));
}

int learner_set(struct learner *l, enum learner_vector which, const float *values)
{
    int r = l->backend->upload(l->device, vector(l, which), values, l->graph->param_floats * sizeof(float));
    if (which == LEARNER_EMA)
        l->ema_stale = true;
    return r == 0 && which == LEARNER_WEIGHTS ? l->backend->weights_repack(l->weights) : r;
}
