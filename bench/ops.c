/* ops.c: time of every large operation of the table in tests/kernels/ops_cases.h, each prepared by the backend as a
 * program would prepare it.
 *
 *   bench/ops [--precision f32|bf16] [--batch N] [--threads N] [--seconds S] [--only TEXT]
 *
 * Threads each run the operation on images of their own (a strand with n_threads = 1), side by side, as programs split
 * batches; with --wide one primitive uses all threads. Times are per image of one thread, the best of all calls: other
 * processes only ever make a call slower.
 */
#include "tests/support/op_run.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct options {
    enum dtype precision;
    int32_t batch;
    int threads;
    bool wide;
    double seconds;
    const char *only;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Multiply-adds count two; 0 for what moves memory only. */
static double flop(const struct op_case *c, int32_t n)
{
    double pixels = (double)n * c->h * c->w, positions = (double)c->h * c->w;
    switch (c->op) {
    case OP_CONV2D:
    case OP_CONV2D_BACKWARD_DATA:
    case OP_CONV2D_BACKWARD_WEIGHTS:
        return 2 * pixels * (c->upsample ? 4 : 1) / (c->stride * c->stride) * c->r * c->r * c->c * c->k;
    case OP_ATTENTION:
        return 4 * pixels * positions * c->c;
    case OP_ATTENTION_BACKWARD:
        return 10 * pixels * positions * c->c;
    case OP_LINEAR:
    case OP_LINEAR_BACKWARD_DATA:
    case OP_LINEAR_BACKWARD_WEIGHTS: {
        double k = 0;
        for (int32_t i = 0; i < c->terms; i++)
            k += c->k + 3 * i;
        return 2.0 * n * c->c * k;
    }
    default:
        return 0;
    }
}

/* Bytes of all inputs and outputs. */
static double traffic(const struct op_shape *s)
{
    double bytes = 0;
    for (int i = 0; i < s->n_in; i++)
        if (s->in[i].kind != OP_KIND_NONE)
            bytes += (double)op_tensor_elements(&s->in[i]) * (double)dtype_bytes(s->in[i].dtype);
    for (int i = 0; i < s->n_out; i++)
        if (s->out[i].kind != OP_KIND_NONE)
            bytes += (double)op_tensor_elements(&s->out[i]) * (double)dtype_bytes(s->out[i].dtype);
    return bytes;
}

static struct op_run *prepare(struct device *d, const struct op_case *c, const struct options *o)
{
    struct error err = {0};
    struct op_run_options run = {.n = o->batch, .compute = o->precision, .n_threads = o->wide ? o->threads : 1};
    struct op_run *r = op_run_create(d, c, &run, &err);
    const struct op_shape *s = op_run_shape(r);
    for (int i = 0; i < s->n_in; i++) {
        if (s->in[i].kind == OP_KIND_NONE)
            continue;
        void *values = malloc(op_tensor_elements(&s->in[i]) * 4);
        op_case_values(c, s, i, 0, values);
        op_run_set(r, i, values);
        free(values);
    }
    if (op_run_lower(r, &err)) {
        printf("%-32s %s\n", c->name, err.message);
        op_run_free(r);
        return NULL;
    }
    return r;
}

enum { MOST_STRANDS = 64 };

struct strands {
    struct op_run *run[MOST_STRANDS];
    int calls;
};

static int run_strand(void *context, int strand)
{
    struct strands *s = context;
    int rc = 0;
    for (int i = 0; i < s->calls && !rc; i++)
        rc = op_run_execute(s->run[strand]);
    return rc;
}

static double measure(struct device *d, struct strands *s, int n_strands, double seconds)
{
    const struct backend *backend = ((struct device_base *)d)->backend;
    double best = 1e9, end = now() + seconds, start = now();
    s->calls = 1;
    backend->run_strands(d, n_strands, run_strand, s);
    s->calls = (int)(2e-3 / (now() - start)) + 1;
    while (now() < end) {
        start = now();
        backend->run_strands(d, n_strands, run_strand, s);
        double took = (now() - start) / s->calls;
        best = took < best ? took : best;
    }
    return best;
}

static void bench_case(struct device *d, const struct op_case *c, const struct options *o)
{
    struct strands s = {0};
    int n = o->wide ? 1 : o->threads;
    bool ready = true;
    for (int i = 0; i < n && ready; i++)
        ready = (s.run[i] = prepare(d, c, o)) != NULL;
    if (ready) {
        double best = measure(d, &s, n, o->seconds), operations = flop(c, o->batch) * n;
        printf("%-32s %9.1f us/image", c->name, 1e6 * best / o->batch);
        if (operations > 0)
            printf(" %8.0f GFLOP/s", 1e-9 * operations / best);
        else
            printf(" %8.1f GB/s", 1e-9 * traffic(op_run_shape(s.run[0])) * n / best);
        printf("\n");
    }
    for (int i = 0; i < n; i++)
        op_run_free(s.run[i]);
}

static int parse(int argc, char **argv, struct options *o)
{
    static const struct option known[] = {{"precision", required_argument, NULL, 'p'},
                                          {"batch", required_argument, NULL, 'b'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"seconds", required_argument, NULL, 's'},
                                          {"only", required_argument, NULL, 'o'},
                                          {"wide", no_argument, NULL, 'w'},
                                          {NULL, 0, NULL, 0}};
    int c;
    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (c == 'p')
            o->precision = strcmp(optarg, "f32") ? DTYPE_BF16 : DTYPE_F32;
        else if (c == 'b')
            o->batch = atoi(optarg);
        else if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 's')
            o->seconds = atof(optarg);
        else if (c == 'o')
            o->only = optarg;
        else if (c == 'w')
            o->wide = true;
        else
            return -1;
    }
    return o->batch >= 1 && o->threads >= 1 && o->threads <= MOST_STRANDS ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct options o = {.precision = DTYPE_BF16, .batch = 1, .threads = 2, .seconds = 0.2, .only = ""};
    struct device *d;
    struct error err = {0};
    char threads[16];
    if (parse(argc, argv, &o)) {
        fprintf(stderr,
                "usage: ops [--precision f32|bf16] [--batch N] [--threads 1..%d] [--seconds S] [--only TEXT] "
                "[--wide]\n",
                MOST_STRANDS);
        return 2;
    }
    snprintf(threads, sizeof(threads), "%d", o.threads);
    if (backend_cpu.open(threads, &d, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    printf("%s, %s, batch %d%s\n", ((struct device_base *)d)->description, o.precision == DTYPE_F32 ? "f32" : "bf16",
           o.batch, o.wide ? ", all threads in one primitive" : " on each thread");
    for (int i = 0; i < N_OP_CASES; i++)
        if (op_cases[i].large && strstr(op_cases[i].name, o.only))
            bench_case(d, &op_cases[i], &o);
    backend_cpu.close(d);
    return 0;
}
