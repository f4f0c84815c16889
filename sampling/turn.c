/* turn.c: one turn of the worker's loop: end what must end, choose lanes, step, copy frames out, retire.
 *
 * Only the worker runs this, so what it reads of requests without the lock (images, slots, picks) is its own.
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

/* Ends cancelled and late requests. Lock held. */
static void sweep(struct scheduler *s, int64_t now_ns)
{
    for (struct generation_state *r = s->oldest, *next; r; r = next) {
        next = r->next;
        if (r->cancelled_ns)
            request_end(s, r, -ECANCELED);
        else if (r->g->deadline_ns && now_ns >= r->g->deadline_ns)
            request_end(s, r, -ETIMEDOUT);
    }
}

/* Slots for the picked images that begin; what the device is to be told. Lock held. */
static void prepare(struct model_lane *m, int32_t n, int64_t now_ns)
{
    struct scheduler *s = m->s;
    for (int32_t k = 0; k < n; k++) {
        struct generation_state *r = m->picks[k].r;
        struct image *image = &r->images[m->picks[k].image];
        if (image->slot < 0) {
            image->slot = m->free_slots[--m->n_free];
            s->stats.joins++;
            s->stats.active_lanes++;
            if (r->next_start <= m->picks[k].image)
                r->next_start = m->picks[k].image + 1;
        }
        if (!r->g->started_ns) {
            r->g->started_ns = now_ns;
            histogram_add(&s->stats.queue_seconds, (double)(now_ns - r->g->submitted_ns) * 1e-9);
        }
        r->failure = 0;
        r->advanced = false;
        m->steps[k] = (struct lane_step){
            .slot = image->slot,
            .class_index = r->g->class_index[m->picks[k].image],
            .guidance = r->g->guidance,
            .clip = r->g->clip,
            .row = &r->g->table->rows[image->step],
            .seed = r->g->seed,
            .image = r->g->first_image + (uint64_t)m->picks[k].image,
            .draw = (uint32_t)image->step + 1,
        };
    }
}

static float *frame_of(const struct picked *p, int32_t steps_done)
{
    const struct generation *g = p->r->g;
    int32_t frame = generation_frame_of_step(g->table->n_rows, g->interval, steps_done);
    if (frame < 0)
        return NULL;
    return g->images + ((size_t)p->image * (size_t)g->n_frames + (size_t)frame) * g->model->stepper.image_elements;
}

/* Starting noise for the lanes that begin. -EIO: device lost. */
static int start_lanes(struct model_lane *m, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        const struct lane_step *l = &m->steps[k];
        if (l->draw != 1)
            continue;
        float *frame = frame_of(&m->picks[k], 0);
        int rc = m->stepper.start(m->stepper.self, l->slot, l->seed, l->image);
        if (rc == 0 && frame)
            rc = m->stepper.read(m->stepper.self, l->slot, false, frame);
        if (rc == -EIO)
            return rc;
        if (rc)
            m->picks[k].r->failure = rc;
    }
    return 0;
}

static bool preview_due(const struct generation *g, int32_t steps_done)
{
    return g->on.preview && g->preview_every > 0 && steps_done % g->preview_every == 0 && steps_done < g->table->n_rows;
}

/* Frames and previews of the lanes that advanced. -EIO: device lost. */
static int read_lanes(struct model_lane *m, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        struct picked *p = &m->picks[k];
        struct generation *g = p->r->g;
        int32_t done = (int32_t)m->steps[k].draw, slot = m->steps[k].slot;
        float *frame = frame_of(p, done);
        int rc = 0;
        if (!m->finite[k] || p->r->failure)
            continue;
        if (frame)
            rc = m->stepper.read(m->stepper.self, slot, false, frame);
        if (rc == 0 && preview_due(g, done)) {
            rc = m->stepper.read(m->stepper.self, slot, true, m->x0);
            if (rc == 0)
                g->on.preview(g, p->image, done, m->x0, g->context);
        }
        if (rc == -EIO)
            return rc;
        if (rc)
            p->r->failure = rc;
    }
    return 0;
}

/* One lane has advanced. Lock held. */
static void advance(struct scheduler *s, struct picked *p)
{
    struct generation_state *r = p->r;
    struct image *image = &r->images[p->image];
    image->step++;
    r->advanced = true;
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
static void book(struct model_lane *m, int32_t n, int64_t from_ns, int64_t to_ns, int64_t now_ns)
{
    struct scheduler *s = m->s;
    double seconds = (double)(to_ns - from_ns) * 1e-9;
    pick_charge(s, m, n, seconds, now_ns);
    histogram_add(&s->stats.step_seconds, seconds);
    histogram_add(&s->stats.step_lanes, n);
    s->stats.steps++;
    s->stats.lane_steps += n;
    s->stats.last_step_lanes = n;
    s->stats.last_step_ns = s->stats.shown_ns = to_ns;
    for (int32_t k = 0; k < n; k++) {
        if (!m->finite[k]) {
            s->stats.failed_lanes++;
            m->picks[k].r->failure = -ERANGE;
        }
        if (!m->picks[k].r->failure)
            advance(s, &m->picks[k]);
    }
}

/* Progress to those that want it, once a request. Without the lock: only the worker ends requests. */
static void report_progress(struct model_lane *m, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        struct generation_state *r = m->picks[k].r;
        if (r->advanced && r->g->on.progress)
            r->g->on.progress(r->g, r->done_lane_steps, (int64_t)r->g->n_images * r->g->table->n_rows, r->g->context);
        r->advanced = false;
    }
}

/* Ends what finished or failed in this step. Lock held. */
static void end_stepped(struct scheduler *s, struct model_lane *m, int32_t n)
{
    for (int32_t k = 0; k < n; k++) {
        struct generation_state *r = m->picks[k].r;
        if (!r)
            continue;
        if (r->failure || r->open_images == 0)
            request_end(s, r, r->failure);
        else
            continue;
        for (int32_t j = k + 1; j < n; j++)
            if (m->picks[j].r == r)
                m->picks[j].r = NULL;
    }
}

static void fail_all(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    s->stats.device_lost = true;
    while (s->oldest)
        request_end(s, s->oldest, -EIO);
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
    if (s->o.device_lost)
        s->o.device_lost(s->o.context);
}

/* The device's part of a turn. -EIO: device lost. */
static int step_lanes(struct model_lane *m, int32_t n, int64_t *ret_from_ns, int64_t *ret_to_ns)
{
    int rc = start_lanes(m, n);
    if (rc)
        return rc;
    *ret_from_ns = scheduler_now_ns(m->s);
    rc = m->stepper.step(m->stepper.self, m->steps, n, m->finite);
    *ret_to_ns = scheduler_now_ns(m->s);
    if (rc == -EIO)
        return rc;
    for (int32_t k = 0; k < n && rc; k++) {
        m->picks[k].r->failure = rc;
        m->finite[k] = 1;
    }
    return read_lanes(m, n);
}

/* Nothing to do: when that has lasted, one lane of a model runs one step. */
static void probe(struct scheduler *s, int64_t now_ns)
{
    static const struct step_row row = {.alpha = 1, .a = 1}; // the state stays; what the network says counts as 0
    pthread_mutex_lock(&s->lock);
    bool due = s->o.probe_ns > 0 && now_ns - s->stats.shown_ns >= s->o.probe_ns && !s->stats.device_lost;
    struct model_lane *m = due ? s->models : NULL; // detached on this thread only
    while (m && m->n_free == 0)
        m = m->next;
    struct lane_step lane = {.slot = m ? m->free_slots[m->n_free - 1] : 0, .guidance = 1, .row = &row, .draw = 1};
    pthread_mutex_unlock(&s->lock);
    if (!m)
        return;
    int rc = m->stepper.start(m->stepper.self, lane.slot, 0, 0);
    if (rc == 0)
        rc = m->stepper.step(m->stepper.self, &lane, 1, m->finite);
    if (rc == -EIO) {
        fail_all(s);
    } else if (rc == 0 && m->finite[0]) {
        pthread_mutex_lock(&s->lock);
        s->stats.shown_ns = scheduler_now_ns(s);
        pthread_mutex_unlock(&s->lock);
    }
}

int scheduler_turn(struct scheduler *s)
{
    struct model_lane *m = NULL;
    int64_t from_ns, to_ns, now_ns = scheduler_now_ns(s);
    pthread_mutex_lock(&s->lock);
    sweep(s, now_ns);
    int32_t n = s->stats.device_lost ? 0 : pick_lanes(s, now_ns, &m);
    if (n > 0)
        prepare(m, n, now_ns);
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
    if (n == 0) {
        probe(s, now_ns);
        return 0;
    }

    if (step_lanes(m, n, &from_ns, &to_ns) == -EIO) {
        fail_all(s);
        return 0;
    }
    pthread_mutex_lock(&s->lock);
    book(m, n, from_ns, to_ns, scheduler_now_ns(s));
    pthread_mutex_unlock(&s->lock);
    report_progress(m, n);
    pthread_mutex_lock(&s->lock);
    end_stepped(s, m, n);
    pthread_mutex_unlock(&s->lock);
    deliver_ended(s);
    return n;
}
