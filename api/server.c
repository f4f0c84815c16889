/* server.c: see server.h. One request is: on_uri (the exchange is made), on_request for the headers, for each part of a
 * body, for its end, and again after each wake; on_completed (the exchange loses the connection). What is refused
 * before its body was read closes the connection.
 */
#include "api/server.h"

#include "api/access.h"
#include "api/gate.h"
#include "api/hangup.h"
#include "api/negotiate.h"
#include "api/work.h"

#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <syslog.h>

/* ---- live exchanges ---- */

static void live_begin(struct exchange *x)
{
    struct api *a = x->api;
    pthread_mutex_lock(&a->lock);
    a->n_live++;
    x->older = a->newest;
    *(a->newest ? &a->newest->newer : &a->oldest) = x;
    a->newest = x;
    pthread_mutex_unlock(&a->lock);
}

static void live_busy(struct exchange *x)
{
    x->busy = true;
    pthread_mutex_lock(&x->api->lock);
    x->api->n_busy++;
    pthread_mutex_unlock(&x->api->lock);
}

static void live_end(struct exchange *x)
{
    struct api *a = x->api;
    pthread_mutex_lock(&a->lock);
    a->n_live--;
    *(x->newer ? &x->newer->older : &a->newest) = x->older;
    *(x->older ? &x->older->newer : &a->oldest) = x->newer;
    a->n_busy -= x->busy;
    pthread_cond_broadcast(&a->idle);
    pthread_mutex_unlock(&a->lock);
}

/* ---- before the body ---- */

/* The client's id where it is a short token, else one of our own. */
static void request_id_choose(struct exchange *x)
{
    const char *id = exchange_request_header(x, "X-Request-Id");
    if (id && head_is_request_id(id, strlen(id)))
        snprintf(x->request_id, sizeof(x->request_id), "%s", id);
    else
        api_request_id(x->api, x->request_id);
}

/* Address and header were measured before (conn.h), and so is a body that comes in chunks. */
static bool length_check(struct exchange *x)
{
    const char *length = exchange_request_header(x, "Content-Length");
    size_t max = x->settings->now.max_body_bytes;
    if (length && strtoull(length, NULL, 10) > max)
        exchange_fail(x, PROBLEM_BODY_TOO_LARGE, "the body has %s bytes; the limit is %zu", length, max);
    return !x->response;
}

static bool method_check(struct exchange *x)
{
    char allow[64];
    route_allow(x->route, allow, sizeof(allow));
    if (strcmp(x->method, "OPTIONS") == 0) {
        struct text empty = {0};
        exchange_answer(x, MHD_HTTP_NO_CONTENT, NULL, &empty);
        exchange_header(x, "Allow", allow);
        access_preflight(x, allow);
    } else if (!(x->route->methods & route_method(x->method))) {
        exchange_fail(x, PROBLEM_METHOD_NOT_ALLOWED, "%.64s does not answer to %.32s; it answers to %s", x->uri,
                      x->method, allow);
        exchange_header(x, "Allow", allow);
    }
    return !x->response;
}

static bool has_body(const struct exchange *x)
{
    const char *length = exchange_request_header(x, "Content-Length");
    return exchange_request_header(x, "Transfer-Encoding") || (length && strtoull(length, NULL, 10) > 0);
}

/* Adds one of several Accept lines, which are one list. */
static enum MHD_Result accept_add(void *context, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct text *all = context;
    if (strcasecmp(name, "Accept") == 0)
        text_printf(all, "%s%s", all->length ? ", " : "", value ? value : "");
    return MHD_YES;
}

static int offer_choose(struct exchange *x)
{
    struct text accept = {0};
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, accept_add, &accept);
    int offer = negotiate_accept(text_string(&accept), x->route->offers);
    text_done(&accept);
    return offer;
}

static bool media_types_check(struct exchange *x)
{
    struct problem p;
    const char *type = exchange_request_header(x, "Content-Type");
    x->offer = offer_choose(x);
    if (x->offer < 0) {
        problem_set(&p, PROBLEM_NOT_ACCEPTABLE, NULL, "the header Accept asks for none of the types that %.64s answers",
                    x->uri);
        problem_allow_names(&p, x->route->offers);
        exchange_problem(x, &p);
        return false;
    }
    if (!(route_method(x->method) & METHOD_POST) || !has_body(x))
        return true;
    if (!x->route->bodies) {
        exchange_fail(x, PROBLEM_BAD_BODY, "%.64s takes no body", x->uri);
        return false;
    }
    for (int i = 0; x->route->bodies[i]; i++)
        if (negotiate_content_type(type, x->route->bodies[i]))
            return true;
    problem_set(&p, PROBLEM_UNSUPPORTED_MEDIA_TYPE, NULL, "a body of type %.64s is not read here",
                type ? type : "(none)");
    problem_allow_names(&p, x->route->bodies);
    exchange_problem(x, &p);
    return false;
}

/* Everything that can be refused from the header alone. */
static void begin(struct exchange *x, const char *path)
{
    request_id_choose(x);
    x->route = route_find(path, x->name);
    if (x->route)
        x->route = route_choose(x->route, x->method);
    if (!access_check(x) || !length_check(x))
        return;
    if (!x->route) {
        exchange_fail(x, PROBLEM_NOT_FOUND, "there is nothing at %.200s; GET /openapi.json lists the paths", x->uri);
        return;
    }
    if (method_check(x))
        media_types_check(x);
}

/* ---- the body, and after it ---- */

static void no_query_check(struct exchange *x)
{
    struct field_source source = {.query = x->query, .query_bytes = strlen(x->query)};
    struct fields none;
    struct problem p;
    if (fields_read(no_fields, &source, &none, &p))
        exchange_problem(x, &p);
    else
        fields_done(&none);
}

static void dispatch(struct exchange *x)
{
    if (x->body.failed)
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the body");
    else if (x->route->fields == no_fields)
        no_query_check(x);
    if (!x->response)
        x->route->handle(x);
}

static enum MHD_Result answer(struct exchange *x)
{
    if (x->next)
        return MHD_YES; // suspended: this is called again after the wake
    if (!x->response)
        exchange_fail(x, PROBLEM_INTERNAL, "the request was not answered");
    if (!x->response)
        return MHD_NO;
    access_headers(x);
    enum MHD_Result rc = MHD_queue_response(x->connection, (unsigned)x->status, x->response);
    MHD_destroy_response(x->response);
    x->response = NULL;
    return rc;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *data, size_t *data_bytes, void **request)
{
    struct exchange *x = *request;
    if (!x)
        return MHD_NO;
    if (!x->begun) {
        x->begun = true;
        snprintf(x->method, sizeof(x->method), "%s", method);
        begin(x, url);
        return x->response ? answer(x) : MHD_YES;
    }
    if (*data_bytes) {
        text_append(&x->body, data, *data_bytes);
        *data_bytes = 0;
        return MHD_YES;
    }
    void (*next)(struct exchange *) = x->next;
    x->next = NULL;
    if (!x->dispatched) {
        x->dispatched = true;
        live_busy(x);
        dispatch(x);
    } else if (next && !x->response) {
        next(x);
    }
    return answer(x);
}

/* ---- begin and end of a request ---- */

static void *on_uri(void *context, const char *uri, struct MHD_Connection *connection)
{
    struct front *f = context;
    struct exchange *x = exchange_create(f->api, uri);
    if (x) {
        x->gate = f->gate;
        x->connection = connection;
        live_begin(x);
    }
    return x;
}

static void log_request(struct exchange *x)
{
    char path[128];
    snprintf(path, sizeof(path), "%s", x->uri);
    for (char *c = path; *c; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    if (x->work)
        work_note(x);
    bool quiet = x->route && (x->route->handle == handle_healthz || x->route->handle == handle_readyz ||
                              x->route->handle == handle_metrics);
    api_log(x->api, quiet ? LOG_DEBUG : LOG_INFO, "request id=%s method=%.16s path=%s status=%d%s%s%s total_ms=%.2f",
            x->request_id, x->method, path, x->status, x->key ? " key=" : "", x->key ? x->key->name : "", x->note,
            (double)(now_ns() - x->begun_ns) / 1e6);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **request,
                         enum MHD_RequestTerminationCode why)
{
    struct exchange *x = *request;
    if (!x)
        return;
    *request = NULL;
    pthread_mutex_lock(&x->lock);
    x->connection = NULL;
    uint64_t ticket = x->ticket;
    pthread_mutex_unlock(&x->lock);
    struct api *a = x->api;
    hangup_unwatch(a->hangup, x->watch);
    x->watch = WATCH_NONE;
    if (ticket)
        scheduler_cancel(a->options.scheduler, ticket); // -ENOENT where it has ended
    if (x->begun) {
        metrics_count(x->api, x->route, x->status, (double)(now_ns() - x->begun_ns) * 1e-9);
        log_request(x);
    }
    live_end(x);
    exchange_release(x);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    gate_completed(((struct front *)context)->gate, info->connect_fd);
}

/* ---- the daemon ---- */

struct MHD_Daemon *server_start(struct front *f)
{
    const struct api_options *o = &f->api->options;
    enum { MAX_CONNECTIONS = 1 << 17 }; // the gate counts them
    /* What the gate lets through fits into the memory of a connection, header lines and what is kept of each. */
    return MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
                            on_request, f, MHD_OPTION_URI_LOG_CALLBACK, on_uri, f, MHD_OPTION_NOTIFY_COMPLETED,
                            on_completed, f, MHD_OPTION_CONNECTION_LIMIT, (unsigned)MAX_CONNECTIONS,
                            MHD_OPTION_CONNECTION_TIMEOUT, 0u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                            (size_t)4 * (o->max_uri_bytes + o->max_header_bytes), MHD_OPTION_STRICT_FOR_CLIENT, 1,
                            MHD_OPTION_END);
}
