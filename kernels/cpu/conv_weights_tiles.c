/* conv_weights_tiles.c: gradient of a convolution's filters and bias by our own tiles, see loops/conv_weights_amx.c.
 *
 * Images go in groups whose packed copies stay in a core's cache; the gradient is read and written once for each group.
 * Threads share the packing by images and the products by output channels, so the sum has one order whatever their
 * number is.
 */
#include "kernels/cpu/conv.h"

#include <errno.h>
#include <stdlib.h>

enum { GROUP_BYTES = 1200 * 1024 }; // measured; of packed copies

struct tiles {
    struct primitive base;
    const struct device *device;
    int n_threads;
    struct operand x, dy, dw, db;
    struct conv_weights_group shape;
    size_t group; // images
    size_t x_elements, dy_elements;
};

bool conv_weights_tiles_fit(const struct device *d, const struct lowering *l, const struct tensor *dw)
{
    const struct tensor *x = &l->graph->tensors[l->node->in[0]], *dy = &l->graph->tensors[l->node->in[1]];
    return d->loops->conv_weights && x->dtype == DTYPE_BF16 && dy->dtype == DTYPE_BF16 && l->node->attr.stride == 1 && !l->node->attr.valid &&
           dw->dim[1] == dw->dim[2] && (dw->dim[1] == 1 || dw->dim[1] == 3) && dw->dim[0] % 32 == 0 &&
           dw->dim[3] % 32 == 0 && dy->dim[1] % 2 == 0 && dy->dim[2] % 2 == 0;
}

struct group_run {
    const struct tiles *t;
    const struct frame *f;
    struct conv_weights_group g;
    size_t first; // image
};

static void pack_image(void *context, size_t i)
{
    const struct group_run *r = context;
    const struct conv_weights_loops *loops = r->t->device->loops->conv_weights;
    loops->pack_x(&r->g, (uint16_t *)r->g.x + i * r->t->x_elements, operand_view(&r->t->x, r->f, r->first + i));
    loops->pack_dy(&r->g, (uint16_t *)r->g.dy + i * r->t->dy_elements, operand_view(&r->t->dy, r->f, r->first + i));
}

static void multiply_channels(void *context, size_t block)
{
    const struct group_run *r = context;
    r->t->device->loops->conv_weights->multiply(&r->g, 32 * block);
}

static int run_tiles(struct primitive *p, const struct frame *f)
{
    struct tiles *t = (struct tiles *)p;
    struct group_run r = {t, f, t->shape, 0};
    r.g.x = (const uint16_t *)f->base[BASE_SCRATCH];
    r.g.dy = r.g.x + t->group * t->x_elements;
    r.g.dw = operand_at(&t->dw, f, 0);
    r.g.db = operand_at(&t->db, f, 0);
    for (; r.first < (size_t)t->x.n; r.first += t->group) {
        size_t left = (size_t)t->x.n - r.first;
        r.g.images = left < t->group ? left : t->group;
        r.g.accumulate = r.first > 0;
        cpu_parallel(t->n_threads, r.g.images, pack_image, &r);
        cpu_parallel(t->n_threads, t->shape.k / 32, multiply_channels, &r);
    }
    return 0;
}

static void tiles_free(struct primitive *p)
{
    free(p);
}

int lower_conv_weights_tiles(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                             struct error *err)
{
    const struct node *n = l->node;
    const struct tensor *dw = &l->graph->tensors[n->out[0]];
    const struct conv_weights_loops *loops = d->loops->conv_weights;
    struct tiles *t = calloc(1, sizeof(*t));
    if (!t)
        return error_set(err, -ENOMEM, NULL, "no memory for a convolution's weight gradient");
    t->base.run = run_tiles;
    t->base.free = tiles_free;
    t->device = d;
    t->n_threads = l->n_threads;
    t->x = cpu_operand(l, n->in[0]);
    t->dy = cpu_operand(l, n->in[1]);
    t->dw = cpu_operand(l, n->out[0]);
    t->db = cpu_operand(l, n->n_out > 1 ? n->out[1] : TENSOR_NONE);
    t->shape = (struct conv_weights_group){
        .h = (size_t)t->dy.h,
        .w = (size_t)t->dy.w,
        .c = (size_t)dw->dim[3],
        .k = (size_t)dw->dim[0],
        .r = (size_t)dw->dim[1],
        .halvings = n->attr.upsample2x,
    };
    t->x_elements = loops->x_elements(&t->shape);
    t->dy_elements = loops->dy_elements(&t->shape);
    size_t image_bytes = 2 * (t->x_elements + t->dy_elements), n_images = (size_t)t->x.n;
    t->group = GROUP_BYTES / image_bytes < 1 ? 1 : GROUP_BYTES / image_bytes;
    t->group = t->group < n_images ? t->group : n_images;
    t->base.scratch_bytes = t->group * image_bytes;
    *ret_primitive = &t->base;
    return 0;
}
