/* front.c: the api's life, and its threads: each a gate (gate.h) with a libmicrohttpd daemon (server.h) behind it. */
#include "api/aside.h"
#include "api/gate.h"
#include "api/hangup.h"
#include "api/detached.h"
#include "api/jobs.h"
#include "api/jobs_generate.h"
#include "api/server.h"
#include "api/tls.h"

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

enum { MAX_HEADER_LINES = 100 };

void api_log(struct api *a, int priority, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    a->options.log(a->options.log_context, priority, line);
}

void api_request_id(struct api *a, char ret_id[REQUEST_ID_BYTES])
{
    snprintf(ret_id, REQUEST_ID_BYTES, "%08x-%06x", a->instance, atomic_fetch_add(&a->serial, 1));
}

/* ---- what the gate asks of the server ---- */

static int on_hand_over(void *context, int fd, const struct sockaddr *address, socklen_t bytes)
{
    struct front *f = context;
    return MHD_add_connection(f->http, fd, address, bytes) == MHD_YES ? 0 : -EMFILE; // closed by it on failure
}

static bool on_turn(void *context)
{
    struct front *f = context;
    MHD_UNSIGNED_LONG_LONG wait_ms;
    MHD_run(f->http);
    return MHD_get_timeout(f->http, &wait_ms) == MHD_YES && wait_ms == 0;
}

static void on_end(void *context)
{
    struct front *f = context;
    MHD_stop_daemon(f->http);
    f->http = NULL;
}

static void http_date(char *to, size_t bytes)
{
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(to, bytes, "%a, %d %b %Y %H:%M:%S GMT", &utc);
}

/* HTTP's head and the problem, as exchange_problem() would have it answered. */
static void refusal_write(const struct problem *p, const char *id, struct text *to)
{
    char date[64];
    struct text json = {0};
    const struct problem_info *info = &problem_infos[p->kind];
    problem_write(p, id, &json);
    http_date(date, sizeof(date));
    text_printf(to, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nContent-Length: %zu\r\n", info->status,
                MHD_get_reason_phrase_for((unsigned)info->status), date, json.length);
    text_puts(to, "Content-Type: application/problem+json\r\nCache-Control: no-store\r\n");
    text_printf(to, "X-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\n", id);
    if (p->retry_after_s)
        text_printf(to, "Retry-After: %d\r\n", p->retry_after_s);
    text_puts(to, "\r\n");
    text_append(to, json.data, json.length);
    to->failed = to->failed || json.failed;
    text_done(&json);
}

static void on_refuse(void *context, const struct conn_refusal *r, struct text *ret_answer)
{
    struct front *f = context;
    char id[REQUEST_ID_BYTES];
    const struct problem_info *info = &problem_infos[r->problem->kind];
    head_request_id(r->head, r->head_bytes, id);
    if (!id[0])
        api_request_id(f->api, id);
    refusal_write(r->problem, id, ret_answer);
    metrics_count(f->api, NULL, (int)info->status, 0);
    api_log(f->api, LOG_INFO, "request id=%s status=%d problem=%s", id, info->status, info->name);
}

static struct tls_credentials *on_credentials(void *context)
{
    struct api *a = ((struct front *)context)->api;
    pthread_mutex_lock(&a->lock);
    struct tls_credentials *c = a->credentials;
    if (c)
        tls_credentials_retain(c);
    pthread_mutex_unlock(&a->lock);
    return c;
}

static void on_short_of(void *context, int error)
{
    struct front *f = context;
    api_log(f->api, LOG_WARNING, "no more connections can be taken now: %s", strerror(error));
}

/* ---- begin ---- */

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

/* What the gates go by. */
static void limits_set(struct api *a, const struct api_settings *s)
{
    atomic_store(&a->limits.header_ms, (int)s->header_timeout_s * 1000);
    atomic_store(&a->limits.body_ms, (int)s->body_timeout_s * 1000);
    atomic_store(&a->limits.idle_ms, (int)s->idle_timeout_s * 1000);
    atomic_store(&a->limits.max_body_bytes, s->max_body_bytes);
    crowd_limit(a->crowd, (int)s->max_connections, (int)s->max_connections_each);
}

struct settings *settings_get(struct api *a)
{
    pthread_mutex_lock(&a->lock);
    struct settings *s = a->settings;
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&a->lock);
    return s;
}

void settings_release(struct settings *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
        return;
    keys_release(s->now.keys);
    free(s);
}

int api_configure(struct api *a, const struct api_settings *settings)
{
    struct settings *s = malloc(sizeof(*s));
    if (!s) {
        keys_release(settings->keys);
        return -ENOMEM;
    }
    atomic_init(&s->refs, 1);
    s->now = *settings;
    pthread_mutex_lock(&a->lock);
    struct settings *old = a->settings;
    if (s->now.keys && old)
        keys_inherit(s->now.keys, old->now.keys);
    a->settings = s;
    pthread_mutex_unlock(&a->lock);
    settings_release(old);
    limits_set(a, settings);
    return 0;
}

static void locks_init(struct api *a)
{
    pthread_condattr_t monotonic;
    pthread_mutex_init(&a->lock, NULL);
    pthread_mutex_init(&a->publish_lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->idle, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

int api_create(const struct api_options *o, struct api **ret_api, struct error *err)
{
    struct api *a = calloc(1, sizeof(*a));
    if (!a)
        return error_set(err, -ENOMEM, NULL, "no memory for the HTTP interface");
    a->options = *o;
    a->options.settings.keys = NULL; // handed over
    a->listen_fd = -1;
    a->started_ns = now_ns();
    metrics_init(a);
    atomic_init(&a->state, API_STARTING);
    atomic_init(&a->alive_ns, a->started_ns);
    locks_init(a);
    int rc = getrandom(&a->instance, sizeof(a->instance), 0) == sizeof(a->instance) ? 0 : -EIO;
    if (rc == 0)
        rc = crowd_create(0, 0, &a->crowd);
    if (rc == 0)
        rc = api_configure(a, &o->settings);
    else
        keys_release(o->settings.keys);
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

void api_set_credentials(struct api *a, struct tls_credentials *credentials)
{
    pthread_mutex_lock(&a->lock);
    struct tls_credentials *old = a->credentials;
    a->credentials = credentials;
    pthread_mutex_unlock(&a->lock);
    tls_credentials_release(old);
}

static int front_open(struct api *a, struct front *f)
{
    const struct api_options *o = &a->options;
    f->api = a;
    f->http = server_start(f);
    if (!f->http)
        return -EMFILE;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(f->http, MHD_DAEMON_INFO_EPOLL_FD);
    struct gate_options g = {.host = {.context = f,
                                      .head = {o->max_uri_bytes, o->max_header_bytes, MAX_HEADER_LINES},
                                      .limits = &a->limits,
                                      .hand_over = on_hand_over,
                                      .refuse = on_refuse},
                             .listen_fd = a->listen_fd,
                             .crowd = a->crowd,
                             .backend_fd = info->epoll_fd,
                             .turn = on_turn,
                             .end = on_end,
                             .credentials = on_credentials,
                             .short_of = on_short_of};
    int rc = gate_create(&g, &f->gate);
    if (rc) {
        on_end(f);
        return rc;
    }
    return gate_start(f->gate);
}

int api_listen(struct api *a, int fd, struct error *err)
{
    unsigned n = a->options.n_threads;
    a->listen_fd = fd;
    a->fronts = calloc(n, sizeof(*a->fronts));
    int rc = a->fronts ? 0 : -ENOMEM;
    for (unsigned i = 0; rc == 0 && i < n; i++) {
        rc = front_open(a, &a->fronts[i]);
        a->n_fronts += a->fronts[i].gate != NULL;
    }
    return rc ? error_set(err, rc, NULL, "the HTTP server cannot be started: %s", strerror(-rc)) : 0;
}

void api_set_state(struct api *a, enum api_state state)
{
    atomic_store(&a->state, (int)state);
}

void api_set_alive(struct api *a, int64_t now)
{
    atomic_store(&a->alive_ns, now);
}

/* ---- end ---- */

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
    for (unsigned i = 0; i < a->n_fronts; i++)
        gate_pause(a->fronts[i].gate);
    while (quiet < 10 && now_ns() < deadline_ns) {
        nanosleep(&moment, NULL);
        pthread_mutex_lock(&a->lock);
        quiet = a->n_live ? 0 : quiet + 1;
        pthread_mutex_unlock(&a->lock);
    }
}

static int fronts_stop(struct api *a, int64_t deadline_ns)
{
    int rc = 0;
    atomic_store(&a->limits.stopping, true);
    for (unsigned i = 0; i < a->n_fronts; i++) {
        int left = gate_stop(a->fronts[i].gate, deadline_ns);
        rc = rc ? rc : left;
        gate_free(a->fronts[i].gate);
    }
    a->n_fronts = 0;
    if (a->listen_fd >= 0)
        close(a->listen_fd);
    a->listen_fd = -1;
    return rc;
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
    int rc = fronts_stop(a, deadline_ns);
    return n ? -ETIMEDOUT : rc;
}

void api_free(struct api *a)
{
    if (!a)
        return;
    asides_free(a->asides);
    job_streams_free(a->job_streams);
    job_waits_free(a->job_waits);
    hangup_free(a->hangup);
    crowd_free(a->crowd);
    settings_release(a->settings);
    tls_credentials_release(a->credentials);
    pthread_cond_destroy(&a->idle);
    pthread_mutex_destroy(&a->lock);
    pthread_mutex_destroy(&a->publish_lock);
    free(a->fronts);
    free(a);
}
