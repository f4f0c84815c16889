/* lanes.c: see lanes.h.
 *
 * A step is four calls on the backend: upload the rows' t and y, gather the rows' x out of the pool (where they do not
 * lie in a row already), run the program, update the pool from the rows of eps. Guided lanes put their unconditional
 * rows behind all conditional ones.
 */
#include "model/lanes.h"

#include "kernels/program.h"
#include "model/unet.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct network {
    struct device *device;
    const struct backend *backend;
    struct model_config config;
    int32_t height, width;
    int32_t max_rows;
    struct weights *weights;
    struct program *program;
    float *t;   // [max_rows] on the device
    int32_t *y; // [max_rows] on the device
};

struct lane_pool {
    struct network *net;
    int32_t capacity;
    size_t elements;           // of one image
    float *x, *l;              // [capacity, H, W, C] on the device: state, last x0 prediction
    float *rows, *eps;         // [max_rows, H, W, C] on the device
    float *zero;               // [H, W, C] on the host
    float *t;                  // [max_rows] on the host, as all below
    int32_t *y, *slots;        // [max_rows]
    struct row_update *update; // [max_rows]
};

static struct device_base *base_of(struct device *d)
{
    return (struct device_base *)d;
}

/* Device memory for n elements of 4 bytes. */
static int alloc_elements(struct network *n, size_t elements, void **ret_memory)
{
    return n->backend->alloc(n->device, elements * 4, ret_memory);
}

static void free_elements(struct network *n, void *memory, size_t elements)
{
    if (memory)
        n->backend->free(n->device, memory, elements * 4);
}

/* ---- network ---- */

/* program_record: eps = unet(x, t, y), inputs in this order. */
static int record_forward(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct network *n = context;
    tensor_id x = graph_input(g, DTYPE_F32, n->height, n->width, n->config.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    graph_output(g, unet_record(g, &n->config, x, t, y, TENSOR_NONE), DTYPE_F32);
    return graph_error(g, NULL);
}

static int upload_weights(struct network *n, const struct checkpoint *c, enum dtype precision, struct error *err)
{
    tensor_id none = TENSOR_NONE;
    float *values = NULL;
    struct graph *g = graph_create(1, precision, false);
    int rc = g ? record_forward(n, g, &none, &none) : -ENOMEM;
    if (rc < 0) {
        if (g)
            graph_error(g, err);
        goto out;
    }
    values = calloc(g->param_floats, sizeof(*values));
    if (!values) {
        rc = error_set(err, -ENOMEM, NULL, "Not enough memory for %zu parameters.", g->param_floats);
        goto out;
    }
    rc = checkpoint_read_params(c, g, values, err);
    if (rc == 0)
        rc = n->backend->weights_create(n->device, g, values, false, &n->weights, err);
out:
    free(values);
    graph_free(g);
    return rc;
}

static int compile(struct network *n, enum dtype precision, struct error *err)
{
    struct program_options options = {.compute = precision};
    int rc = program_create(n->device, n->weights, record_forward, n, &options, &n->program, err);
    for (int32_t rows = 1; rc == 0 && rows <= n->max_rows; rows++)
        rc = program_prepare(n->program, rows, err);
    if (rc == 0)
        n->backend->weights_seal(n->weights);
    return rc;
}

int network_create(struct device *d, const struct checkpoint *c, enum dtype precision, int32_t max_rows,
                   struct network **ret_network, struct error *err)
{
    if (max_rows < 1)
        return error_set(err, -EINVAL, "max_rows", "A network needs at least one batch row.");
    struct network *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->device = d;
    n->backend = base_of(d)->backend;
    n->config = c->model;
    n->height = c->data.height;
    n->width = c->data.width;
    n->max_rows = max_rows;
    int rc = upload_weights(n, c, precision, err);
    if (rc == 0)
        rc = compile(n, precision, err);
    if (rc == 0)
        rc = alloc_elements(n, (size_t)max_rows, (void **)&n->t);
    if (rc == 0)
        rc = alloc_elements(n, (size_t)max_rows, (void **)&n->y);
    if (rc < 0) {
        network_free(n);
        return rc;
    }
    *ret_network = n;
    return 0;
}

void network_free(struct network *n)
{
    if (!n)
        return;
    free_elements(n, n->t, (size_t)n->max_rows);
    free_elements(n, n->y, (size_t)n->max_rows);
    program_free(n->program);
    if (n->weights)
        n->backend->weights_free(n->weights);
    free(n);
}

size_t network_bytes(const struct network *n)
{
    return n->backend->weights_bytes(n->weights) + program_arena_bytes(n->program) + (size_t)n->max_rows * 8;
}

int32_t network_max_rows(const struct network *n)
{
    return n->max_rows;
}

int32_t network_n_nodes(const struct network *n)
{
    return program_n_nodes(n->program);
}

int network_forward(struct network *net, int32_t n, const float *x, const float *t, const int32_t *y, float *ret_eps,
                    struct error *err)
{
    assert(n >= 1 && n <= net->max_rows);
    int rc = net->backend->upload(net->device, net->t, t, (size_t)n * sizeof(*t));
    if (rc == 0)
        rc = net->backend->upload(net->device, net->y, y, (size_t)n * sizeof(*y));
    if (rc < 0)
        return rc;
    const void *inputs[] = {x, net->t, net->y};
    void *outputs[] = {ret_eps};
    return program_run(net->program, n, inputs, outputs, err);
}

/* ---- lanes ---- */

static int allocate_device(struct lane_pool *p)
{
    size_t pool = (size_t)p->capacity * p->elements, batch = (size_t)p->net->max_rows * p->elements;
    int rc = alloc_elements(p->net, pool, (void **)&p->x);
    if (rc == 0)
        rc = alloc_elements(p->net, pool, (void **)&p->l);
    if (rc == 0)
        rc = alloc_elements(p->net, batch, (void **)&p->rows);
    if (rc == 0)
        rc = alloc_elements(p->net, batch, (void **)&p->eps);
    return rc;
}

static int allocate_host(struct lane_pool *p)
{
    size_t rows = (size_t)p->net->max_rows;
    p->zero = calloc(p->elements, sizeof(*p->zero));
    p->t = calloc(rows, sizeof(*p->t));
    p->y = calloc(rows, sizeof(*p->y));
    p->slots = calloc(rows, sizeof(*p->slots));
    p->update = calloc(rows, sizeof(*p->update));
    return p->zero && p->t && p->y && p->slots && p->update ? 0 : -ENOMEM;
}

int lane_pool_create(struct network *n, int32_t capacity, struct lane_pool **ret_pool, struct error *err)
{
    assert(capacity >= 1);
    if (n->config.in_channels != n->config.out_channels)
        return error_set(err, -EINVAL, "model.out_channels", "Sampling needs as many output channels as input ones.");
    struct lane_pool *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->net = n;
    p->capacity = capacity;
    p->elements = (size_t)n->height * n->width * n->config.in_channels;
    int rc = allocate_host(p);
    if (rc == 0)
        rc = allocate_device(p);
    if (rc < 0) {
        lane_pool_free(p);
        return error_set(err, rc, NULL, "Not enough memory for a pool of %d images.", capacity);
    }
    *ret_pool = p;
    return 0;
}

void lane_pool_free(struct lane_pool *p)
{
    if (!p)
        return;
    size_t pool = (size_t)p->capacity * p->elements, batch = (size_t)p->net->max_rows * p->elements;
    free_elements(p->net, p->x, pool);
    free_elements(p->net, p->l, pool);
    free_elements(p->net, p->rows, batch);
    free_elements(p->net, p->eps, batch);
    free(p->zero);
    free(p->t);
    free(p->y);
    free(p->slots);
    free(p->update);
    free(p);
}

size_t lane_pool_bytes(const struct lane_pool *p)
{
    return ((size_t)p->capacity + p->net->max_rows) * 2 * p->elements * sizeof(float);
}

/* The first step multiplies the last x0 by c = 0, which a NaN of the slot's last lane would survive. */
static int clear_last(struct lane_pool *p, int32_t slot)
{
    assert(slot >= 0 && slot < p->capacity);
    return p->net->backend->upload(p->net->device, p->l + (size_t)slot * p->elements, p->zero,
                                   p->elements * sizeof(float));
}

int lane_pool_start(struct lane_pool *p, int32_t slot, uint64_t seed, uint64_t image)
{
    int rc = clear_last(p, slot);
    return rc < 0 ? rc : p->net->backend->fill_noise(p->net->device, p->x, p->elements, slot, seed, image);
}

int lane_pool_write(struct lane_pool *p, int32_t slot, const float *image)
{
    int rc = clear_last(p, slot);
    float *x = p->x + (size_t)slot * p->elements;
    return rc < 0 ? rc : p->net->backend->upload(p->net->device, x, image, p->elements * sizeof(float));
}

static void put_row(struct lane_pool *p, int32_t row, const struct lane_step *lane, int32_t class_index)
{
    assert(row < p->net->max_rows);
    p->t[row] = (float)lane->row->t;
    p->y[row] = class_index;
    p->slots[row] = lane->slot;
}

/* Fills t, y, slots and the updates; returns the number of batch rows. */
static int32_t put_lanes(struct lane_pool *p, const struct lane_step *lanes, int32_t n)
{
    int32_t null_class = p->net->config.num_classes, n_rows = n;
    for (int32_t i = 0; i < n; i++) {
        const struct lane_step *lane = &lanes[i];
        assert(lane->slot >= 0 && lane->slot < p->capacity);
        assert(lane->class_index >= 0 && lane->class_index <= null_class);
        put_row(p, i, lane, lane->class_index);
        bool guided = lane->guidance != 1.0f && lane->class_index != null_class; // e_null + g (e_null - e_null)
        if (guided)
            put_row(p, n_rows, lane, null_class);
        const struct step_row *r = lane->row;
        p->update[i] = (struct row_update){.alpha = r->alpha,
                                           .sigma = r->sigma,
                                           .a = r->a,
                                           .b = r->b,
                                           .c = r->c,
                                           .s = r->s,
                                           .guidance = lane->guidance,
                                           .row_cond = i,
                                           .row_uncond = guided ? n_rows++ : -1,
                                           .slot = lane->slot,
                                           .clip = lane->clip,
                                           .seed = lane->seed,
                                           .image = lane->image,
                                           .draw = lane->draw};
    }
    return n_rows;
}

/* *ret_x: the rows' states, one after the other: in the pool itself where they lie so. */
static int rows_of_slots(struct lane_pool *p, int32_t n_rows, const float **ret_x)
{
    for (int32_t i = 1; i < n_rows; i++) {
        if (p->slots[i] != p->slots[0] + i) {
            *ret_x = p->rows;
            return p->net->backend->gather_rows(p->net->device, p->x, p->elements, p->slots, n_rows, p->rows);
        }
    }
    *ret_x = p->x + (size_t)p->slots[0] * p->elements;
    return 0;
}

int lane_pool_step(struct lane_pool *p, const struct lane_step *lanes, int32_t n, uint8_t *ret_finite)
{
    const float *x;
    int32_t n_rows = put_lanes(p, lanes, n);
    if (n_rows == 0)
        return 0;
    int rc = rows_of_slots(p, n_rows, &x);
    if (rc == 0)
        rc = network_forward(p->net, n_rows, x, p->t, p->y, p->eps, NULL);
    if (rc == 0)
        rc = p->net->backend->update_rows(p->net->device, p->x, p->l, p->eps, p->elements, p->update, n, ret_finite);
    return rc;
}

int lane_pool_read(struct lane_pool *p, int32_t slot, bool x0, float *ret_image)
{
    assert(slot >= 0 && slot < p->capacity);
    const float *from = (x0 ? p->l : p->x) + (size_t)slot * p->elements;
    return p->net->backend->download(p->net->device, ret_image, from, p->elements * sizeof(float));
}
