/* access.c: see access.h. */
#include "api/access.h"

#include "api/private.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- Host ---- */

/* The name of "name:port" or "[address]:port", without brackets; false: there is none, or it is too long. */
static bool host_name(const char *host, char *to, size_t bytes)
{
    size_t n = host[0] == '[' ? strcspn(host + 1, "]") : strcspn(host, ":");
    if (n == 0 || n >= bytes)
        return false;
    snprintf(to, bytes, "%.*s", (int)n, host[0] == '[' ? host + 1 : host);
    if (to[n - 1] == '.' && n > 1)
        to[n - 1] = '\0'; // the root's dot
    return true;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcasecmp(s + n - m, end) == 0;
}

bool access_host_is_local(const char *host)
{
    char name[API_NAME_BYTES];
    unsigned char address[sizeof(struct in6_addr)];
    if (!host_name(host, name, sizeof(name)))
        return false;
    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return true; // no name was resolved
    return !strchr(name, '.') || ends_with(name, ".localhost");
}

static bool is_listed(const char *name, const char (*list)[API_NAME_BYTES], int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        if (strcasecmp(name, list[i]) == 0)
            return true;
    return false;
}

/* With keys a name that leads here gives its owner nothing; then hosts are only checked where they are listed. */
static bool host_check(struct exchange *x)
{
    const struct api_settings *s = &x->settings->now;
    const char *host = exchange_request_header(x, "Host");
    char name[API_NAME_BYTES] = "";
    if (!host || !*host || (s->keys && s->n_hosts == 0) || access_host_is_local(host))
        return true;
    if (host_name(host, name, sizeof(name)) && is_listed(name, s->hosts, s->n_hosts))
        return true;
    exchange_fail(x, PROBLEM_FOREIGN_HOST,
                  "this daemon does not answer to the name \"%.100s\"; the option hosts lists "
                  "the names that it answers to",
                  name);
    return false;
}

/* ---- Origin ---- */

static enum access access_of(const struct exchange *x)
{
    return x->route ? x->route->access : ACCESS_OPEN; // that nothing is there is no secret
}

static bool origin_is_listed(const struct exchange *x, const char *origin)
{
    const struct api_settings *s = &x->settings->now;
    return is_listed(origin, s->origins, s->n_origins);
}

/* "http://host:port" of a page that came from here. */
static bool origin_is_own(const struct exchange *x, const char *origin)
{
    const char *host = exchange_request_header(x, "Host"), *mark = strstr(origin, "://");
    return host && mark && strcasecmp(mark + 3, host) == 0;
}

/* Browsers say where a page came from that sends a request: Origin where it is a script's or a form's, Sec-Fetch-Site
 * for pictures and links, too. */
static bool origin_check(struct exchange *x)
{
    const char *origin = exchange_request_header(x, "Origin");
    const char *site = exchange_request_header(x, "Sec-Fetch-Site");
    bool known = !origin || origin_is_own(x, origin) || origin_is_listed(x, origin);
    bool cross = !origin && site && strcasecmp(site, "cross-site") == 0 && access_of(x) != ACCESS_OPEN;
    if (known && !cross)
        return true;
    exchange_fail(x, PROBLEM_FOREIGN_ORIGIN,
                  "pages of %.100s may not use this daemon; the option origins lists those "
                  "that may",
                  origin ? origin : "another site");
    return false;
}

void access_headers(struct exchange *x)
{
    const char *origin = exchange_request_header(x, "Origin");
    if (x->settings->now.n_origins)
        exchange_header(x, "Vary", "Origin");
    else
        exchange_header(x, "Cross-Origin-Resource-Policy", "same-origin");
    if (!origin || !origin_is_listed(x, origin))
        return;
    exchange_header(x, "Access-Control-Allow-Origin", origin);
    exchange_header(x, "Access-Control-Expose-Headers",
                    "ETag, Location, Retry-After, Server-Timing, X-Log-Next, X-Model, X-Request-Id, X-Seed");
}

void access_preflight(struct exchange *x, const char *allow)
{
    const char *origin = exchange_request_header(x, "Origin");
    if (!origin || !origin_is_listed(x, origin))
        return;
    exchange_header(x, "Access-Control-Allow-Methods", allow);
    exchange_header(x, "Access-Control-Allow-Headers",
                    "Accept, Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, "
                    "X-Request-Id");
    exchange_header(x, "Access-Control-Max-Age", "600");
}

/* ---- keys ---- */

static const struct {
    unsigned roles; // one of them is enough
    const char *name;
} access_infos[] = {
    [ACCESS_ADMIN] = {ROLE_ADMIN, "admin"},
    [ACCESS_OPEN] = {0, NULL},
    [ACCESS_ANY] = {ROLE_GENERATE | ROLE_TRAIN | ROLE_ADMIN, "any"},
    [ACCESS_GENERATE] = {ROLE_GENERATE, "generate"},
    [ACCESS_TRAIN] = {ROLE_TRAIN, "train"},
};

const char *access_role(enum access access)
{
    return access_infos[access].name;
}

static bool unauthorized(struct exchange *x, bool given)
{
    exchange_fail(x, PROBLEM_NO_KEY,
                  given ? "the key in the header Authorization is not known here"
                        : "this needs a key: Authorization: Bearer KEY");
    exchange_header(x, "WWW-Authenticate",
                    given ? "Bearer realm=\"ddimd\", error=\"invalid_token\"" : "Bearer realm=\"ddimd\"");
    return false;
}

/* The text after "Bearer ", NULL where there is none. */
static const char *bearer(const struct exchange *x)
{
    const char *value = exchange_request_header(x, "Authorization");
    if (!value || strncasecmp(value, "Bearer ", 7) != 0)
        return NULL;
    value += 7;
    while (*value == ' ')
        value++;
    return value;
}

static bool rate_check(struct exchange *x)
{
    struct problem p;
    int wait_s = keys_spend(x->settings->now.keys, x->key, now_ns());
    if (wait_s == 0)
        return true;
    problem_set(&p, PROBLEM_RATE_EXCEEDED, NULL, "the key \"%s\" has made its %d requests of this minute", x->key->name,
                x->key->requests_per_minute);
    p.retry_after_s = wait_s;
    exchange_problem(x, &p);
    return false;
}

static bool key_check(struct exchange *x)
{
    const struct api_settings *s = &x->settings->now;
    enum access access = access_of(x);
    if (!s->keys || strcmp(x->method, "OPTIONS") == 0 || (access == ACCESS_OPEN && !s->guard_operating))
        return true;
    const char *text = bearer(x);
    x->key = text ? keys_find(s->keys, text) : NULL;
    if (!x->key)
        return unauthorized(x, exchange_request_header(x, "Authorization") != NULL);
    unsigned enough = access == ACCESS_OPEN ? access_infos[ACCESS_ANY].roles : access_infos[access].roles;
    if (!(key_roles(x->key) & enough)) {
        exchange_fail(x, PROBLEM_FORBIDDEN, "this needs the role \"%s\", which the key \"%s\" has not",
                      access_infos[access].name, x->key->name);
        return false;
    }
    return rate_check(x);
}

bool access_check(struct exchange *x)
{
    return host_check(x) && origin_check(x) && key_check(x);
}
