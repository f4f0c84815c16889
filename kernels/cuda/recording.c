/* recording.c: a plan's launches as one CUDA graph.
 *
 * The first run of a plan at some addresses launches its kernels one by one, so that what libraries do at their first
 * call (loading code, above all) is not recorded. The second run at the same addresses records them, and from then on
 * one call launches them all. A plan that cannot be recorded goes on as it began.
 */
#include "kernels/cuda/cuda.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct recording {
    cudaGraphExec_t graph; // NULL: not recorded
    bool refused;
    int32_t n_bases;
    char *base[]; // the addresses of the last run
};

void cuda_recording_free(struct recording *r)
{
    if (!r)
        return;
    if (r->graph)
        cudaGraphExecDestroy(r->graph);
    free(r);
}

static int launch_all(struct primitive *const *primitives, int32_t n, const struct frame *f)
{
    int rc = 0;
    for (int32_t i = 0; i < n && rc == 0; i++)
        rc = primitives[i]->run(primitives[i], f);
    return rc;
}

/* Whether r is for these addresses; where it is not, it is emptied for them. */
static bool same_addresses(struct recording *r, const struct frame *f)
{
    size_t bytes = (size_t)r->n_bases * sizeof(char *);
    if (!memcmp(r->base, f->base, bytes))
        return true;
    if (r->graph)
        cudaGraphExecDestroy(r->graph);
    r->graph = NULL;
    r->refused = false;
    memcpy(r->base, f->base, bytes);
    return false;
}

/* Failures in here leave the device as it was: nothing ran. */
static void record(struct device *d, struct primitive *const *primitives, int32_t n, const struct frame *f,
                   struct recording *r)
{
    cudaGraph_t graph = NULL;
    r->refused = true;
    if (cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal))
        return;
    char failure[sizeof(d->base.failure)];
    memcpy(failure, d->base.failure, sizeof(failure));
    int rc = launch_all(primitives, n, f);
    bool ended = !cudaStreamEndCapture(d->stream, &graph) && graph;
    if (rc == 0 && ended && !cudaGraphInstantiate(&r->graph, graph, 0))
        r->refused = false;
    if (graph)
        cudaGraphDestroy(graph);
    if (r->refused) {
        memcpy(d->base.failure, failure, sizeof(failure));
        cudaGetLastError();
    }
}

int cuda_run_plan(struct device *d, struct primitive *const *primitives, int32_t n, const struct frame *f,
                  int32_t n_bases, struct recording **recording)
{
    struct recording *r = *recording;
    if (!r) {
        r = calloc(1, sizeof(*r) + (size_t)n_bases * sizeof(char *));
        if (!r)
            return launch_all(primitives, n, f);
        r->n_bases = n_bases;
        *recording = r;
    }
    if (!same_addresses(r, f))
        return launch_all(primitives, n, f);
    if (!r->graph && !r->refused)
        record(d, primitives, n, f, r);
    return r->graph ? CUDA(d, cudaGraphLaunch(r->graph, d->stream), NULL) : launch_all(primitives, n, f);
}
