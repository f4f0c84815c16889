/* listen.c: see listen.h. */
#include "daemon/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

static int bad_address(const char *spec, struct error *err)
{
    return error_set(err, -EINVAL, "listen", "listen must be 127.0.0.1:PORT, [::1]:PORT or unix:/path, not \"%.100s\"",
                     spec);
}

static bool is_loopback(const union address *a)
{
    if (a->any.sa_family == AF_INET)
        return ntohl(a->in.sin_addr.s_addr) >> 24 == 127;
    if (a->any.sa_family == AF_INET6)
        return IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
    return a->any.sa_family == AF_UNIX;
}

static int port_parse(const char *text, in_port_t *ret_port)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || port > 65535)
        return -EINVAL;
    *ret_port = htons((uint16_t)port);
    return 0;
}

/* "HOST:PORT" with a numeric host, in brackets where it is of IPv6; localhost is 127.0.0.1. */
static int inet_parse(const char *spec, union address *ret_address, socklen_t *ret_bytes)
{
    char host[64];
    const char *colon = strrchr(spec, ':');
    size_t n = colon ? (size_t)(colon - spec) : 0;
    if (n == 0 || n >= sizeof(host))
        return -EINVAL;
    bool six = spec[0] == '[' && spec[n - 1] == ']';
    snprintf(host, sizeof(host), "%.*s", (int)(six ? n - 2 : n), six ? spec + 1 : spec);
    if (strcmp(host, "localhost") == 0)
        snprintf(host, sizeof(host), "127.0.0.1");
    *ret_address = (union address){0};
    ret_address->any.sa_family = six ? AF_INET6 : AF_INET;
    *ret_bytes = six ? sizeof(ret_address->in6) : sizeof(ret_address->in);
    void *raw = six ? (void *)&ret_address->in6.sin6_addr : (void *)&ret_address->in.sin_addr;
    if (inet_pton(ret_address->any.sa_family, host, raw) != 1)
        return -EINVAL;
    return port_parse(colon + 1, six ? &ret_address->in6.sin6_port : &ret_address->in.sin_port);
}

static int unix_parse(const char *spec, union address *ret_address, socklen_t *ret_bytes)
{
    const char *path = spec + strlen("unix:");
    *ret_address = (union address){.un = {.sun_family = AF_UNIX}};
    if (*path != '/' || strlen(path) >= sizeof(ret_address->un.sun_path))
        return -EINVAL;
    snprintf(ret_address->un.sun_path, sizeof(ret_address->un.sun_path), "%s", path);
    *ret_bytes = sizeof(ret_address->un);
    return 0;
}

/* A socket file that nobody serves is in the way of bind(). */
static void unix_remove_stale(const union address *a)
{
    struct stat st;
    if (lstat(a->un.sun_path, &st) || !S_ISSOCK(st.st_mode))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, &a->any, sizeof(a->un)) && errno == ECONNREFUSED)
        unlink(a->un.sun_path);
    if (fd >= 0)
        close(fd);
}

/* Fills in the address as it came out: with port 0 the port that was free. */
static int describe(int fd, const struct listener_options *o, struct listener *l, struct error *err)
{
    union address a;
    socklen_t bytes = sizeof(a);
    char host[INET6_ADDRSTRLEN] = "";
    if (getsockname(fd, &a.any, &bytes))
        return error_set(err, -errno, "listen", "the socket has no address: %s", strerror(errno));
    if (!is_loopback(&a) && !o->has_keys)
        return error_set(err, -EINVAL, "listen",
                         "there are no keys, so everyone who reaches the socket may use it: only loopback addresses "
                         "(127.0.0.1, [::1]) and unix sockets are served");
    l->loopback = is_loopback(&a);
    if (a.any.sa_family == AF_UNIX) {
        snprintf(l->address, sizeof(l->address), "unix:%s", a.un.sun_path);
    } else if (a.any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a.in6.sin6_addr, host, sizeof(host));
        snprintf(l->address, sizeof(l->address), "%s://[%s]:%u", o->secure ? "https" : "http", host,
                 ntohs(a.in6.sin6_port));
    } else {
        inet_ntop(AF_INET, &a.in.sin_addr, host, sizeof(host));
        snprintf(l->address, sizeof(l->address), "%s://%s:%u", o->secure ? "https" : "http", host,
                 ntohs(a.in.sin_port));
    }
    return 0;
}

static int bind_and_listen(int fd, const union address *a, socklen_t bytes)
{
    int yes = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (a->any.sa_family == AF_UNIX)
        unix_remove_stale(a);
    if (bind(fd, &a->any, bytes))
        return -errno;
    return listen(fd, SOMAXCONN) ? -errno : 0;
}

/* The address, where it may be served. */
static int spec_parse(const char *spec, const struct listener_options *o, union address *ret_address,
                      socklen_t *ret_bytes, struct error *err)
{
    bool is_unix = strncmp(spec, "unix:", 5) == 0;
    if (is_unix ? unix_parse(spec, ret_address, ret_bytes) : inet_parse(spec, ret_address, ret_bytes))
        return bad_address(spec, err);
    if (is_loopback(ret_address) || o->has_keys)
        return 0;
    return error_set(err, -EINVAL, "listen",
                     "there are no keys, so everyone who reaches %.80s could use it: listen on a loopback address "
                     "(127.0.0.1, [::1]) or a unix socket, or make keys (ddimd keygen)",
                     spec);
}

int listener_check(const char *spec, const struct listener_options *o, struct error *err)
{
    union address a;
    socklen_t bytes = 0;
    return spec_parse(spec, o, &a, &bytes, err);
}

int listener_open(const char *spec, const struct listener_options *o, struct listener *ret_listener, struct error *err)
{
    union address a;
    socklen_t bytes = 0;
    struct listener l = {.fd = -1};
    bool is_unix = strncmp(spec, "unix:", 5) == 0;
    int rc = spec_parse(spec, o, &a, &bytes, err);
    if (rc)
        return rc;
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "listen", "no socket for %.100s: %s", spec, strerror(errno));
    rc = bind_and_listen(fd, &a, bytes);
    if (rc)
        error_set(err, rc, "listen", "%.100s cannot be listened on: %s", spec, strerror(-rc));
    else
        rc = describe(fd, o, &l, err);
    if (rc) {
        close(fd);
        return rc;
    }
    if (is_unix)
        snprintf(l.unix_path, sizeof(l.unix_path), "%s", a.un.sun_path);
    l.fd = fd;
    *ret_listener = l;
    return 0;
}

int listener_adopt(int fd, int n, const struct listener_options *o, struct listener *ret_listener, struct error *err)
{
    struct listener l = {.fd = fd, .inherited = true};
    if (n != 1)
        return error_set(err, -EINVAL, "listen", "the service manager passed %d sockets; one is served", n);
    if (sd_is_socket(fd, AF_UNSPEC, SOCK_STREAM, 1) <= 0)
        return error_set(
            err, -EINVAL, "listen",
            "what the service manager passed is no stream socket that listens: ListenStream= and Accept=no "
            "make one");
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK)) // several threads accept
        return error_set(err, -errno, "listen", "the socket cannot be prepared: %s", strerror(errno));
    int rc = describe(fd, o, &l, err);
    if (rc == 0)
        *ret_listener = l;
    return rc;
}

void listener_close(struct listener *l)
{
    if (l->unix_path[0])
        unlink(l->unix_path);
    if (l->fd >= 0)
        close(l->fd);
    *l = (struct listener){.fd = -1};
}
