/* primitive.c: a node's tensors as operands, and primitives that our own loops compute. */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>

struct operand cpu_operand(const struct lowering *l, tensor_id id)
{
    if (id == TENSOR_NONE)
        return (struct operand){.place = {.base = -1}};
    const struct tensor *t = &l->graph->tensors[id];
    struct place place = t->role == TENSOR_PARAM ? (struct place){.base = -1} : l->places[id];
    return (struct operand){place, t->dtype, t->dim[0], t->dim[1], t->dim[2], t->dim[3]};
}

static void loop_primitive_free(struct primitive *p)
{
    free(p);
}

int loop_primitive_create(struct device *d, const struct lowering *l,
                          int (*run)(struct primitive *, const struct frame *), struct loop_primitive **ret_primitive,
                          struct error *err)
{
    const struct node *n = l->node;
    struct loop_primitive *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, -ENOMEM, NULL, "no memory for a primitive");
    p->base.run = run;
    p->base.free = loop_primitive_free;
    p->device = d;
    p->n_threads = l->n_threads;
    p->node = *n;
    p->node.in = p->node.out = NULL;
    for (int i = 0; i < 9; i++)
        p->in[i] = cpu_operand(l, i < n->n_in ? n->in[i] : TENSOR_NONE);
    for (int i = 0; i < 6; i++)
        p->out[i] = cpu_operand(l, i < n->n_out ? n->out[i] : TENSOR_NONE);
    *ret_primitive = p;
    return 0;
}

struct split_copy {
    const struct view_copy *copy;
    size_t parts;
};

static void copy_part(void *context, size_t i)
{
    const struct split_copy *s = context;
    const struct view_copy *c = s->copy;
    size_t begin, end;
    cpu_split(c->pixels, 1, s->parts, i, &begin, &end);
    struct pixels y = c->y, x = c->x;
    y.at = (char *)y.at + begin * y.pitch * dtype_bytes(y.dtype);
    x.at = (char *)x.at + begin * x.pitch * dtype_bytes(x.dtype);
    c->device->loops->pointwise->copy(y, x, end - begin, c->channels);
}

void cpu_copy_pixels(const struct view_copy *copy, int n_threads)
{
    struct split_copy s = {copy, n_threads > 1 ? (size_t)n_threads : 1};
    cpu_parallel(n_threads, s.parts, copy_part, &s);
}
