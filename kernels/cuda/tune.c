/* tune.c: measures engine configurations on the device; see engine_private.h.
 *
 * All tensors of a graph are bound to one piece of memory, large enough for each: results do not matter here, and zeros
 * take as long as numbers do.
 */
#include "kernels/cuda/engine_private.h"

#include <string.h>

enum { CANDIDATES = 8, WARM_RUNS = 2, TIMED_RUNS = 8 };

static size_t at_least(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Bytes of the largest tensor of n images of the shape. */
static size_t largest_tensor(const struct dnn_shape *s, int64_t n)
{
    size_t images = (size_t)n, x = images * (size_t)s->h * (size_t)s->w * (size_t)s->c;
    size_t w = (size_t)s->k * (size_t)s->r * (size_t)s->s * (size_t)s->c;
    size_t y = images * (size_t)s->h * (size_t)s->w * (size_t)s->k;
    size_t qkv = 3 * images * (size_t)s->tokens * (size_t)s->heads * (size_t)s->size;
    return sizeof(float) * at_least(at_least(x, w), at_least(y, qkv)) + 256;
}

struct stopwatch {
    cudaEvent_t begin, end;
    void *memory;
    size_t memory_bytes;
};

/* Milliseconds of a run; negative where it failed. */
static float measure(struct engines *e, const struct dnn_plan *p, const struct stopwatch *w)
{
    void *at[DNN_TENSORS], *workspace = NULL;
    float ms = -1;
    for (int i = 0; i < DNN_TENSORS; i++)
        at[i] = w->memory;
    if (cudaMalloc(&workspace, p->workspace_bytes + 256))
        return -1;
    bool ran = true;
    for (int i = 0; i < WARM_RUNS + TIMED_RUNS && ran; i++) {
        if (i == WARM_RUNS)
            ran = !cudaEventRecord(w->begin, e->stream);
        ran = ran && !dnn_run(&p->graph, p->plan, at, workspace, 1.0f);
    }
    ran = ran && !cudaEventRecord(w->end, e->stream) && !cudaEventSynchronize(w->end);
    if (!ran || cudaEventElapsedTime(&ms, w->begin, w->end))
        ms = -1;
    cudaStreamSynchronize(e->stream);
    cudaFree(workspace);
    return ms;
}

static void move_first(struct choice *c, int k)
{
    const struct configuration best = c->offered[k];
    memmove(&c->offered[1], &c->offered[0], (size_t)k * sizeof(best));
    c->offered[0] = best;
}

static void try_candidates(struct engines *e, struct choice *c, int64_t n, const struct stopwatch *w)
{
    float least = 0;
    int best = -1;
    for (int k = 0; k < c->n && k < CANDIDATES; k++) {
        struct dnn_plan p = {.workspace_bytes = 0};
        float ms = engines_make_plan(e, &c->shape, n, &c->offered[k], &p) ? -1 : measure(e, &p, w);
        dnn_done(&p.graph);
        if (ms > 0 && (best < 0 || ms < least)) {
            least = ms;
            best = k;
        }
    }
    if (best > 0)
        move_first(c, best);
}

void engines_tune(struct engines *e, struct choice *c, int64_t n)
{
    struct stopwatch w = {.memory_bytes = largest_tensor(&c->shape, n)};
    if (c->n < 2 || !e->handle)
        return;
    if (!cudaEventCreateWithFlags(&w.begin, cudaEventDefault) && !cudaEventCreateWithFlags(&w.end, cudaEventDefault) &&
        !cudaMalloc(&w.memory, w.memory_bytes) && !cudaMemsetAsync(w.memory, 0, w.memory_bytes, e->stream))
        try_candidates(e, c, n, &w);
    if (w.begin)
        cudaEventDestroy(w.begin);
    if (w.end)
        cudaEventDestroy(w.end);
    cudaFree(w.memory);
    cudaGetLastError(); // what failed here fails nothing else
}
