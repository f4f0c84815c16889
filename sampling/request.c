/* request.c: a request's bookkeeping: what it reserves, which slots it holds, how it ends. */
#include "sampling/internal.h"

#include <errno.h>
#include <stdlib.h>

const char *const priority_names[PRIORITY_COUNT + 1] = {"low", "normal", "high", NULL};

void generation_free(struct generation *g)
{
    if (!g)
        return;
    free(g->class_index);
    free(g->table);
    free(g->images);
    free(g);
}

int32_t generation_frames(int32_t n_rows, int32_t interval)
{
    if (interval <= 0)
        return 1;
    return 1 + n_rows / interval + (n_rows % interval != 0);
}

int32_t generation_frame_of_step(int32_t n_rows, int32_t interval, int32_t steps_done)
{
    if (steps_done == n_rows)
        return generation_frames(n_rows, interval) - 1;
    if (interval <= 0 || steps_done % interval != 0)
        return -1;
    return steps_done / interval;
}

int request_create(struct generation *g, int64_t bytes, struct generation_state **ret_state)
{
    struct generation_state *r = calloc(1, sizeof(*r));
    struct image *images = calloc((size_t)g->n_images, sizeof(*images));
    float *frames = malloc((size_t)bytes);
    if (!r || !images || !frames) {
        free(r);
        free(images);
        free(frames);
        return -ENOMEM;
    }
    for (int32_t i = 0; i < g->n_images; i++)
        images[i].slot = -1;
    r->g = g;
    r->images = images;
    r->rows = g->guidance == 1 ? 1 : 2;
    r->open_images = g->n_images;
    r->remaining_row_steps = (int64_t)g->n_images * g->table->n_rows * r->rows;
    r->bytes = bytes;
    g->n_frames = generation_frames(g->table->n_rows, g->interval);
    g->images = frames;
    *ret_state = r;
    return 0;
}

void request_free(struct generation_state *r)
{
    if (r) {
        free(r->images);
        free(r);
    }
}

void request_link(struct scheduler *s, struct generation_state *r)
{
    r->prev = s->youngest;
    *(s->youngest ? &s->youngest->next : &s->oldest) = r;
    s->youngest = r;
    r->g->state = r;
    r->g->model->n_requests++;
    r->account->requests++;
    r->account->row_steps += r->remaining_row_steps;
    s->stats.requests++;
    s->stats.submitted++;
    s->stats.images += r->open_images;
    s->stats.row_steps += r->remaining_row_steps;
    s->stats.bytes += r->bytes;
}

void request_slot_release(struct generation_state *r, int32_t image)
{
    struct model_lane *m = r->g->model;
    struct image *i = &r->images[image];
    if (i->slot >= 0) {
        struct lanes *l = &m->on[i->device];
        l->free_slots[l->n_free++] = i->slot;
        i->slot = -1;
        m->s->stats.active_lanes--;
        m->s->stats.leaves++;
    }
}

static void request_unlink(struct scheduler *s, struct generation_state *r)
{
    *(r->prev ? &r->prev->next : &s->oldest) = r->next;
    *(r->next ? &r->next->prev : &s->youngest) = r->prev;
    r->prev = r->next = NULL;
}

static void count_end(struct scheduler *s, const struct generation_state *r, int status, int64_t now_ns)
{
    switch (status) {
    case 0:
        s->stats.completed++;
        break;
    case -ECANCELED:
        s->stats.cancelled++;
        histogram_add(&s->stats.cancel_seconds, (double)(now_ns - r->cancelled_ns) * 1e-9);
        break;
    case -ETIMEDOUT:
        s->stats.timed_out++;
        break;
    default:
        s->stats.failed++;
    }
}

void request_end(struct scheduler *s, struct generation_state *r, int status)
{
    for (int32_t i = r->first_open; i < r->next_start; i++)
        request_slot_release(r, i);
    request_unlink(s, r);
    r->account->requests--;
    r->account->row_steps -= r->remaining_row_steps;
    r->g->model->n_requests--;
    s->stats.requests--;
    s->stats.images -= r->open_images;
    s->stats.row_steps -= r->remaining_row_steps;
    s->stats.bytes -= r->bytes;
    r->g->status = status;
    r->g->finished_ns = scheduler_now_ns(s);
    count_end(s, r, status, r->g->finished_ns);

    struct generation_state **end = &s->ended;
    while (*end)
        end = &(*end)->next;
    *end = r;
    s->n_ended++;
}
