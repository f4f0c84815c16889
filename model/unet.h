/* unet.h: the conditional UNet of reference/ddim_reference.py, recorded as a graph.
 */
#ifndef DDIMD_MODEL_UNET_H
#define DDIMD_MODEL_UNET_H

#include "kernels/graph.h"
#include "model/config.h"

/* Records eps = unet(x, t, y). x: [N, H, W, in_channels] F32 or compute dtype; t: [N, 1, 1, 1] F32; y: [N, 1, 1, 1]
 * I32, num_classes is the null class; key: dropout key (graph_dropout) or TENSOR_NONE. Parameters are recorded in the
 * order of the reference's state_dict under its names. Returns eps: [N, H, W, out_channels] in the compute dtype,
 * TENSOR_NONE with graph_error() set. */
tensor_id unet_record(struct graph *g, const struct model_config *c, tensor_id x, tensor_id t, tensor_id y,
                      tensor_id key);

/* PyTorch's default initialisation of every parameter, from seed (Philox). values: flat, g->param_floats. */
void unet_initialise(const struct graph *g, uint64_t seed, float *ret_values);

#endif
