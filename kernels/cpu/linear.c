/* linear.c: matrix products over the few rows of embeddings, one row per image, by our own product: every element is
 * one chain of multiply-adds whatever the number of rows is. oneDNN picks other kernels, and other bits, for other
 * numbers.
 *
 * Weights are packed in strips of columns; columns are split over threads.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>

/* One (w, b) or (dy, w) of the node. */
struct term {
    struct operand y;    // forward: y_i; backward: dy_i
    const void *strips;  // forward
    const float *matrix; // backward data: w_i [K, C]
    const float *bias;
    struct operand dw, db; // backward weights
    size_t k;              // rows of w_i
};

struct linear {
    struct primitive base;
    struct device *device;
    int n_threads;
    enum dtype compute;
    struct operand x; // forward, backward weights: x; backward data: dx
    struct operand more;
    size_t rows, c, k; // images, columns of every w, rows of all w
    size_t n_terms;
    struct term term[];
};

static void linear_free(struct primitive *p)
{
    free(p);
}

/* to[rows][c] f32, to + row * pitch */
static void load_rows(const struct linear *n, float *to, size_t pitch, const struct operand *x, const struct frame *f)
{
    struct pixels y = {DTYPE_F32, to, pitch};
    n->device->loops->pointwise->copy(y, operand_view(x, f, 0), n->rows, (size_t)x->c);
}

static int create(struct device *d, const struct lowering *l, size_t n_terms,
                  int (*run)(struct primitive *, const struct frame *), struct linear **ret_linear, struct error *err)
{
    struct linear *n = calloc(1, sizeof(*n) + n_terms * sizeof(n->term[0]));
    if (!n)
        return error_set(err, -ENOMEM, NULL, "no memory for a linear layer");
    n->base.run = run;
    n->base.free = linear_free;
    n->device = d;
    n->n_threads = l->n_threads;
    n->compute = l->graph->compute;
    n->n_terms = n_terms;
    *ret_linear = n;
    return 0;
}

struct linear_run {
    const struct linear *n;
    const struct frame *f;
    float *in, *out; // in the scratch
};

/* ---- y_i = x w_i^T + b_i ---- */

static void forward_part(void *context, size_t part)
{
    const struct linear_run *r = context;
    const struct linear *n = r->n;
    const struct matrix_loops *loops = n->device->loops->matrix;
    size_t parts = n->n_threads > 1 ? (size_t)n->n_threads : 1, first = 0;
    for (size_t i = 0; i < n->n_terms; first += n->term[i].k, i++) {
        const struct term *t = &n->term[i];
        size_t begin, end, element = dtype_bytes(n->compute);
        cpu_split(t->k, GEMM_STRIP, parts, part, &begin, &end);
        if (begin == end)
            continue;
        float *out = r->out + first + begin;
        loops->gemm(&(struct gemm){.m = n->rows,
                                   .n = end - begin,
                                   .k = n->c,
                                   .a = r->in,
                                   .a_row = n->c,
                                   .a_column = 1,
                                   .b_dtype = n->compute,
                                   .b = (const char *)t->strips + begin * n->c * element,
                                   .b_row = GEMM_STRIP,
                                   .b_strip = n->c * GEMM_STRIP,
                                   .c = out,
                                   .c_row = n->k});
        for (size_t row = 0; row < n->rows; row++)
            loops->store_row(t->y.dtype, (char *)operand_at(&t->y, r->f, row) + begin * dtype_bytes(t->y.dtype),
                             out + row * n->k, t->bias ? t->bias + begin : NULL, end - begin);
    }
}

static int run_forward(struct primitive *p, const struct frame *f)
{
    struct linear *n = (struct linear *)p;
    struct linear_run r = {n, f, (float *)f->base[BASE_SCRATCH], NULL};
    r.out = r.in + n->rows * n->c;
    load_rows(n, r.in, n->c, &n->x, f);
    cpu_parallel(n->n_threads, n->n_threads > 1 ? (size_t)n->n_threads : 1, forward_part, &r);
    return 0;
}

int lower_linear(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    const struct node *node = l->node;
    struct linear *n = NULL;
    int rc = create(d, l, (size_t)node->n_out, run_forward, &n, err);
    if (rc)
        return rc;
    n->x = cpu_operand(l, node->in[0]);
    n->rows = (size_t)n->x.n;
    n->c = (size_t)n->x.c;
    for (size_t i = 0; i < n->n_terms && !rc; i++) {
        struct term *t = &n->term[i];
        t->y = cpu_operand(l, node->out[i]);
        t->k = (size_t)t->y.c;
        n->k += t->k;
        rc = weights_packed(l->weights,
                            &(struct pack_request){.kind = PACK_STRIPS,
                                                   .param = l->graph->tensors[node->in[1 + 2 * i]].index,
                                                   .dtype = n->compute},
                            &t->strips, err);
        if (!rc)
            rc = weights_vector(l, node->in[2 + 2 * i], &t->bias, err);
    }
    if (rc) {
        free(n);
        return rc;
    }
    n->base.scratch_bytes = n->rows * (n->c + n->k) * sizeof(float);
    *ret_primitive = &n->base;
    return 0;
}

/* ---- dx = sum of dy_i w_i [+ more] ---- */

static void backward_data_part(void *context, size_t part)
{
    const struct linear_run *r = context;
    const struct linear *n = r->n;
    size_t begin, end, first = 0;
    cpu_split(n->c, GEMM_STRIP, n->n_threads > 1 ? (size_t)n->n_threads : 1, part, &begin, &end);
    if (begin == end)
        return;
    for (size_t i = 0; i < n->n_terms; first += n->term[i].k, i++)
        n->device->loops->matrix->gemm(&(struct gemm){.m = n->rows,
                                                      .n = end - begin,
                                                      .k = n->term[i].k,
                                                      .a = r->in + first,
                                                      .a_row = n->k,
                                                      .a_column = 1,
                                                      .b_dtype = DTYPE_F32,
                                                      .b = n->term[i].matrix + begin,
                                                      .b_row = n->c,
                                                      .b_strip = GEMM_STRIP,
                                                      .c = r->out + begin,
                                                      .c_row = n->c,
                                                      .accumulate = i > 0 || operand_exists(&n->more)});
}

static int run_backward_data(struct primitive *p, const struct frame *f)
{
    struct linear *n = (struct linear *)p;
    struct linear_run r = {n, f, (float *)f->base[BASE_SCRATCH], NULL};
    size_t first = 0;
    r.out = r.in + n->rows * n->k;
    for (size_t i = 0; i < n->n_terms; first += n->term[i].k, i++)
        load_rows(n, r.in + first, n->k, &n->term[i].y, f);
    if (operand_exists(&n->more))
        load_rows(n, r.out, n->c, &n->more, f);
    cpu_parallel(n->n_threads, n->n_threads > 1 ? (size_t)n->n_threads : 1, backward_data_part, &r);
    n->device->loops->pointwise->copy(operand_view(&n->x, f, 0), (struct pixels){DTYPE_F32, r.out, n->c}, n->rows,
                                      n->c);
    return 0;
}

int lower_linear_backward_data(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                               struct error *err)
{
    const struct node *node = l->node;
    struct linear *n = NULL;
    int rc = create(d, l, (size_t)(node->n_in - 1) / 2, run_backward_data, &n, err);
    if (rc)
        return rc;
    n->x = cpu_operand(l, node->out[0]);
    n->more = cpu_operand(l, node->in[0]);
    n->rows = (size_t)n->x.n;
    n->c = (size_t)n->x.c;
    for (size_t i = 0; i < n->n_terms && !rc; i++) {
        struct term *t = &n->term[i];
        t->y = cpu_operand(l, node->in[1 + 2 * i]);
        t->k = (size_t)t->y.c;
        n->k += t->k;
        rc = weights_vector(l, node->in[2 + 2 * i], &t->matrix, err);
    }
    if (rc) {
        free(n);
        return rc;
    }
    n->base.scratch_bytes = n->rows * (n->c + n->k) * sizeof(float);
    *ret_primitive = &n->base;
    return 0;
}

/* ---- dw_i = dy_i^T x, db_i = sum of dy_i over rows ---- */

static void backward_weights_part(void *context, size_t part)
{
    const struct linear_run *r = context;
    const struct linear *n = r->n;
    size_t parts = n->n_threads > 1 ? (size_t)n->n_threads : 1, first = 0;
    for (size_t i = 0; i < n->n_terms; first += n->term[i].k, i++) {
        const struct term *t = &n->term[i];
        size_t begin, end;
        cpu_split(t->k, 8, parts, part, &begin, &end);
        if (begin == end)
            continue;
        float *dw = operand_at(&t->dw, r->f, 0), *db = operand_at(&t->db, r->f, 0);
        if (dw)
            n->device->loops->matrix->gemm(&(struct gemm){.m = end - begin,
                                                          .n = n->c,
                                                          .k = n->rows,
                                                          .a = r->out + first + begin,
                                                          .a_row = 1,
                                                          .a_column = n->k,
                                                          .b_dtype = DTYPE_F32,
                                                          .b = r->in,
                                                          .b_row = n->c,
                                                          .b_strip = GEMM_STRIP,
                                                          .c = dw + begin * n->c,
                                                          .c_row = n->c});
        if (db)
            n->device->loops->pointwise->sum_pixels(
                DTYPE_F32, db + begin, (struct pixels){DTYPE_F32, r->out + first + begin, n->k}, n->rows, end - begin);
    }
}

static int run_backward_weights(struct primitive *p, const struct frame *f)
{
    struct linear *n = (struct linear *)p;
    struct linear_run r = {n, f, (float *)f->base[BASE_SCRATCH], NULL};
    size_t first = 0;
    r.out = r.in + n->rows * n->c;
    load_rows(n, r.in, n->c, &n->x, f);
    for (size_t i = 0; i < n->n_terms; first += n->term[i].k, i++)
        load_rows(n, r.out + first, n->k, &n->term[i].y, f);
    cpu_parallel(n->n_threads, n->n_threads > 1 ? (size_t)n->n_threads : 1, backward_weights_part, &r);
    return 0;
}

int lower_linear_backward_weights(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                                  struct error *err)
{
    const struct node *node = l->node;
    struct linear *n = NULL;
    int rc = create(d, l, (size_t)node->n_in - 1, run_backward_weights, &n, err);
    if (rc)
        return rc;
    n->x = cpu_operand(l, node->in[0]);
    n->rows = (size_t)n->x.n;
    n->c = (size_t)n->x.c;
    for (size_t i = 0; i < n->n_terms; i++) {
        struct term *t = &n->term[i];
        t->y = cpu_operand(l, node->in[1 + i]);
        t->k = (size_t)t->y.c;
        n->k += t->k;
        t->dw = cpu_operand(l, node->out[2 * i]);
        t->db = cpu_operand(l, node->out[2 * i + 1]);
    }
    n->base.scratch_bytes = n->rows * (n->c + n->k) * sizeof(float);
    *ret_primitive = &n->base;
    return 0;
}
