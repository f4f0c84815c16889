/* linear.c: linear layers and their gradients through gpu_product(), all terms of a node in one launch of at most
 * GPU_MAX_TERMS. Bias gradients are sums over the rows.
 */
#include "kernels/cuda/cuda.h"

#include <errno.h>
#include <stdlib.h>

/* One (w, b) or (dy, w) of the node. */
struct term {
    struct operand y;          // forward: y_i; backward: dy_i
    struct gpu_pixels w, bias; // forward, backward data
    struct operand dw, db;     // backward weights
};

struct linear {
    struct primitive base;
    struct device *device;
    enum dtype compute;
    struct operand x;    // forward, backward weights: x; backward data: dx
    struct operand more; // backward data
    int n_terms;
    struct term term[];
};

static void linear_free(struct primitive *p)
{
    free(p);
}

static int create(struct device *d, const struct lowering *l, int n_terms,
                  int (*run)(struct primitive *, const struct frame *), struct linear **ret_linear, struct error *err)
{
    struct linear *n = calloc(1, sizeof(*n) + (size_t)n_terms * sizeof(n->term[0]));
    if (!n)
        return error_set(err, -ENOMEM, NULL, "no memory for a linear layer");
    n->base = (struct primitive){run, linear_free, 0};
    n->device = d;
    n->compute = l->graph->compute;
    n->n_terms = n_terms;
    *ret_linear = n;
    return 0;
}

/* Adds a term and launches where there is room for no more or none follows. */
static int add_term(const struct linear *n, struct gpu_product *p, const struct gpu_matrix_term *t, bool last)
{
    p->term[p->n_terms++] = *t;
    if (p->n_terms < GPU_MAX_TERMS && !last)
        return 0;
    int rc = CUDA(n->device, gpu_product(n->device->stream, p), NULL);
    p->n_terms = 0;
    return rc;
}

/* ---- y_i = x w_i^T + b_i ---- */

static int run_forward(struct primitive *primitive, const struct frame *f)
{
    struct linear *n = (struct linear *)primitive;
    struct gpu_product p = {.in = n->compute, .out = n->compute, .m = n->x.n};
    int rc = 0;
    for (int i = 0; i < n->n_terms && rc == 0; i++) {
        const struct term *t = &n->term[i];
        const struct gpu_matrix_term g = {.a = operand_at(&n->x, f),
                                          .a_row = n->x.place.pitch,
                                          .a_column = 1,
                                          .b = t->w.at,
                                          .b_row = 1,
                                          .b_column = n->x.c,
                                          .bias = t->bias.at,
                                          .c = operand_at(&t->y, f),
                                          .c_row = t->y.place.pitch,
                                          .n = t->y.c,
                                          .k = n->x.c};
        rc = add_term(n, &p, &g, i + 1 == n->n_terms);
    }
    return rc;
}

int lower_linear(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    const struct node *node = l->node;
    struct linear *n = NULL;
    int rc = create(d, l, node->n_out, run_forward, &n, err);
    if (rc)
        return rc;
    n->x = cuda_operand(l, node->in[0]);
    for (int i = 0; i < n->n_terms && rc == 0; i++) {
        struct term *t = &n->term[i];
        t->y = cuda_operand(l, node->out[i]);
        rc = weights_at(l, node->in[1 + 2 * i], false, &t->w, err);
        if (rc == 0)
            rc = weights_at(l, node->in[2 + 2 * i], false, &t->bias, err);
    }
    if (rc)
        free(n);
    else
        *ret_primitive = &n->base;
    return rc;
}

/* ---- dx = sum of dy_i w_i [+ more] ---- */

/* With more terms than a launch takes, the launches add to what those before them left. */
static int run_backward_data(struct primitive *primitive, const struct frame *f)
{
    struct linear *n = (struct linear *)primitive;
    struct gpu_product p = {.in = n->compute, .out = n->compute, .m = n->x.n, .summed = true};
    const struct operand *more = &n->more;
    int rc = 0;
    for (int i = 0; i < n->n_terms && rc == 0; i++) {
        const struct term *t = &n->term[i];
        struct gpu_matrix_term g = {.a = operand_at(&t->y, f),
                                    .a_row = t->y.place.pitch,
                                    .a_column = 1,
                                    .b = t->w.at,
                                    .b_row = n->x.c,
                                    .b_column = 1,
                                    .c = operand_at(&n->x, f),
                                    .c_row = n->x.place.pitch,
                                    .n = n->x.c,
                                    .k = t->y.c};
        if (p.n_terms == 0 && operand_exists(more)) {
            g.more = operand_at(more, f);
            g.more_row = more->place.pitch;
        }
        rc = add_term(n, &p, &g, i + 1 == n->n_terms);
        if (p.n_terms == 0)
            more = &n->x;
    }
    return rc;
}

int lower_linear_backward_data(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                               struct error *err)
{
    const struct node *node = l->node;
    struct linear *n = NULL;
    int rc = create(d, l, (node->n_in - 1) / 2, run_backward_data, &n, err);
    if (rc)
        return rc;
    n->x = cuda_operand(l, node->out[0]);
    n->more = cuda_operand(l, node->in[0]);
    for (int i = 0; i < n->n_terms && rc == 0; i++) {
        n->term[i].y = cuda_operand(l, node->in[1 + 2 * i]);
        rc = weights_at(l, node->in[2 + 2 * i], false, &n->term[i].w, err);
    }
    if (rc)
        free(n);
    else
        *ret_primitive = &n->base;
    return rc;
}

/* ---- dw_i = dy_i^T x, db_i = sum of dy_i over rows ---- */

static int run_backward_weights(struct primitive *primitive, const struct frame *f)
{
    struct linear *n = (struct linear *)primitive;
    int rc = 0;
    for (int i = 0; i < n->n_terms && rc == 0; i++) {
        const struct term *t = &n->term[i];
        struct gpu_product p = {.in = n->compute, .out = DTYPE_F32, .m = t->y.c};
        const struct gpu_matrix_term g = {.a = operand_at(&t->y, f),
                                          .a_row = 1,
                                          .a_column = t->y.place.pitch,
                                          .b = operand_at(&n->x, f),
                                          .b_row = n->x.place.pitch,
                                          .b_column = 1,
                                          .c = operand_at(&t->dw, f),
                                          .c_row = n->x.c,
                                          .n = n->x.c,
                                          .k = n->x.n};
        if (operand_exists(&t->dw))
            rc = add_term(n, &p, &g, true);
        if (rc == 0 && operand_exists(&t->db))
            rc = CUDA(n->device,
                      gpu_sum_pixels(n->device->stream, operand_view(&t->db, f), operand_view(&t->y, f), 1,
                                     (size_t)t->y.n, (size_t)t->y.c, (float *)f->base[BASE_SCRATCH]),
                      NULL);
    }
    return rc;
}

int lower_linear_backward_weights(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                                  struct error *err)
{
    const struct node *node = l->node;
    struct linear *n = NULL;
    int rc = create(d, l, node->n_in - 1, run_backward_weights, &n, err);
    if (rc)
        return rc;
    n->x = cuda_operand(l, node->in[0]);
    for (int i = 0; i < n->n_terms; i++) {
        struct term *t = &n->term[i];
        t->y = cuda_operand(l, node->in[1 + i]);
        t->dw = cuda_operand(l, node->out[2 * i]);
        t->db = cuda_operand(l, node->out[2 * i + 1]);
        size_t bytes = gpu_sum_pixels_scratch((size_t)t->y.n, (size_t)t->y.c) * sizeof(float);
        if (bytes > n->base.scratch_bytes)
            n->base.scratch_bytes = bytes;
    }
    *ret_primitive = &n->base;
    return 0;
}
