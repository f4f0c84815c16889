/* serve_load.c: the clients: one thread and one kept connection each, blocking.
 *
 * An open loop's requests are due at random times (a Poisson process drawn beforehand) whatever the server does, and a
 * latency counts from the time that the request was due: a server that stalls is charged for all that should have been
 * sent meanwhile.
 */
#include "bench/serve.h"

#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 8192 };

double load_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- connections ---- */

static int dial(const struct load *l)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int fd = -1, one = 1;
    if (getaddrinfo(l->host, l->port, &hints, &found))
        return -1;
    for (struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen)) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(found);
    if (fd >= 0)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static bool send_all(int fd, const char *data, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return false;
        data += sent;
        n -= (size_t)sent;
    }
    return true;
}

/* The head of an answer into head (terminated), and how many bytes of the body came with it; -1: broken. */
static ssize_t read_head(int fd, char head[HEAD_BYTES])
{
    size_t have = 0;
    for (;;) {
        ssize_t n = have < HEAD_BYTES - 1 ? recv(fd, head + have, HEAD_BYTES - 1 - have, 0) : 0;
        if (n <= 0)
            return -1;
        have += (size_t)n;
        head[have] = '\0';
        char *end = strstr(head, "\r\n\r\n");
        if (end) {
            ssize_t body = (ssize_t)(head + have - (end + 4));
            end[2] = '\0';
            return body;
        }
    }
}

/* The value of a header, NULL where it is absent. */
static const char *header(const char *head, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, n) == 0 && line[2 + n] == ':')
            return line + 3 + n + strspn(line + 3 + n, " ");
    return NULL;
}

static bool skip_body(int fd, size_t n)
{
    char waste[16384];
    while (n > 0) {
        ssize_t got = recv(fd, waste, n < sizeof(waste) ? n : sizeof(waste), 0);
        if (got <= 0)
            return false;
        n -= (size_t)got;
    }
    return true;
}

static void timing_read(const char *head, double ms[SERVE_TIMINGS])
{
    static const char *const names[SERVE_TIMINGS] = {"queue;dur=", "sample;dur=", "encode;dur="};
    const char *value = header(head, "Server-Timing");
    for (int i = 0; i < SERVE_TIMINGS; i++) {
        const char *at = value ? strstr(value, names[i]) : NULL;
        ms[i] = at ? strtod(at + strlen(names[i]), NULL) : -1;
    }
}

/* Sends one request and takes its answer. False: the connection is of no use any more. */
static bool exchange(int fd, const char *request, struct sample *s)
{
    char head[HEAD_BYTES];
    s->status = 0;
    ssize_t have = send_all(fd, request, strlen(request)) ? read_head(fd, head) : -1;
    if (have < 0)
        return false;
    const char *length = header(head, "Content-Length");
    size_t body = length ? strtoul(length, NULL, 10) : 0;
    if (body > (size_t)have && !skip_body(fd, body - (size_t)have))
        return false;
    s->end = load_now();
    s->status = atoi(head + strcspn(head, " "));
    timing_read(head, s->timing_ms);
    const char *connection = header(head, "Connection");
    return length && !(connection && strncasecmp(connection, "close", 5) == 0);
}

char *load_fetch(const struct load *l, const char *path)
{
    char request[512], *body = NULL;
    size_t n = 0, room = 0;
    int fd = dial(l);
    snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, l->host);
    bool good = fd >= 0 && send_all(fd, request, strlen(request));
    for (ssize_t got = 1; good && got > 0; n += got > 0 ? (size_t)got : 0) {
        if (room < n + 65536) {
            char *grown = realloc(body, room = 2 * n + 65536);
            if (!grown)
                break;
            body = grown;
        }
        got = recv(fd, body + n, room - n - 1, 0);
        body[n + (got > 0 ? (size_t)got : 0)] = '\0';
    }
    if (fd >= 0)
        close(fd);
    char *start = body ? strstr(body, "\r\n\r\n") : NULL;
    if (!start || strncmp(body, "HTTP/1.1 200", 12)) {
        free(body);
        return NULL;
    }
    memmove(body, start + 4, strlen(start + 4) + 1);
    return body;
}

/* ---- clients ---- */

struct arrival {
    double due;
    int32_t kind;
};

/* What all clients share. */
struct run {
    const struct load *load;
    double from, end;
    struct arrival *arrivals; // open loop
    size_t n_arrivals;
    atomic_size_t next;   // of arrivals
    atomic_int connected; // clients that could
};

struct client {
    struct run *run;
    pthread_t thread;
    uint64_t random;
    struct sample *samples;
    size_t n, room;
};

/* SplitMix64 (Steele et al. 2014), to [0, 1). */
static double uniform(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static int32_t kind_draw(const struct load *l, uint64_t *random)
{
    double sum = 0;
    for (int32_t i = 0; i < l->n_kinds; i++)
        sum += l->kinds[i].weight;
    double at = uniform(random) * sum;
    for (int32_t i = 0; i < l->n_kinds; i++)
        if ((at -= l->kinds[i].weight) < 0)
            return i;
    return l->n_kinds - 1;
}

static struct sample *sample_add(struct client *c)
{
    if (c->n == c->room) {
        size_t room = c->room ? 2 * c->room : 256;
        struct sample *grown = realloc(c->samples, room * sizeof(*grown));
        if (!grown)
            return NULL;
        c->samples = grown;
        c->room = room;
    }
    c->samples[c->n] = (struct sample){0};
    return &c->samples[c->n++];
}

static void sleep_until(double when)
{
    struct timespec t = {(time_t)when, (long)((when - floor(when)) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        continue;
}

/* The next request of this client: what and when. False: there is none. */
static bool next_request(struct client *c, struct arrival *ret)
{
    struct run *r = c->run;
    if (!r->arrivals) {
        *ret = (struct arrival){load_now(), kind_draw(r->load, &c->random)};
        return ret->due < r->end;
    }
    size_t i = atomic_fetch_add(&r->next, 1);
    if (i >= r->n_arrivals)
        return false;
    *ret = r->arrivals[i];
    if (ret->due > load_now())
        sleep_until(ret->due);
    return true;
}

static void request_write(const struct load *l, int32_t kind, uint64_t seed, char *to, size_t bytes)
{
    const struct load_kind *k = &l->kinds[kind];
    snprintf(to, bytes,
             "POST /generate?class=%d&n=%d&steps=%d&seed=%llu%s%s HTTP/1.1\r\nHost: %s\r\nAccept: image/png\r\n"
             "Content-Length: 0\r\n\r\n",
             (int)(seed % 10), k->images, k->steps, (unsigned long long)(seed >> 11), *l->query ? "&" : "", l->query,
             l->host);
}

static void *client_main(void *context)
{
    struct client *c = context;
    const struct load *l = c->run->load;
    struct arrival a;
    int fd = dial(l);
    if (fd >= 0)
        atomic_fetch_add(&c->run->connected, 1);
    while (fd >= 0 && next_request(c, &a)) {
        char request[1024];
        struct sample *s = sample_add(c);
        if (!s)
            break;
        *s = (struct sample){.kind = a.kind, .due = a.due};
        request_write(l, a.kind, (uint64_t)(uniform(&c->random) * 0x1p64), request, sizeof(request));
        if (!exchange(fd, request, s)) {
            close(fd);
            fd = dial(l);
        }
        if (s->status == 0)
            s->end = load_now();
    }
    if (fd >= 0)
        close(fd);
    return NULL;
}

/* Due times from `from` to `end`, exponential gaps. */
static int arrivals_draw(struct run *r)
{
    const struct load *l = r->load;
    uint64_t random = l->seed ^ UINT64_C(0x5eed);
    size_t room = (size_t)((r->end - r->from) * l->rate * 1.5) + 64;
    r->arrivals = calloc(room, sizeof(*r->arrivals));
    if (!r->arrivals)
        return -ENOMEM;
    for (double due = r->from; r->n_arrivals < room; r->n_arrivals++) {
        due -= log(1 - uniform(&random)) / l->rate;
        if (due >= r->end)
            break;
        r->arrivals[r->n_arrivals] = (struct arrival){due, kind_draw(l, &random)};
    }
    return 0;
}

static int samples_join(struct client *clients, int32_t n, struct sample **ret_samples, size_t *ret_n)
{
    size_t total = 0;
    for (int32_t i = 0; i < n; i++)
        total += clients[i].n;
    struct sample *all = calloc(total + 1, sizeof(*all));
    if (!all)
        return -ENOMEM;
    total = 0;
    for (int32_t i = 0; i < n; i++) {
        memcpy(all + total, clients[i].samples, clients[i].n * sizeof(*all));
        total += clients[i].n;
    }
    *ret_samples = all;
    *ret_n = total;
    return 0;
}

int load_run(const struct load *l, struct sample **ret_samples, size_t *ret_n, double *ret_begin)
{
    struct run r = {.load = l, .from = load_now() + 0.05};
    r.end = r.from + l->warmup + l->seconds;
    struct client *clients = calloc((size_t)l->clients, sizeof(*clients));
    int32_t started = 0;
    int rc = clients ? 0 : -ENOMEM;
    if (rc == 0 && l->rate > 0)
        rc = arrivals_draw(&r);
    for (; rc == 0 && started < l->clients; started++) {
        clients[started] = (struct client){.run = &r, .random = l->seed * 1000003 + (uint64_t)started};
        if (pthread_create(&clients[started].thread, NULL, client_main, &clients[started])) {
            rc = -EAGAIN;
            break;
        }
    }
    for (int32_t i = 0; i < started; i++)
        pthread_join(clients[i].thread, NULL);
    if (rc == 0)
        rc = atomic_load(&r.connected) ? samples_join(clients, started, ret_samples, ret_n) : -ECONNREFUSED;
    for (int32_t i = 0; i < started; i++)
        free(clients[i].samples);
    free(clients);
    free(r.arrivals);
    *ret_begin = r.from + l->warmup;
    return rc;
}
