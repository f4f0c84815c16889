/* simulate.c: plays the backlog forward, coarsely, until enough of it has ended.
 *
 * The order within a client is known beforehand: the request with the least work left stays that while it is served. So
 * images are sorted once, client by client, and what is played is the competition of clients: each round the client
 * that the policy prefers takes rows for its first images, then the next, and the round lasts until the first of these
 * images ends, or, with many images, a small part of the whole. The reserve is played too: rows for the oldest when
 * something is due to it. Bounded in rounds and images, so that a refusal costs far less than a millisecond.
 */
#include "sampling/internal.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_IMAGES = 4096, MAX_ROUNDS = 1024, MAX_ROWS = 256, FRACTIONS = 192 };

struct sim_image {
    struct generation_state *r;
    int32_t left; // steps
};

struct sim_client {
    int32_t first, end; // of images
    int32_t next;       // image in this round, -1: none
    double seconds;
    bool over; // in this round
};

struct sim {
    int32_t n_images, n_clients;
    struct sim_image *images;
    struct sim_client *clients;
    struct sim_client **heap; // who has images left in this round, the preferred one first
    int32_t n_heap;
    int32_t quantum;                        // steps of a round: at most, and with many images at least
    const struct generation_state *watched; // a round does not pass its end; or NULL
    double seconds;                         // played
    int64_t n_ended, bytes_ended, client_row_steps;
    int32_t client;                  // whose row-steps are counted
    struct generation_state *oldest; // with images left
    double due;                      // to it, as in pick.c
    int32_t oldest_rows;             // in this round
    const struct model_lane *model;  // of the round
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

static int32_t sort_requests(struct scheduler *s, struct generation_state *ghost)
{
    int32_t n = 0;
    for (struct generation_state *r = s->oldest; r; r = r->next)
        s->order[n++] = r;
    if (ghost)
        s->order[n++] = ghost;
    qsort(s->order, (size_t)n, sizeof(s->order[0]), compare_requests);
    return n;
}

static void add_images(struct sim *v, struct generation_state *r)
{
    r->cursor = r->open_images; // counts down while the play goes on
    r->sim_image = v->n_images;
    for (int32_t i = r->first_open; i < r->g->n_images && v->n_images < MAX_IMAGES; i++) {
        int32_t left = r->g->table->n_rows - (r->images ? r->images[i].step : 0); // a ghost has no images
        if (left > 0)
            v->images[v->n_images++] = (struct sim_image){r, left};
    }
}

/* False: no memory. */
static bool sim_init(struct sim *v, struct scheduler *s, struct generation_state *ghost, int64_t now_ns)
{
    int32_t n_accounts = 0, max_rows = 1;
    *v = (struct sim){0};
    for (struct account *a = s->accounts; a; a = a->next)
        a->index = a->requests > 0 || (ghost && a == ghost->account) ? n_accounts++ : -1;
    for (struct model_lane *m = s->models; m; m = m->next)
        max_rows = fleet_rows(m) > max_rows ? fleet_rows(m) : max_rows;
    v->images = malloc(MAX_IMAGES * sizeof(*v->images));
    v->clients = calloc((size_t)n_accounts + 1, sizeof(*v->clients));
    v->heap = calloc((size_t)n_accounts + 1, sizeof(struct sim_client *));
    if (!v->images || !v->clients || !v->heap)
        return false;
    int32_t n_requests = sort_requests(s, ghost);
    for (int32_t k = 0; k < n_requests; k++) {
        struct account *a = s->order[k]->account;
        struct sim_client *c = &v->clients[a->index];
        if (k == 0 || s->order[k - 1]->account != a)
            *c = (struct sim_client){.first = v->n_images, .seconds = account_seconds(a, now_ns)};
        add_images(v, s->order[k]);
        c->end = v->n_images;
    }
    v->n_clients = n_accounts;
    v->oldest = s->oldest;
    for (int32_t d = 0; d < s->n_devices; d++)
        v->due += s->workers[d].due / s->n_devices;
    int64_t row_steps = s->stats.row_steps + (ghost ? ghost->remaining_row_steps : 0);
    v->quantum = (int32_t)(row_steps / max_rows / FRACTIONS) + 1;
    return true;
}

/* The first image from i on that is left; -1: none. */
static int32_t image_from(const struct sim *v, const struct sim_client *c, int32_t i)
{
    for (; i < c->end; i++)
        if (v->images[i].left > 0)
            return i;
    return -1;
}

/* Is client a, with its next image, served before client b? */
static bool before(const struct sim *v, const struct sim_client *a, const struct sim_client *b)
{
    const struct generation_state *x = v->images[a->next].r, *y = v->images[b->next].r;
    int32_t level_a = (int32_t)(a->seconds / ACCOUNT_LEVEL_S), level_b = (int32_t)(b->seconds / ACCOUNT_LEVEL_S);
    if (x->g->priority != y->g->priority)
        return x->g->priority > y->g->priority;
    if (a->over != b->over)
        return b->over;
    if (level_a != level_b)
        return level_a < level_b;
    return x->remaining_row_steps < y->remaining_row_steps;
}

static void heap_sift(struct sim *v, int32_t i)
{
    for (;;) {
        int32_t child = 2 * i + 1;
        if (child >= v->n_heap)
            return;
        if (child + 1 < v->n_heap && before(v, v->heap[child + 1], v->heap[child]))
            child++;
        if (!before(v, v->heap[child], v->heap[i]))
            return;
        struct sim_client *swap = v->heap[i];
        v->heap[i] = v->heap[child];
        v->heap[child] = swap;
        i = child;
    }
}

/* The preferred client's next image has changed. */
static void heap_update(struct sim *v)
{
    if (v->heap[0]->next < 0)
        v->heap[0] = v->heap[--v->n_heap];
    heap_sift(v, 0);
}

/* Takes image i, if the rows do not get more than max_rows. */
static void pick_image(struct sim *v, int32_t i, int32_t max_rows)
{
    const struct generation_state *r = v->images[i].r;
    if (r->g->model != v->model || v->rows + r->rows > max_rows || v->n_picked == MAX_ROWS)
        return;
    v->picked[v->n_picked++] = i;
    v->rows += r->rows;
    if (r == v->oldest)
        v->oldest_rows += r->rows;
}

/* A quarter of the rows to the oldest, to which something is due. Returns the end of the images looked at: its client
 * is not to take these again. */
static int32_t pick_oldest(struct sim *v)
{
    struct generation_state *r = v->oldest;
    v->model = r->g->model;
    int32_t i = r->sim_image, wanted = (int32_t)ceil(PICK_RESERVE * fleet_rows(v->model));
    for (; i < v->n_images && v->images[i].r == r && v->rows < wanted; i++)
        if (v->images[i].left > 0)
            pick_image(v, i, fleet_rows(v->model));
    return i;
}

/* Rows for the images of c's next request, as far as max_rows. */
static void pick_request(struct sim *v, struct sim_client *c, int32_t max_rows, int32_t taken_from, int32_t taken_to)
{
    const struct generation_state *r = v->images[c->next].r;
    while (c->next >= 0 && v->images[c->next].r == r && v->rows < max_rows) {
        if (c->next < taken_from || c->next >= taken_to)
            pick_image(v, c->next, max_rows);
        c->next = image_from(v, c, c->next + 1);
    }
}

/* How many rows a step has when others than the leaders come in for thrift only. */
static int32_t thrifty_rows(const struct sim *v)
{
    double leaders = fleet_seconds(v->model, v->rows), spare = PICK_RESERVE * pick_sharing(v->model) * leaders;
    int32_t rows = v->rows;
    while (rows < fleet_rows(v->model) && fleet_seconds(v->model, rows + 1) - leaders <= spare)
        rows++;
    return rows;
}

/* Clients in order: the first and its class without limit, others by thrift. */
static void pick_clients(struct sim *v, int32_t taken_from, int32_t taken_to)
{
    const struct sim_client *first = NULL;
    enum priority priority = PRIORITY_NORMAL;
    int32_t max_rows = 0;
    bool thrifty = false;
    while (v->n_heap > 0 && (!first || v->rows < max_rows)) {
        struct sim_client *c = v->heap[0];
        const struct generation_state *r = v->images[c->next].r;
        if (!first) {
            first = c;
            priority = r->g->priority;
            v->model = v->model ? v->model : r->g->model;
            max_rows = fleet_rows(v->model);
        } else if (!thrifty && v->rows > 0 && (c->over != first->over || r->g->priority != priority)) {
            thrifty = true;
            max_rows = thrifty_rows(v);
        }
        pick_request(v, c, max_rows, taken_from, taken_to);
        if (v->rows < max_rows)
            heap_update(v);
    }
}

static void end_image(struct sim *v, struct generation_state *r)
{
    v->n_ended++;
    if (--r->cursor == 0)
        v->bytes_ended += r->bytes;
}

/* Steps of this round. With more images than rounds are affordable, it does not stop for each that ends. */
static int32_t round_steps(const struct sim *v)
{
    int32_t shortest = v->quantum, watched = v->quantum;
    for (int32_t k = 0; k < v->n_picked; k++) {
        const struct sim_image *image = &v->images[v->picked[k]];
        shortest = image->left < shortest ? image->left : shortest;
        if (image->r == v->watched)
            watched = image->left < watched ? image->left : watched;
    }
    return v->n_images <= FRACTIONS ? shortest : watched;
}

/* Plays the picked images forward; time passes as rows are used, so that what ends within the round leaves no gap. */
static void advance(struct sim *v)
{
    int32_t steps = round_steps(v);
    int64_t row_steps = 0;
    double row_seconds = fleet_seconds(v->model, v->rows) / v->rows;
    for (int32_t k = 0; k < v->n_picked; k++) {
        struct sim_image *image = &v->images[v->picked[k]];
        int32_t client = image->r->account->index, done = image->left < steps ? image->left : steps;
        row_steps += (int64_t)image->r->rows * done;
        v->clients[client].seconds += image->r->rows * done * row_seconds;
        v->client_row_steps += client == v->client ? (int64_t)image->r->rows * done : 0;
        image->left -= done;
        if (image->left == 0)
            end_image(v, image->r);
    }
    double seconds = (double)row_steps * row_seconds, decay = exp2(-seconds / ACCOUNT_HALF_LIFE_S);
    for (int32_t k = 0; k < v->n_clients; k++)
        v->clients[k].seconds *= decay;
    v->seconds += seconds;
    v->due += seconds * (PICK_RESERVE - (double)v->oldest_rows / v->rows);
    v->due = fmax(v->due, -PICK_GRACE_S);
}

/* As accounts_mark_over(). */
static void mark_over(struct sim *v)
{
    double sum = 0;
    int32_t n = 0;
    for (int32_t k = 0; k < v->n_clients; k++)
        if (v->clients[k].first < v->clients[k].end) {
            sum += v->clients[k].seconds;
            n++;
        }
    for (int32_t k = 0; k < v->n_clients; k++)
        v->clients[k].over = n > 1 && v->clients[k].seconds * n > 1.5 * sum;
}

static void begin_round(struct sim *v)
{
    v->model = NULL;
    v->n_picked = v->rows = v->oldest_rows = 0;
    while (v->oldest && v->oldest->cursor == 0)
        v->oldest = v->oldest->next;
    v->n_heap = 0;
    for (int32_t k = 0; k < v->n_clients; k++) {
        struct sim_client *c = &v->clients[k];
        while (c->first < c->end && v->images[c->first].left == 0)
            c->first++;
        c->next = c->first < c->end ? c->first : -1;
        if (c->next >= 0)
            v->heap[v->n_heap++] = c;
    }
    mark_over(v);
    for (int32_t i = v->n_heap / 2 - 1; i >= 0; i--)
        heap_sift(v, i);
}

static bool play_round(struct sim *v)
{
    int32_t from = 0, to = 0;
    begin_round(v);
    if (v->oldest && v->due > 0) {
        from = v->oldest->sim_image;
        to = pick_oldest(v);
    }
    pick_clients(v, from, to);
    if (v->n_picked == 0)
        return false;
    advance(v);
    return true;
}

static void sim_done(struct sim *v)
{
    free(v->images);
    free(v->clients);
    free(v->heap);
}

static bool has_room(const struct sim *v, const struct room *wanted)
{
    return v->n_ended >= wanted->images && v->bytes_ended >= wanted->bytes &&
           v->client_row_steps >= wanted->client_row_steps;
}

int64_t simulate_room_ns(struct scheduler *s, const struct room *wanted, int64_t now_ns)
{
    struct sim v;
    if (sim_init(&v, s, NULL, now_ns)) {
        v.client = wanted->client ? wanted->client->index : -1;
        for (int32_t round = 0; round < MAX_ROUNDS && !has_room(&v, wanted); round++)
            if (!play_round(&v))
                break;
    }
    sim_done(&v);
    return (int64_t)(v.seconds * 1e9);
}

int64_t simulate_end_ns(struct scheduler *s, struct generation_state *r, int64_t now_ns)
{
    struct sim v;
    bool complete = sim_init(&v, s, r->id == GHOST_ID ? r : NULL, now_ns) && v.n_images < MAX_IMAGES;
    v.watched = r;
    for (int32_t round = 0; complete && r->cursor > 0; round++)
        complete = round < MAX_ROUNDS && play_round(&v);
    sim_done(&v);
    return complete ? (int64_t)(v.seconds * 1e9) : -1;
}
