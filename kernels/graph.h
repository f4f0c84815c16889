/* graph.h: a recorded graph of tensor operations for one batch size.
 *
 * The model's code records operations; passes (fuse.c, gradient.c, plan.c) rewrite or read the graph; a backend lowers
 * each node to a prepared primitive. A graph is plain data owned by one thread. Recording functions check shapes and
 * return TENSOR_NONE after the first failure, which graph_error() keeps, so that a network can be recorded without a
 * test after every line.
 *
 * Every tensor is [N, H, W, C], C fastest ("NHWC"). Vectors per image are [N, 1, 1, C]. Filters are [K, R, S, C],
 * matrices [K, 1, 1, C], per-channel vectors [1, 1, 1, C].
 */
#ifndef DDIMD_GRAPH_H
#define DDIMD_GRAPH_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_I32 };

typedef int32_t tensor_id;
#define TENSOR_NONE (-1)

enum tensor_role {
    TENSOR_INPUT,    // bound by the caller at each run; its first dimension is the batch
    TENSOR_PARAM,    // a parameter, by index in the graph's parameter table
    TENSOR_VALUE,    // lives in the arena
    TENSOR_OUTPUT,   // bound by the caller at each run; its first dimension is the batch
    TENSOR_GRADIENT, // f32 gradient of parameter `index`, in the flat layout of the parameter table
};

struct tensor {
    enum dtype dtype;
    enum tensor_role role;
    int32_t dim[4];  // N H W C
    int32_t index;   // number of the input, output or parameter; of the parameter for a gradient
    tensor_id base;  // TENSOR_NONE, or the tensor of which this one is channels [channel, channel + dim[3]) (a view,
                     // same N H W)
    int32_t channel; // first channel in base
};

/* One parameter. Names, order and shapes are those of the checkpoint; `offset` places it in one flat f32 vector that
 * holds all parameters (masters, gradients and optimiser moments share this layout), each [K, R, S, C], aligned to 16
 * floats. */
struct param {
    char name[96];
    int32_t dim[4];    // K R S C
    int32_t file_rank; // 4: stored as [K, C, R, S]; 2: [K, C]; 1: [C]
    size_t offset;     // in floats
};

enum op {
    OP_CAST,        // y = x, dtype changed
    OP_CONV2D,      // y = conv(x, w) [+ b] [+ residual]; see struct node
    OP_LINEAR,      // y_i = x w_i^T [+ b_i] for one or several (w_i, b_i) that share x
    OP_GROUP_NORM,  // y = act(gn(x [+ pre]) * gamma + beta [+ post]), act = identity or SiLU; statistics (mean, 1/std)
                    // out
    OP_SILU,        // y = x / (1 + exp(-x))
    OP_ADD,         // y = a + b, same shape
    OP_ADD_CHANNEL, // y[n,h,w,c] = x[n,h,w,c] + e[n,c]
    OP_CONCAT,      // y = [a | b] along C
    OP_UPSAMPLE2X,  // nearest
    OP_AVG_POOL2X,  // mean of 2x2
    OP_ATTENTION,   // softmax(q k^T / sqrt(d)) v per head; channels of qkv are [head][q|k|v][d]
    OP_EMBEDDING,   // y[n] = table[index[n]]
    OP_TIMESTEP_EMBEDDING,   // y[n] = [cos(t f_i) | sin(t f_i)], f_i = 10000^(-i / (C / 2)); t may be fractional
    OP_DROPOUT,              // y = x * mask / (1 - p); mask from Philox, regenerated in backward
    OP_MSE,                  // y[n] = mean over H W C of (a - b)^2
    OP_RELU,                 // y = max(x, 0); has no gradient
    OP_POOL,                 // y = largest or mean of a window; padding does not count; has no gradient
    OP_GLOBAL_MEAN,          // y[n,c] = mean over H W of x
    OP_CROSS_ENTROPY,        // y[n] = log sum exp x[n] - x[n, label[n]]
    OP_CONV2D_BACKWARD_DATA, // appended by gradient.c from here on
    OP_CONV2D_BACKWARD_WEIGHTS,
    OP_LINEAR_BACKWARD_DATA,
    OP_LINEAR_BACKWARD_WEIGHTS,
    OP_GROUP_NORM_BACKWARD,
    OP_SILU_BACKWARD,
    OP_ADD_CHANNEL_BACKWARD, // de[n,c] = sum over H W of dy
    OP_SLICE,                // y = channels [channel, channel + C) of x (gradient of concat where a view cannot serve)
    OP_UPSAMPLE2X_BACKWARD,
    OP_AVG_POOL2X_BACKWARD,
    OP_ATTENTION_BACKWARD,
    OP_EMBEDDING_BACKWARD,
    OP_DROPOUT_BACKWARD,
    OP_MSE_BACKWARD,
    OP_GLOBAL_MEAN_BACKWARD,
    OP_CROSS_ENTROPY_BACKWARD,
    OP_COUNT
};

// clang-format off
/* Inputs and outputs of a node by position ("|0": may be TENSOR_NONE). dtypes: activations and their gradients in the
 * graph's compute dtype, parameter gradients, statistics and losses f32.
 *
 *   CAST                     x                                           -> y (same dtype: a copy)
 *   CONV2D                   x, w, b|0, residual|0                       -> y (F32 possible, then without residual)
 *   LINEAR                   x, then w_i, b_i|0 for each i               -> y_i for each i
 *   GROUP_NORM               x, gamma, beta, pre|0, post|0               -> y, mean|0, rstd|0
 *                            mean, rstd: [N, 1, 1, groups]   pre, post: [N, 1, 1, C]
 *   SILU                     x                                           -> y
 *   ADD                      a, b                                        -> y
 *   ADD_CHANNEL              x, e                                        -> y
 *   CONCAT                   a, b                                        -> y (a part that is a view of y is in place)
 *   UPSAMPLE2X AVG_POOL2X    x                                           -> y
 *   ATTENTION                qkv                                         -> y, lse|0
 *                            lse: [N, 1, H * W, heads], log-sum-exp of the scaled scores
 *   EMBEDDING                table, index                                -> y
 *   TIMESTEP_EMBEDDING       t                                           -> y
 *   DROPOUT                  x, key                                      -> y
 *   MSE                      a, b (same dtype)                           -> loss
 *   RELU POOL GLOBAL_MEAN    x                                           -> y
 *   CROSS_ENTROPY            x (F32), label                              -> loss
 *   CONV2D_BACKWARD_DATA     dy, w, more|0                               -> dx = (gradient) [+ more]
 *   CONV2D_BACKWARD_WEIGHTS  x, dy                                       -> dw, db|0
 *   LINEAR_BACKWARD_DATA     more|0, then dy_i, w_i for each i           -> dx = (gradient) [+ more]
 *   LINEAR_BACKWARD_WEIGHTS  x, then dy_i for each i                     -> dw_i, db_i|0 for each i
 *   GROUP_NORM_BACKWARD      x, gamma, beta, pre|0, post|0, mean, rstd, dy, more|0
 *                                                                        -> dx [+ more], dgamma, dbeta, dpre|0, dpost|0
 *                            (dpre is the sum over H W of dx before more is added)
 *   SILU_BACKWARD            x, dy                                       -> dx
 *   ADD_CHANNEL_BACKWARD     dy                                          -> de
 *   SLICE                    x                                           -> y
 *   UPSAMPLE2X_BACKWARD AVG_POOL2X_BACKWARD   dy                         -> dx
 *   ATTENTION_BACKWARD       qkv, y, lse, dy                             -> dqkv
 *   EMBEDDING_BACKWARD       index, dy                                   -> dtable
 *   DROPOUT_BACKWARD         dy, key                                     -> dx
 *   MSE_BACKWARD             a, b, weight                                -> da = 2 (a - b) weight[n] / (H W C)
 *   GLOBAL_MEAN_BACKWARD     dy                                          -> dx
 *   CROSS_ENTROPY_BACKWARD   x, label, weight                            -> dx = (softmax x - one-hot) weight[n]
 *
 * In place: plan.c may give output 0 the very place (same base, offset and pitch) of one input whose last reader the
 * node is: of CONV2D residual; GROUP_NORM x; SILU x; RELU x; ADD a or b; ADD_CHANNEL x; DROPOUT x; GROUP_NORM_BACKWARD dy or
 * more; SILU_BACKWARD dy; DROPOUT_BACKWARD dy. Otherwise no output overlaps an input or another output.
 * Pitch: views, whose pixels are further apart than their channels, are read and written only by operations for which
 * op_allows_pitch(); convolutions and attention see dense tensors.
 */
// clang-format on
struct node_attr {
    int32_t stride;  // conv, pool: 1 or 2; the padding is half the window
    bool valid;      // conv, pool: no padding
    int32_t window;  // pool: of rows and of columns, odd
    bool max;        // pool: the largest, else the mean
    bool upsample2x; // conv, and its gradients: x is (the small image) read through a nearest 2x upsampling
    int32_t groups;  // group norm
    float eps;       // group norm
    bool silu;       // group norm: SiLU after it
    int32_t heads;   // attention
    int32_t channel; // slice
    float rate;      // dropout
    uint32_t stream; // dropout: number of this layer, part of the Philox counter
};

struct node {
    enum op op;
    int32_t n_in, n_out;
    tensor_id *in, *out; // owned by the graph
    struct node_attr attr;
};

struct graph {
    int32_t batch;      // N of every tensor that has a batch dimension
    enum dtype compute; // dtype of activations
    bool training;      // dropout is recorded, statistics are kept
    struct tensor *tensors;
    int32_t n_tensors;
    struct node *nodes; // in execution order
    int32_t n_nodes;
    struct param *params;
    int32_t n_params;
    size_t param_floats; // length of the flat vector
    int32_t n_inputs, n_outputs;
    struct error error; // first recording error
    int32_t tensors_cap, nodes_cap, params_cap;
};

/* batch >= 1; compute: DTYPE_F32 or DTYPE_BF16. Returns NULL without memory. */
struct graph *graph_create(int32_t batch, enum dtype compute, bool training);
void graph_free(struct graph *g); // NULL is fine

/* The first recording error: 0, -EINVAL (shapes; err says which operation), -ENOMEM. err may be NULL. */
int graph_error(const struct graph *g, struct error *err);

/* Sources. Inputs and outputs are numbered in the order of these calls. An input is [batch, h, w, c]. */
tensor_id graph_input(struct graph *g, enum dtype dtype, int32_t h, int32_t w, int32_t c);
/* A parameter [k, r, s, c] that a file stores with file_rank dimensions (struct param). Recording the same name twice
 * is an error. */
tensor_id graph_param(struct graph *g, const char *name, int32_t k, int32_t r, int32_t s, int32_t c, int32_t file_rank);
/* Declares x, cast to dtype where it differs, an output of the graph. */
void graph_output(struct graph *g, tensor_id x, enum dtype dtype);

/* Operations: maths beside enum op, shapes checked, one new tensor returned, of the graph's compute dtype unless said.
 */
tensor_id graph_cast(struct graph *g, tensor_id x, enum dtype dtype);
/* x: [N, H, W, C]  w: [K, R, S, C], R and S odd  b: [1, 1, 1, K] or TENSOR_NONE  ->  [N, ceil(H / stride), ceil(W /
 * stride), K] */
tensor_id graph_conv2d(struct graph *g, tensor_id x, tensor_id w, tensor_id b, int32_t stride);
/* The same without padding  ->  [N, (H - R) / stride + 1, (W - S) / stride + 1, K] */
tensor_id graph_conv2d_valid(struct graph *g, tensor_id x, tensor_id w, tensor_id b, int32_t stride);
/* x: [N, 1, 1, C]  w: [K, 1, 1, C]  b: [1, 1, 1, K] or TENSOR_NONE  ->  [N, 1, 1, K] */
tensor_id graph_linear(struct graph *g, tensor_id x, tensor_id w, tensor_id b);
tensor_id graph_group_norm(struct graph *g, tensor_id x, tensor_id gamma, tensor_id beta, int32_t groups, float eps);
tensor_id graph_silu(struct graph *g, tensor_id x);
tensor_id graph_add(struct graph *g, tensor_id a, tensor_id b);
tensor_id graph_add_channel(struct graph *g, tensor_id x, tensor_id e);
tensor_id graph_concat(struct graph *g, tensor_id a, tensor_id b);
tensor_id graph_upsample_nearest2x(struct graph *g, tensor_id x);
tensor_id graph_avg_pool2x(struct graph *g, tensor_id x);
tensor_id graph_attention(struct graph *g, tensor_id qkv, int32_t heads);
/* table: [rows, 1, 1, C] parameter, index: [N, 1, 1, 1] I32 input; an index outside the table is the caller's bug. */
tensor_id graph_embedding(struct graph *g, tensor_id table, tensor_id index);
/* t: [N, 1, 1, 1] F32 input  ->  [N, 1, 1, dim], dim even */
tensor_id graph_timestep_embedding(struct graph *g, tensor_id t, int32_t dim);
/* Identity where the graph is not for training or rate is 0. key: [N, 1, 1, 4] I32 input, per image: (Philox key low,
 * key high, draw, image). */
tensor_id graph_dropout(struct graph *g, tensor_id x, tensor_id key, float rate);
/* a, b: same shape and dtype  ->  [N, 1, 1, 1] F32: the mean over H, W, C per image. */
tensor_id graph_mse(struct graph *g, tensor_id a, tensor_id b);
tensor_id graph_relu(struct graph *g, tensor_id x);
/* window odd, stride 1 or 2. Padded: [N, ceil(H / stride), ceil(W / stride), C]; valid: no padding, as
 * graph_conv2d_valid. */
tensor_id graph_pool(struct graph *g, tensor_id x, bool max, int32_t window, int32_t stride, bool valid);
tensor_id graph_global_mean(struct graph *g, tensor_id x); // -> [N, 1, 1, C]
/* x: [N, 1, 1, C] F32 (cast it), label: [N, 1, 1, 1] I32 input in [0, C)  ->  [N, 1, 1, 1] F32. */
tensor_id graph_cross_entropy(struct graph *g, tensor_id x, tensor_id label);

/* ---- passes, in this order ---- */

/* Rewrites forward operations into fused ones (fuse.c lists the patterns). Call before graph_gradient.
 * The result of every run changes by rounding at most. Returns 0, -ENOMEM. */
int graph_fuse(struct graph *g);

/* Appends the gradient (reverse mode) of sum over n of weight[n] * loss[n] with respect to every parameter. loss,
 * weight: [N, 1, 1, 1] F32, weight an input. Each parameter's gradient is written (not added) to its TENSOR_GRADIENT;
 * parameters that loss does not depend on get zeros. Returns 0, -EINVAL, -ENOMEM. */
int graph_gradient(struct graph *g, tensor_id loss, tensor_id weight);

/* Turns copies into views where the operations around them allow a pitch (views.c): the parts of a concatenation are
 * written in place by their producers, slices are read where they lie, the vectors of a multi-output linear and their
 * gradients become one matrix. Results keep their bits. Returns 0, -ENOMEM. */
int graph_place_views(struct graph *g);

/* Bytes of one element (of an unknown dtype 0); elements of a tensor, batch included. */
size_t dtype_bytes(enum dtype dtype);
size_t tensor_elements(const struct tensor *t);
const char *op_name(enum op op); // "conv2d"
/* Whether inputs and outputs of the operation may be views (activations with a pixel pitch above their channels). */
bool op_allows_pitch(enum op op);

/* ---- for passes ---- */

/* A new tensor [n, h, w, c] without producer; TENSOR_NONE without memory or where the shape is absurd (graph_error). */
tensor_id graph_tensor(struct graph *g, enum dtype dtype, enum tensor_role role, const int32_t dim[4]);
/* Appends a node; in and out are copied. Returns 0, -ENOMEM (graph_error). */
int graph_node(struct graph *g, enum op op, const struct node_attr *attr, const tensor_id *in, int32_t n_in,
               const tensor_id *out, int32_t n_out);
/* Frees what a node owns; graph_drop_nodes then closes the gaps: it removes every node without outputs. */
void graph_clear_node(struct node *node);
void graph_drop_nodes(struct graph *g);

#endif
