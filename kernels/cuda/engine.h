/* engine.h: which of cuDNN's engines runs a graph, and the plans made so far.
 *
 * An engine with its knobs (tile sizes and such) is chosen once per shape and serves every number of images, so that an
 * image's bits do not depend on the batch; engines that split a sum by the size of the problem, round inputs down
 * (TF32), or are not deterministic are left out. The gradients of weights sum over images anyway: their engine is
 * chosen for the number at hand. Plans are kept until the device closes: layers of one shape share them.
 */
#ifndef DDIMD_CUDA_ENGINE_H
#define DDIMD_CUDA_ENGINE_H

#include "kernels/cuda/dnn.h"

#include <cuda_runtime_api.h>

struct engines;

struct dnn_plan {
    struct dnn graph;
    dnn_descriptor plan;
    size_t workspace_bytes;
    int64_t engine; // cuDNN's number for it
    int n_offered;  // engines with knobs that were left to choose from
};

/* device: its description, with the versions of what runs on it. Where DDIMD_CUDA_TUNE names a folder, the heuristics'
 * order is replaced by measured times, and choices are remembered in a file there, by device and versions, so that the
 * next start makes the same ones. */
int engines_create(cudnnHandle_t handle, cudaStream_t stream, const char *device, struct engines **ret_engines,
                   struct error *err);
/* For a device that is described and not there. */
int engines_create_described(dnn_descriptor properties, struct engines **ret_engines, struct error *err);
void engines_free(struct engines *e); // NULL is fine

/* *ret_plan stays e's. 0, -ENOTSUP (cuDNN has no engine for it: err says what it said last), -ENOMEM. */
int engines_plan(struct engines *e, const struct dnn_shape *s, int64_t n, const struct dnn_plan **ret_plan,
                 struct error *err);

/* For reports: calls plan for each plan made and refusal for each shape that cuDNN has no engine for, with its last
 * words. */
void engines_tell(const struct engines *e, void (*plan)(const struct dnn_shape *s, int64_t n, const struct dnn_plan *p),
                  void (*refusal)(const struct dnn_shape *s, const char *why));

#endif
