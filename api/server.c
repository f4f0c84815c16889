/* server.c: libmicrohttpd's callbacks, and the life of the api.
 *
 * Two or so epoll threads run everything here. One request is: on_uri (the exchange is made), on_request for the
 * headers, for each part of a body, for its end, and again after each wake; on_completed (the exchange loses the
 * connection). What is refused before its body was read closes the connection.
 */
#include "api/aside.h"
#include "api/hangup.h"
#include "api/jobs.h"
#include "api/jobs_generate.h"
#include "api/negotiate.h"
#include "api/private.h"
#include "api/work.h"

#include <ctype.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

void api_log(struct api *a, int priority, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    a->options.log(a->options.log_context, priority, line);
}

static void on_http_message(void *context, const char *format, va_list args)
{
    struct api *a = context;
    char line[512];
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    api_log(a, LOG_DEBUG, "http: %s", line);
}

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
    size_t n = id ? strlen(id) : 0, i = 0;
    while (i < n && (isalnum((unsigned char)id[i]) || strchr("-_.", id[i])))
        i++;
    if (n && i == n && n < sizeof(x->request_id))
        snprintf(x->request_id, sizeof(x->request_id), "%s", id);
    else
        snprintf(x->request_id, sizeof(x->request_id), "%08x-%06x", x->api->instance,
                 atomic_fetch_add(&x->api->serial, 1));
}

static bool sizes_check(struct exchange *x, size_t uri_bytes)
{
    const struct api_options *o = &x->api->options;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    const char *length = exchange_request_header(x, "Content-Length");
    if (uri_bytes > o->max_uri_bytes)
        exchange_fail(x, PROBLEM_URI_TOO_LONG, "the address has %zu bytes; the limit is %zu", uri_bytes,
                      o->max_uri_bytes);
    else if (info && info->header_size > o->max_header_bytes)
        exchange_fail(x, PROBLEM_HEADERS_TOO_LARGE, "the header has %zu bytes; the limit is %zu", info->header_size,
                      o->max_header_bytes);
    else if (length && strtoull(length, NULL, 10) > o->max_body_bytes)
        exchange_fail(x, PROBLEM_BODY_TOO_LARGE, "the body has %s bytes; the limit is %zu", length, o->max_body_bytes);
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

static bool media_types_check(struct exchange *x)
{
    struct problem p;
    const char *accept = exchange_request_header(x, "Accept");
    const char *type = exchange_request_header(x, "Content-Type");
    x->offer = negotiate_accept(accept, x->route->offers);
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
    if (!sizes_check(x, strlen(x->uri) + strlen(x->query) + 1))
        return;
    if (!x->route) {
        exchange_fail(x, PROBLEM_NOT_FOUND, "there is nothing at %.200s; GET /openapi.json lists the paths", x->uri);
        return;
    }
    if (method_check(x))
        media_types_check(x);
}

/* ---- the body, and after it ---- */

static void body_add(struct exchange *x, const char *data, size_t n)
{
    if (x->body.length + n > x->api->options.max_body_bytes) {
        text_done(&x->body); // a chunked one says its size only by its end: read on, keep nothing
        x->body_dropped = true;
    } else if (!x->body_dropped) {
        text_append(&x->body, data, n);
    }
}

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
    if (x->body_dropped)
        exchange_fail(x, PROBLEM_BODY_TOO_LARGE, "the body has more than %zu bytes, which is the limit",
                      x->api->options.max_body_bytes);
    else if (x->body.failed)
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
        body_add(x, data, *data_bytes);
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
    struct api *a = context;
    struct exchange *x = exchange_create(a, uri);
    if (x) {
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
    api_log(x->api, quiet ? LOG_DEBUG : LOG_INFO, "request id=%s method=%.16s path=%s status=%d%s total_ms=%.2f",
            x->request_id, x->method, path, x->status, x->note, (double)(now_ns() - x->begun_ns) / 1e6);
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
        ptrdiff_t route = x->route ? x->route - route_table : ROUTE_MAX_COUNT;
        atomic_fetch_add(&a->answers[route][metrics_status_index(x->status)], 1);
        log_request(x);
    }
    live_end(x);
    exchange_release(x);
}

static void on_gone(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    uint64_t ticket = x->ticket;
    pthread_mutex_unlock(&x->lock);
    if (ticket)
        scheduler_cancel(x->api->options.scheduler, ticket);
    else
        job_waits_hangup(x);
}

static void on_job_end(void *context, int64_t job)
{
    job_waits_end(context, job);
}

/* ---- the api ---- */

int api_create(const struct api_options *o, struct api **ret_api, struct error *err)
{
    struct api *a = calloc(1, sizeof(*a));
    if (!a)
        return error_set(err, -ENOMEM, NULL, "no memory for the HTTP interface");
    a->options = *o;
    a->started_ns = now_ns();
    atomic_init(&a->state, API_STARTING);
    atomic_init(&a->alive_ns, a->started_ns);
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->publish_lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = getrandom(&a->instance, sizeof(a->instance), 0) == sizeof(a->instance) ? 0 : -EIO;
    if (rc == 0)
        rc = hangup_create(on_gone, &a->hangup);
    if (rc == 0)
        rc = asides_create(2, &a->asides);
    if (rc == 0 && o->jobs)
        rc = job_streams_create(a, &a->job_streams);
    if (rc == 0 && o->jobs)
        rc = job_waits_create(&a->job_waits);
    if (rc) {
        api_free(a);
        return error_set(err, rc, NULL, "the HTTP interface's threads cannot be started: %s", strerror(-rc));
    }
    if (o->generate_jobs)
        generate_jobs_on_end(o->generate_jobs, on_job_end, a);
    *ret_api = a;
    return 0;
}

int api_listen(struct api *a, int fd, struct error *err)
{
    const struct api_options *o = &a->options;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    /* One thread is no pool. A header above the limits still has to fit, for its 431. */
    struct MHD_OptionItem pool[] = {{MHD_OPTION_THREAD_POOL_SIZE, (intptr_t)o->n_threads, NULL},
                                    {MHD_OPTION_END, 0, NULL}};
    a->http = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, a, MHD_OPTION_EXTERNAL_LOGGER, on_http_message, a, MHD_OPTION_LISTEN_SOCKET,
        fd, MHD_OPTION_URI_LOG_CALLBACK, on_uri, a, MHD_OPTION_NOTIFY_COMPLETED, on_completed, a,
        MHD_OPTION_CONNECTION_LIMIT, o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, o->idle_timeout_s,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)4 * (o->max_uri_bytes + o->max_header_bytes),
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_ARRAY, o->n_threads > 1 ? pool : pool + 1, MHD_OPTION_END);
    if (!a->http) {
        close(fd);
        return error_set(err, -EIO, NULL, "the HTTP server cannot be started: %s", strerror(errno));
    }
    return 0;
}

void api_set_state(struct api *a, enum api_state state)
{
    atomic_store(&a->state, (int)state);
}

void api_set_alive(struct api *a, int64_t now)
{
    atomic_store(&a->alive_ns, now);
}

/* Waits while there is something to wait for: a request that is half received may be a client's that stopped. Returns
 * what is still under way. Locked. */
static int wait_for(struct api *a, const int *count, int64_t until_ns)
{
    struct timespec until = {until_ns / 1000000000, until_ns % 1000000000};
    while (*count && pthread_cond_timedwait(&a->idle, &a->lock, &until) == 0)
        ;
    return *count;
}

void api_hand_over(struct api *a, int64_t deadline_ns)
{
    const struct timespec moment = {.tv_nsec = 20000000};
    int quiet = 0;
    atomic_store(&a->state, API_LEAVING);
    MHD_socket fd = a->http ? MHD_quiesce_daemon(a->http) : MHD_INVALID_SOCKET;
    if (fd != MHD_INVALID_SOCKET)
        close(fd);
    while (quiet < 10 && now_ns() < deadline_ns) {
        nanosleep(&moment, NULL);
        pthread_mutex_lock(&a->lock);
        quiet = a->n_live ? 0 : quiet + 1;
        pthread_mutex_unlock(&a->lock);
    }
}

int api_stop(struct api *a, int64_t deadline_ns)
{
    int64_t soon_ns = now_ns() + 1000000000;
    job_streams_end(a->job_streams);
    job_waits_end(a, 0);
    pthread_mutex_lock(&a->lock);
    int n = wait_for(a, &a->n_live, soon_ns < deadline_ns ? soon_ns : deadline_ns);
    if (n)
        n = wait_for(a, &a->n_busy, deadline_ns);
    pthread_mutex_unlock(&a->lock);
    asides_free(a->asides); // their exchanges must be awake before the connections are closed
    a->asides = NULL;
    if (a->http)
        MHD_stop_daemon(a->http);
    a->http = NULL;
    return n ? -ETIMEDOUT : 0;
}

void api_free(struct api *a)
{
    if (!a)
        return;
    asides_free(a->asides);
    job_streams_free(a->job_streams);
    job_waits_free(a->job_waits);
    hangup_free(a->hangup);
    pthread_cond_destroy(&a->idle);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->publish_lock);
    free(a);
}
