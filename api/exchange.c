/* exchange.c: see exchange.h. */
#include "api/exchange.h"

#include "api/aside.h"
#include "api/gate.h"
#include "api/private.h"
#include "api/work.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct exchange *exchange_create(struct api *a, const char *uri)
{
    struct exchange *x = calloc(1, sizeof(*x));
    char *copy = strdup(uri);
    if (!x || !copy) {
        free(x);
        free(copy);
        return NULL;
    }
    x->api = a;
    atomic_init(&x->refs, 1);
    pthread_mutex_init(&x->lock, NULL);
    x->uri = copy;
    char *mark = strchr(copy, '?');
    x->query = mark ? mark + 1 : "";
    if (mark)
        *mark = '\0';
    x->settings = settings_get(a);
    x->watch = WATCH_NONE;
    x->begun_ns = now_ns();
    return x;
}

void exchange_retain(struct exchange *x)
{
    atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
}

void exchange_release(struct exchange *x)
{
    if (atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (x->response)
        MHD_destroy_response(x->response);
    work_free(x->work);
    settings_release(x->settings);
    model_release(x->aside.model);
    text_done(&x->aside.text);
    text_done(&x->body);
    pthread_mutex_destroy(&x->lock);
    free(x->uri);
    free(x);
}

/* ---- waiting ---- */

void exchange_wait(struct exchange *x, void (*next)(struct exchange *))
{
    pthread_mutex_lock(&x->lock);
    x->next = next;
    x->suspended = true;
    MHD_suspend_connection(x->connection);
    pthread_mutex_unlock(&x->lock);
}

void exchange_wake(struct exchange *x)
{
    pthread_mutex_lock(&x->lock);
    if (x->suspended) {
        x->suspended = false;
        MHD_resume_connection(x->connection);
        gate_wake(x->gate);
    }
    pthread_mutex_unlock(&x->lock);
}

void exchange_aside(struct exchange *x, void (*aside)(struct exchange *), void (*next)(struct exchange *))
{
    exchange_wait(x, next);
    if (asides_add(x->api->asides, x, aside)) {
        problem_set(&x->aside.problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the request");
        exchange_wake(x);
    }
}

/* ---- the request ---- */

const char *exchange_request_header(const struct exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

uint64_t exchange_client(const struct exchange *x)
{
    if (x->key)
        return text_hash(TEXT_HASH_SEED, x->key->name, strlen(x->key->name));
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    const struct sockaddr *address = info ? info->client_addr : NULL;
    if (address && address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        return text_hash(TEXT_HASH_SEED, &in->sin_addr, sizeof(in->sin_addr));
    }
    if (address && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)address;
        return text_hash(TEXT_HASH_SEED, &in6->sin6_addr, 8); // a site's /64 is one client
    }
    return TEXT_HASH_SEED;
}

/* ---- the answer ---- */

static struct MHD_Response *response_of(struct text *body)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(
        body->length, body->data, body->data ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (r)
        *body = (struct text){0};
    return r;
}

void exchange_answer(struct exchange *x, int status, const char *content_type, struct text *body)
{
    if (body->failed) {
        text_done(body);
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the answer");
        return;
    }
    atomic_fetch_add(&x->api->answer_bytes, body->length);
    x->response = response_of(body);
    text_done(body);
    x->status = status;
    if (content_type)
        exchange_header(x, "Content-Type", content_type);
    exchange_header(x, "X-Request-Id", x->request_id);
    exchange_header(x, "X-Content-Type-Options", "nosniff");
    if (atomic_load(&x->api->state) >= API_LEAVING)
        exchange_header(x, "Connection", "close");
}

void exchange_header(struct exchange *x, const char *name, const char *value)
{
    if (x->response)
        MHD_add_response_header(x->response, name, value);
}

/* What was wrong for the log line, on one line. */
static void note_problem(struct exchange *x, const struct problem *p)
{
    snprintf(x->note, sizeof(x->note), " problem=%s%s%s", problem_infos[p->kind].name, p->field[0] ? " field=" : "",
             p->field);
    for (char *c = x->note; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
}

void exchange_problem(struct exchange *x, const struct problem *p)
{
    struct text json = {0};
    problem_write(p, x->request_id, &json);
    if (json.failed) { // even that: an answer without a body
        text_done(&json);
        json = (struct text){0};
    }
    exchange_answer(x, problem_infos[p->kind].status, "application/problem+json", &json);
    exchange_header(x, "Cache-Control", "no-store");
    if (p->retry_after_s) {
        char seconds[16];
        snprintf(seconds, sizeof(seconds), "%d", p->retry_after_s);
        exchange_header(x, "Retry-After", seconds);
    }
    note_problem(x, p);
}

void exchange_fail(struct exchange *x, enum problem_kind kind, const char *format, ...)
{
    struct problem p = {0};
    char detail[sizeof(p.detail)];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);
    problem_set(&p, kind, NULL, "%s", detail);
    exchange_problem(x, &p);
}
