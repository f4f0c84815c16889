/* conn.h: one connection to a client, from accept() to its end.
 *
 * A client talks to this side only. Its requests are looked at here (head.h), and one at a time goes on to
 * libmicrohttpd over a socket pair, which therefore sees whole heads and sound bodies, never a slow client and never
 * TLS; the answers come back the same way. What is wrong with a request below the routes is answered here, in the form
 * of every other error, and the connection then ends without a reset, so that the client can read it.
 *
 * All of one connection happens in its gate's thread (gate.h). A silent client costs a descriptor and its buffers.
 */
#ifndef DDIMD_API_CONN_H
#define DDIMD_API_CONN_H

#include "api/head.h"

#include <stdatomic.h>
#include <sys/socket.h>

struct tls;
struct tls_credentials;

/* Changed at any time by any thread. */
struct conn_limits {
    atomic_int header_ms; // from the first byte to the end of a head, and for a handshake
    atomic_int body_ms;   // for a body, besides a second for each KiB of it
    atomic_int idle_ms;   // between requests, and for the next bytes of an answer to be taken
    atomic_ullong max_body_bytes;
    atomic_bool stopping;
};

/* What is refused below the routes. */
struct conn_refusal {
    const struct problem *problem;
    const char *head; // of the request as far as it came, perhaps broken
    size_t head_bytes;
};

/* Who serves the requests; called in the gate's thread. */
struct conn_host {
    void *context;
    struct head_limits head;
    struct conn_limits *limits;
    /* Takes fd over, also on failure: requests arrive on it. 0 or a negative errno. */
    int (*hand_over)(void *context, int fd, const struct sockaddr *address, socklen_t bytes);
    /* The answer to a refusal: everything that is sent, HTTP's head included. Logs and counts it. */
    void (*refuse)(void *context, const struct conn_refusal *r, struct text *ret_answer);
    /* fd, of which events are waited for, is about to be closed: it must leave the set by name. A program that is being
     * started holds a copy of it for a moment, and closing ours would leave it in the set, with an address that may be
     * freed by then. */
    void (*leave)(void *context, int fd);
};

enum conn_place {
    CONN_HANDSHAKE,
    CONN_HEAD,   // a head is awaited or read
    CONN_BODY,   // the request goes on to its server
    CONN_ANSWER, // all of it did
    CONN_LAST,   // what is in `out` is the end
    CONN_LINGER, // said to be over; the client's last words are dropped
    CONN_OVER    // to be closed
};

struct buffer {
    char *data; // [room]; what it holds is [at, end)
    size_t at, end, room;
};

struct conn {
    const struct conn_host *host;
    int fd;
    int inner, inner_peer; // the socket pair, ours and the server's end; -1: none
    struct tls *tls;       // NULL: none
    enum conn_place place;
    struct buffer in, out;
    size_t passed;   // bytes at the front of `in` that go on to the server
    size_t searched; // bytes of `in` that hold no end of a head
    struct body body;
    size_t interim_bytes;          // of a 100 that may precede the answer
    size_t answer_bytes;           // seen of this request's answer
    int64_t n_requests;            // handed over so far
    int64_t since_ns, deadline_ns; // of the place; 0: none
    bool completed, drained;       // the server is done with the request; and nothing of it is left to read
    bool tls_begun;                // the first byte is known to be TLS
    bool half_seen, client_done;   // the client sends no more: is on its way, is reached
    bool told_done, inner_broken;  // the server knows; the server reads no more

    struct sockaddr_storage address;
    socklen_t address_bytes;
    uint64_t crowd_key;
    uint32_t events, inner_events; // as registered
    struct conn *next, *previous, *next_ready, *next_dead;
    bool is_ready;
};

/* A connection on an accepted non-blocking socket, with c->address filled; credentials NULL: not secure.
 * 0, -ENOMEM. */
int conn_init(struct conn *c, const struct conn_host *host, int fd, struct tls_credentials *credentials);
void conn_done(struct conn *c); // closes
/* The server is done with the request, and has written all of its answer. conn_pump() follows. */
void conn_complete(struct conn *c);
/* Moves bytes until nothing moves any more. */
void conn_pump(struct conn *c);
/* The other side hung up, or will not send any more. */
void conn_hangup(struct conn *c);
void conn_half_close(struct conn *c);
/* The deadline has passed. */
void conn_expire(struct conn *c);
/* Answers with a problem and ends. */
void conn_refuse(struct conn *c, const struct problem *p);
/* Ends as soon as everything that the server said is sent: the server is gone. */
void conn_finish(struct conn *c);
/* Events of poll to wait for, on each socket; 0 for the pair: it must not be waited on. */
uint32_t conn_events(const struct conn *c);
uint32_t conn_inner_events(const struct conn *c);

#endif
