/* scheduler.c: the scheduler as an object: creation, models, stopping, draining, cancelling, questions about a request.
 *
 * Requests come in by admit.c and advance in turn.c, chosen by pick.c; worker.c is the thread.
 */
#include "sampling/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

int64_t scheduler_now_ns(const struct scheduler *s)
{
    if (s->o.now_ns)
        return s->o.now_ns(s->o.context);
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int init_locks(struct scheduler *s)
{
    pthread_condattr_t monotonic;
    pthread_mutexattr_t recursive;
    if (pthread_condattr_init(&monotonic) || pthread_mutexattr_init(&recursive))
        return -ENOMEM;
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    int rc = pthread_mutex_init(&s->lock, NULL) || pthread_mutex_init(&s->inline_lock, &recursive) ||
                     pthread_cond_init(&s->wake, &monotonic) || pthread_cond_init(&s->idle, &monotonic)
                 ? -ENOMEM
                 : 0;
    pthread_condattr_destroy(&monotonic);
    pthread_mutexattr_destroy(&recursive);
    return rc;
}

int scheduler_create(const struct scheduler_options *o, struct scheduler **ret_scheduler, struct error *err)
{
    struct scheduler *s = calloc(1, sizeof(*s));
    if (!s || init_locks(s)) {
        free(s);
        return error_set(err, -ENOMEM, NULL, "no memory for the scheduler");
    }
    s->o = *o;
    s->posts_end = &s->posts;
    stats_init(&s->stats);
    if (!o->no_worker) {
        pthread_t thread;
        s->worker_exists = true;
        int rc = pthread_create(&thread, NULL, scheduler_worker, s);
        if (rc) {
            s->worker_exists = false;
            scheduler_free(s);
            return error_set(err, -rc, NULL, "cannot start the device's worker thread");
        }
        pthread_mutex_lock(&s->lock);
        s->worker = thread;
        s->worker_known = true;
        pthread_mutex_unlock(&s->lock);
    }
    *ret_scheduler = s;
    return 0;
}

void scheduler_stop(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    bool join = s->worker_exists && !s->stopping;
    s->stopping = s->closed = s->stats.draining = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    if (join) {
        pthread_join(s->worker, NULL);
        pthread_mutex_lock(&s->lock);
        s->worker_exists = false;
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_lock(&s->inline_lock);
    while (worker_run_post(s)) // that came after the worker looked for the last time
        continue;
    pthread_mutex_unlock(&s->inline_lock);
    pthread_mutex_lock(&s->lock);
    while (s->oldest)
        request_end(s, s->oldest, s->oldest->cancelled_ns ? -ECANCELED : -ESHUTDOWN);
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
}

void scheduler_free(struct scheduler *s)
{
    if (!s)
        return;
    scheduler_stop(s);
    accounts_free(s->accounts);
    free(s->order);
    pthread_cond_destroy(&s->wake);
    pthread_cond_destroy(&s->idle);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->inline_lock);
    free(s);
}

static void model_lane_free(struct model_lane *m)
{
    if (m) {
        step_cost_done(&m->cost);
        free(m->free_slots);
        free(m->picks);
        free(m->steps);
        free(m->finite);
        free(m->x0);
        free(m);
    }
}

static struct model_lane *model_lane_create(struct scheduler *s, const struct stepper *stepper)
{
    struct model_lane *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    size_t rows = (size_t)stepper->max_rows;
    m->s = s;
    m->stepper = *stepper;
    m->free_slots = calloc((size_t)stepper->capacity, sizeof(*m->free_slots));
    m->picks = calloc(rows, sizeof(*m->picks));
    m->steps = calloc(rows, sizeof(*m->steps));
    m->finite = calloc(rows, sizeof(*m->finite));
    m->x0 = calloc(stepper->image_elements, sizeof(*m->x0));
    if (!m->free_slots || !m->picks || !m->steps || !m->finite || !m->x0 || step_cost_init(&m->cost, stepper)) {
        model_lane_free(m);
        return NULL;
    }
    for (int32_t i = 0; i < stepper->capacity; i++)
        m->free_slots[m->n_free++] = stepper->capacity - 1 - i;
    return m;
}

int scheduler_attach(struct scheduler *s, const struct stepper *stepper, struct model_lane **ret_lane)
{
    if (stepper->max_rows < 1 || stepper->capacity < stepper->max_rows || stepper->image_elements == 0)
        return -EINVAL;
    struct model_lane *m = model_lane_create(s, stepper);
    if (!m)
        return -ENOMEM;
    pthread_mutex_lock(&s->lock);
    m->next = s->models;
    s->models = m;
    s->stats.models++;
    s->stats.shown_ns = scheduler_now_ns(s);
    pthread_mutex_unlock(&s->lock);
    *ret_lane = m;
    return 0;
}

static int detach_call(void *context)
{
    struct model_lane *m = context;
    struct scheduler *s = m->s;
    pthread_mutex_lock(&s->lock);
    struct model_lane **link = &s->models;
    while (*link != m)
        link = &(*link)->next;
    *link = m->next;
    s->stats.models--;
    pthread_mutex_unlock(&s->lock);
    model_lane_free(m);
    return 0;
}

void scheduler_detach(struct scheduler *s, struct model_lane *lane)
{
    if (!lane)
        return;
    pthread_mutex_lock(&s->lock);
    lane->closing = true;
    while (lane->n_requests > 0 && s->worker_exists)
        pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
    while (lane->n_requests > 0) // no worker: the caller turns
        scheduler_turn(s);
    worker_call(s, detach_call, lane, true);
}

static struct generation_state *find(struct scheduler *s, uint64_t id)
{
    struct generation_state *r = s->youngest;
    while (r && r->id > id)
        r = r->prev;
    return r && r->id == id ? r : NULL;
}

int scheduler_cancel(struct scheduler *s, uint64_t id)
{
    pthread_mutex_lock(&s->lock);
    struct generation_state *r = find(s, id);
    if (r && !r->cancelled_ns)
        r->cancelled_ns = scheduler_now_ns(s);
    pthread_mutex_unlock(&s->lock);
    return r ? 0 : -ENOENT;
}

int64_t scheduler_expected_ns(struct scheduler *s, struct generation *g)
{
    int64_t ns = 0, now_ns = scheduler_now_ns(s);
    pthread_mutex_lock(&s->lock);
    struct account *a = account_get(&s->accounts, g->client, now_ns);
    if (a && admit_reserve_order(s) == 0) {
        struct generation_state ghost = admit_ghost(g, a);
        ns = forecast_end_ns(s, &ghost, now_ns);
    }
    pthread_mutex_unlock(&s->lock);
    return ns;
}

static void place_of(struct scheduler *s, struct generation_state *r, struct scheduler_place *ret_place)
{
    int64_t now_ns = scheduler_now_ns(s), started_ns = r->g->started_ns;
    struct scheduler_place place = {
        .done_lane_steps = r->done_lane_steps,
        .total_lane_steps = (int64_t)r->g->n_images * r->g->table->n_rows,
        .expected_ns = forecast_end_ns(s, r, now_ns),
        .queued_ns = (started_ns ? started_ns : now_ns) - r->g->submitted_ns,
        .running_ns = started_ns ? now_ns - started_ns : 0,
    };
    for (const struct generation_state *o = s->oldest; o && !started_ns; o = o->next)
        if (o != r && pick_compare(o, r) < 0)
            place.images_ahead += o->open_images;
    *ret_place = place;
}

int scheduler_place(struct scheduler *s, uint64_t id, struct scheduler_place *ret_place)
{
    pthread_mutex_lock(&s->lock);
    struct generation_state *r = find(s, id);
    if (r)
        place_of(s, r, ret_place);
    pthread_mutex_unlock(&s->lock);
    return r ? 0 : -ENOENT;
}

/* Waits on s->idle until the scheduler's clock shows deadline_ns, in slices, since a test's clock is its own. */
static void wait_idle(struct scheduler *s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 50000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&s->idle, &s->lock, &until);
}

int scheduler_drain(struct scheduler *s, int64_t deadline_ns)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    s->closed = s->stats.draining = true;
    while (rc == 0 && (s->oldest || s->n_ended > 0)) {
        if (deadline_ns && scheduler_now_ns(s) >= deadline_ns) {
            rc = -ETIMEDOUT;
        } else if (s->worker_exists) {
            wait_idle(s);
        } else {
            pthread_mutex_unlock(&s->lock);
            scheduler_turn(s);
            pthread_mutex_lock(&s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}
