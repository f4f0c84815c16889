/* turn.c: one turn of the worker's loop: end what must end, choose lanes, step, copy frames out, retire.
 *
 * Each device's worker runs this for its lanes. What it reads of requests without the lock is its own (picks, steps) or
 * does not change while they are in a step.
 */
#include "sampling/internal.h"

#include <errno.h>
#include <stdlib.h>

void deliver_ended(struct scheduler *s)
{
    for (;;) {
        pthread_mutex_lock(&s->lock);
        struct generation_state *r = s->ended;
        if (r)
            s->ended = r->next;
        pthread_cond_broadcast(&s->idle);
        pthread_mutex_unlock(&s->lock);
        if (!r)
            return;
        struct generation *g = r->g;
        g->state = NULL;
        request_free(r);
        g->on.done(g, g->context);
        pthread_mutex_lock(&s->lock);
        s->n_ended--;
        pthread_mutex_unlock(&s->lock);
    }
}

/* Ends cancelled and late requests, but those that are in a step elsewhere: they get no further one, so a sweep after
 * it ends them. Lock held. */
static void sweep(struct scheduler *s, int64_t now_ns)
{
    for (struct generation_state *r = s->oldest, *next; r; r = next) {
        next = r->next;
        if (r->in_step > 0)
            continue;
        if (r->cancelled_ns)
            request_end(s, r, -ECANCELED);
        else if (r->g->deadline_ns && now_ns >= r->g->deadline_ns)
            request_end(s, r, -ETIMEDOUT);
    }
}

/* Slots for the picked images that begin; what the device is to be told. Lock held. */
static void prepare(struct worker *w, struct lanes *l, int32_t n, int64_t now_ns)
{
    struct scheduler *s = w->s;
    l->busy = true;
    for (int32_t k = 0; k < n; k++) {
        struct picked *p = &l->picks[k];
        struct generation_state *r = p->r;
        struct image *image = &r->images[p->image];
        r->in_step++;
        if (image->slot < 0) {
            image->slot = l->free_slots[--l->n_free];
            image->device = w->device;
            s->stats.joins++;
            s->stats.active_lanes++;
            if (r->next_start <= p->image)
                r->next_start = p->image + 1;
        }
        if (!r->g->started_ns) {
            r->g->started_ns = now_ns;
            histogram_add(&s->stats.queue_seconds, (double)(now_ns - r->g->submitted_ns) * 1e-9);
        }
        l->steps[k] = (struct lane_step){
            .slot = image->slot,
            .class_index = r->g->class_index[p->image],
            .guidance = r->g->guidance,
            .clip = r->g->clip,
            .row = &r->g->table->rows[image->step],
            .seed = r->g->seed,
            .image = r->g->first_image + (uint64_t)p->image,
            .draw = (uint32_t)image->step + 1,
        };
    }
}

static float *frame_of(const struct lanes *l, const struct picked *p, int32_t steps_done)
{
    const struct generation *g = p->r->g;
    int32_t frame = generation_frame_of_step(g->table->n_rows, g->interval, steps_done);
    if (frame < 0)
        return NULL;
    return g->images + ((size_t)p->image * (size_t)g->n_frames + (size_t)frame) * l->stepper.image_elements;
}

/* Starting noise for the lanes that begin. -EIO: device lost. */
static int start_lanes(struct lanes *l, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        const struct lane_step *step = &l->steps[k];
        if (step->draw != 1)
            continue;
        float *frame = frame_of(l, &l->picks[k], 0);
        int rc = l->stepper.start(l->stepper.self, step->slot, step->seed, step->image);
        if (rc == 0 && frame)
            rc = l->stepper.read(l->stepper.self, step->slot, false, frame);
        if (rc == -EIO)
            return rc;
        if (rc)
            l->picks[k].failure = rc;
    }
    return 0;
}

static bool preview_due(const struct generation *g, int32_t steps_done)
{
    return g->on.preview && g->preview_every > 0 && steps_done % g->preview_every == 0 && steps_done < g->table->n_rows;
}

/* Frames and previews of the lanes that advanced. -EIO: device lost. */
static int read_lanes(struct lanes *l, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        struct picked *p = &l->picks[k];
        struct generation *g = p->r->g;
        int32_t done = (int32_t)l->steps[k].draw, slot = l->steps[k].slot;
        float *frame = frame_of(l, p, done);
        int rc = 0;
        if (!l->finite[k] || p->failure)
            continue;
        if (frame)
            rc = l->stepper.read(l->stepper.self, slot, false, frame);
        if (rc == 0 && preview_due(g, done)) {
            rc = l->stepper.read(l->stepper.self, slot, true, l->x0);
            if (rc == 0)
                g->on.preview(g, p->image, done, l->x0, g->context);
        }
        if (rc == -EIO)
            return rc;
        if (rc)
            p->failure = rc;
    }
    return 0;
}

/* One lane has advanced. Lock held. */
static void advance(struct scheduler *s, struct picked *p)
{
    struct generation_state *r = p->r;
    struct image *image = &r->images[p->image];
    image->step++;
    p->advanced = true;
    r->done_lane_steps++;
    r->remaining_row_steps -= r->rows;
    r->account->row_steps -= r->rows;
    s->stats.row_steps -= r->rows;
    if (image->step == r->g->table->n_rows) {
        request_slot_release(r, p->image);
        r->open_images--;
        s->stats.images--;
        while (r->first_open < r->next_start && r->images[r->first_open].step == r->g->table->n_rows)
            r->first_open++;
    }
}

/* Books the step: time, places, failures. Requests stay listed until end_stepped(). Lock held. */
static void book(struct worker *w, struct model_lane *m, int32_t n, int64_t from_ns, int64_t to_ns, int64_t now_ns)
{
    struct scheduler *s = w->s;
    struct lanes *l = &m->on[w->device];
    double seconds = (double)(to_ns - from_ns) * 1e-9;
    pick_charge(w, m, n, seconds, now_ns);
    histogram_add(&s->stats.step_seconds, seconds);
    histogram_add(&s->stats.step_lanes, n);
    s->stats.steps++;
    s->stats.lane_steps += n;
    s->stats.last_step_lanes = n;
    s->stats.last_step_ns = w->shown_ns = to_ns;
    for (int32_t k = 0; k < n; k++) {
        struct picked *p = &l->picks[k];
        if (!l->finite[k]) {
            s->stats.failed_lanes++;
            p->failure = -ERANGE;
        }
        if (p->failure && !p->r->failure)
            p->r->failure = p->failure;
        if (!p->r->failure)
            advance(s, p);
    }
    for (int32_t k = 0; k < n; k++)
        l->picks[k].done_lane_steps = l->picks[k].r->done_lane_steps;
}

/* Progress to those that want it, once a request. Without the lock: no request of this step ends before end_stepped().
 */
static void report_progress(struct lanes *l, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        const struct picked *p = &l->picks[k];
        struct generation *g = p->r->g;
        bool told = !p->advanced || !g->on.progress;
        for (int32_t j = 0; j < k && !told; j++)
            told = l->picks[j].r == p->r && l->picks[j].advanced;
        if (!told)
            g->on.progress(g, p->done_lane_steps, (int64_t)g->n_images * g->table->n_rows, g->context);
    }
}

/* The step is over for its requests: ends what finished or failed and is in no other step. Lock held. */
static void end_stepped(struct worker *w, struct lanes *l, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        struct generation_state *r = l->picks[k].r;
        if (--r->in_step == 0 && (r->failure || r->open_images == 0))
            request_end(w->s, r, r->failure);
    }
    l->busy = false;
    scheduler_changed(w->s);
}

/* What is in another device's step ends after it. */
static void fail_all(struct worker *w, struct lanes *l, int32_t n)
{
    struct scheduler *s = w->s;
    pthread_mutex_lock(&s->lock);
    s->stats.device_lost = true;
    for (int32_t k = 0; k < n; k++)
        l->picks[k].r->in_step--;
    l->busy = false;
    for (struct generation_state *r = s->oldest, *next; r; r = next) {
        next = r->next;
        if (r->in_step == 0)
            request_end(s, r, -EIO);
        else
            r->failure = -EIO;
    }
    scheduler_changed(s);
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
    if (s->o.device_lost)
        s->o.device_lost(s->o.context);
}

/* The device's part of a turn. -EIO: device lost. */
static int step_lanes(struct scheduler *s, struct lanes *l, int32_t n, int64_t *ret_from_ns, int64_t *ret_to_ns)
{
    int rc = start_lanes(l, n);
    if (rc)
        return rc;
    *ret_from_ns = scheduler_now_ns(s);
    rc = l->stepper.step(l->stepper.self, l->steps, n, l->finite);
    *ret_to_ns = scheduler_now_ns(s);
    if (rc == -EIO)
        return rc;
    for (int32_t k = 0; k < n && rc; k++) {
        l->picks[k].failure = rc;
        l->finite[k] = 1;
    }
    return read_lanes(l, n);
}

/* A model with a free lane on the worker's device, marked as busy; NULL: none, or nothing is due. */
static struct lanes *probe_begin(struct worker *w, int64_t now_ns)
{
    struct scheduler *s = w->s;
    struct lanes *l = NULL;
    pthread_mutex_lock(&s->lock);
    bool due = s->o.probe_ns > 0 && now_ns - w->shown_ns >= s->o.probe_ns && !s->stats.device_lost;
    for (struct model_lane *m = due ? s->models : NULL; m && !l; m = m->next)
        if (!m->closing && m->on[w->device].n_free > 0)
            l = &m->on[w->device];
    if (l)
        l->busy = true;
    pthread_mutex_unlock(&s->lock);
    return l;
}

/* Nothing to do: when that has lasted, one lane of a model runs one step. */
static void probe(struct worker *w, int64_t now_ns)
{
    static const struct step_row row = {.alpha = 1, .a = 1}; // the state stays; what the network says counts as 0
    struct scheduler *s = w->s;
    struct lanes *l = probe_begin(w, now_ns);
    if (!l)
        return;
    struct lane_step lane = {.slot = l->free_slots[l->n_free - 1], .guidance = 1, .row = &row, .draw = 1};
    int rc = l->stepper.start(l->stepper.self, lane.slot, 0, 0);
    if (rc == 0)
        rc = l->stepper.step(l->stepper.self, &lane, 1, l->finite);
    if (rc == -EIO) {
        fail_all(w, l, 0);
        return;
    }
    pthread_mutex_lock(&s->lock);
    if (rc == 0 && l->finite[0])
        w->shown_ns = scheduler_now_ns(s);
    l->busy = false;
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
}

int scheduler_turn(struct scheduler *s, int32_t device)
{
    struct worker *w = &s->workers[device];
    struct model_lane *m = NULL;
    int64_t from_ns, to_ns, now_ns = scheduler_now_ns(s);
    pthread_mutex_lock(&s->lock);
    sweep(s, now_ns);
    w->seen = s->changes;
    int32_t n = s->stats.device_lost ? 0 : pick_lanes(w, now_ns, &m);
    struct lanes *l = n > 0 ? &m->on[device] : NULL;
    if (l)
        prepare(w, l, n, now_ns);
    w->idle = n == 0;
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
    if (n == 0) {
        probe(w, now_ns);
        return 0;
    }
    if (step_lanes(s, l, n, &from_ns, &to_ns) == -EIO) {
        fail_all(w, l, n);
        return 0;
    }
    pthread_mutex_lock(&s->lock);
    book(w, m, n, from_ns, to_ns, scheduler_now_ns(s));
    pthread_mutex_unlock(&s->lock);
    report_progress(l, n);
    pthread_mutex_lock(&s->lock);
    end_stepped(w, l, n);
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
    return n;
}
