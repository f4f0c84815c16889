/* admit.c: may a request come in? Bounds, deadline, reservation, all under one hold of the lock.
 */
#include "sampling/internal.h"

#include <errno.h>
#include <stdlib.h>

/* Bytes of the result frames; 0: too large to count. */
static int64_t frames_bytes(const struct generation *g)
{
    int64_t frames = generation_frames(g->table->n_rows, g->interval), bytes;
    if (__builtin_mul_overflow(frames * g->n_images, (int64_t)(g->model->on[0].stepper.image_elements * sizeof(float)),
                               &bytes))
        return 0;
    return bytes;
}

static int64_t generation_row_steps(const struct generation *g)
{
    return (int64_t)g->n_images * g->table->n_rows * (g->guidance == 1 ? 1 : 2);
}

struct generation_state admit_ghost(struct generation *g, struct account *a)
{
    return (struct generation_state){
        .g = g,
        .id = GHOST_ID,
        .account = a,
        .rows = g->guidance == 1 ? 1 : 2,
        .open_images = g->n_images,
        .remaining_row_steps = generation_row_steps(g),
    };
}

static int check(const struct generation *g, struct error *err)
{
    if (!g->on.done || !g->table || g->table->n_rows < 1 || !g->class_index || g->n_images < 1 || g->interval < 0 ||
        (unsigned)g->priority >= PRIORITY_COUNT)
        return error_set(err, -EINVAL, NULL, "incomplete request");
    if (g->guidance != 1 && g->model->on[0].stepper.max_rows < 2)
        return error_set(err, -EINVAL, "guidance", "guidance takes two rows and this model's steps have one");
    return 0;
}

static int refuse(struct scheduler *s, enum refusal why, int code, struct error *err, const char *field,
                  const char *message)
{
    s->stats.refused[why]++;
    return error_set(err, code, field, "%s", message);
}

/* By how much, 0: not. A limit of 0 is none. */
static int64_t excess(int64_t limit, int64_t amount)
{
    return limit > 0 && amount > limit ? amount - limit : 0;
}

static int64_t longer(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Does it fit into the bounds? Lock held. */
static int admit_size(struct scheduler *s, const struct generation *g, int64_t bytes, struct account *a, int64_t now_ns,
                      int64_t *ret_retry_ns, struct error *err)
{
    const struct scheduler_options *o = &s->o;
    const struct scheduler_stats *t = &s->stats;
    int64_t row_steps = generation_row_steps(g);
    int64_t share = g->max_client_row_steps ? g->max_client_row_steps : o->max_client_row_steps;
    if (bytes == 0 || excess(o->max_images, g->n_images) || excess(o->max_bytes, bytes))
        return refuse(s, REFUSAL_SIZE, -E2BIG, err, "n", "more images or frames than the queue ever holds");
    if (excess(o->max_row_steps, row_steps) || excess(share, row_steps))
        return refuse(s, REFUSAL_SIZE, -E2BIG, err, "steps", "images times steps are more than the queue ever holds");
    if (excess(share, a->row_steps + row_steps)) {
        int64_t over = excess(share, a->row_steps + row_steps);
        *ret_retry_ns = simulate_room_ns(s, &(struct room){.client = a, .client_row_steps = over}, now_ns);
        return refuse(s, REFUSAL_CLIENT, -EDQUOT, err, NULL, "the client's share of the queue is used up");
    }
    int64_t excess_steps = excess(o->max_row_steps, t->row_steps + row_steps);
    int64_t excess_images = excess(o->max_images, t->images + g->n_images);
    int64_t excess_bytes = excess(o->max_bytes, t->bytes + bytes);
    if (!excess_steps && !excess_images && !excess_bytes)
        return 0;
    int64_t wait = excess_steps ? forecast_row_steps_ns(s, excess_steps) : 0;
    if (excess_images || excess_bytes)
        wait = longer(wait, simulate_room_ns(s, &(struct room){excess_images, excess_bytes, NULL, 0}, now_ns));
    *ret_retry_ns = wait;
    return refuse(s, REFUSAL_QUEUE, -EAGAIN, err, NULL, "the queue is full");
}

static int admit(struct scheduler *s, struct generation *g, int64_t bytes, struct account *a, int64_t now_ns,
                 struct scheduler_ticket *ticket, struct error *err)
{
    if (s->stats.device_lost)
        return refuse(s, REFUSAL_DEVICE, -EIO, err, NULL, "the device is lost");
    if (s->closed || g->model->closing)
        return refuse(s, REFUSAL_DRAINING, -ESHUTDOWN, err, NULL, "no new requests are taken");
    int rc = admit_size(s, g, bytes, a, now_ns, &ticket->retry_after_ns, err);
    if (rc)
        return rc;
    struct generation_state ghost = admit_ghost(g, a);
    ticket->expected_ns = forecast_end_ns(s, &ghost, now_ns);
    if (g->deadline_ns && ticket->expected_ns > g->deadline_ns - now_ns) {
        ticket->retry_after_ns = longer(0, ticket->expected_ns - (g->deadline_ns - now_ns));
        return refuse(s, REFUSAL_DEADLINE, -ETIMEDOUT, err, "timeout_ms", "it cannot be done in that time");
    }
    return 0;
}

int admit_reserve_order(struct scheduler *s)
{
    if (s->stats.requests < s->order_capacity)
        return 0;
    int32_t capacity = s->order_capacity ? 2 * s->order_capacity : 64;
    void *grown = realloc(s->order, (size_t)capacity * sizeof(s->order[0]));
    if (!grown)
        return -ENOMEM;
    s->order = grown;
    s->order_capacity = capacity;
    return 0;
}

/* All of it under one lock: what is checked is what is reserved. */
static int enqueue(struct scheduler *s, struct generation *g, int64_t bytes, struct scheduler_ticket *ticket,
                   struct error *err)
{
    struct generation_state *r = NULL;
    int64_t now_ns = scheduler_now_ns(s);
    struct account *a = account_get(&s->accounts, g->client, now_ns);
    int rc = a && admit_reserve_order(s) == 0 ? 0 : -ENOMEM;
    if (rc == 0)
        rc = admit(s, g, bytes, a, now_ns, ticket, err);
    if (rc == 0)
        rc = request_create(g, bytes, &r);
    if (rc == -ENOMEM)
        return error_set(err, rc, NULL, "no memory for the request");
    if (rc)
        return rc;
    r->account = a;
    r->id = ticket->id = ++s->last_id;
    g->submitted_ns = now_ns;
    request_link(s, r);
    scheduler_changed(s);
    return 0;
}

int scheduler_submit(struct scheduler *s, struct generation *g, struct scheduler_ticket *ret_ticket, struct error *err)
{
    struct scheduler_ticket ticket = {0};
    int rc = check(g, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&s->lock);
    rc = enqueue(s, g, frames_bytes(g), &ticket, err);
    pthread_mutex_unlock(&s->lock);
    if (ret_ticket && (rc == 0 || rc == -EAGAIN || rc == -EDQUOT || rc == -ETIMEDOUT))
        *ret_ticket = ticket;
    return rc;
}
