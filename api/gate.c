/* gate.c: see gate.h. */
#include "api/gate.h"

#include "api/exchange.h"
#include "api/private.h"
#include "api/tls.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { N_EVENTS = 128, N_ACCEPTS = 16, PAUSE_MS = 100 };

struct gate {
    struct gate_options options;
    struct conn_host host; // its own functions, before those of the options
    int epoll_fd, wake_fd;
    pthread_t thread;
    bool running;
    atomic_bool paused, stopping;
    _Atomic int64_t stop_ns; // when it must have ended
    int left;                // connections that were cut off

    /* its thread's */
    struct conn *first, *ready, *dead;
    struct conn **by_peer; // [n_peers] by the server's descriptor
    int n_peers;
    int64_t next_ns;       // the earliest deadline, 0: none
    int64_t accept_ns;     // not before: descriptors ran out
    int64_t complained_ns; // of that
    bool accepting;        // the listening socket is in the set
};

/* What an event is about: a connection, its lowest bit set for the side of the server, or one of these. */
enum { EVENT_LISTEN = 2, EVENT_BACKEND = 4, EVENT_WAKE = 6 };

static int set_events(const struct gate *g, int fd, uint32_t from, uint32_t to, uint64_t id)
{
    struct epoll_event e = {.events = to, .data.u64 = id};
    if (from == to)
        return 0;
    int op = from == 0 ? EPOLL_CTL_ADD : to == 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
    return epoll_ctl(g->epoll_fd, op, fd, &e) ? -errno : 0;
}

/* ---- connections ---- */

static void conn_link(struct gate *g, struct conn *c)
{
    c->next = g->first;
    if (g->first)
        g->first->previous = c;
    g->first = c;
}

static void conn_unlink(struct gate *g, struct conn *c)
{
    if (c->previous)
        c->previous->next = c->next;
    else
        g->first = c->next;
    if (c->next)
        c->next->previous = c->previous;
}

/* Freed after the events at hand, which may still name it. */
static void conn_bury(struct gate *g, struct conn *c)
{
    if (c->inner_peer >= 0 && c->inner_peer < g->n_peers && g->by_peer[c->inner_peer] == c)
        g->by_peer[c->inner_peer] = NULL;
    crowd_leave(g->options.crowd, c->crowd_key);
    conn_unlink(g, c);
    conn_done(c);
    c->next_dead = g->dead;
    g->dead = c;
}

static void dead_free(struct gate *g)
{
    while (g->dead) {
        struct conn *c = g->dead;
        g->dead = c->next_dead;
        free(c);
    }
}

static void ready_add(struct gate *g, struct conn *c)
{
    if (c->is_ready || c->place == CONN_OVER)
        return;
    c->is_ready = true;
    c->next_ready = g->ready;
    g->ready = c;
}

/* Waits for what it waits for now; the set holds a socket only while something is wanted of it. */
static int events_update(struct gate *g, struct conn *c)
{
    uint32_t outer = conn_events(c), inner = conn_inner_events(c);
    int rc = set_events(g, c->fd, c->events, outer, (uintptr_t)c);
    c->events = rc ? c->events : outer;
    if (rc == 0 && c->inner >= 0) {
        rc = set_events(g, c->inner, c->inner_events, inner, (uintptr_t)c | 1);
        c->inner_events = rc ? c->inner_events : inner;
    }
    return rc;
}

static void conn_turn(struct gate *g, struct conn *c)
{
    conn_pump(c);
    if (c->place != CONN_OVER && events_update(g, c))
        c->place = CONN_OVER;
    if (c->place == CONN_OVER) {
        conn_bury(g, c);
        return;
    }
    if (c->deadline_ns && (!g->next_ns || c->deadline_ns < g->next_ns))
        g->next_ns = c->deadline_ns;
}

static void ready_turn(struct gate *g)
{
    while (g->ready) {
        struct conn *c = g->ready;
        g->ready = c->next_ready;
        c->is_ready = false;
        if (c->place != CONN_OVER)
            conn_turn(g, c);
    }
}

static int peers_grow(struct gate *g, int fd)
{
    if (fd < g->n_peers)
        return 0;
    int n = g->n_peers ? g->n_peers : 64;
    while (n <= fd)
        n *= 2;
    struct conn **more = realloc(g->by_peer, (size_t)n * sizeof(*more));
    if (!more)
        return -ENOMEM;
    memset(more + g->n_peers, 0, (size_t)(n - g->n_peers) * sizeof(*more));
    g->by_peer = more;
    g->n_peers = n;
    return 0;
}

/* conn_host.hand_over, with the gate as its context: remembers whose the descriptor is. */
static int hand_over(void *context, int fd, const struct sockaddr *address, socklen_t bytes)
{
    struct gate *g = context;
    struct conn *c = (void *)((char *)address - offsetof(struct conn, address));
    int rc = peers_grow(g, fd);
    if (rc) {
        close(fd);
        return rc;
    }
    g->by_peer[fd] = c;
    rc = g->options.host.hand_over(g->options.host.context, fd, address, bytes);
    if (rc)
        g->by_peer[fd] = NULL;
    return rc;
}

static void refuse(void *context, const struct conn_refusal *r, struct text *ret_answer)
{
    struct gate *g = context;
    g->options.host.refuse(g->options.host.context, r, ret_answer);
}

static void leave(void *context, int fd)
{
    struct gate *g = context;
    epoll_ctl(g->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

void gate_completed(struct gate *g, int fd)
{
    struct conn *c = fd >= 0 && fd < g->n_peers ? g->by_peer[fd] : NULL;
    if (!c)
        return; // it went first
    conn_complete(c);
    ready_add(g, c);
}

/* ---- accepting ---- */

/* Whose connection it is, for the limit of each: an address, of IPv6 the site's; 0 for local sockets. */
static uint64_t crowd_key_of(const struct conn *c)
{
    const struct sockaddr_in *in = (const void *)&c->address;
    const struct sockaddr_in6 *in6 = (const void *)&c->address;
    if (c->address.ss_family == AF_INET)
        return text_hash(TEXT_HASH_SEED, &in->sin_addr, sizeof(in->sin_addr));
    if (c->address.ss_family == AF_INET6)
        return text_hash(TEXT_HASH_SEED, &in6->sin6_addr, 8);
    return 0;
}

static void crowd_refuse(struct conn *c, int why)
{
    struct problem p;
    if (why == -EDQUOT)
        problem_set(&p, PROBLEM_TOO_MANY_CONNECTIONS, NULL, "this address has as many connections as it may have");
    else
        problem_set(&p, PROBLEM_TOO_MANY_CONNECTIONS, NULL, "there are as many connections as there may be");
    p.retry_after_s = 1;
    if (c->tls)
        c->place = CONN_OVER; // a handshake costs more than a refusal should
    else
        conn_refuse(c, &p);
}

static void conn_begin(struct gate *g, int fd, const struct sockaddr_storage *address, socklen_t bytes)
{
    struct conn *c = calloc(1, sizeof(*c));
    struct tls_credentials *tls = g->options.credentials ? g->options.credentials(g->options.host.context) : NULL;
    int yes = 1;
    if (!c) {
        close(fd);
        tls_credentials_release(tls);
        return;
    }
    c->address = *address;
    c->address_bytes = bytes;
    c->crowd_key = crowd_key_of(c);
    if (address->ss_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    int rc = conn_init(c, &g->host, fd, tls);
    tls_credentials_release(tls);
    int crowd = crowd_enter(g->options.crowd, c->crowd_key);
    if (rc || crowd == -ENOMEM) {
        if (crowd != -ENOMEM)
            crowd_leave(g->options.crowd, c->crowd_key);
        conn_done(c);
        free(c);
        return;
    }
    conn_link(g, c);
    if (crowd)
        crowd_refuse(c, crowd);
    conn_turn(g, c);
}

/* Out of descriptors: the listening socket would stay readable, so it is left alone for a moment. */
static void accept_failed(struct gate *g, int error)
{
    int64_t now = now_ns();
    g->accept_ns = now + (int64_t)PAUSE_MS * 1000000;
    if (!g->next_ns || g->accept_ns < g->next_ns)
        g->next_ns = g->accept_ns;
    if (now - g->complained_ns < 1000000000)
        return;
    g->complained_ns = now;
    g->options.short_of(g->options.host.context, error);
}

static void accept_some(struct gate *g)
{
    for (int i = 0; i < N_ACCEPTS && g->accepting; i++) {
        struct sockaddr_storage address = {0};
        socklen_t bytes = sizeof(address);
        int fd = accept4(g->options.listen_fd, (struct sockaddr *)&address, &bytes, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            conn_begin(g, fd, &address, bytes);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            accept_failed(g, errno);
        if (errno != ECONNABORTED && errno != EINTR)
            return;
    }
}

static void accepting_update(struct gate *g, int64_t now)
{
    bool want = !atomic_load(&g->paused) && !atomic_load(&g->stopping) && now >= g->accept_ns;
    uint32_t events = EPOLLIN | EPOLLEXCLUSIVE;
    if (want == g->accepting)
        return;
    if (set_events(g, g->options.listen_fd, want ? 0 : events, want ? events : 0, EVENT_LISTEN) == 0)
        g->accepting = want;
}

/* ---- the thread ---- */

static int wait_ms(const struct gate *g, int64_t now, bool at_once)
{
    if (at_once || g->ready)
        return 0;
    if (!g->next_ns)
        return -1;
    int64_t ms = (g->next_ns - now) / 1000000 + 1;
    return ms < 0 ? 0 : ms > 3600000 ? 3600000 : (int)ms;
}

static void deadlines_turn(struct gate *g, int64_t now)
{
    if (!g->next_ns || now < g->next_ns)
        return;
    g->next_ns = g->accept_ns > now ? g->accept_ns : 0;
    for (struct conn *c = g->first, *next; c; c = next) {
        next = c->next;
        if (c->deadline_ns && c->deadline_ns <= now) {
            conn_expire(c);
            ready_add(g, c);
            if (c->place == CONN_OVER)
                conn_bury(g, c);
        } else if (c->deadline_ns && (!g->next_ns || c->deadline_ns < g->next_ns)) {
            g->next_ns = c->deadline_ns;
        }
    }
}

static void event_turn(struct gate *g, const struct epoll_event *e, bool *ret_backend)
{
    uint64_t id = e->data.u64, count;
    if (id == EVENT_LISTEN) {
        accept_some(g);
    } else if (id == EVENT_BACKEND) {
        *ret_backend = true;
    } else if (id == EVENT_WAKE) {
        *ret_backend = read(g->wake_fd, &count, sizeof(count)) > 0 || *ret_backend;
    } else {
        struct conn *c = (void *)(uintptr_t)(id & ~UINT64_C(1));
        if (c->place == CONN_OVER)
            return; // buried by an event before
        if (!(id & 1) && (e->events & (EPOLLHUP | EPOLLERR)))
            conn_hangup(c);
        else if (!(id & 1) && (e->events & EPOLLRDHUP))
            conn_half_close(c);
        conn_turn(g, c);
    }
}

/* One wait and what follows from it. Returns whether the server wants another turn at once. */
static bool gate_turn(struct gate *g, bool at_once, int64_t until_ns)
{
    struct epoll_event events[N_EVENTS];
    int64_t now = now_ns();
    bool backend = at_once;
    accepting_update(g, now);
    int ms = wait_ms(g, now, at_once);
    if (until_ns && (ms < 0 || ms > (until_ns - now) / 1000000 + 1))
        ms = until_ns > now ? (int)((until_ns - now) / 1000000) + 1 : 0;
    int n = epoll_wait(g->epoll_fd, events, N_EVENTS, ms);
    for (int i = 0; i < n; i++)
        event_turn(g, &events[i], &backend);
    deadlines_turn(g, now_ns());
    ready_turn(g);
    backend = backend && !until_ns && g->options.turn(g->options.host.context);
    ready_turn(g);
    dead_free(g);
    return backend;
}

static void finish_all(struct gate *g)
{
    for (struct conn *c = g->first, *next; c; c = next) {
        next = c->next;
        conn_finish(c);
        conn_turn(g, c);
    }
}

static void *gate_main(void *context)
{
    struct gate *g = context;
    for (bool again = true; !atomic_load(&g->stopping);)
        again = gate_turn(g, again, 0);
    g->options.end(g->options.host.context);
    finish_all(g);
    int64_t until = atomic_load(&g->stop_ns);
    for (bool sending = true; sending && now_ns() < until;) {
        sending = false;
        for (struct conn *c = g->first; c; c = c->next)
            sending = sending || c->place < CONN_LINGER;
        if (sending)
            gate_turn(g, false, until);
    }
    while (g->first) {
        g->left += g->first->place < CONN_LINGER;
        conn_bury(g, g->first);
    }
    dead_free(g);
    return NULL;
}

int gate_create(const struct gate_options *o, struct gate **ret_gate)
{
    struct gate *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    g->options = *o;
    g->host = o->host;
    g->host.context = g;
    g->host.hand_over = hand_over;
    g->host.refuse = refuse;
    g->host.leave = leave;
    g->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    g->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = g->epoll_fd < 0 || g->wake_fd < 0 ? -errno : 0;
    if (rc == 0)
        rc = set_events(g, o->backend_fd, 0, EPOLLIN, EVENT_BACKEND);
    if (rc == 0)
        rc = set_events(g, g->wake_fd, 0, EPOLLIN, EVENT_WAKE);
    if (rc) {
        gate_free(g);
        return rc;
    }
    *ret_gate = g;
    return 0;
}

int gate_start(struct gate *g)
{
    int rc = pthread_create(&g->thread, NULL, gate_main, g);
    g->running = rc == 0;
    return -rc;
}

void gate_wake(struct gate *g)
{
    eventfd_write(g->wake_fd, 1);
}

void gate_pause(struct gate *g)
{
    atomic_store(&g->paused, true);
    gate_wake(g);
}

int gate_stop(struct gate *g, int64_t deadline_ns)
{
    if (!g->running) {
        g->options.end(g->options.host.context);
        return 0;
    }
    atomic_store(&g->stop_ns, deadline_ns);
    atomic_store(&g->stopping, true);
    gate_wake(g);
    pthread_join(g->thread, NULL);
    g->running = false;
    return g->left ? -ETIMEDOUT : 0;
}

void gate_free(struct gate *g)
{
    if (!g)
        return;
    if (g->epoll_fd >= 0)
        close(g->epoll_fd);
    if (g->wake_fd >= 0)
        close(g->wake_fd);
    free(g->by_peer);
    free(g);
}
