/* program.h: a recorded function of a batch, compiled for the batch sizes that will be asked for, and run.
 *
 * A program keeps one plan per (rows, strand). A CPU device splits a batch into strands: with at least as many images
 * as threads, each thread takes whole images through its own plans, in its own arena, without barriers; with fewer, one
 * plan whose primitives use all threads. Results for an image have the same bits whichever way it went. Nothing is
 * allocated and no primitive is created in program_run for batch sizes that were prepared. One thread at a time (the
 * device's worker).
 */
#ifndef DDIMD_PROGRAM_H
#define DDIMD_PROGRAM_H

#include "backend.h"

struct program;

/* Records the function for g->batch images into g (fuse not yet run). Must record the same parameters, inputs and
 * outputs for every batch size. If it trains it sets *ret_loss and *ret_weight (graph_gradient is then called), else
 * leaves them TENSOR_NONE. */
typedef int (*program_record)(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight);

struct program_options {
    enum dtype compute;
    bool training;
    bool no_fuse;          // for tests: run the graph as recorded
    int32_t strand_images; // most images that one plan takes at once when images are split over threads; 0: the
                           // backend's choice
};

/* weights outlive the program. context is used until program_free. */
int program_create(struct device *d, struct weights *w, program_record record, void *context,
                   const struct program_options *o, struct program **ret_program, struct error *err);
void program_free(struct program *p); // NULL is fine

/* Compiles what program_run(n) needs. Idempotent. 0, -EINVAL, -ENOTSUP, -ENOMEM. */
int program_prepare(struct program *p, int32_t n, struct error *err);

/* Inputs and outputs in the order of recording, each n images dense on the device. A training program also leaves the
 * gradient of the batch in program_gradient(). -EIO: device lost. Prepares n where that was not done (then it
 * allocates). */
int program_run(struct program *p, int32_t n, const void *const *inputs, void *const *outputs, struct error *err);

/* Flat f32 gradient (struct param's layout) of the last run, on the device. NULL where the program does not train. */
float *program_gradient(struct program *p);

size_t program_arena_bytes(const struct program *p);
int32_t program_n_nodes(const struct program *p); // of a prepared plan, for reports

#endif
