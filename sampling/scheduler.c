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

int32_t scheduler_n_devices(const struct scheduler *s)
{
    return s->n_devices;
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

static int start_workers(struct scheduler *s)
{
    int rc = 0;
    for (int32_t d = 0; d < s->n_devices && rc == 0; d++) {
        struct worker *w = &s->workers[d];
        pthread_t thread;
        w->exists = true;
        rc = pthread_create(&thread, NULL, scheduler_worker, w);
        pthread_mutex_lock(&s->lock);
        w->exists = rc == 0;
        if (rc == 0) {
            w->thread = thread;
            w->known = true;
        }
        pthread_mutex_unlock(&s->lock);
    }
    return -rc;
}

int scheduler_create(const struct scheduler_options *o, struct scheduler **ret_scheduler, struct error *err)
{
    struct scheduler *s = calloc(1, sizeof(*s));
    if (!s || init_locks(s)) {
        free(s);
        return error_set(err, -ENOMEM, NULL, "no memory for the scheduler");
    }
    s->o = *o;
    s->n_devices = o->n_devices > 0 ? o->n_devices : 1;
    for (int32_t d = 0; d < s->n_devices; d++)
        s->workers[d] =
            (struct worker){.s = s, .device = d, .posts_end = &s->workers[d].posts, .turned_ns = scheduler_now_ns(s)};
    stats_init(&s->stats);
    int rc = o->no_worker ? 0 : start_workers(s);
    if (rc) {
        scheduler_free(s);
        return error_set(err, rc, NULL, "cannot start the device's worker thread");
    }
    *ret_scheduler = s;
    return 0;
}

static void stop_worker(struct worker *w)
{
    struct scheduler *s = w->s;
    pthread_mutex_lock(&s->lock);
    bool exists = w->exists;
    pthread_mutex_unlock(&s->lock);
    if (exists) {
        pthread_join(w->thread, NULL);
        pthread_mutex_lock(&s->lock);
        w->exists = false;
        pthread_mutex_unlock(&s->lock);
    }
    pthread_mutex_lock(&s->inline_lock);
    while (worker_run_post(w)) // that came after the worker looked for the last time
        continue;
    pthread_mutex_unlock(&s->inline_lock);
}

void scheduler_stop(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    bool first = !s->stopping;
    s->stopping = s->closed = s->stats.draining = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    for (int32_t d = 0; d < s->n_devices && first; d++)
        stop_worker(&s->workers[d]);
    for (int32_t d = 0; d < s->n_devices; d++) // posts of posts
        stop_worker(&s->workers[d]);
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

/* ---- models ---- */

static void lanes_done(struct lanes *l)
{
    step_cost_done(&l->cost);
    free(l->free_slots);
    free(l->picks);
    free(l->steps);
    free(l->finite);
    free(l->x0);
}

static void model_lane_free(struct model_lane *m)
{
    for (int32_t d = 0; m && d < m->s->n_devices; d++)
        lanes_done(&m->on[d]);
    free(m);
}

static int lanes_init(struct lanes *l, const struct stepper *stepper)
{
    size_t rows = (size_t)stepper->max_rows;
    l->stepper = *stepper;
    l->free_slots = calloc((size_t)stepper->capacity, sizeof(*l->free_slots));
    l->picks = calloc(rows, sizeof(*l->picks));
    l->steps = calloc(rows, sizeof(*l->steps));
    l->finite = calloc(rows, sizeof(*l->finite));
    l->x0 = calloc(stepper->image_elements, sizeof(*l->x0));
    if (!l->free_slots || !l->picks || !l->steps || !l->finite || !l->x0)
        return -ENOMEM;
    for (int32_t i = 0; i < stepper->capacity; i++)
        l->free_slots[l->n_free++] = stepper->capacity - 1 - i;
    return step_cost_init(&l->cost, stepper);
}

int scheduler_attach(struct scheduler *s, const struct stepper *steppers, struct model_lane **ret_lane)
{
    for (int32_t d = 0; d < s->n_devices; d++)
        if (steppers[d].max_rows < 1 || steppers[d].capacity < steppers[d].max_rows || steppers[d].image_elements == 0)
            return -EINVAL;
    struct model_lane *m = calloc(1, sizeof(*m));
    int rc = m ? 0 : -ENOMEM;
    if (m)
        m->s = s;
    for (int32_t d = 0; d < s->n_devices && rc == 0; d++)
        rc = lanes_init(&m->on[d], &steppers[d]);
    if (rc) {
        model_lane_free(m);
        return rc;
    }
    pthread_mutex_lock(&s->lock);
    m->next = s->models;
    s->models = m;
    s->stats.models++;
    for (int32_t d = 0; d < s->n_devices; d++)
        s->workers[d].shown_ns = scheduler_now_ns(s);
    pthread_mutex_unlock(&s->lock);
    *ret_lane = m;
    return 0;
}

/* Whether anything of the model's is left, with the scheduler or in a worker's hands. Lock held. */
static bool in_use(const struct model_lane *m)
{
    bool busy = m->n_requests > 0;
    for (int32_t d = 0; d < m->s->n_devices; d++)
        busy = busy || m->on[d].busy;
    return busy;
}

void scheduler_detach(struct scheduler *s, struct model_lane *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&s->lock);
    m->closing = true;
    while (in_use(m)) {
        if (s->workers[0].exists) {
            pthread_cond_wait(&s->idle, &s->lock);
        } else { // no workers: the caller turns
            pthread_mutex_unlock(&s->lock);
            for (int32_t d = 0; d < s->n_devices; d++)
                scheduler_turn(s, d);
            pthread_mutex_lock(&s->lock);
        }
    }
    struct model_lane **link = &s->models;
    while (*link != m)
        link = &(*link)->next;
    *link = m->next;
    s->stats.models--;
    pthread_mutex_unlock(&s->lock);
    model_lane_free(m);
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
    if (r && !r->cancelled_ns) {
        r->cancelled_ns = scheduler_now_ns(s);
        scheduler_changed(s);
    }
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
        } else if (s->workers[0].exists) {
            wait_idle(s);
        } else {
            pthread_mutex_unlock(&s->lock);
            for (int32_t d = 0; d < s->n_devices; d++)
                scheduler_turn(s, d);
            pthread_mutex_lock(&s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}
