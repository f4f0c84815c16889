/* engine_private.h: what engine.c (choosing), tune.c (measuring) and engine_cache.c (remembering) share. */
#ifndef DDIMD_CUDA_ENGINE_PRIVATE_H
#define DDIMD_CUDA_ENGINE_PRIVATE_H

#include "kernels/cuda/engine.h"

#include <cuda_runtime_api.h>

enum { ANCHOR_IMAGES = 64, MAX_CONFIGURATIONS = 48, MAX_KNOBS = CUDNN_KNOB_TYPE_COUNTS };

/* An engine with its knobs, as numbers. */
struct configuration {
    int64_t engine;
    int n_knobs;
    cudnnBackendKnobType_t knob[MAX_KNOBS];
    int64_t value[MAX_KNOBS];
};

/* What is known of a shape. images: 0 where the choice serves any number. */
struct choice {
    struct dnn_shape shape;
    int64_t images;
    struct configuration *offered; // [n], best first
    int n, chosen;                 // chosen == n: none is left
    bool settled;                  // plans by it are in use
    char refusal[256];             // what cuDNN said last
    struct choice *next;
};

struct made {
    struct dnn_shape shape;
    int64_t images;
    struct dnn_plan plan;
    struct made *next;
};

struct engines {
    cudnnHandle_t handle;
    dnn_descriptor properties;
    cudaStream_t stream;
    char cache[4096]; // path of the file of choices; "": nothing is measured
    struct choice *choices;
    struct made *made;
};

/* A plan of shape s for n images by configuration c. Returns the status that stopped it; p->graph is to be done with in
 * any case. */
cudnnStatus_t engines_make_plan(struct engines *e, const struct dnn_shape *s, int64_t n, const struct configuration *c,
                                struct dnn_plan *p);

/* Puts the quickest of c's configurations, measured for n images on e's stream, first. Where anything fails, leaves
 * them as they were. */
void engines_tune(struct engines *e, struct choice *c, int64_t n);

/* The choices that e's file remembers: c's own, alone, and true; false where it has none. */
bool engine_cache_find(const struct engines *e, struct choice *c);
/* Adds c's choice to the file; a file that cannot be written is done without. */
void engine_cache_add(const struct engines *e, const struct choice *c);

#endif
