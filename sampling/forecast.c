/* forecast.c: when will it be done, when will there be room: from backlog and step times.
 *
 * The end of one request follows from the policy in closed form. What pick.c does to clients of one priority is to fill
 * up the one with the least use: before a client that has used u can get work w done, every other of the same priority
 * gets as much as lifts it to u + w, or all that it wants; among clients that are level, shorter requests go first.
 * Together with what is ahead by priority and within the
 * client, and the quarter that the reserve may take, that is the time on a saturated device; a device that is not
 * saturated is bounded by the request's own number of steps.
 *
 * Room in row-steps comes back with every step, at the rate of the device. Room in images and bytes comes back when
 * images and requests end: simulate.c.
 */
#include "sampling/internal.h"

#include <math.h>

static int64_t to_ns(double seconds)
{
    return seconds < 9e9 ? (int64_t)(seconds * 1e9) : INT64_MAX;
}

static double row_seconds(const struct model_lane *m)
{
    return step_cost_seconds(&m->cost, m->stepper.max_rows) / m->stepper.max_rows;
}

static double work_seconds(const struct generation_state *r)
{
    return (double)r->remaining_row_steps * row_seconds(r->g->model);
}

/* What another client of the same priority gets before this one, whose use is `use` and then use + work: what it wants
 * until it is no longer behind, and its shorter requests as long as the two are level. */
static double gets_before(struct account *a, double use, double work, int64_t now_ns)
{
    double its = account_seconds(a, now_ns);
    double end = floor((use + work) / ACCOUNT_LEVEL_S) * ACCOUNT_LEVEL_S;
    double level = (floor(use / ACCOUNT_LEVEL_S) + 1) * ACCOUNT_LEVEL_S;
    return fmax(fmin(a->demand, fmax(0, end - its)), fmin(a->demand_short, fmax(0, level - its)));
}

/* Device seconds before `work` of the client's own is done, others' included; the reserve may add to it. */
static double saturated_seconds(struct scheduler *s, const struct forecast_request *f, double work, int64_t now_ns)
{
    double ahead = 0, own = 0, total = 0, use = 0;
    for (struct account *a = s->accounts; a; a = a->next) {
        a->demand = a->demand_short = 0;
        if (a->client == f->client)
            use = account_seconds(a, now_ns);
    }
    for (struct generation_state *r = s->oldest; r; r = r->next) {
        double w = work_seconds(r);
        bool shorter = r->remaining_row_steps <= f->row_steps;
        if (r->id == f->id)
            continue;
        total += w;
        if (r->g->priority > f->priority)
            ahead += w;
        else if (r->account->client == f->client)
            own += r->g->priority == f->priority && shorter ? w : 0;
        else if (r->g->priority == f->priority) {
            r->account->demand += w;
            r->account->demand_short += shorter ? w : 0;
        }
    }
    for (struct account *a = s->accounts; a; a = a->next)
        if (a->client != f->client)
            ahead += gets_before(a, use, work + own, now_ns);
    return fmin(work + total, (work + own + ahead) / (1 - PICK_RESERVE));
}

/* A request cannot be faster than its own steps, each shared with what else fits. */
static double own_seconds(struct scheduler *s, const struct forecast_request *f)
{
    int32_t max_rows = f->model->stepper.max_rows;
    int64_t open_rows = (int64_t)f->images * f->rows;
    int64_t rounds = (open_rows + max_rows - 1) / max_rows;
    for (struct generation_state *r = s->oldest; r && open_rows < max_rows; r = r->next)
        if (r->g->model == f->model && r->id != f->id)
            open_rows += (int64_t)r->open_images * r->rows;
    double step = step_cost_seconds(&f->model->cost, open_rows < max_rows ? (int32_t)open_rows : max_rows);
    return (double)rounds * f->steps * step;
}

int64_t forecast_end_ns(struct scheduler *s, const struct forecast_request *f, int64_t now_ns)
{
    double work = (double)f->row_steps * row_seconds(f->model);
    bool alone = s->stats.row_steps <= (f->id ? f->row_steps : 0);
    double seconds = !alone ? saturated_seconds(s, f, work, now_ns) : 0;
    return to_ns(fmax(seconds, own_seconds(s, f)));
}

double forecast_row_step_seconds(const struct scheduler *s)
{
    double work = 0;
    int64_t row_steps = 0;
    for (const struct generation_state *r = s->oldest; r; r = r->next) {
        work += work_seconds(r);
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
        for (struct generation_state *r = s->oldest; r && open < s->models->stepper.max_rows; r = r->next)
            open += (int64_t)r->open_images * r->rows;
        if (open > 0 && open < s->models->stepper.max_rows)
            per_row_step = step_cost_seconds(&s->models->cost, (int32_t)open) / (double)open;
    }
    return to_ns((double)row_steps * per_row_step);
}
