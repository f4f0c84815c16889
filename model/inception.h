/* inception.h: Inception v3 as FID uses it (Heusel et al. 2017): the network of 2015-12-05 with its 1008 classes,
 * recorded as a graph.
 *
 * It differs from the published v3 in its pooling branches: means do not count padding, and the last block's branch
 * takes the largest. Batch norms (epsilon 0.001) are folded into the convolutions when a file is read. Files are
 * safetensors with the tensors of the public PyTorch conversion by name (tools/convert_inception.py writes them) and
 * "inception" in their metadata. Any thread.
 */
#ifndef DDIMD_MODEL_INCEPTION_H
#define DDIMD_MODEL_INCEPTION_H

#include "kernels/graph.h"
#include "model/safetensors.h"

enum { INCEPTION_SIDE = 299, INCEPTION_FEATURES = 2048, INCEPTION_CLASSES = 1008 };

/* x: [N, 299, 299, 3] as resize_image() leaves it, F32. Returns the logits without their bias, as Inception Scores want
 * them, [N, 1, 1, 1008], and *ret_features [N, 1, 1, 2048]. TENSOR_NONE with graph_error() set. */
tensor_id inception_record(struct graph *g, tensor_id x, tensor_id *ret_features);

/* The parameters of g's table from a file's tensors, batch norms folded in. values: [g->param_floats]. 0, -EINVAL (err
 * names the tensor: not there, another shape, not finite), -ENOMEM. */
int inception_read_params(const struct safetensors *s, const struct graph *g, float *values, struct error *err);

#endif
