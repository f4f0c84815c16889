/* conn.c: see conn.h. conn_pump() tries every move that its place allows, again and again: read the client, look at
 * what came, write to the server, read from the server, write to the client. Each move says whether something moved. */
#include "api/conn.h"

#include "api/exchange.h"
#include "api/private.h"
#include "api/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { IN_FIRST = 2048, IN_BODY = 16384, OUT_ROOM = 65536, LINGER_MS = 2000, BODY_BYTES_PER_S = 1024 };
static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";

static void place_enter(struct conn *c, enum conn_place place, int64_t timeout_ms)
{
    c->place = place;
    c->since_ns = now_ns();
    c->deadline_ns = timeout_ms ? c->since_ns + timeout_ms * 1000000 : 0;
}

/* ---- buffers ---- */

static size_t buffer_held(const struct buffer *b)
{
    return b->end - b->at;
}

static void buffer_free(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

/* Room for at least one more byte, up to max bytes held; false: full, or no memory. */
static bool buffer_grow(struct buffer *b, size_t first, size_t max)
{
    if (b->at && b->end == b->room) {
        memmove(b->data, b->data + b->at, buffer_held(b));
        b->end -= b->at;
        b->at = 0;
    }
    if (b->end < b->room)
        return true;
    size_t room = b->room ? 2 * b->room : first;
    room = room > max ? max : room;
    char *data = room > b->room ? realloc(b->data, room) : NULL;
    if (!data)
        return false;
    b->data = data;
    b->room = room;
    return true;
}

static void buffer_add(struct buffer *b, const char *data, size_t n)
{
    char *room = realloc(b->data, b->end + n);
    if (!room)
        return;
    b->data = room;
    memcpy(room + b->end, data, n);
    b->end += n;
    b->room = b->end;
}

static size_t in_limit(const struct conn *c)
{
    size_t head = c->host->head.max_target_bytes + c->host->head.max_field_bytes + 128;
    return head > IN_BODY ? head : IN_BODY;
}

/* ---- the sockets ---- */

static ssize_t client_read(struct conn *c, void *to, size_t n)
{
    if (c->tls)
        return tls_read(c->tls, to, n);
    ssize_t got = recv(c->fd, to, n, 0);
    return got < 0 ? -errno : got;
}

static ssize_t client_write(struct conn *c, const void *from, size_t n)
{
    if (c->tls)
        return tls_write(c->tls, from, n);
    ssize_t sent = send(c->fd, from, n, MSG_NOSIGNAL);
    return sent < 0 ? -errno : sent;
}

static void inner_close(struct conn *c)
{
    if (c->inner >= 0 && c->inner_events)
        c->host->leave(c->host->context, c->inner);
    if (c->inner >= 0)
        close(c->inner);
    c->inner = -1;
    c->inner_events = 0;
}

static bool would_block(ssize_t rc)
{
    return rc == -EAGAIN || rc == -EINTR;
}

/* ---- ends ---- */

static void linger(struct conn *c)
{
    buffer_free(&c->in);
    buffer_free(&c->out);
    c->passed = 0;
    if (c->tls)
        tls_bye(c->tls);
    shutdown(c->fd, SHUT_WR);
    place_enter(c, c->client_done ? CONN_OVER : CONN_LINGER, LINGER_MS);
}

/* Nothing more is taken from either side; what is in `out` is sent. */
static void last(struct conn *c)
{
    inner_close(c);
    buffer_free(&c->in);
    c->passed = 0;
    place_enter(c, CONN_LAST, atomic_load(&c->host->limits->idle_ms));
}

void conn_refuse(struct conn *c, const struct problem *p)
{
    struct conn_refusal r = {p, c->in.data ? c->in.data + c->in.at : "", buffer_held(&c->in)};
    struct text answer = {0};
    if (c->answer_bytes <= c->interim_bytes) { // else an answer is on its way, which must not be mixed with another
        c->host->refuse(c->host->context, &r, &answer);
        if (!answer.failed)
            buffer_add(&c->out, answer.data, answer.length); // without memory it just ends
        text_done(&answer);
    }
    last(c);
}

static void fail(struct conn *c, enum problem_kind kind, const char *detail)
{
    struct problem p;
    problem_set(&p, kind, NULL, "%s", detail);
    if (problem_infos[kind].status == 503)
        p.retry_after_s = 1;
    conn_refuse(c, &p);
}

/* ---- from the client ---- */

static bool reads_client(const struct conn *c)
{
    if (c->client_done)
        return false;
    if (c->place == CONN_HEAD)
        return buffer_held(&c->in) < in_limit(c);
    return c->place == CONN_BODY && buffer_held(&c->in) < IN_BODY;
}

static bool read_client(struct conn *c)
{
    if (!reads_client(c))
        return false;
    if (!buffer_grow(&c->in, IN_FIRST, in_limit(c))) {
        c->place = CONN_OVER; // no memory
        return false;
    }
    bool first = c->place == CONN_HEAD && !buffer_held(&c->in);
    ssize_t n = client_read(c, c->in.data + c->in.end, c->in.room - c->in.end);
    if (would_block(n)) {
        if (!buffer_held(&c->in))
            buffer_free(&c->in); // who is silent holds none
        return false;
    }
    if (n < 0)
        c->place = CONN_OVER;
    else if (n == 0)
        c->client_done = true;
    else
        c->in.end += (size_t)n;
    if (n > 0 && first)
        place_enter(c, CONN_HEAD, atomic_load(&c->host->limits->header_ms));
    return true;
}

/* Reads and drops, for a while: closing with unread bytes would reset the connection and lose the answer. */
static bool drop_client(struct conn *c)
{
    char sink[4096];
    for (int i = 0; i < 16 && c->place == CONN_LINGER; i++) {
        ssize_t n = recv(c->fd, sink, sizeof(sink), 0);
        if (n < 0 && would_block(-errno))
            break;
        if (n <= 0)
            c->place = CONN_OVER;
    }
    return false;
}

/* ---- TLS ---- */

/* Looks at the first byte, which nobody has read before: 22 begins a record of the handshake. Returns what it says: 0,
 * -EAGAIN (it has not come), -EPROTO (whoever speaks HTTP to a port of HTTPS). */
static int look_at_first_byte(struct conn *c)
{
    unsigned char first = 0;
    if (c->tls_begun)
        return 0;
    ssize_t n = recv(c->fd, &first, 1, MSG_PEEK);
    if (n < 0 && would_block(-errno))
        return -EAGAIN;
    c->tls_begun = true;
    return n == 1 && first != 22 ? -EPROTO : 0; // an end or an error is the handshake's to find
}

static bool shake_hands(struct conn *c)
{
    int first = look_at_first_byte(c);
    if (first == -EAGAIN)
        return false;
    if (first) {
        tls_free(c->tls);
        c->tls = NULL;
        fail(c, PROBLEM_BAD_REQUEST, "this port speaks HTTPS: the address begins with https://");
        return true;
    }
    int rc = tls_handshake(c->tls);
    if (rc == 0)
        place_enter(c, CONN_HEAD, atomic_load(&c->host->limits->header_ms));
    else if (rc != -EAGAIN)
        c->place = CONN_OVER;
    return rc != -EAGAIN;
}

/* ---- the request ---- */

static int inner_open(struct conn *c)
{
    int pair[2];
    if (c->inner >= 0)
        return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
        return -errno;
    c->inner = pair[0];
    c->inner_peer = pair[1];
    int rc = c->host->hand_over(c->host->context, pair[1], (struct sockaddr *)&c->address, c->address_bytes);
    if (rc)
        inner_close(c);
    return rc;
}

static void request_begin(struct conn *c, const struct head *h)
{
    if (inner_open(c)) {
        fail(c, PROBLEM_TOO_MANY_CONNECTIONS, "there is no room for another connection now");
        return;
    }
    c->passed = h->bytes;
    c->searched = 0;
    c->n_requests++;
    c->completed = c->drained = false;
    c->answer_bytes = 0;
    c->interim_bytes = h->expects ? sizeof(interim) - 1 : 0;
    body_begin(h, &c->body);
    place_enter(c, CONN_BODY, atomic_load(&c->host->limits->body_ms));
}

static bool head_advance(struct conn *c)
{
    struct head h;
    struct problem p;
    while (buffer_held(&c->in) && strchr("\r\n", c->in.data[c->in.at]) && c->in.data[c->in.at])
        c->in.at++; // empty lines before a request mean nothing
    size_t n = buffer_held(&c->in);
    if (n == 0 && c->client_done)
        last(c);
    if (n == 0 || (n == c->searched && !c->client_done))
        return n == 0 && c->client_done;
    int rc = head_read(c->in.data + c->in.at, n, c->searched, &c->host->head, &h, &p);
    if (rc < 0)
        conn_refuse(c, &p);
    else if (rc > 0)
        request_begin(c, &h);
    else if (c->client_done)
        fail(c, PROBLEM_BAD_REQUEST, "the connection ended within the head");
    else
        c->searched = n;
    return rc != 0 || c->place == CONN_LAST;
}

static bool body_advance(struct conn *c)
{
    size_t n = buffer_held(&c->in) - c->passed;
    unsigned long long max = atomic_load(&c->host->limits->max_body_bytes);
    ptrdiff_t used = c->body.place == BODY_END ? 0 : body_take(&c->body, c->in.data + c->in.at + c->passed, n);
    if (used < 0) {
        fail(c, PROBLEM_BAD_REQUEST, "the body is not chunked as Transfer-Encoding says");
        return true;
    }
    c->passed += (size_t)used;
    if (c->body.place == BODY_END) {
        place_enter(c, CONN_ANSWER, 0);
        return true;
    }
    bool chunked = c->body.place != BODY_PLAIN; // one that says its length is refused by its route
    if (chunked && c->body.content > max) {
        struct problem p;
        problem_set(&p, PROBLEM_BODY_TOO_LARGE, NULL, "the body has more than %llu bytes, which is the limit", max);
        conn_refuse(c, &p);
        return true;
    }
    if (c->client_done) {
        fail(c, PROBLEM_BAD_REQUEST, "the connection ended within the body");
        return true;
    }
    c->deadline_ns = c->since_ns + (int64_t)atomic_load(&c->host->limits->body_ms) * 1000000 +
                     (int64_t)(c->body.content / BODY_BYTES_PER_S) * 1000000000;
    return used > 0;
}

/* The answer is sent and the connection lives on. */
static bool answer_advance(struct conn *c)
{
    if (!c->completed || !c->drained || buffer_held(&c->out) || c->passed)
        return false;
    buffer_free(&c->out);
    c->completed = false;
    c->answer_bytes = c->interim_bytes = 0;
    place_enter(c, CONN_HEAD,
                buffer_held(&c->in) ? atomic_load(&c->host->limits->header_ms)
                                    : atomic_load(&c->host->limits->idle_ms));
    return true;
}

static bool advance(struct conn *c)
{
    switch (c->place) {
    case CONN_HANDSHAKE:
        return shake_hands(c);
    case CONN_HEAD:
        return head_advance(c);
    case CONN_BODY:
        return body_advance(c);
    case CONN_ANSWER:
        return answer_advance(c);
    case CONN_LINGER:
        return drop_client(c);
    default:
        return false;
    }
}

/* ---- to the server and back ---- */

static bool write_inner(struct conn *c)
{
    if (c->inner < 0)
        return false;
    bool moved = false;
    if (c->passed) {
        ssize_t n =
            c->inner_broken ? (ssize_t)c->passed : send(c->inner, c->in.data + c->in.at, c->passed, MSG_NOSIGNAL);
        if (n < 0 && !would_block(-errno)) {
            c->inner_broken = true; // it has answered without reading on: the answer follows
            n = (ssize_t)c->passed;
        }
        moved = n > 0;
        c->in.at += moved ? (size_t)n : 0;
        c->passed -= moved ? (size_t)n : 0;
    }
    bool more = buffer_held(&c->in) > c->passed; // another request, sent before the end
    if (c->place == CONN_ANSWER && !c->passed && !more && c->client_done && !c->told_done) {
        c->told_done = true;
        shutdown(c->inner, SHUT_WR);
    }
    return moved;
}

static void inner_ended(struct conn *c)
{
    bool answered = c->answer_bytes > c->interim_bytes;
    if ((c->place == CONN_BODY || c->place == CONN_ANSWER) && !answered && c->n_requests == 1)
        fail(c, atomic_load(&c->host->limits->stopping) ? PROBLEM_DRAINING : PROBLEM_INTERNAL,
             "the request was not answered");
    else
        last(c);
}

static bool reads_inner(const struct conn *c)
{
    return c->inner >= 0 && buffer_held(&c->out) < OUT_ROOM;
}

static bool read_inner(struct conn *c)
{
    if (!reads_inner(c))
        return false;
    if (!buffer_grow(&c->out, OUT_ROOM, OUT_ROOM)) {
        c->place = CONN_OVER;
        return false;
    }
    ssize_t n = recv(c->inner, c->out.data + c->out.end, c->out.room - c->out.end, 0);
    if (n < 0 && would_block(-errno)) {
        bool news = !c->drained;
        c->drained = true;
        if (!buffer_held(&c->out))
            buffer_free(&c->out);
        return news && c->completed;
    }
    if (n <= 0) {
        inner_ended(c);
        return true;
    }
    c->drained = false;
    c->out.end += (size_t)n;
    c->answer_bytes += (size_t)n;
    return true;
}

static bool write_client(struct conn *c)
{
    if (c->place == CONN_LAST && !buffer_held(&c->out)) {
        linger(c);
        return true;
    }
    if (!buffer_held(&c->out))
        return false;
    ssize_t n = client_write(c, c->out.data + c->out.at, buffer_held(&c->out));
    if (would_block(n)) {
        if (!c->deadline_ns)
            c->deadline_ns = now_ns() + (int64_t)atomic_load(&c->host->limits->idle_ms) * 1000000;
        return false;
    }
    if (n < 0) {
        c->place = CONN_OVER;
        return false;
    }
    c->out.at += (size_t)n;
    if (!buffer_held(&c->out))
        c->out.at = c->out.end = 0;
    if (c->place == CONN_ANSWER)
        c->deadline_ns = 0; // set anew where it stops again
    else if (c->place == CONN_LAST)
        place_enter(c, CONN_LAST, atomic_load(&c->host->limits->idle_ms));
    return true;
}

void conn_complete(struct conn *c)
{
    c->completed = true;
    c->drained = false;
}

void conn_pump(struct conn *c)
{
    for (bool moved = true; moved && c->place != CONN_OVER;) {
        moved = read_client(c);
        moved = (c->place != CONN_OVER && advance(c)) || moved;
        moved = (c->place != CONN_OVER && write_inner(c)) || moved;
        moved = (c->place != CONN_OVER && read_inner(c)) || moved;
        moved = (c->place != CONN_OVER && write_client(c)) || moved;
    }
}

/* ---- events ---- */

void conn_hangup(struct conn *c)
{
    c->place = CONN_OVER;
}

void conn_half_close(struct conn *c)
{
    char byte;
    c->half_seen = true;
    if (c->client_done || c->place < CONN_ANSWER)
        return; // reading tells it
    if (c->place == CONN_ANSWER && !c->tls && recv(c->fd, &byte, 1, MSG_PEEK) > 0)
        return; // more requests wait before the end: they are still wanted
    c->client_done = true;
    if (c->place == CONN_LINGER)
        c->place = CONN_OVER;
}

void conn_expire(struct conn *c)
{
    c->deadline_ns = 0;
    if (c->place == CONN_HEAD && buffer_held(&c->in))
        fail(c, PROBLEM_REQUEST_TIMEOUT, "the header did not arrive in time");
    else if (c->place == CONN_BODY && !buffer_held(&c->out))
        fail(c, PROBLEM_REQUEST_TIMEOUT, "the body did not arrive in time");
    else if (c->place == CONN_HEAD)
        last(c); // idle
    else
        c->place = CONN_OVER;
}

void conn_finish(struct conn *c)
{
    if (c->place == CONN_HANDSHAKE)
        c->place = CONN_OVER;
    else if (c->inner < 0 && c->place < CONN_LAST)
        last(c);
}

uint32_t conn_events(const struct conn *c)
{
    uint32_t events = c->client_done || c->half_seen ? 0 : EPOLLRDHUP;
    if (c->place == CONN_HANDSHAKE)
        return events | (tls_wants_write(c->tls) ? EPOLLOUT : EPOLLIN);
    if (reads_client(c) || c->place == CONN_LINGER)
        events |= EPOLLIN;
    return events | (buffer_held(&c->out) ? EPOLLOUT : 0);
}

uint32_t conn_inner_events(const struct conn *c)
{
    return (reads_inner(c) ? EPOLLIN : 0) | (c->inner >= 0 && c->passed ? EPOLLOUT : 0);
}

/* ---- life ---- */

int conn_init(struct conn *c, const struct conn_host *host, int fd, struct tls_credentials *credentials)
{
    c->host = host;
    c->fd = fd;
    c->inner = c->inner_peer = -1;
    place_enter(c, credentials ? CONN_HANDSHAKE : CONN_HEAD, atomic_load(&host->limits->header_ms));
    return credentials ? tls_create(credentials, fd, &c->tls) : 0;
}

void conn_done(struct conn *c)
{
    inner_close(c);
    tls_free(c->tls);
    if (c->fd >= 0 && c->events)
        c->host->leave(c->host->context, c->fd);
    if (c->fd >= 0)
        close(c->fd);
    buffer_free(&c->in);
    buffer_free(&c->out);
}
