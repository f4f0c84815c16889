/* export.c: see export.h.
 */
#include "training/export.h"

#include "model/checkpoint.h"
#include "model/unet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* The parameter table of a network. */
static int record(const struct checkpoint *c, struct graph **ret_graph, struct error *err)
{
    struct graph *g = graph_create(1, DTYPE_F32, false);
    if (!g)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    tensor_id x = graph_input(g, DTYPE_F32, c->data.height, c->data.width, c->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    graph_output(g, unet_record(g, &c->model, x, t, y, TENSOR_NONE), DTYPE_F32);
    int r = graph_error(g, err);
    if (r < 0)
        graph_free(g);
    else
        *ret_graph = g;
    return r;
}

static int convert(const struct checkpoint *c, const char *dtype, const char *to, struct error *err)
{
    struct graph *g = NULL;
    int r = record(c, &g, err);
    if (r < 0)
        return r;
    float *values = malloc(g->param_floats * sizeof *values);
    r = values ? checkpoint_read_params(c, g, values, err) : error_set(err, -ENOMEM, NULL, "out of memory");
    if (r == 0)
        r = checkpoint_write(to, &c->model, &c->diffusion, &c->data, c->training, g, values, dtype, err);
    free(values);
    graph_free(g);
    return r;
}

int export_model(const char *from, const char *dtype, const char *to, struct error *err)
{
    struct checkpoint c;
    int r = checkpoint_open(AT_FDCWD, from, &c, err);
    if (r < 0)
        return r;
    r = convert(&c, dtype, to, err);
    checkpoint_close(&c);
    return r;
}
