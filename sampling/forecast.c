/* forecast.c: when will it be done, when will there be room: from backlog and step times.
 *
 * Room in row-steps comes back with every step, at the rate of the device, whatever the policy does. Ends of requests
 * depend on the policy and are played forward (simulate.c), or, when the backlog is too large for that, bounded from
 * above by all the work that is there.
 */
#include "sampling/internal.h"

static int64_t to_ns(double seconds)
{
    return seconds < 9e9 ? (int64_t)(seconds * 1e9) : INT64_MAX;
}

/* Devices are of one kind, so the first one's times stand for all. */
int32_t fleet_rows(const struct model_lane *m)
{
    return m->on[0].stepper.max_rows * m->s->n_devices;
}

double fleet_seconds(const struct model_lane *m, int32_t rows)
{
    return step_cost_seconds(&m->on[0].cost, (rows + m->s->n_devices - 1) / m->s->n_devices);
}

static double row_seconds(const struct model_lane *m)
{
    return fleet_seconds(m, fleet_rows(m)) / fleet_rows(m);
}

int64_t forecast_end_ns(struct scheduler *s, struct generation_state *r, int64_t now_ns)
{
    int64_t ns = simulate_end_ns(s, r, now_ns);
    if (ns >= 0)
        return ns;
    double seconds = (double)r->remaining_row_steps * row_seconds(r->g->model);
    for (const struct generation_state *o = s->oldest; o; o = o->next)
        if (o != r && o->g->priority >= r->g->priority)
            seconds += (double)o->remaining_row_steps * row_seconds(o->g->model);
    return to_ns(seconds);
}

double forecast_row_step_seconds(const struct scheduler *s)
{
    double work = 0;
    int64_t row_steps = 0;
    for (const struct generation_state *r = s->oldest; r; r = r->next) {
        work += (double)r->remaining_row_steps * row_seconds(r->g->model);
        row_steps += r->remaining_row_steps;
    }
    if (row_steps > 0)
        return work / (double)row_steps;
    return s->models ? row_seconds(s->models) : 0;
}

/* Where fewer rows are open than a step has, each costs more. */
int64_t forecast_row_steps_ns(struct scheduler *s, int64_t row_steps)
{
    double per_row_step = forecast_row_step_seconds(s);
    if (s->models && !s->models->next) {
        int64_t open = 0;
        for (struct generation_state *r = s->oldest; r && open < fleet_rows(s->models); r = r->next)
            open += (int64_t)r->open_images * r->rows;
        if (open > 0 && open < fleet_rows(s->models))
            per_row_step = fleet_seconds(s->models, (int32_t)open) / (double)open;
    }
    return to_ns((double)row_steps * per_row_step);
}
