/* jobs_events.c: GET /jobs/{id}/events, a job's events as server-sent ones.
 *
 * Events come from the store, so a stream can be taken up again where it broke, also after the daemon's restart:
 * an event's id is its number, and Last-Event-ID names the last one that the client has. One thread reads the store for
 * all streams and leaves the text under the exchange's lock; HTTP threads only copy. A client that does not take its
 * events is not read for. A stream ends after the last event of a job that has ended; asked for again, it is 204, which
 * tells an EventSource not to come back.
 *
 * Locks: streams' mutex, then an exchange's.
 */
#include "api/jobs.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

enum { EVENTS_AT_ONCE = 256, PASS_MS = 100 };
static const int64_t KEEPALIVE_NS = 5000000000;

struct job_stream {
    struct exchange *x;  // a reference
    int64_t job, after;  // the last event that is in out or was sent
    uint64_t generation; // of the store when it was read last
    bool behind;         // there may be more than was read
    int64_t written_ns;
    struct job_stream *next;

    /* guarded by the exchange's lock */
    struct text out;
    size_t sent;
    bool ended;
};

struct job_streams {
    struct api *api;
    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stopping;
    struct job_stream *first;
};

const struct json_field job_events_fields[] = {
    {"after", FIELD_INT64, offsetof(struct job_events, after), 0, 9007199254740991.0,
     .help = "Begins after this event; the header Last-Event-ID wins."},
    {0},
};
const struct job_events job_events_defaults = {0};

/* ---- the thread ---- */

static void event_write(struct text *t, const struct job_event *e)
{
    text_printf(t, "id: %" PRId64 "\nevent: %s\ndata: %s\n\n", e->seq, e->kind, e->data);
}

/* Whether nothing more will come: the job has ended and the stream has its last event, or the job is gone. */
static bool is_over(struct job_store *store, const struct job_stream *s)
{
    struct job job;
    int rc = job_store_get(store, s->job, &job, NULL);
    bool over = rc == -ENOENT || (rc == 0 && job_state_ended(job.state) && job.last_event <= s->after);
    if (rc == 0)
        job_done(&job);
    return over;
}

/* Whether the client has taken what was written. */
static bool has_taken(struct job_stream *s)
{
    pthread_mutex_lock(&s->x->lock);
    bool taken = s->sent == s->out.length;
    pthread_mutex_unlock(&s->x->lock);
    return taken;
}

static void hand_over(struct job_stream *s, const struct text *t, bool ended)
{
    pthread_mutex_lock(&s->x->lock);
    if (t->length)
        text_append(&s->out, t->data, t->length);
    s->ended = s->ended || ended || t->failed;
    pthread_mutex_unlock(&s->x->lock);
    exchange_wake(s->x);
}

static void feed(struct job_streams *all, struct job_stream *s)
{
    struct job_store *store = all->api->options.jobs;
    struct text t = {0};
    struct job_event *events;
    uint64_t generation = job_store_generation(store);
    int64_t now = now_ns();
    int32_t n = 0;
    bool draining = all->stopping || atomic_load(&all->api->state) == API_DRAINING, over = draining;
    if (!draining && (s->behind || generation != s->generation) && has_taken(s)) {
        int rc = job_store_events(store, s->job, s->after, EVENTS_AT_ONCE, &events, &n, NULL);
        for (int32_t i = 0; i < n; i++)
            event_write(&t, &events[i]);
        if (rc == 0) {
            s->after = n ? events[n - 1].seq : s->after;
            s->behind = n == EVENTS_AT_ONCE;
            s->generation = generation;
            job_events_free(events, n);
        }
        over = rc == -ENOENT || (rc == 0 && !s->behind && is_over(store, s));
    }
    if (!n && !over && now - s->written_ns > KEEPALIVE_NS && has_taken(s))
        text_puts(&t, ":\n\n"); // a comment: finds out whether the client is still there
    if (t.length || over) {
        s->written_ns = now;
        hand_over(s, &t, over);
    }
    text_done(&t);
}

static void wait_a_pass(struct job_streams *all)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PASS_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (all->first)
        pthread_cond_timedwait(&all->wake, &all->mutex, &until);
    else if (!all->stopping)
        pthread_cond_wait(&all->wake, &all->mutex);
}

static void *run(void *arg)
{
    struct job_streams *all = arg;
    pthread_mutex_lock(&all->mutex);
    while (!all->stopping || all->first) {
        for (struct job_stream *s = all->first; s; s = s->next)
            feed(all, s);
        wait_a_pass(all);
    }
    pthread_mutex_unlock(&all->mutex);
    return NULL;
}

/* ---- HTTP thread ---- */

static ssize_t on_read(void *context, uint64_t pos, char *buffer, size_t room)
{
    struct job_stream *s = context;
    struct exchange *x = s->x;
    ssize_t n = 0;
    pthread_mutex_lock(&x->lock);
    size_t left = s->out.length - s->sent;
    if (left) {
        n = (ssize_t)(left < room ? left : room);
        memcpy(buffer, s->out.data + s->sent, (size_t)n);
        s->sent += (size_t)n;
        if (s->sent == s->out.length)
            s->sent = s->out.length = 0;
    } else if (s->ended) {
        n = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return n;
}

static void on_free(void *context)
{
    struct job_stream *s = context;
    struct job_streams *all = s->x->api->job_streams;
    pthread_mutex_lock(&all->mutex);
    struct job_stream **at = &all->first;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    pthread_cond_signal(&all->wake);
    pthread_mutex_unlock(&all->mutex);
    text_done(&s->out);
    exchange_release(s->x);
    free(s);
}

static void stream_begin(struct exchange *x, int64_t job, int64_t after)
{
    enum { BLOCK_BYTES = 16384 };
    struct job_streams *all = x->api->job_streams;
    struct job_stream *s = calloc(1, sizeof(*s));
    if (!s) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the stream");
        return;
    }
    *s = (struct job_stream){.x = x, .job = job, .after = after, .behind = true, .written_ns = now_ns()};
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_read, s, on_free);
    if (!x->response) {
        free(s);
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the stream");
        return;
    }
    exchange_retain(x);
    x->status = 200;
    exchange_header(x, "Content-Type", "text/event-stream");
    exchange_header(x, "Cache-Control", "no-store");
    exchange_header(x, "X-Request-Id", x->request_id);
    exchange_header(x, "X-Content-Type-Options", "nosniff");
    pthread_mutex_lock(&all->mutex);
    s->next = all->first;
    all->first = s;
    pthread_cond_signal(&all->wake);
    pthread_mutex_unlock(&all->mutex);
}

/* ---- the request ---- */

/* Helper thread: is there such a job, and anything to tell of it? */
static void events_aside(struct exchange *x)
{
    struct job_events f = job_events_defaults;
    struct job job;
    char *end = NULL;
    if (!jobs_read_fields(x, &f, NULL, NULL))
        return;
    if (x->aside.key[0]) {
        f.after = strtoll(x->aside.key, &end, 10);
        if (*end || f.after < 0 || end - x->aside.key > 17) {
            problem_set(&x->aside.problem, PROBLEM_BAD_FIELD, "Last-Event-ID", "is a number, the id of an event");
            return;
        }
    }
    if (!jobs_get(x, &job))
        return;
    x->aside.status = job_state_ended(job.state) && job.last_event <= f.after ? 204 : 200;
    x->aside.job = job.id;
    x->aside.after = f.after;
    job_done(&job);
}

static void events_answer(struct exchange *x)
{
    if (x->aside.problem.kind)
        exchange_problem(x, &x->aside.problem);
    else if (x->aside.status == 204)
        exchange_answer(x, 204, NULL, &x->aside.text);
    else
        stream_begin(x, x->aside.job, x->aside.after);
}

void handle_job_events(struct exchange *x)
{
    const char *last = exchange_request_header(x, "Last-Event-ID");
    snprintf(x->aside.key, sizeof(x->aside.key), "%s", last ? last : "");
    jobs_aside_then(x, events_aside, events_answer);
}

/* ---- life ---- */

int job_streams_create(struct api *a, struct job_streams **ret_streams)
{
    struct job_streams *all = calloc(1, sizeof(*all));
    pthread_condattr_t monotonic;
    if (!all)
        return -ENOMEM;
    all->api = a;
    pthread_mutex_init(&all->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&all->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&all->thread, NULL, run, all)) {
        job_streams_free(all);
        return -EAGAIN;
    }
    all->has_thread = true;
    *ret_streams = all;
    return 0;
}

void job_streams_end(struct job_streams *all)
{
    if (!all)
        return;
    pthread_mutex_lock(&all->mutex);
    all->stopping = true;
    pthread_cond_signal(&all->wake);
    pthread_mutex_unlock(&all->mutex);
}

void job_streams_free(struct job_streams *all)
{
    if (!all)
        return;
    job_streams_end(all);
    if (all->has_thread)
        pthread_join(all->thread, NULL);
    pthread_cond_destroy(&all->wake);
    pthread_mutex_destroy(&all->mutex);
    free(all);
}
