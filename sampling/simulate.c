/* simulate.c: plays the backlog forward, coarsely, until enough of it has ended.
 *
 * The order within a client is known beforehand: the request with the least work left stays that while it is served. So
 * images are sorted once, client by client, and what is played is the competition of clients: each round the client
 * that the policy prefers takes rows for its first images, then the next, and the round lasts until the first of these
 * images ends, or a fraction of the whole. Classes and the reserve are left out. Bounded in rounds and images, so that
 * a refusal costs far less than a millisecond.
 */
#include "sampling/internal.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_IMAGES = 4096, MAX_ROUNDS = 1024, MAX_ROWS = 256, FRACTIONS = 256 };

struct sim_image {
    struct generation_state *r;
    int32_t left; // steps
};

struct sim_client {
    int32_t first, end; // of images
    int32_t cursor;     // in this round
    double seconds;
};

struct sim {
    int32_t n_images, n_clients;
    struct sim_image *images;
    struct sim_client *clients;
    int32_t quantum; // steps
    double seconds;  // played
    int64_t n_ended, bytes_ended, client_row_steps;
    int32_t client;                 // whose row-steps are counted
    const struct model_lane *model; // of the round
    int32_t n_picked, rows;
    int32_t picked[MAX_ROWS]; // images
};

/* By client, then as the policy orders a client's requests. */
static int compare_requests(const void *a, const void *b)
{
    const struct generation_state *x = *(struct generation_state *const *)a;
    const struct generation_state *y = *(struct generation_state *const *)b;
    if (x->account->index != y->account->index)
        return x->account->index - y->account->index;
    return pick_compare(x, y);
}

static int32_t sort_requests(struct scheduler *s)
{
    int32_t n = 0;
    for (struct generation_state *r = s->oldest; r; r = r->next)
        s->order[n++] = r;
    qsort(s->order, (size_t)n, sizeof(s->order[0]), compare_requests);
    return n;
}

static void add_images(struct sim *v, struct generation_state *r)
{
    r->cursor = r->open_images; // counts down while the play goes on
    for (int32_t i = r->first_open; i < r->g->n_images && v->n_images < MAX_IMAGES; i++)
        if (r->images[i].step < r->g->table->n_rows)
            v->images[v->n_images++] = (struct sim_image){r, r->g->table->n_rows - r->images[i].step};
}

/* False: no memory. */
static bool sim_init(struct sim *v, struct scheduler *s, int64_t now_ns)
{
    int32_t n_accounts = 0, max_rows = 1;
    *v = (struct sim){0};
    for (struct account *a = s->accounts; a; a = a->next)
        a->index = a->requests > 0 ? n_accounts++ : -1;
    for (struct model_lane *m = s->models; m; m = m->next)
        max_rows = m->stepper.max_rows > max_rows ? m->stepper.max_rows : max_rows;
    v->images = malloc(MAX_IMAGES * sizeof(*v->images));
    v->clients = calloc((size_t)n_accounts + 1, sizeof(*v->clients));
    if (!v->images || !v->clients)
        return false;
    int32_t n_requests = sort_requests(s);
    for (int32_t k = 0; k < n_requests; k++) {
        struct account *a = s->order[k]->account;
        struct sim_client *c = &v->clients[a->index];
        if (k == 0 || s->order[k - 1]->account != a)
            *c = (struct sim_client){v->n_images, 0, 0, account_seconds(a, now_ns)};
        add_images(v, s->order[k]);
        c->end = v->n_images;
    }
    v->n_clients = n_accounts;
    v->quantum = (int32_t)(s->stats.row_steps / max_rows / FRACTIONS) + 1;
    return true;
}

/* Its next image in this round; -1: none. */
static int32_t next_image(const struct sim *v, const struct sim_client *c)
{
    for (int32_t i = c->cursor; i < c->end; i++)
        if (v->images[i].left > 0)
            return i;
    return -1;
}

/* Is client a, with image i next, served before client b, with image j next? */
static bool before(const struct sim *v, const struct sim_client *a, int32_t i, const struct sim_client *b, int32_t j)
{
    const struct generation_state *x = v->images[i].r, *y = v->images[j].r;
    int32_t level_a = (int32_t)(a->seconds / ACCOUNT_LEVEL_S), level_b = (int32_t)(b->seconds / ACCOUNT_LEVEL_S);
    if (x->g->priority != y->g->priority)
        return x->g->priority > y->g->priority;
    if (level_a != level_b)
        return level_a < level_b;
    return x->remaining_row_steps < y->remaining_row_steps;
}

/* Who is served next among those that have an image left in this round. NULL: nobody. */
static struct sim_client *prefer(const struct sim *v)
{
    struct sim_client *best = NULL;
    int32_t best_image = -1;
    for (int32_t k = 0; k < v->n_clients; k++) {
        struct sim_client *c = &v->clients[k];
        int32_t i = next_image(v, c);
        if (i >= 0 && (!best || before(v, c, i, best, best_image))) {
            best = c;
            best_image = i;
        }
    }
    return best;
}

/* Rows for the images of c's next request, while there are rows and they are of the round's model. */
static void pick_request(struct sim *v, struct sim_client *c)
{
    int32_t i = next_image(v, c);
    const struct generation_state *r = v->images[i].r;
    if (!v->model)
        v->model = r->g->model;
    for (; i >= 0 && v->images[i].r == r; i = next_image(v, c)) {
        c->cursor = i + 1;
        if (r->g->model == v->model && v->rows + r->rows <= v->model->stepper.max_rows && v->n_picked < MAX_ROWS) {
            v->picked[v->n_picked++] = i;
            v->rows += r->rows;
        }
    }
}

static void end_image(struct sim *v, struct generation_state *r)
{
    v->n_ended++;
    if (--r->cursor == 0)
        v->bytes_ended += r->bytes;
}

/* Plays the picked images forward. */
static void advance(struct sim *v)
{
    int32_t steps = v->quantum;
    for (int32_t k = 0; k < v->n_picked; k++)
        steps = v->images[v->picked[k]].left < steps ? v->images[v->picked[k]].left : steps;
    double seconds = steps * step_cost_seconds(&v->model->cost, v->rows);
    for (int32_t k = 0; k < v->n_clients; k++)
        v->clients[k].seconds *= exp2(-seconds / ACCOUNT_HALF_LIFE_S);
    for (int32_t k = 0; k < v->n_picked; k++) {
        int32_t i = v->picked[k];
        int32_t client = v->images[i].r->account->index, rows = v->images[i].r->rows;
        v->clients[client].seconds += seconds * rows / v->rows;
        v->client_row_steps += client == v->client ? (int64_t)rows * steps : 0;
        v->images[i].left -= steps;
        if (v->images[i].left == 0)
            end_image(v, v->images[i].r);
    }
    v->seconds += seconds;
}

static bool play_round(struct sim *v)
{
    v->model = NULL;
    v->n_picked = v->rows = 0;
    for (int32_t k = 0; k < v->n_clients; k++) {
        struct sim_client *c = &v->clients[k];
        while (c->first < c->end && v->images[c->first].left == 0)
            c->first++;
        c->cursor = c->first;
    }
    for (struct sim_client *c; (!v->model || v->rows < v->model->stepper.max_rows) && (c = prefer(v));)
        pick_request(v, c);
    if (v->n_picked == 0)
        return false;
    advance(v);
    return true;
}

static bool has_room(const struct sim *v, const struct room *wanted)
{
    return v->n_ended >= wanted->images && v->bytes_ended >= wanted->bytes &&
           v->client_row_steps >= wanted->client_row_steps;
}

int64_t simulate_room_ns(struct scheduler *s, const struct room *wanted, int64_t now_ns)
{
    struct sim v;
    if (sim_init(&v, s, now_ns)) {
        v.client = wanted->client ? wanted->client->index : -1;
        for (int32_t round = 0; round < MAX_ROUNDS && !has_room(&v, wanted); round++)
            if (!play_round(&v))
                break;
    }
    free(v.images);
    free(v.clients);
    return (int64_t)(v.seconds * 1e9);
}
