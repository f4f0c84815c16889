/* profile.c: where a network's time goes, by operation: a backend around the backend.
 *
 * Its lower() wraps each prepared primitive in one that reads the clock before and after; all else goes through. So
 * what is timed is the real program, with its strands, on its own memory. A node's time is its strand's: the sum over
 * all strands is divided by their number.
 */
#include "bench/network.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct record {
    enum op op;
    int32_t in[4], out[4]; // shapes of the first input and output
    int32_t node, n_in, n_out;
    int n_threads; // inside the primitive
    double seconds;
    int64_t calls;
    struct record *next;
};

struct profile {
    struct backend backend; // first: lower() finds the profile by the device's backend
    const struct backend *inner;
    struct record *records; // newest first
};

struct timed_primitive {
    struct primitive base;
    struct primitive *inner;
    struct record *record;
};

static int timed_run(struct primitive *primitive, const struct frame *f)
{
    struct timed_primitive *p = (struct timed_primitive *)primitive;
    double start = bench_now();
    int rc = p->inner->run(p->inner, f);
    p->record->seconds += bench_now() - start;
    p->record->calls++;
    return rc;
}

static void timed_free(struct primitive *primitive)
{
    struct timed_primitive *p = (struct timed_primitive *)primitive;
    p->inner->free(p->inner);
    free(p);
}

static struct record *add_record(struct profile *profile, const struct lowering *l)
{
    const struct node *node = l->node;
    struct record *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->op = node->op;
    r->node = (int32_t)(node - l->graph->nodes);
    r->n_in = node->n_in;
    r->n_out = node->n_out;
    r->n_threads = l->n_threads;
    for (int i = 0; i < 4; i++) {
        r->in[i] = node->n_in && node->in[0] != TENSOR_NONE ? l->graph->tensors[node->in[0]].dim[i] : 0;
        r->out[i] = node->n_out ? l->graph->tensors[node->out[0]].dim[i] : 0;
    }
    r->next = profile->records;
    return profile->records = r;
}

static int timed_lower(struct device *d, const struct lowering *l, struct primitive **ret_primitive, struct error *err)
{
    struct profile *profile = (struct profile *)((struct device_base *)d)->backend;
    struct timed_primitive *p = calloc(1, sizeof(*p));
    struct record *r = p ? add_record(profile, l) : NULL;
    int rc = r ? profile->inner->lower[l->node->op](d, l, &p->inner, err) : -ENOMEM;
    if (rc < 0) {
        free(p);
        return rc;
    }
    p->base = (struct primitive){timed_run, timed_free, p->inner->scratch_bytes};
    p->record = r;
    *ret_primitive = &p->base;
    return 0;
}

int profile_begin(struct bench *b, struct profile **ret_profile)
{
    struct profile *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->inner = b->backend;
    p->backend = *b->backend;
    for (int op = 0; op < OP_COUNT; op++)
        if (p->inner->lower[op])
            p->backend.lower[op] = timed_lower;
    b->backend = ((struct device_base *)b->device)->backend = &p->backend;
    *ret_profile = p;
    return 0;
}

void profile_reset(struct profile *p)
{
    for (struct record *r = p->records; r; r = r->next) {
        r->seconds = 0;
        r->calls = 0;
    }
}

static void print_node(const struct record *r, double ms)
{
    printf("{\"node\": %d, \"op\": \"%s\", \"threads\": %d, \"in\": [%d, %d, %d, %d], \"out\": [%d, %d, %d, %d], "
           "\"n_in\": %d, \"n_out\": %d, \"calls\": %lld, \"ms\": %.4f}\n",
           r->node, op_name(r->op), r->n_threads, r->in[0], r->in[1], r->in[2], r->in[3], r->out[0], r->out[1],
           r->out[2], r->out[3], r->n_in, r->n_out, (long long)r->calls, ms);
}

void profile_print(const struct profile *p, const struct bench *b, const char *work, int calls, bool per_node)
{
    double ms[OP_COUNT] = {0}, total = 0;
    int nodes[OP_COUNT] = {0};
    for (const struct record *r = p->records; r; r = r->next) {
        if (r->calls == 0)
            continue;
        double share = r->n_threads == b->n_threads ? 1 : (double)r->n_threads / b->n_threads;
        double spent = r->seconds * 1e3 * share / calls;
        ms[r->op] += spent;
        total += spent;
        nodes[r->op]++;
        if (per_node)
            print_node(r, spent);
    }
    for (int op = 0; op < OP_COUNT; op++)
        if (nodes[op])
            printf("{\"who\": \"ddimd\", \"mode\": \"%s\", \"work\": \"%s-profile\", \"batch\": %d, \"op\": \"%s\", "
                   "\"primitives\": %d, \"ms\": %.3f, \"share\": %.4f}\n",
                   bench_mode(b), work, b->batch, op_name((enum op)op), nodes[op], ms[op], ms[op] / total);
}

void profile_end(struct profile *p, struct bench *b)
{
    if (!p)
        return;
    b->backend = ((struct device_base *)b->device)->backend = p->inner;
    for (struct record *r = p->records, *next; r; r = next) {
        next = r->next;
        free(r);
    }
    free(p);
}
