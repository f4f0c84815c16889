/* gate.h: the thread that accepts connections, moves their bytes (conn.h) and turns libmicrohttpd.
 *
 * One gate is one thread: an epoll set of its connections, the listening socket (shared with other gates) and the epoll
 * descriptor of its own libmicrohttpd daemon, which is run here between two waits. So a request costs no thread and no
 * hand-over between threads, and what belongs to a connection needs no lock.
 */
#ifndef DDIMD_API_GATE_H
#define DDIMD_API_GATE_H

#include "api/conn.h"
#include "api/crowd.h"

struct gate_options {
    struct conn_host host; // copied
    int listen_fd;         // borrowed
    struct crowd *crowd;   // borrowed
    int backend_fd;        // readable: turn() is due
    /* Runs the server; true: at once again. */
    bool (*turn)(void *context);
    /* Ends the server with all of its connections. Once, as the last call. */
    void (*end)(void *context);
    /* Certificates for a new connection, a reference for the caller; NULL: not secure. NULL function: none ever. */
    struct tls_credentials *(*credentials)(void *context);
    /* No descriptors or memory for another connection; at most once a second. */
    void (*short_of)(void *context, int error);
};

struct gate;
/* 0, -ENOMEM, -EMFILE. */
int gate_create(const struct gate_options *o, struct gate **ret_gate);
/* Starts the thread. 0, -EAGAIN. */
int gate_start(struct gate *g);
/* Takes no more connections; those that wait stay in the listening socket's queue. Any thread. */
void gate_pause(struct gate *g);
/* Ends the server, then sends what it had answered, until deadline_ns (CLOCK_MONOTONIC) at most. Returns 0, -ETIMEDOUT
 * (something was left). Not started: end() is called all the same. Once. */
int gate_stop(struct gate *g, int64_t deadline_ns);
void gate_free(struct gate *g); // stopped; NULL is fine

/* turn() is due: something was done to the server from another thread, which its descriptor does not tell. Any thread.
 */
void gate_wake(struct gate *g);
/* The server is done with a request that came on fd, which hand_over() got. From within turn() or end(). */
void gate_completed(struct gate *g, int fd);

#endif
