/* ops_cases.h: the one table of operation cases: conformance tests (test_ops.c) against PyTorch's results
 * (tests/fixtures/make_ops.py reads this table), and the operation benchmark (bench/ops.c).
 *
 * A case is an operation with its shapes; op_run.h derives tensors from it. Small odd shapes have results in the
 * fixture. `large` ones are those of the UNet at 32x32: they are benchmarked, tested for batch invariance and bf16
 * against f32, and have no fixture. One row per line, fields by name: the Python reader is a regular expression.
 */
#ifndef DDIMD_TESTS_OPS_CASES_H
#define DDIMD_TESTS_OPS_CASES_H

#include "kernels/graph.h"

struct op_case {
    const char *name;
    enum op op;
    int32_t n, h, w, c; // of the forward operation's x; n is the fixture's batch
    int32_t k;          // conv, linear: output channels; concat, slice: channels of the other part; embedding: rows
    int32_t r, stride;  // conv: filter, stride; pool: window
    int32_t s;          // conv: the filter's columns where they are not r
    int32_t terms;      // linear: outputs, of k, k + 3, ... channels
    int32_t groups, heads;
    float rate;   // dropout
    float offset; // added to x: statistics around a large mean
    bool upsample, bias, residual, pre, post, silu, more, stats, large, valid, max;
};

// clang-format off
static const struct op_case op_cases[] = {
    {.name = "cast", .op = OP_CAST, .n = 3, .h = 3, .w = 5, .c = 7},
    {.name = "cast_back", .op = OP_CAST, .n = 3, .h = 3, .w = 5, .c = 7, .stats = true},
    {.name = "conv_3x3", .op = OP_CONV2D, .n = 3, .h = 7, .w = 5, .c = 6, .k = 10, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_3x3_wide", .op = OP_CONV2D, .n = 2, .h = 5, .w = 6, .c = 33, .k = 48, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_3x3_residual", .op = OP_CONV2D, .n = 3, .h = 6, .w = 5, .c = 16, .k = 16, .r = 3, .stride = 1, .bias = true, .residual = true},
    {.name = "conv_3x3_tiles", .op = OP_CONV2D, .n = 2, .h = 9, .w = 8, .c = 16, .k = 32, .r = 3, .stride = 1, .bias = true, .residual = true},
    {.name = "conv_3x3_from_1", .op = OP_CONV2D, .n = 2, .h = 9, .w = 8, .c = 1, .k = 32, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_3x3_from_3", .op = OP_CONV2D, .n = 3, .h = 8, .w = 9, .c = 3, .k = 32, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_3x3_to_1", .op = OP_CONV2D, .n = 2, .h = 8, .w = 8, .c = 32, .k = 1, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_3x3_to_3", .op = OP_CONV2D, .n = 3, .h = 7, .w = 7, .c = 32, .k = 3, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_3x3_one_pixel", .op = OP_CONV2D, .n = 4, .h = 1, .w = 1, .c = 32, .k = 32, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_1x1", .op = OP_CONV2D, .n = 3, .h = 5, .w = 7, .c = 12, .k = 20, .r = 1, .stride = 1},
    {.name = "conv_1x1_residual", .op = OP_CONV2D, .n = 3, .h = 4, .w = 4, .c = 32, .k = 24, .r = 1, .stride = 1, .bias = true, .residual = true},
    {.name = "conv_5x5", .op = OP_CONV2D, .n = 2, .h = 6, .w = 7, .c = 4, .k = 8, .r = 5, .stride = 1, .bias = true},
    {.name = "conv_stride2", .op = OP_CONV2D, .n = 3, .h = 8, .w = 6, .c = 16, .k = 16, .r = 3, .stride = 2, .bias = true},
    {.name = "conv_stride2_odd", .op = OP_CONV2D, .n = 2, .h = 7, .w = 5, .c = 8, .k = 12, .r = 3, .stride = 2, .bias = true},
    {.name = "conv_upsample", .op = OP_CONV2D, .n = 3, .h = 3, .w = 4, .c = 8, .k = 12, .r = 3, .stride = 1, .bias = true, .upsample = true},
    {.name = "conv_upsample_phases", .op = OP_CONV2D, .n = 2, .h = 16, .w = 17, .c = 5, .k = 3, .r = 3, .stride = 1, .bias = true, .upsample = true, .residual = true},
    {.name = "conv_upsample_tiles", .op = OP_CONV2D, .n = 2, .h = 5, .w = 4, .c = 16, .k = 32, .r = 3, .stride = 1, .upsample = true},
    {.name = "conv_data_3x3", .op = OP_CONV2D_BACKWARD_DATA, .n = 3, .h = 7, .w = 5, .c = 6, .k = 10, .r = 3, .stride = 1},
    {.name = "conv_data_3x3_more", .op = OP_CONV2D_BACKWARD_DATA, .n = 2, .h = 4, .w = 5, .c = 32, .k = 48, .r = 3, .stride = 1, .more = true},
    {.name = "conv_data_3x3_tiles", .op = OP_CONV2D_BACKWARD_DATA, .n = 2, .h = 8, .w = 9, .c = 32, .k = 16, .r = 3, .stride = 1, .more = true},
    {.name = "conv_data_1x1", .op = OP_CONV2D_BACKWARD_DATA, .n = 3, .h = 5, .w = 3, .c = 20, .k = 17, .r = 1, .stride = 1, .more = true},
    {.name = "conv_data_5x5", .op = OP_CONV2D_BACKWARD_DATA, .n = 2, .h = 6, .w = 5, .c = 4, .k = 8, .r = 5, .stride = 1},
    {.name = "conv_data_stride2", .op = OP_CONV2D_BACKWARD_DATA, .n = 3, .h = 8, .w = 6, .c = 16, .k = 16, .r = 3, .stride = 2},
    {.name = "conv_data_stride2_odd_more", .op = OP_CONV2D_BACKWARD_DATA, .n = 2, .h = 7, .w = 5, .c = 8, .k = 12, .r = 3, .stride = 2, .more = true},
    {.name = "conv_data_upsample_more", .op = OP_CONV2D_BACKWARD_DATA, .n = 3, .h = 3, .w = 4, .c = 8, .k = 12, .r = 3, .stride = 1, .upsample = true, .more = true},
    {.name = "conv_weights_3x3", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 7, .w = 5, .c = 6, .k = 10, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_weights_3x3_wide", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 2, .h = 5, .w = 6, .c = 33, .k = 48, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_weights_from_1", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 2, .h = 9, .w = 8, .c = 1, .k = 32, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_weights_to_3", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 7, .w = 7, .c = 32, .k = 3, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_weights_1x1", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 5, .w = 3, .c = 20, .k = 17, .r = 1, .stride = 1},
    {.name = "conv_weights_stride2", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 8, .w = 6, .c = 16, .k = 16, .r = 3, .stride = 2, .bias = true},
    {.name = "conv_weights_upsample", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 3, .w = 4, .c = 8, .k = 12, .r = 3, .stride = 1, .bias = true, .upsample = true},
    {.name = "conv_weights_3x3_tiles", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 4, .w = 6, .c = 32, .k = 32, .r = 3, .stride = 1, .bias = true},
    {.name = "conv_weights_1x1_tiles", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 2, .h = 6, .w = 6, .c = 64, .k = 32, .r = 1, .stride = 1},
    {.name = "conv_weights_upsample_tiles", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 3, .h = 3, .w = 2, .c = 32, .k = 32, .r = 3, .stride = 1, .bias = true, .upsample = true},
    {.name = "linear", .op = OP_LINEAR, .n = 5, .h = 1, .w = 1, .c = 24, .k = 19, .terms = 1, .bias = true},
    {.name = "linear_many", .op = OP_LINEAR, .n = 9, .h = 1, .w = 1, .c = 37, .k = 64, .terms = 3, .bias = true},
    {.name = "linear_data", .op = OP_LINEAR_BACKWARD_DATA, .n = 5, .h = 1, .w = 1, .c = 41, .k = 19, .terms = 1},
    {.name = "linear_data_many", .op = OP_LINEAR_BACKWARD_DATA, .n = 9, .h = 1, .w = 1, .c = 64, .k = 30, .terms = 3, .more = true},
    {.name = "linear_weights", .op = OP_LINEAR_BACKWARD_WEIGHTS, .n = 5, .h = 1, .w = 1, .c = 24, .k = 19, .terms = 1},
    {.name = "linear_weights_many", .op = OP_LINEAR_BACKWARD_WEIGHTS, .n = 9, .h = 1, .w = 1, .c = 37, .k = 22, .terms = 3, .bias = true},
    {.name = "group_norm", .op = OP_GROUP_NORM, .n = 3, .h = 5, .w = 7, .c = 12, .groups = 3, .stats = true},
    {.name = "group_norm_silu", .op = OP_GROUP_NORM, .n = 2, .h = 4, .w = 5, .c = 96, .groups = 32, .silu = true},
    {.name = "group_norm_pre_post", .op = OP_GROUP_NORM, .n = 3, .h = 6, .w = 3, .c = 80, .groups = 4, .silu = true, .pre = true, .post = true, .stats = true},
    {.name = "group_norm_post", .op = OP_GROUP_NORM, .n = 2, .h = 3, .w = 3, .c = 128, .groups = 32, .silu = true, .post = true},
    {.name = "group_norm_one_pixel", .op = OP_GROUP_NORM, .n = 3, .h = 1, .w = 1, .c = 64, .groups = 16, .silu = true},
    {.name = "group_norm_offset", .op = OP_GROUP_NORM, .n = 2, .h = 8, .w = 8, .c = 32, .groups = 8, .stats = true, .offset = 30},
    {.name = "group_norm_backward", .op = OP_GROUP_NORM_BACKWARD, .n = 3, .h = 5, .w = 7, .c = 12, .groups = 3},
    {.name = "group_norm_backward_silu", .op = OP_GROUP_NORM_BACKWARD, .n = 2, .h = 4, .w = 5, .c = 96, .groups = 32, .silu = true, .more = true},
    {.name = "group_norm_backward_pre_post", .op = OP_GROUP_NORM_BACKWARD, .n = 3, .h = 6, .w = 3, .c = 80, .groups = 4, .silu = true, .pre = true, .post = true, .more = true},
    {.name = "silu", .op = OP_SILU, .n = 3, .h = 3, .w = 5, .c = 21},
    {.name = "silu_backward", .op = OP_SILU_BACKWARD, .n = 3, .h = 3, .w = 5, .c = 21},
    {.name = "add", .op = OP_ADD, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "add_channel", .op = OP_ADD_CHANNEL, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "add_channel_backward", .op = OP_ADD_CHANNEL_BACKWARD, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "concat", .op = OP_CONCAT, .n = 3, .h = 5, .w = 3, .c = 19, .k = 6},
    {.name = "slice", .op = OP_SLICE, .n = 3, .h = 5, .w = 3, .c = 19, .k = 6},
    {.name = "upsample", .op = OP_UPSAMPLE2X, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "upsample_backward", .op = OP_UPSAMPLE2X_BACKWARD, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "avg_pool", .op = OP_AVG_POOL2X, .n = 3, .h = 4, .w = 6, .c = 19},
    {.name = "avg_pool_backward", .op = OP_AVG_POOL2X_BACKWARD, .n = 3, .h = 4, .w = 6, .c = 19},
    {.name = "attention", .op = OP_ATTENTION, .n = 3, .h = 3, .w = 5, .c = 24, .heads = 3, .stats = true},
    {.name = "attention_wide", .op = OP_ATTENTION, .n = 2, .h = 9, .w = 8, .c = 32, .heads = 1, .stats = true},
    {.name = "attention_one_pixel", .op = OP_ATTENTION, .n = 2, .h = 1, .w = 1, .c = 32, .heads = 4},
    {.name = "attention_backward", .op = OP_ATTENTION_BACKWARD, .n = 3, .h = 3, .w = 5, .c = 24, .heads = 3},
    {.name = "attention_backward_wide", .op = OP_ATTENTION_BACKWARD, .n = 2, .h = 9, .w = 8, .c = 32, .heads = 1},
    {.name = "embedding", .op = OP_EMBEDDING, .n = 5, .h = 1, .w = 1, .c = 21, .k = 4},
    {.name = "embedding_backward", .op = OP_EMBEDDING_BACKWARD, .n = 5, .h = 1, .w = 1, .c = 21, .k = 4},
    {.name = "timestep_embedding", .op = OP_TIMESTEP_EMBEDDING, .n = 6, .h = 1, .w = 1, .c = 42},
    {.name = "dropout", .op = OP_DROPOUT, .n = 3, .h = 5, .w = 7, .c = 19, .rate = 0.3f},
    {.name = "dropout_backward", .op = OP_DROPOUT_BACKWARD, .n = 2, .h = 4, .w = 4, .c = 16, .rate = 0.1f},
    {.name = "mse", .op = OP_MSE, .n = 3, .h = 5, .w = 7, .c = 3},
    {.name = "mse_backward", .op = OP_MSE_BACKWARD, .n = 3, .h = 5, .w = 7, .c = 3},
    {.name = "conv_valid_stride2", .op = OP_CONV2D, .n = 2, .h = 9, .w = 8, .c = 3, .k = 8, .r = 3, .stride = 2, .bias = true, .valid = true},
    {.name = "conv_valid", .op = OP_CONV2D, .n = 2, .h = 5, .w = 4, .c = 16, .k = 16, .r = 3, .stride = 1, .bias = true, .valid = true},
    {.name = "conv_1x7", .op = OP_CONV2D, .n = 2, .h = 5, .w = 6, .c = 16, .k = 8, .r = 1, .s = 7, .stride = 1, .bias = true},
    {.name = "conv_7x1", .op = OP_CONV2D, .n = 2, .h = 6, .w = 5, .c = 8, .k = 16, .r = 7, .s = 1, .stride = 1, .bias = true},
    {.name = "conv_data_valid", .op = OP_CONV2D_BACKWARD_DATA, .n = 2, .h = 5, .w = 6, .c = 16, .k = 8, .r = 3, .stride = 1, .valid = true},
    {.name = "conv_data_valid_stride2", .op = OP_CONV2D_BACKWARD_DATA, .n = 2, .h = 7, .w = 8, .c = 16, .k = 8, .r = 3, .stride = 2, .valid = true},
    {.name = "conv_weights_valid_1x3", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 2, .h = 5, .w = 6, .c = 16, .k = 8, .r = 1, .s = 3, .stride = 1, .bias = true, .valid = true},
    {.name = "relu", .op = OP_RELU, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "pool_max_valid_stride2", .op = OP_POOL, .n = 2, .h = 9, .w = 6, .c = 19, .r = 3, .stride = 2, .max = true, .valid = true},
    {.name = "pool_max", .op = OP_POOL, .n = 2, .h = 4, .w = 5, .c = 33, .r = 3, .stride = 1, .max = true},
    {.name = "pool_mean", .op = OP_POOL, .n = 2, .h = 4, .w = 5, .c = 19, .r = 3, .stride = 1},
    {.name = "pool_mean_stride2", .op = OP_POOL, .n = 2, .h = 5, .w = 6, .c = 16, .r = 5, .stride = 2},
    {.name = "global_mean", .op = OP_GLOBAL_MEAN, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "global_mean_backward", .op = OP_GLOBAL_MEAN_BACKWARD, .n = 3, .h = 5, .w = 3, .c = 19},
    {.name = "cross_entropy", .op = OP_CROSS_ENTROPY, .n = 5, .h = 1, .w = 1, .c = 10, .k = 10},
    {.name = "cross_entropy_backward", .op = OP_CROSS_ENTROPY_BACKWARD, .n = 5, .h = 1, .w = 1, .c = 10, .k = 10},
    // the UNet's
    {.name = "conv 32x32 3->128", .op = OP_CONV2D, .n = 1, .h = 32, .w = 32, .c = 3, .k = 128, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv 32x32 128->128", .op = OP_CONV2D, .n = 1, .h = 32, .w = 32, .c = 128, .k = 128, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv 32x32 384->128", .op = OP_CONV2D, .n = 1, .h = 32, .w = 32, .c = 384, .k = 128, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv 32x32 256->128 1x1 +", .op = OP_CONV2D, .n = 1, .h = 32, .w = 32, .c = 256, .k = 128, .r = 1, .stride = 1, .bias = true, .residual = true, .large = true},
    {.name = "conv 32x32 128->3", .op = OP_CONV2D, .n = 1, .h = 32, .w = 32, .c = 128, .k = 3, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv 32x32 /2 128", .op = OP_CONV2D, .n = 1, .h = 32, .w = 32, .c = 128, .k = 128, .r = 3, .stride = 2, .bias = true, .large = true},
    {.name = "conv 16x16 x2 256", .op = OP_CONV2D, .n = 1, .h = 16, .w = 16, .c = 256, .k = 256, .r = 3, .stride = 1, .bias = true, .upsample = true, .large = true},
    {.name = "conv 8x8 x2 256", .op = OP_CONV2D, .n = 1, .h = 8, .w = 8, .c = 256, .k = 256, .r = 3, .stride = 1, .bias = true, .upsample = true, .large = true},
    {.name = "conv 4x4 x2 256", .op = OP_CONV2D, .n = 1, .h = 4, .w = 4, .c = 256, .k = 256, .r = 3, .stride = 1, .bias = true, .upsample = true, .large = true},
    {.name = "conv 16x16 256->256", .op = OP_CONV2D, .n = 1, .h = 16, .w = 16, .c = 256, .k = 256, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv 16x16 256->768 1x1", .op = OP_CONV2D, .n = 1, .h = 16, .w = 16, .c = 256, .k = 768, .r = 1, .stride = 1, .large = true},
    {.name = "conv 8x8 256->256", .op = OP_CONV2D, .n = 1, .h = 8, .w = 8, .c = 256, .k = 256, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv 4x4 512->256", .op = OP_CONV2D, .n = 1, .h = 4, .w = 4, .c = 512, .k = 256, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv data 32x32 128", .op = OP_CONV2D_BACKWARD_DATA, .n = 1, .h = 32, .w = 32, .c = 128, .k = 128, .r = 3, .stride = 1, .large = true},
    {.name = "conv data 32x32 /2 128", .op = OP_CONV2D_BACKWARD_DATA, .n = 1, .h = 32, .w = 32, .c = 128, .k = 128, .r = 3, .stride = 2, .large = true},
    {.name = "conv data 16x16 256", .op = OP_CONV2D_BACKWARD_DATA, .n = 1, .h = 16, .w = 16, .c = 256, .k = 256, .r = 3, .stride = 1, .large = true},
    {.name = "conv data 16x16 1x1", .op = OP_CONV2D_BACKWARD_DATA, .n = 1, .h = 16, .w = 16, .c = 256, .k = 768, .r = 1, .stride = 1, .large = true},
    {.name = "conv data 8x8 256", .op = OP_CONV2D_BACKWARD_DATA, .n = 1, .h = 8, .w = 8, .c = 256, .k = 256, .r = 3, .stride = 1, .large = true},
    {.name = "conv weights 32x32 128", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 1, .h = 32, .w = 32, .c = 128, .k = 128, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv weights 16x16 256", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 1, .h = 16, .w = 16, .c = 256, .k = 256, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "conv weights 16x16 1x1", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 1, .h = 16, .w = 16, .c = 256, .k = 768, .r = 1, .stride = 1, .large = true},
    {.name = "conv weights 4x4 512", .op = OP_CONV2D_BACKWARD_WEIGHTS, .n = 1, .h = 4, .w = 4, .c = 512, .k = 256, .r = 3, .stride = 1, .bias = true, .large = true},
    {.name = "group_norm 32x32 128 silu", .op = OP_GROUP_NORM, .n = 1, .h = 32, .w = 32, .c = 128, .groups = 32, .silu = true, .post = true, .large = true},
    {.name = "group_norm 16x16 256 silu", .op = OP_GROUP_NORM, .n = 1, .h = 16, .w = 16, .c = 256, .groups = 32, .silu = true, .post = true, .large = true},
    {.name = "group_norm 16x16 256", .op = OP_GROUP_NORM, .n = 1, .h = 16, .w = 16, .c = 256, .groups = 32, .large = true},
    {.name = "group_norm 4x4 256 silu", .op = OP_GROUP_NORM, .n = 1, .h = 4, .w = 4, .c = 256, .groups = 32, .silu = true, .post = true, .large = true},
    {.name = "group_norm backward 32x32 128", .op = OP_GROUP_NORM_BACKWARD, .n = 1, .h = 32, .w = 32, .c = 128, .groups = 32, .silu = true, .post = true, .large = true},
    {.name = "attention 16x16", .op = OP_ATTENTION, .n = 1, .h = 16, .w = 16, .c = 256, .heads = 4, .large = true},
    {.name = "attention 4x4", .op = OP_ATTENTION, .n = 1, .h = 4, .w = 4, .c = 256, .heads = 4, .large = true},
    {.name = "attention backward 16x16", .op = OP_ATTENTION_BACKWARD, .n = 1, .h = 16, .w = 16, .c = 256, .heads = 4, .large = true},
    {.name = "linear 512->256 x22", .op = OP_LINEAR, .n = 1, .h = 1, .w = 1, .c = 512, .k = 224, .terms = 22, .bias = true, .large = true},
    {.name = "linear data 512 x22", .op = OP_LINEAR_BACKWARD_DATA, .n = 1, .h = 1, .w = 1, .c = 512, .k = 224, .terms = 22, .large = true},
    {.name = "linear weights 512 x22", .op = OP_LINEAR_BACKWARD_WEIGHTS, .n = 1, .h = 1, .w = 1, .c = 512, .k = 224, .terms = 22, .bias = true, .large = true},
    {.name = "silu 32x32 128", .op = OP_SILU, .n = 1, .h = 32, .w = 32, .c = 128, .large = true},
    {.name = "add 32x32 128", .op = OP_ADD, .n = 1, .h = 32, .w = 32, .c = 128, .large = true},
    {.name = "concat 32x32 128+128", .op = OP_CONCAT, .n = 1, .h = 32, .w = 32, .c = 128, .k = 128, .large = true},
    {.name = "upsample 16x16 256", .op = OP_UPSAMPLE2X, .n = 1, .h = 16, .w = 16, .c = 256, .large = true},
    {.name = "avg_pool 32x32 128", .op = OP_AVG_POOL2X, .n = 1, .h = 32, .w = 32, .c = 128, .large = true},
    {.name = "dropout 32x32 128", .op = OP_DROPOUT, .n = 1, .h = 32, .w = 32, .c = 128, .rate = 0.1f, .large = true},
};
// clang-format on

enum { N_OP_CASES = sizeof(op_cases) / sizeof(op_cases[0]) };

#endif
