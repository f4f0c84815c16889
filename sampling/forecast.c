/* forecast.c: when will it be done, when will there be room: from backlog and step times.
 *
 * The end of one request follows from the policy in closed form. What pick.c does to clients of one priority is to fill
 * up the one with the least use: before a client that has used u can get work w done, every other of the same priority
 * gets as much as lifts it to u + w, or all that it wants. Together with what is ahead by priority and within the
 * client, and the quarter that the reserve may take, that is the time on a saturated device; a device that is not
 * saturated is bounded by the request's own number of steps.
 *
 * Room in row-steps comes back with every step, at the rate of the device. Room in images and bytes comes back when
 * images and requests end, which is simulated: images in the policy's order on as many servers as a step has rows.
 */
#include "sampling/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIMULATED_IMAGES = 4096, SIMULATED_SERVERS = 256 };

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

/* Device seconds before `work` of the client's own is done, others' included; the reserve may add to it. */
static double saturated_seconds(struct scheduler *s, const struct forecast_request *f, double work, bool own_ahead,
                                int64_t now_ns)
{
    double ahead = 0, own = 0, total = 0, use = 0;
    for (struct account *a = s->accounts; a; a = a->next)
        a->demand = 0;
    for (struct generation_state *r = s->oldest; r; r = r->next) {
        double w = work_seconds(r);
        if (r->id == f->id)
            continue;
        total += w;
        if (r->g->priority > f->priority)
            ahead += w;
        else if (r->account->client != f->client)
            r->account->demand += r->g->priority == f->priority ? w : 0;
        else if (own_ahead && r->g->priority == f->priority && r->remaining_row_steps <= f->row_steps)
            own += w;
    }
    work += own;
    for (struct account *a = s->accounts; a; a = a->next)
        if (a->client == f->client)
            use = account_seconds(a, now_ns);
    for (struct account *a = s->accounts; a; a = a->next)
        if (a->client != f->client)
            ahead += fmin(a->demand, fmax(0, use + work - account_seconds(a, now_ns)));
    return fmin(work - own + total, (work + ahead) / (1 - PICK_RESERVE));
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
    double seconds = !alone ? saturated_seconds(s, f, work, true, now_ns) : 0;
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

int64_t forecast_client_row_steps_ns(struct scheduler *s, const struct forecast_request *f, int64_t row_steps,
                                     int64_t now_ns)
{
    double work = (double)row_steps * row_seconds(f->model);
    return to_ns(saturated_seconds(s, f, work, false, now_ns));
}

static int compare_requests(const void *a, const void *b)
{
    return pick_compare(*(struct generation_state *const *)a, *(struct generation_state *const *)b);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

struct servers {
    int32_t n;
    double busy_until[SIMULATED_SERVERS];
};

/* One image that needs `rows` servers at once for so long; returns its end. */
static double serve(struct servers *v, int32_t rows, double seconds)
{
    int32_t taken[2] = {0, 0};
    double start = 0;
    for (int32_t k = 0; k < rows && k < v->n; k++) {
        int32_t best = -1;
        for (int32_t i = 0; i < v->n; i++)
            if (!(k == 1 && i == taken[0]) && (best < 0 || v->busy_until[i] < v->busy_until[best]))
                best = i;
        taken[k] = best;
        start = fmax(start, v->busy_until[best]);
    }
    for (int32_t k = 0; k < rows && k < v->n; k++)
        v->busy_until[taken[k]] = start + seconds;
    return start + seconds;
}

/* Requests in the policy's order into s->order; returns their number. */
static int32_t sort_requests(struct scheduler *s)
{
    int32_t n = 0;
    for (struct generation_state *r = s->oldest; r; r = r->next)
        s->order[n++] = r;
    qsort(s->order, (size_t)n, sizeof(s->order[0]), compare_requests);
    return n;
}

/* Ends of r's open images, at most max of them, in index order. */
static int32_t serve_request(struct servers *v, const struct generation_state *r, double *ret_ends, int32_t max)
{
    int32_t n = 0, steps = r->g->table->n_rows;
    double step = step_cost_seconds(&r->g->model->cost, r->g->model->stepper.max_rows);
    for (int32_t i = r->first_open; i < r->g->n_images && n < max; i++)
        if (r->images[i].step < steps)
            ret_ends[n++] = serve(v, r->rows, (steps - r->images[i].step) * step);
    return n;
}

static void servers_init(const struct scheduler *s, struct servers *ret_servers)
{
    memset(ret_servers, 0, sizeof(*ret_servers));
    for (const struct model_lane *m = s->models; m; m = m->next)
        if (m->stepper.max_rows > ret_servers->n)
            ret_servers->n = m->stepper.max_rows < SIMULATED_SERVERS ? m->stepper.max_rows : SIMULATED_SERVERS;
}

int64_t forecast_images_ns(struct scheduler *s, int64_t images)
{
    struct servers v;
    double *ends = malloc(SIMULATED_IMAGES * sizeof(*ends));
    int32_t n = 0, n_requests = sort_requests(s);
    servers_init(s, &v);
    if (!ends || images <= 0) {
        free(ends);
        return 0;
    }
    for (int32_t k = 0; k < n_requests && n < SIMULATED_IMAGES; k++)
        n += serve_request(&v, s->order[k], ends + n, SIMULATED_IMAGES - n);
    qsort(ends, (size_t)n, sizeof(*ends), compare_doubles);
    double end = n == 0 ? 0 : ends[images <= n ? images - 1 : n - 1];
    free(ends);
    return to_ns(end);
}

struct freed {
    double end;
    int64_t bytes;
};

static int compare_freed(const void *a, const void *b)
{
    return compare_doubles(&((const struct freed *)a)->end, &((const struct freed *)b)->end);
}

int64_t forecast_bytes_ns(struct scheduler *s, int64_t bytes)
{
    struct servers v;
    int32_t n_requests = sort_requests(s), simulated = 0, n = 0;
    struct freed *freed = malloc((size_t)(n_requests + 1) * sizeof(*freed));
    double *ends = malloc(SIMULATED_IMAGES * sizeof(*ends)), end = 0;
    servers_init(s, &v);
    for (; freed && ends && n < n_requests && simulated < SIMULATED_IMAGES; n++) {
        int32_t served = serve_request(&v, s->order[n], ends, SIMULATED_IMAGES - simulated);
        freed[n] = (struct freed){0, s->order[n]->bytes};
        for (int32_t i = 0; i < served; i++)
            freed[n].end = fmax(freed[n].end, ends[i]);
        simulated += served;
    }
    if (n > 0)
        qsort(freed, (size_t)n, sizeof(*freed), compare_freed);
    for (int32_t i = 0; i < n && bytes > 0; i++) {
        bytes -= freed[i].bytes;
        end = freed[i].end;
    }
    free(freed);
    free(ends);
    return to_ns(end);
}
