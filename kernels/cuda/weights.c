/* weights.c: the parameter vector on the device. Filters are [K, R, S, C], which is cuDNN's NHWC order already, so that
 * nothing is packed: primitives point into the flat f32 vector or into its copy in bf16.
 */
#include "kernels/cuda/cuda.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct weights {
    struct device *device;
    struct param *params; // copied
    int32_t n_params;
    size_t floats;
    float *master; // NULL once sealed, where no primitive reads it
    void *bf16;    // NULL until a primitive wants it
    bool keep_master, master_read;
};

int cuda_weights_create(struct device *d, const struct graph *params_of, const float *values, bool keep_master,
                        struct weights **ret_weights, struct error *err)
{
    struct weights *w = calloc(1, sizeof(*w));
    size_t bytes = params_of->param_floats * sizeof(float);
    if (!w)
        return error_set(err, -ENOMEM, NULL, "no memory for weights");
    w->device = d;
    w->n_params = params_of->n_params;
    w->floats = params_of->param_floats;
    w->keep_master = keep_master;
    w->params = malloc(((size_t)w->n_params + 1) * sizeof(*w->params));
    int rc = w->params ? cuda_alloc(d, bytes, (void **)&w->master) : -ENOMEM;
    if (rc == 0)
        rc = cuda_upload(d, w->master, values, bytes);
    if (rc) {
        cuda_weights_free(w);
        return error_set(err, rc, NULL, "no memory on the device for %zu bytes of weights", bytes);
    }
    if (w->n_params)
        memcpy(w->params, params_of->params, (size_t)w->n_params * sizeof(*w->params));
    *ret_weights = w;
    return 0;
}

void cuda_weights_free(struct weights *w)
{
    if (!w)
        return;
    cuda_free(w->device, w->master, w->floats * sizeof(float));
    cuda_free(w->device, w->bf16, w->floats * 2);
    free(w->params);
    free(w);
}

void cuda_weights_seal(struct weights *w)
{
    if (w->keep_master || w->master_read)
        return;
    cuda_free(w->device, w->master, w->floats * sizeof(float));
    w->master = NULL;
}

static int convert(struct weights *w)
{
    struct gpu_pixels to = {DTYPE_BF16, w->bf16, w->floats}, from = {DTYPE_F32, w->master, w->floats};
    return CUDA(w->device, gpu_copy(w->device->stream, to, from, 1, w->floats), NULL);
}

int cuda_weights_repack(struct weights *w)
{
    if (!w->master)
        return -EINVAL;
    return w->bf16 ? convert(w) : 0;
}

float *cuda_weights_master(struct weights *w)
{
    return w->master;
}

size_t cuda_weights_bytes(const struct weights *w)
{
    return (w->master ? w->floats * sizeof(float) : 0) + (w->bf16 ? w->floats * 2 : 0);
}

static int want_bf16(struct weights *w, struct error *err)
{
    if (w->bf16)
        return 0;
    int rc = cuda_alloc(w->device, w->floats * 2, &w->bf16);
    if (rc == 0)
        rc = convert(w);
    return rc ? error_set(err, rc, NULL, "no memory on the device for weights in bf16") : 0;
}

int weights_at(const struct lowering *l, tensor_id id, bool f32, struct gpu_pixels *ret_param, struct error *err)
{
    struct weights *w = l->weights;
    *ret_param = (struct gpu_pixels){.dtype = DTYPE_F32};
    if (id == TENSOR_NONE)
        return 0;
    const struct param *p = &w->params[l->graph->tensors[id].index];
    ret_param->pitch = (size_t)p->dim[3];
    if (f32 || l->graph->compute == DTYPE_F32) {
        w->master_read = true;
        ret_param->at = w->master + p->offset;
        return 0;
    }
    int rc = want_bf16(w, err);
    ret_param->dtype = DTYPE_BF16;
    ret_param->at = (char *)w->bf16 + 2 * p->offset;
    return rc;
}
