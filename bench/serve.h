/* serve.h: what the parts of the load generator share: the mix of requests, and what became of each.
 *
 * Times are seconds of CLOCK_MONOTONIC.
 */
#ifndef DDIMD_BENCH_SERVE_H
#define DDIMD_BENCH_SERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SERVE_MAX_KINDS = 16, SERVE_TIMINGS = 3 };

/* One kind of request in a mix. */
struct load_kind {
    int32_t steps, images;
    double weight;
};

struct load {
    const char *host, *port, *query; // query: more fields of each request, "" or "eta=0.5&..."
    struct load_kind kinds[SERVE_MAX_KINDS];
    int32_t n_kinds;
    int32_t clients; // connections; in an open loop at most so many requests at once
    double rate;     // open loop: requests a second; 0: closed loop, each client sends its next when it has the answer
    double seconds, warmup;
    uint64_t seed;
};

struct sample {
    int32_t kind, status;            // status 0: the connection broke
    double due, end;                 // due: when it was to be sent; in a closed loop when it was
    double timing_ms[SERVE_TIMINGS]; // queue, sample, encode as the server says; negative: it does not
};

/* Runs the load. *ret_samples: in no order, warm-up included, for free(). *ret_begin: the end of the warm-up. 0, or a
 * negative errno where no client could connect. */
int load_run(const struct load *l, struct sample **ret_samples, size_t *ret_n, double *ret_begin);

/* One request without keep-alive, for the server's own numbers. Returns the body for free(), NULL on failure. */
char *load_fetch(const struct load *l, const char *path);

double load_now(void);

#endif
