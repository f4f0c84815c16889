/* queue.c: GET /queue: the generations that wait and run, as their clients and an operator see them.
 *
 * The list is taken from the live exchanges under the api's lock, then the scheduler is asked for each place: what
 * ended in between is left out.
 */
#include "api/private.h"
#include "api/work.h"

#include <stdio.h>
#include <stdlib.h>

enum { QUEUE_MAX_LISTED = 100 }; // each costs the scheduler a forecast

struct queued {
    uint64_t ticket;
    char id[REQUEST_ID_BYTES], model[MODEL_NAME_BYTES];
    int32_t n_images, steps;
    double guidance;
    enum sampler sampler;
    enum priority priority;
};

/* False where the exchange has no generation under way. */
static bool queued_read(struct exchange *x, struct queued *ret_queued)
{
    pthread_mutex_lock(&x->lock);
    uint64_t ticket = x->ticket;
    if (ticket) { // so its recipe was resolved, and stays as it is
        const struct recipe *r = &x->work->recipe;
        *ret_queued = (struct queued){.ticket = ticket,
                                      .n_images = r->n_images,
                                      .steps = r->fields.steps,
                                      .guidance = r->fields.guidance,
                                      .sampler = r->fields.sampler,
                                      .priority = r->fields.priority};
        snprintf(ret_queued->id, sizeof(ret_queued->id), "%s", x->request_id);
        snprintf(ret_queued->model, sizeof(ret_queued->model), "%s", r->fields.model);
    }
    pthread_mutex_unlock(&x->lock);
    return ticket != 0;
}

/* Fills list[QUEUE_MAX_LISTED], the oldest first; returns how many. */
static int queued_collect(struct api *a, struct queued *list)
{
    int n = 0;
    pthread_mutex_lock(&a->lock);
    for (struct exchange *x = a->oldest; x && n < QUEUE_MAX_LISTED; x = x->newer)
        n += queued_read(x, &list[n]);
    pthread_mutex_unlock(&a->lock);
    return n;
}

static void ms_write(struct text *t, const char *key, int64_t ns)
{
    json_key(t, key), json_double(t, (double)(ns / 1000) / 1e3);
}

static void queued_write(const struct queued *q, const struct scheduler_place *place, struct text *t)
{
    json_open(t, '{');
    json_key(t, "id"), json_text(t, q->id);
    json_key(t, "model"), json_text(t, q->model);
    json_key(t, "state"), json_text(t, place->running_ns ? "running" : "waiting");
    json_key(t, "priority"), json_text(t, priority_names[q->priority]);
    json_key(t, "images"), json_int(t, q->n_images);
    json_key(t, "steps"), json_int(t, q->steps);
    json_key(t, "sampler"), json_text(t, sampler_names[q->sampler]);
    json_key(t, "guidance"), json_double(t, q->guidance);
    json_key(t, "done_lane_steps"), json_int(t, place->done_lane_steps);
    json_key(t, "total_lane_steps"), json_int(t, place->total_lane_steps);
    json_key(t, "images_ahead"), json_int(t, place->images_ahead);
    ms_write(t, "queued_ms", place->queued_ns);
    ms_write(t, "running_ms", place->running_ns);
    ms_write(t, "expected_ms", place->expected_ns);
    json_close(t, '}');
}

static void totals_write(struct api *a, struct text *t)
{
    struct scheduler_stats s;
    scheduler_stats(a->options.scheduler, &s);
    json_key(t, "lanes"), json_int(t, s.active_lanes);
    json_key(t, "requests_total"), json_int(t, s.requests);
    json_key(t, "images"), json_int(t, s.images);
    json_key(t, "row_steps"), json_int(t, s.row_steps);
    json_key(t, "steps_done"), json_int(t, s.steps);
    json_key(t, "last_step_lanes"), json_int(t, s.last_step_lanes);
}

/* requests holds at most QUEUE_MAX_LISTED; requests_total says how many there are. */
void handle_queue(struct exchange *x)
{
    struct api *a = x->api;
    struct text t = {0};
    struct scheduler_place place;
    struct queued *list = malloc(QUEUE_MAX_LISTED * sizeof(*list));
    if (!list) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the list");
        return;
    }
    int n = queued_collect(a, list);
    json_open(&t, '{');
    totals_write(a, &t);
    json_key(&t, "requests");
    json_open(&t, '[');
    for (int i = 0; i < n; i++)
        if (scheduler_place(a->options.scheduler, list[i].ticket, &place) == 0)
            queued_write(&list[i], &place, &t);
    json_close(&t, ']');
    json_close(&t, '}');
    free(list);
    exchange_answer(x, 200, "application/json", &t);
    exchange_header(x, "Cache-Control", "no-store");
}
