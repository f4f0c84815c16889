/* pick.c: which lanes advance in the next step.
 *
 * What the policy wants, in this order: (1) a short request, or one of a client that asks seldom, is served as if the
 * device were nearly its own; (2) whoever waits, waits a bounded time; (3) the device works in full steps.
 *
 * A lane that does not advance keeps its state in the pool: pausing costs nothing but memory. So there is no admission
 * that could be blocked by long lanes; every step is a fresh choice among all images, and an image takes a slot when it
 * is first chosen. The choice:
 *
 * Leaders. Requests are ordered by priority; then those of clients within their share before those well over it
 * (account.c: 1.5 times the mean of the clients present, over the last half minute); then by the client's use, least
 * first, counted in whole seconds of the device, which makes clients of equal demand equal; then by the work that is
 * left, least first, which is the best order there is for the mean time of known jobs and lets a short request overtake
 * long ones of the same client (all clients without keys behind one proxy are one); then by age. The first request's
 * model is stepped. It and those of its class (priority, within or over share) lead: they take rows in that order, as
 * many as a step has. With one class present, and so under any even load, that is all, and steps are full.
 *
 * The reserve. That order alone could let a long or a low request starve. So a quarter of the device's time
 * (PICK_RESERVE) is due to the oldest request while anyone is left out. What it gets as a leader is set off; a debt of
 * PICK_GRACE_S is borne, so that a short request passes untouched; beyond that, what is due is paid out, oldest
 * request first, whatever its class: rows beside leaders who do not fill the step, at the price of the longer step that
 * they cause; rows of younger leaders in a full step; a whole step to a request of another model. Rows beside leaders
 * are also given for thrift: where they cost little, since a step's time is mostly fixed (a GPU), it would be a waste
 * to leave them free. That may stretch leaders' steps too, by a quarter at most, and on a device where each row costs
 * its full time not at all.
 *
 * Bounds that follow. Starvation: over any time T the oldest request gets T / 4 - PICK_GRACE_S of the device, so no
 * request ends later than first-come-first-served on a device of a quarter of the speed would end it, and two seconds,
 * whoever comes after it, priorities included. Latency: short requests of clients within their share take, one at a
 * time, hardly longer than alone, after the one step that was under way when they came; under a lasting load of such,
 * 4/3 of what they would without the others. Fairness: clients that keep the device busy get equal device time over
 * ACCOUNT_HALF_LIFE_S to within ACCOUNT_LEVEL_S, but for what the reserve brings forward.
 */
#include "sampling/internal.h"

#include <math.h>

struct choice {
    struct scheduler *s;
    struct worker *w;
    int64_t now_ns;
    struct model_lane *m;
    struct lanes *l; // of m, on the worker's device
    int32_t n, rows;
    bool left_out; // some image could have advanced and does not
};

int pick_compare(const struct generation_state *a, const struct generation_state *b)
{
    if (a->g->priority != b->g->priority)
        return a->g->priority > b->g->priority ? -1 : 1;
    if (a->account->over != b->account->over)
        return a->account->over ? 1 : -1;
    int32_t level_a = account_level(a->account), level_b = account_level(b->account);
    if (level_a != level_b)
        return level_a < level_b ? -1 : 1;
    if (a->remaining_row_steps != b->remaining_row_steps)
        return a->remaining_row_steps < b->remaining_row_steps ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static bool same_class(const struct generation_state *a, const struct generation_state *b)
{
    return a->g->priority == b->g->priority && a->account->over == b->account->over;
}

/* A binary heap with the request to serve first at its root: of thousands of requests a step needs the first few. */
static void heap_sift(struct generation_state **heap, int32_t n, int32_t i)
{
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= n)
            return;
        if (child + 1 < n && pick_compare(heap[child + 1], heap[child]) < 0)
            child++;
        if (pick_compare(heap[i], heap[child]) <= 0)
            return;
        struct generation_state *swap = heap[i];
        heap[i] = heap[child];
        heap[child] = swap;
        i = child;
    }
}

static struct generation_state *heap_pop(struct generation_state **heap, int32_t *n)
{
    struct generation_state *first = heap[0];
    heap[0] = heap[--*n];
    heap_sift(heap, *n, 0);
    return first;
}

bool pick_allowed(const struct generation_state *r, int64_t now_ns)
{
    return !r->failure && !r->cancelled_ns && !(r->g->deadline_ns && now_ns >= r->g->deadline_ns);
}

static int32_t heap_build(struct scheduler *s, int64_t now_ns)
{
    int32_t n = 0;
    for (struct generation_state *r = s->oldest; r; r = r->next) {
        r->cursor = r->first_open;
        r->leading_rows = 0;
        if (pick_allowed(r, now_ns))
            s->order[n++] = r;
    }
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        heap_sift(s->order, n, i);
    return n;
}

/* Its next image that can advance in this turn, begun ones first (they come first by index); -1: none. The last quarter
 * of the slots is kept for leaders, so that paused lanes cannot lock them out. */
static int32_t next_image(const struct choice *c, const struct generation_state *r, bool leads)
{
    int32_t fresh = -1;
    if (!pick_allowed(r, c->now_ns))
        return -1;
    for (int32_t i = r->cursor; i < r->next_start; i++) {
        const struct image *image = &r->images[i];
        if (image->slot >= 0 && image->device == c->w->device)
            return i;
        if (image->slot < 0 && image->step < r->g->table->n_rows && fresh < 0)
            fresh = i; // was chosen once and displaced
    }
    if (fresh < 0)
        fresh = r->cursor > r->next_start ? r->cursor : r->next_start;
    const struct model_lane *m = r->g->model;
    const struct lanes *l = &m->on[c->w->device];
    int32_t begun_now = 0;
    if (c->m == m)
        for (int32_t k = 0; k < c->n; k++)
            begun_now += l->picks[k].r->images[l->picks[k].image].slot < 0;
    int32_t kept = leads ? 0 : l->stepper.capacity / 4;
    return fresh < r->g->n_images && l->n_free - begun_now > kept ? fresh : -1;
}

static void take(struct choice *c, struct generation_state *r, int32_t image)
{
    c->l->picks[c->n++] = (struct picked){.r = r, .image = image};
    c->rows += r->rows;
    r->cursor = image + 1;
}

static void choose_model(struct choice *c, struct model_lane *m)
{
    c->m = m;
    c->l = &m->on[c->w->device];
    c->n = c->rows = 0;
}

/* Leaders, until the step is full. Returns the request that leads, NULL: none. */
static const struct generation_state *take_leaders(struct choice *c)
{
    int32_t n = heap_build(c->s, c->now_ns);
    const struct generation_state *first = NULL;
    while (n > 0) {
        struct generation_state *r = heap_pop(c->s->order, &n);
        if (first && (!same_class(first, r) || r->g->model != c->m)) {
            c->left_out = true;
            continue;
        }
        int32_t image = next_image(c, r, true);
        if (image >= 0 && !first) {
            first = r;
            choose_model(c, r->g->model);
        }
        while (image >= 0 && c->rows + r->rows <= c->l->stepper.max_rows) {
            take(c, r, image);
            r->leading_rows += r->rows;
            image = next_image(c, r, true);
        }
        c->left_out = c->left_out || image >= 0;
        if (first && c->rows == c->l->stepper.max_rows) {
            c->left_out = c->left_out || n > 0;
            break;
        }
    }
    return first;
}

/* Makes room for `rows` more by dropping the last leaders that are younger than r. False, and nothing is changed, where
 * there are not enough of them. */
static bool displace(struct choice *c, const struct generation_state *r, int32_t n_leaders)
{
    int32_t excess = c->rows + r->rows - c->l->stepper.max_rows, found = 0;
    for (int32_t k = 0; k < n_leaders; k++)
        if (c->l->picks[k].r->id > r->id)
            found += c->l->picks[k].r->rows;
    if (found < excess)
        return false;
    for (int32_t k = n_leaders - 1; k >= 0 && excess > 0; k--) {
        struct picked victim = c->l->picks[k];
        if (victim.r->id <= r->id)
            continue;
        for (int32_t j = k; j + 1 < c->n; j++)
            c->l->picks[j] = c->l->picks[j + 1];
        c->n--;
        c->rows -= victim.r->rows;
        excess -= victim.r->rows;
    }
    return true;
}

/* A whole step for the oldest request's model. */
static void take_step_of(struct choice *c, struct generation_state *oldest)
{
    choose_model(c, oldest->g->model);
    c->left_out = true;
    for (struct generation_state *r = oldest; r; r = r->next) {
        if (r->g->model != c->m)
            continue;
        r->cursor = r->first_open;
        for (int32_t i; c->rows + r->rows <= c->l->stepper.max_rows && (i = next_image(c, r, r == oldest)) >= 0;)
            take(c, r, i);
    }
    c->w->due -= step_cost_seconds(&c->l->cost, c->rows);
}

/* True: a step of r's model is what the reserve is spent on, now or when there is more of it. */
static bool take_other_model(struct choice *c, struct generation_state *r)
{
    const struct lanes *l = &r->g->model->on[c->w->device];
    double seconds = step_cost_seconds(&l->cost, l->stepper.max_rows);
    if (r->g->model == c->m || next_image(c, r, r == c->s->oldest) < 0)
        return false;
    if (c->w->due >= seconds)
        take_step_of(c, r);
    return true;
}

/* The leaders left rows free: rows beside them, out of what is due, or for thrift. */
static void fill(struct choice *c)
{
    const struct step_cost *cost = &c->l->cost;
    struct worker *w = c->w;
    for (struct generation_state *r = c->s->oldest; r && !take_other_model(c, r); r = r->next) {
        bool first = r == c->s->oldest;
        for (int32_t i; r->g->model == c->m && (i = next_image(c, r, first)) >= 0; take(c, r, i)) {
            double seconds = step_cost_seconds(cost, c->rows + r->rows) - step_cost_seconds(cost, c->rows);
            if (c->rows + r->rows > c->l->stepper.max_rows || seconds > fmax(w->due, w->thrift))
                return;
            w->thrift -= fmin(w->thrift, fmax(0, seconds));
            w->due = fmax(w->due - fmax(0, seconds), -PICK_GRACE_S);
        }
    }
}

/* The leaders fill the step: rows instead of younger ones, out of what is due. */
static void take_over(struct choice *c)
{
    int32_t n_leaders = c->n;
    double row_seconds = step_cost_seconds(&c->l->cost, c->l->stepper.max_rows) / c->l->stepper.max_rows;
    for (struct generation_state *r = c->s->oldest; r && !take_other_model(c, r); r = r->next) {
        for (int32_t i; (i = next_image(c, r, r == c->s->oldest)) >= 0; take(c, r, i)) {
            int32_t before = c->n;
            if (c->w->due < r->rows * row_seconds || !displace(c, r, n_leaders))
                return;
            n_leaders -= before - c->n;
            c->w->due -= r->rows * row_seconds;
        }
    }
}

/* What the oldest has as a leader is service too. */
static void set_off(struct choice *c)
{
    const struct generation_state *oldest = c->s->oldest;
    double step_seconds = step_cost_seconds(&c->l->cost, c->rows);
    c->w->due = fmax(c->w->due - step_seconds * oldest->leading_rows / c->rows, -PICK_GRACE_S);
}

int32_t pick_lanes(struct worker *w, int64_t now_ns, struct model_lane **ret_model)
{
    struct scheduler *s = w->s;
    struct choice c = {.s = s, .w = w, .now_ns = now_ns};
    accounts_mark_over(s->accounts, now_ns);
    if (!take_leaders(&c))
        return 0;
    w->left_out = c.left_out;
    if (c.left_out)
        set_off(&c);
    if (c.left_out && c.rows < c.l->stepper.max_rows)
        fill(&c);
    else if (c.left_out)
        take_over(&c);
    *ret_model = c.m;
    return c.n;
}

double pick_sharing(const struct model_lane *m)
{
    const struct lanes *l = &m->on[0];
    int32_t max_rows = l->stepper.max_rows;
    double alone = step_cost_seconds(&l->cost, 1), full = step_cost_seconds(&l->cost, max_rows);
    if (max_rows < 2 || !(alone > 0))
        return 0;
    return fmin(1, fmax(0, 1 - (full - alone) / (max_rows - 1) / alone));
}

void pick_charge(struct worker *w, struct model_lane *m, int32_t n, double seconds, int64_t now_ns)
{
    struct lanes *l = &m->on[w->device];
    int32_t rows = 0;
    double most = 0;
    for (int32_t i = 0; i < n; i++)
        rows += l->picks[i].r->rows;
    step_cost_learn(&l->cost, rows, seconds);
    for (int32_t i = 0; i < n; i++) {
        struct account *a = l->picks[i].r->account;
        account_seconds(a, now_ns);
        a->seconds += seconds * l->picks[i].r->rows / rows;
    }
    for (struct model_lane *each = w->s->models; each; each = each->next)
        most = fmax(most, step_cost_seconds(&each->on[w->device].cost, each->on[w->device].stepper.max_rows));
    if (w->left_out)
        w->due = fmin(w->due + PICK_RESERVE * seconds, most);
    w->thrift = fmin(w->thrift + PICK_RESERVE * pick_sharing(m) * seconds, most);
}
