/* winograd.c: 3x3 convolutions in f32 by F(2x2, 3x3), see loops/winograd.c: 2.25 times fewer multiplications than the
 * direct ones, which already run at the rate of the machine's multiplier.
 *
 * The tiles of all images in the call are cut into blocks. A block is transformed, multiplied by the transformed
 * filters at each of the 16 positions and transformed back, all in one thread's scratch. gemm computes every element as
 * one chain over the channels, so a value depends on neither the block, the batch nor the threads. Where blocks are
 * fewer than threads, the threads share a block's output channels, and each transforms the inputs for itself.
 */
#include "kernels/cpu/conv.h"

#include <errno.h>
#include <stdlib.h>

enum { BLOCK_TILES = 64, LEAST_PIXELS = 64 }; // measured: the filters of smaller images cost more to read than is won

struct winograd {
    struct primitive base;
    const struct device *device;
    struct operand x, y, residual;
    const float *filters, *bias;
    bool upsample2x;
    size_t image_tiles, tiles; // of one, of all images
    size_t block;              // tiles
    size_t parts, k_parts;     // threads, shares of the output channels
    size_t thread_floats;
};

bool winograd_wins(const struct device *d, const struct conv_shape *s)
{
    return d->loops->winograd && s->x == DTYPE_F32 && s->y == DTYPE_F32 && s->r == 3 && s->s == 3 && s->stride == 1 &&
           s->pad[0][0] == 1 && s->pad[0][1] == 1 && s->pad[1][0] == 1 && s->pad[1][1] == 1 && s->c % 16 == 0 &&
           s->k % GEMM_STRIP == 0 && s->h * s->w >= LEAST_PIXELS;
}

/* The tiles [first, first + n) of all images, k channels of the filters from k0 on. */
struct block {
    const struct winograd *w;
    const struct frame *f;
    float *v, *m; // [16][n][C], [16][n][k]
    size_t first, n, k0, k;
};

/* The part of a block that lies in image i, or n = 0. */
static struct winograd_tiles tiles_of_image(const struct block *b, size_t i)
{
    size_t begin = i * b->w->image_tiles, end = begin + b->w->image_tiles;
    size_t from = b->first > begin ? b->first : begin, to = b->first + b->n < end ? b->first + b->n : end;
    return (struct winograd_tiles){
        .h = (size_t)b->w->y.h, .w = (size_t)b->w->y.w, .first = from - begin, .n = to > from ? to - from : 0};
}

static struct pixels channels_from(const struct block *b, const struct operand *o, size_t i)
{
    struct pixels p = operand_view(o, b->f, i);
    p.at = p.at ? (float *)p.at + b->k0 : NULL;
    return p;
}

static void transform_inputs(const struct block *b)
{
    size_t c = (size_t)b->w->x.c, done = 0;
    for (size_t i = b->first / b->w->image_tiles; done < b->n; i++) {
        struct winograd_tiles t = tiles_of_image(b, i);
        t.image = operand_view(&b->w->x, b->f, i);
        t.halvings = b->w->upsample2x;
        t.c = t.row = c;
        t.position = b->n * c;
        t.at = b->v + done * c;
        b->w->device->loops->winograd->input(&t);
        done += t.n;
    }
}

static void transform_outputs(const struct block *b)
{
    size_t done = 0;
    for (size_t i = b->first / b->w->image_tiles; done < b->n; i++) {
        struct winograd_tiles t = tiles_of_image(b, i);
        t.image = channels_from(b, &b->w->y, i);
        t.residual = channels_from(b, &b->w->residual, i);
        t.bias = b->w->bias ? b->w->bias + b->k0 : NULL;
        t.c = t.row = b->k;
        t.position = b->n * b->k;
        t.at = b->m + done * b->k;
        b->w->device->loops->winograd->output(&t);
        done += t.n;
    }
}

static void multiply(const struct block *b)
{
    size_t c = (size_t)b->w->x.c, k = (size_t)b->w->y.c;
    for (size_t position = 0; position < 16; position++)
        b->w->device->loops->matrix->gemm(&(struct gemm){
            .m = b->n,
            .n = b->k,
            .k = c,
            .a = b->v + position * b->n * c,
            .a_row = c,
            .a_column = 1,
            .b_dtype = DTYPE_F32,
            .b = b->w->filters + position * k * c + b->k0 * c,
            .b_row = GEMM_STRIP,
            .b_strip = c * GEMM_STRIP,
            .c = b->m + position * b->n * b->k,
            .c_row = b->k,
        });
}

struct winograd_run {
    const struct winograd *w;
    const struct frame *f;
};

/* Thread `part` takes the items part, part + parts, ...: each has its own scratch. */
static void run_part(void *context, size_t part)
{
    const struct winograd_run *r = context;
    const struct winograd *w = r->w;
    float *scratch = (float *)r->f->base[BASE_SCRATCH] + part * w->thread_floats;
    size_t items = (w->tiles + w->block - 1) / w->block * w->k_parts;
    for (size_t i = part; i < items; i += w->parts) {
        struct block b = {.w = w, .f = r->f, .v = scratch, .m = scratch + 16 * w->block * (size_t)w->x.c};
        size_t k_end;
        b.first = i / w->k_parts * w->block;
        b.n = w->tiles - b.first < w->block ? w->tiles - b.first : w->block;
        cpu_split((size_t)w->y.c, GEMM_STRIP, w->k_parts, i % w->k_parts, &b.k0, &k_end);
        b.k = k_end - b.k0;
        if (!b.k)
            continue;
        transform_inputs(&b);
        multiply(&b);
        transform_outputs(&b);
    }
}

static int run_winograd(struct primitive *p, const struct frame *f)
{
    struct winograd *w = (struct winograd *)p;
    cpu_parallel((int)w->parts, w->parts, run_part, &(struct winograd_run){w, f});
    return 0;
}

static void winograd_free(struct primitive *p)
{
    free(p);
}

/* Blocks for each thread, in whole rows of gemm's tiles. */
static void cut(struct winograd *w, size_t n_threads)
{
    size_t share = (w->tiles / n_threads + 7) / 8 * 8;
    w->parts = n_threads;
    w->block = BLOCK_TILES;
    w->k_parts = 1;
    if (w->tiles < 2 * BLOCK_TILES && n_threads > 1)
        w->k_parts = n_threads; // a block's filters are read once, a share by each thread
    else if (share < BLOCK_TILES)
        w->block = share;
    w->thread_floats = 16 * w->block * ((size_t)w->x.c + (size_t)w->y.c);
    w->base.scratch_bytes = w->parts * w->thread_floats * sizeof(float);
}

int winograd_create(struct device *d, const struct lowering *l, const struct winograd_conv *conv,
                    struct primitive **ret_primitive, struct error *err)
{
    struct winograd *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, -ENOMEM, NULL, "no memory for a convolution");
    w->base.run = run_winograd;
    w->base.free = winograd_free;
    w->device = d;
    w->x = cpu_operand(l, conv->x);
    w->y = cpu_operand(l, conv->y);
    w->residual = cpu_operand(l, conv->residual);
    w->bias = conv->bias;
    w->upsample2x = conv->upsample2x;
    w->image_tiles = (size_t)((w->y.h + 1) / 2) * (size_t)((w->y.w + 1) / 2);
    w->tiles = (size_t)w->x.n * w->image_tiles;
    cut(w, l->n_threads > 1 ? (size_t)l->n_threads : 1);
    struct pack_request request = {.kind = conv->turned ? PACK_WINOGRAD_FLIPPED : PACK_WINOGRAD, .param = conv->param};
    const void *filters = NULL;
    int rc = weights_packed(l->weights, &request, &filters, err);
    if (rc) {
        winograd_free(&w->base);
        return rc;
    }
    w->filters = filters;
    *ret_primitive = &w->base;
    return 0;
}
