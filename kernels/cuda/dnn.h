/* dnn.h: cuDNN's operation graphs for the shapes that this backend has, through its backend API in C.
 *
 * A graph is written for a shape and a number of images, offered to cuDNN, and becomes a plan with an engine that
 * engine.c chose. Works with a device (handle) or with nothing but a device's description (properties), for which plans
 * can be made but not run: that is how tests ask the real cuDNN about a GPU that is not there.
 */
#ifndef DDIMD_CUDA_DNN_H
#define DDIMD_CUDA_DNN_H

#include "kernels/backend.h"

#include <cudnn.h>

typedef cudnnBackendDescriptor_t dnn_descriptor;

enum dnn_kind {
    DNN_CONV,         // y = conv(x, w) [+ bias] [+ residual]
    DNN_CONV_DATA,    // x = its gradient, from y's and w
    DNN_CONV_WEIGHTS, // w = its gradient, from x and y's
    DNN_ATTENTION,    // y = softmax(scale q k^T) v [, stats = log-sum-exp]
    DNN_ATTENTION_BACKWARD,
};

/* All that a graph depends on but the number of images; compared byte by byte, so start from zeros. */
struct dnn_shape {
    int32_t kind;                     // enum dnn_kind
    int32_t in, out;                  // enum dtype of the inputs and of the result
    int32_t h, w, c, k, r, s, stride; // convolutions: x [h, w, c], filter [k, r, s, c]
    int32_t valid;                    // convolutions: no padding
    int32_t bias, residual;           // DNN_CONV: which are there
    int32_t tokens, heads, size;      // attention; q, k, v interleaved as graph.h says
    int32_t stats;                    // DNN_ATTENTION: wanted
};

/* The tensors of a graph: what a run binds. SUM, ACC: scratch of the attention's gradient, f32: [n, heads, tokens] and
 * [n, heads, tokens, size]. */
enum dnn_tensor {
    DNN_X,
    DNN_W,
    DNN_Y,
    DNN_BIAS,
    DNN_RESIDUAL,
    DNN_Q,
    DNN_K,
    DNN_V,
    DNN_STATS,
    DNN_DY,
    DNN_DQ,
    DNN_DK,
    DNN_DV,
    DNN_SUM,
    DNN_ACC,
    DNN_SCALE,
    DNN_ONE, // on the host, bound by dnn_run itself
    DNN_TENSORS
};

enum { DNN_MAX_OWNED = 128, DNN_MAX_OPERATIONS = 24 };

/* A graph while it is written, and what of it a plan needs to stay. */
struct dnn {
    cudnnHandle_t handle;      // NULL: described
    dnn_descriptor properties; // NULL: there is a device
    dnn_descriptor owned[DNN_MAX_OWNED], operations[DNN_MAX_OPERATIONS];
    int n_owned, n_operations;
    dnn_descriptor graph;
    bool bound[DNN_TENSORS]; // occurs in the graph
    int64_t next_virtual;
    cudnnStatus_t status; // the first failure
    char message[256];
};

/* Writes the whole graph of s for n images and finalizes it. Returns g->status. dnn_done() frees it, also a failed one.
 */
cudnnStatus_t dnn_write(struct dnn *g, cudnnHandle_t handle, dnn_descriptor properties, const struct dnn_shape *s,
                        int64_t n);
void dnn_done(struct dnn *g);

/* Creates a descriptor that g owns; sets attributes; finalizes. After a failure they do nothing. */
dnn_descriptor dnn_make(struct dnn *g, cudnnBackendDescriptorType_t type);
void dnn_set(struct dnn *g, dnn_descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
             int64_t count, const void *values);
void dnn_finalize(struct dnn *g, dnn_descriptor d);

/* Enqueues a plan. at: [DNN_TENSORS] device addresses; workspace: as large as the plan says. scale: the attention's. */
cudnnStatus_t dnn_run(const struct dnn *g, dnn_descriptor plan, void *const *at, void *workspace, float scale);

/* A device that is not here, from the JSON text that cuDNN describes devices with; 0 or its status. */
cudnnStatus_t dnn_describe_device(const char *json, dnn_descriptor *ret_properties);

#endif
