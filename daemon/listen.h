/* listen.h: the socket to serve on. */
#ifndef DDIMD_DAEMON_LISTEN_H
#define DDIMD_DAEMON_LISTEN_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stddef.h>

struct listener {
    int fd;              // -1: closed or given away
    char address[160];   // "http://127.0.0.1:8080", "unix:/run/ddimd/socket", for the log
    char unix_path[112]; // to be removed at the end; "" where there is none
    bool loopback;       // nobody else reaches it
    bool inherited;      // the service manager has it too, and listens on when this process ends
};

struct listener_options {
    bool has_keys; // else everyone who reaches the socket may use it, so only loopback addresses are taken
    bool secure;   // for the address' form
};

/* Whether this address could be served, without doing it. 0, -EINVAL. */
int listener_check(const char *spec, const struct listener_options *o, struct error *err);
/* "127.0.0.1:8080", "[::1]:8080", "unix:/path". A stale unix socket is replaced, a served one is not. 0, -EINVAL,
 * -EADDRINUSE, other.
 */
int listener_open(const char *spec, const struct listener_options *o, struct listener *ret_listener, struct error *err);
/* The socket that the service manager passed, the first of n: checked for the same, and that it is the only one and
 * listens. Takes it over on success. 0, -EINVAL, -errno. */
int listener_adopt(int fd, int n, const struct listener_options *o, struct listener *ret_listener, struct error *err);
void listener_close(struct listener *l);

#endif
