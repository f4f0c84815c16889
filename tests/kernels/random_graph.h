/* random_graph.h: small random networks that use every operation, for tests of the passes and of programs.
 *
 * A network is a function of its seed and of the batch; it has the shapes that the real ones have (blocks with
 * embeddings, skips, concatenations, down- and upsampling, attention) in random order.
 */
#ifndef DDIMD_TESTS_RANDOM_GRAPH_H
#define DDIMD_TESTS_RANDOM_GRAPH_H

#include "kernels/graph.h"

struct random_graph {
    uint64_t seed;
    int32_t steps;      // random steps after the first convolution
    bool loss;          // records target and weight inputs and the loss (an output of its own)
    float dropout;      // rate; 0: none
    int32_t out_dim[4]; // set by recording: shape of output 0, the prediction, F32
};

/* Inputs in order: x [8, 8, 3] F32, t F32, y I32 (0..4), key I32 [4], then with loss: target F32 (output 0's shape),
 * weight F32. Outputs: prediction F32, then with loss: loss. program_record's shape; context is a struct random_graph.
 */
int random_graph_record(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight);

/* Deterministic numbers: uniform in [-1, 1), from a counter. */
float random_uniform(uint64_t seed, uint64_t counter);

#endif
