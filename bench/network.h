/* network.h: what the parts of the network benchmark share: what to measure, on which device, for how long.
 *
 * Each measurement prints JSON lines on standard output, one object each, with the fields of the peer's lines (mode,
 * work, batch, ms, images_per_s, gflop_per_s). Times are the best of all calls within `seconds`, after warm-up: other
 * processes only ever make a call slower.
 */
#ifndef DDIMD_BENCH_NETWORK_H
#define DDIMD_BENCH_NETWORK_H

#include "kernels/backend.h"
#include "model/config.h"

struct bench {
    struct device *device; // NULL until opened
    const struct backend *backend;
    struct model_config model;
    int32_t height, width;
    enum dtype precision;
    int n_threads;
    int32_t batch, strand_images;
    double seconds;
};

/* Inputs of the recorded functions, in this order. Forward takes the first three. */
enum bench_input { BENCH_X, BENCH_T, BENCH_Y, BENCH_EPS, BENCH_WEIGHT, BENCH_KEY, BENCH_INPUTS };

/* program_record, context: struct bench. eps_theta = unet(x, t, y), an output; for training also loss =
 * mse(eps_theta, eps), the output instead, with dropout. */
int bench_record_forward(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight);
int bench_record_training(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight);

/* The names of the peer: "f32", "bf16". */
const char *bench_mode(const struct bench *b);
double bench_now(void);
/* Seconds of the fastest call, after two for warm-up; negative errno where one failed. */
double bench_best(double seconds, int (*call)(void *context), void *context);

/* The network's convolutions alone, each a bare oneDNN primitive on n_threads threads, NHWC in and out, direct
 * algorithm. train: forward, backward data and backward weights. per_layer: one line each too. Opens no device. */
int bench_convolutions(const struct bench *b, bool train, bool per_layer);

/* A backend that times every primitive that the device's own one prepares. */
struct profile;

/* Makes it the backend of b->device until profile_end. 0, -ENOMEM. */
int profile_begin(struct bench *b, struct profile **ret_profile);
/* Forgets the times so far (warm-up). */
void profile_reset(struct profile *p);
/* Prints, for `calls` runs since the reset, the time of each operation per thread, per_node: of each node too. */
void profile_print(const struct profile *p, const struct bench *b, const char *work, int calls, bool per_node);
void profile_end(struct profile *p, struct bench *b);

#endif
