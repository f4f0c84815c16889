/* elementwise.c: operations that our own loops compute pixel by pixel, and the tables and sums per image.
 *
 * Work is split over images, and over ranges of rows where there are more threads than images.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One image, or a range of its rows, of an operation. */
struct piece {
    struct loop_primitive *p;
    const struct frame *f;
    size_t image, row, rows; // rows of in[0]'s height
};

struct piece_run {
    struct loop_primitive *p;
    const struct frame *f;
    size_t parts;
    void (*body)(const struct piece *piece);
};

static void run_piece(void *context, size_t i)
{
    const struct piece_run *r = context;
    size_t end;
    struct piece piece = {r->p, r->f, i / r->parts, 0, 0};
    cpu_split((size_t)r->p->in[0].h, 1, r->parts, i % r->parts, &piece.row, &end);
    piece.rows = end - piece.row;
    if (piece.rows)
        r->body(&piece);
}

static int run_pieces(struct loop_primitive *p, const struct frame *f, bool by_rows,
                      void (*body)(const struct piece *piece))
{
    size_t images = (size_t)p->in[0].n, threads = (size_t)p->n_threads;
    size_t parts = by_rows && threads > images ? (threads + images - 1) / images : 1;
    struct piece_run r = {p, f, parts, body};
    cpu_parallel(p->n_threads, images * parts, run_piece, &r);
    return 0;
}

/* The piece's pixels of an operand of in[0]'s size; of one `scale` times as large. */
static struct pixels view_scaled(const struct operand *o, const struct piece *c, size_t scale)
{
    struct pixels v = operand_view(o, c->f, c->image);
    v.at = (char *)v.at + scale * c->row * (size_t)o->w * v.pitch * dtype_bytes(v.dtype);
    return v;
}

static struct pixels view(const struct operand *o, const struct piece *c)
{
    return view_scaled(o, c, 1);
}

static size_t pixels(const struct piece *c)
{
    return c->rows * (size_t)c->p->in[0].w;
}

static size_t channels(const struct piece *c)
{
    return (size_t)c->p->in[0].c;
}

static const struct pointwise_loops *loops(const struct piece *c)
{
    return c->p->device->loops->pointwise;
}

/* Defines the run and lower functions of an operation whose piece is name_piece. */
#define OPERATION(name, by_rows)                                                                                       \
    static int run_##name(struct primitive *p, const struct frame *f)                                                  \
    {                                                                                                                  \
        return run_pieces((struct loop_primitive *)p, f, by_rows, name##_piece);                                       \
    }                                                                                                                  \
    int lower_##name(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)  \
    {                                                                                                                  \
        struct loop_primitive *p;                                                                                      \
        int rc = loop_primitive_create(d, l, run_##name, &p, err);                                                     \
        if (!rc)                                                                                                       \
            *ret_primitive = &p->base;                                                                                 \
        return rc;                                                                                                     \
    }

/* ---- pixel by pixel ---- */

static void cast_piece(const struct piece *c)
{
    loops(c)->copy(view(&c->p->out[0], c), view(&c->p->in[0], c), pixels(c), channels(c));
}
OPERATION(cast, true)

static void silu_piece(const struct piece *c)
{
    loops(c)->silu(view(&c->p->out[0], c), view(&c->p->in[0], c), pixels(c), channels(c));
}
OPERATION(silu, true)

static void relu_piece(const struct piece *c)
{
    loops(c)->relu(view(&c->p->out[0], c), view(&c->p->in[0], c), pixels(c), channels(c));
}
OPERATION(relu, true)

static void silu_backward_piece(const struct piece *c)
{
    loops(c)->silu_backward(view(&c->p->out[0], c), view(&c->p->in[0], c), view(&c->p->in[1], c), pixels(c),
                            channels(c));
}
OPERATION(silu_backward, true)

static void add_piece(const struct piece *c)
{
    loops(c)->add(view(&c->p->out[0], c), view(&c->p->in[0], c), view(&c->p->in[1], c), pixels(c), channels(c));
}
OPERATION(add, true)

static void add_channel_piece(const struct piece *c)
{
    const void *e = operand_at(&c->p->in[1], c->f, c->image);
    loops(c)->add_channel(view(&c->p->out[0], c), view(&c->p->in[0], c), e, pixels(c), channels(c));
}
OPERATION(add_channel, true)

static void add_channel_backward_piece(const struct piece *c)
{
    const struct operand *de = &c->p->out[0];
    loops(c)->sum_pixels(de->dtype, operand_at(de, c->f, c->image), view(&c->p->in[0], c), pixels(c), channels(c));
}
OPERATION(add_channel_backward, false)

/* ---- channels side by side ---- */

static struct pixels from_channel(struct pixels x, int32_t channel)
{
    x.at = (char *)x.at + (size_t)channel * dtype_bytes(x.dtype);
    return x;
}

static void concat_piece(const struct piece *c)
{
    int32_t channel = 0;
    for (int i = 0; i < 2; channel += c->p->in[i].c, i++) {
        struct pixels x = view(&c->p->in[i], c), y = from_channel(view(&c->p->out[0], c), channel);
        if (x.at != y.at) // its producer wrote it in place
            loops(c)->copy(y, x, pixels(c), (size_t)c->p->in[i].c);
    }
}
OPERATION(concat, true)

static void slice_piece(const struct piece *c)
{
    struct pixels x = from_channel(view(&c->p->in[0], c), c->p->node.attr.channel);
    loops(c)->copy(view(&c->p->out[0], c), x, pixels(c), (size_t)c->p->out[0].c);
}
OPERATION(slice, true)

/* ---- 2x2 blocks ---- */

static void spread(const struct piece *c, float factor)
{
    loops(c)->spread2x(view_scaled(&c->p->out[0], c, 2), view(&c->p->in[0], c), c->rows, (size_t)c->p->in[0].w,
                       channels(c), factor);
}

static void gather(const struct piece *c, float factor)
{
    const struct operand *x = &c->p->out[0], *y = &c->p->in[0];
    loops(c)->gather2x(operand_view(x, c->f, c->image), operand_view(y, c->f, c->image), (size_t)x->h, (size_t)x->w,
                       channels(c), factor);
}

static void upsample2x_piece(const struct piece *c)
{
    spread(c, 1.0f);
}
OPERATION(upsample2x, true)

static void upsample2x_backward_piece(const struct piece *c)
{
    gather(c, 1.0f);
}
OPERATION(upsample2x_backward, false)

static void avg_pool2x_piece(const struct piece *c)
{
    gather(c, 0.25f);
}
OPERATION(avg_pool2x, false)

static void avg_pool2x_backward_piece(const struct piece *c)
{
    spread(c, 0.25f);
}
OPERATION(avg_pool2x_backward, true)

/* ---- dropout: forward and backward are the same ---- */

static void dropout_piece(const struct piece *c)
{
    const uint32_t *key = operand_at(&c->p->in[1], c->f, c->image);
    struct dropout_key k = {.key = key[0] | (uint64_t)key[1] << 32,
                            .draw = key[2],
                            .image = key[3],
                            .stream = c->p->node.attr.stream,
                            .rate = c->p->node.attr.rate};
    c->p->device->loops->random->dropout(view(&c->p->out[0], c), view(&c->p->in[0], c), pixels(c), channels(c), &k);
}
OPERATION(dropout, false)

/* ---- loss ---- */

static void mse_piece(const struct piece *c)
{
    float *loss = operand_at(&c->p->out[0], c->f, c->image);
    *loss = loops(c)->mse(view(&c->p->in[0], c), view(&c->p->in[1], c), pixels(c), channels(c));
}
OPERATION(mse, false)

static void mse_backward_piece(const struct piece *c)
{
    const float *weight = operand_at(&c->p->in[2], c->f, c->image);
    loops(c)->mse_backward(view(&c->p->out[0], c), view(&c->p->in[0], c), view(&c->p->in[1], c), *weight, pixels(c),
                           channels(c));
}
OPERATION(mse_backward, false)

/* ---- embeddings ---- */

static int run_embedding(struct primitive *primitive, const struct frame *f)
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    const struct operand *y = &p->out[0];
    for (size_t i = 0; i < (size_t)y->n; i++) {
        const int32_t *index = operand_at(&p->in[1], f, i);
        struct pixels row = {DTYPE_F32, (void *)(p->vector[0] + (size_t)*index * (size_t)y->c), (size_t)y->c};
        p->device->loops->pointwise->copy(operand_view(y, f, i), row, 1, (size_t)y->c);
    }
    return 0;
}

int lower_embedding(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    struct loop_primitive *p = NULL;
    int rc = loop_primitive_create(d, l, run_embedding, &p, err);
    if (rc)
        return rc;
    rc = weights_vector(l, l->node->in[0], &p->vector[0], err);
    if (rc)
        p->base.free(&p->base);
    else
        *ret_primitive = &p->base;
    return rc;
}

/* Rows of images with the same index add up in the images' order. */
static int run_embedding_backward(struct primitive *primitive, const struct frame *f)
{
    struct loop_primitive *p = (struct loop_primitive *)primitive;
    const struct operand *dy = &p->in[1], *dtable = &p->out[0];
    size_t c = (size_t)dy->c;
    float *table = operand_at(dtable, f, 0);
    memset(table, 0, (size_t)dtable->n * c * sizeof(float));
    for (size_t i = 0; i < (size_t)dy->n; i++) {
        const int32_t *index = operand_at(&p->in[0], f, i);
        struct pixels row = {DTYPE_F32, table + (size_t)*index * c, c};
        struct pixels wide = {DTYPE_F32, f->base[BASE_SCRATCH], c};
        p->device->loops->pointwise->copy(wide, operand_view(dy, f, i), 1, c);
        p->device->loops->pointwise->add(row, row, wide, 1, c);
    }
    return 0;
}

int lower_embedding_backward(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                             struct error *err)
{
    struct loop_primitive *p = NULL;
    int rc = loop_primitive_create(d, l, run_embedding_backward, &p, err);
    if (rc)
        return rc;
    p->base.scratch_bytes = (size_t)p->in[1].c * sizeof(float);
    *ret_primitive = &p->base;
    return 0;
}

/* Frequencies are computed while lowering, in f32 as the reference does. */
struct timestep_primitive {
    struct primitive base;
    const struct device *device;
    struct operand t, y;
    size_t half;
    float frequency[];
};

static int run_timestep_embedding(struct primitive *primitive, const struct frame *f)
{
    struct timestep_primitive *p = (struct timestep_primitive *)primitive;
    float *row = (float *)f->base[BASE_SCRATCH];
    for (size_t i = 0; i < (size_t)p->y.n; i++) {
        float t = *(const float *)operand_at(&p->t, f, i);
        for (size_t k = 0; k < p->half; k++) {
            row[k] = cosf(t * p->frequency[k]);
            row[p->half + k] = sinf(t * p->frequency[k]);
        }
        p->device->loops->pointwise->copy(operand_view(&p->y, f, i), (struct pixels){DTYPE_F32, row, 2 * p->half}, 1,
                                          2 * p->half);
    }
    return 0;
}

static void timestep_free(struct primitive *p)
{
    free(p);
}

int lower_timestep_embedding(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                             struct error *err)
{
    struct operand y = cpu_operand(l, l->node->out[0]);
    size_t half = (size_t)y.c / 2;
    struct timestep_primitive *p = calloc(1, sizeof(*p) + half * sizeof(float));
    if (!p)
        return error_set(err, -ENOMEM, NULL, "no memory for a timestep embedding");
    p->base = (struct primitive){run_timestep_embedding, timestep_free, 2 * half * sizeof(float)};
    p->device = d;
    p->t = cpu_operand(l, l->node->in[0]);
    p->y = y;
    p->half = half;
    for (size_t k = 0; k < half; k++)
        p->frequency[k] = expf((float)-log(10000.0) * (float)k / (float)half);
    *ret_primitive = &p->base;
    return 0;
}
