/* internal.h: what the scheduler's files share; nothing outside this folder includes it.
 *
 * scheduler.c   creation, models, stop, drain, cancel
 * worker.c      the thread, calls onto it
 * admit.c       submit: bounds, deadline, reservation
 * turn.c        one turn: end what must end, choose, step, copy frames out, retire
 * pick.c        the policy: which lanes advance in the next step
 * account.c     clients and what they used lately
 * cost.c        step time by rows
 * forecast.c    expected times, from backlog and step times
 * simulate.c    expected times that have no closed form
 * request.c     a request's bookkeeping: reservation, slots, end
 *
 * One lock guards everything here but what is marked "worker". A worker lets go of it while its device works and during
 * callbacks. A request ends, and gives its slots back, when none of its images is in a step: on the worker whose step
 * was the last. Until then nobody frees it, so a worker may read what does not change of the requests in its step.
 */
#ifndef DDIMD_SAMPLING_INTERNAL_H
#define DDIMD_SAMPLING_INTERNAL_H

#include "sampling/scheduler.h"

#include <pthread.h>

/* cost.c: seconds of a step by its rows, learned; 0: not seen yet. */
struct step_cost {
    int32_t max_rows;
    double *seconds; // [max_rows + 1]
};
int step_cost_init(struct step_cost *c, const struct stepper *stepper); // 0, -ENOMEM
void step_cost_done(struct step_cost *c);
void step_cost_learn(struct step_cost *c, int32_t rows, double seconds);
/* Interpolated where not seen; 0 where nothing is known. rows is clamped to 0..max_rows. */
double step_cost_seconds(const struct step_cost *c, int32_t rows);

/* account.c: one client. seconds: device time used lately, decaying with ACCOUNT_HALF_LIFE_S. */
#define ACCOUNT_HALF_LIFE_S 20.0
#define ACCOUNT_LEVEL_S 1.0 // clients whose use differs by less are equal
struct account {
    uint64_t client;
    double seconds;
    int64_t stamp_ns;  // when seconds was right
    int64_t row_steps; // held
    int32_t requests;  // held
    bool over;         // pick.c: well above its fair share
    int32_t index;     // simulate.c: scratch
    struct account *next;
};
/* Finds or makes the client's. NULL without memory. Forgets idle clients whose use has decayed. */
struct account *account_get(struct account **list, uint64_t client, int64_t now_ns);
double account_seconds(struct account *a, int64_t now_ns); // decayed to now
int32_t account_level(const struct account *a);            // of its seconds as they stand
/* Marks accounts that hold requests and used more than 1.5 times the mean of those. */
void accounts_mark_over(struct account *list, int64_t now_ns);
void accounts_free(struct account *list);

/* An image in a step. What follows `image` is the worker's. */
struct picked {
    struct generation_state *r; // NULL: looked at already
    int32_t image;
    int failure; // what the step or a read said
    bool advanced;
    int64_t done_lane_steps; // of the request, after the step
};

/* One model's lanes on one device. */
struct lanes {
    struct stepper stepper;
    struct step_cost cost;
    int32_t n_free, *free_slots; // [capacity] a stack
    bool busy;                   // its worker steps or probes it
    struct picked *picks;        // [max_rows] worker
    struct lane_step *steps;     // [max_rows] worker
    uint8_t *finite;             // [max_rows] worker
    float *x0;                   // [image_elements] worker: previews
};

/* One model. */
struct model_lane {
    struct scheduler *s;
    struct lanes on[SCHEDULER_MAX_DEVICES]; // [n_devices]
    int32_t n_requests;
    bool closing;
    struct model_lane *next;
};

/* One device's thread. */
struct worker {
    struct scheduler *s;
    int32_t device;
    pthread_t thread;
    bool exists, known; // known: `thread` is set by itself
    struct scheduler_post *posts, **posts_end;
    double due, thrift; // pick.c, seconds
    bool left_out;      // pick.c: of the last step
    bool idle;          // the last turn found nothing to do, though
    int64_t turned_ns;  // when its loop last came round
    int64_t shown_ns;   // when its device last showed that it works
    uint64_t seen;      // scheduler.changes was so many when it looked
};

struct image {
    int32_t slot;   // -1: none
    int32_t step;   // rows executed
    int32_t device; // of the slot
};

/* The scheduler's side of a request. */
struct generation_state {
    struct generation *g;
    uint64_t id;
    struct account *account;
    struct generation_state *prev, *next; // by age; next also links ended ones
    struct image *images;                 // [n_images]
    int32_t rows;                         // of one image in a step: 1, or 2 with guidance
    int32_t first_open, next_start;       // images before first_open are finished, from next_start on not begun
    int32_t open_images;
    int64_t remaining_row_steps, done_lane_steps, bytes;
    int64_t cancelled_ns; // 0: not
    int32_t cursor;       // pick.c: next image to look at in this turn
    int32_t leading_rows; // pick.c: that it has as a leader in this turn
    int32_t sim_image;    // simulate.c: its first image there
    int32_t in_step;      // its images that are in a step now: it does not end meanwhile
    int failure;          // it ends with this
};

struct scheduler {
    struct scheduler_options o;
    pthread_mutex_t lock;
    pthread_cond_t wake; // the worker: something to do
    pthread_cond_t idle; // others: a request ended, a call returned
    pthread_mutex_t inline_lock;
    struct worker workers[SCHEDULER_MAX_DEVICES]; // [n_devices]
    int32_t n_devices;
    bool stopping, closed;
    uint64_t changes; // counts what may give an idle worker something to do

    struct model_lane *models;
    struct account *accounts;
    struct generation_state *oldest, *youngest;
    struct generation_state *ended; // to be delivered
    int32_t n_ended;                // ended, done() not yet returned
    struct generation_state **order;
    int32_t order_capacity;
    uint64_t last_id;
    struct scheduler_stats stats;
};

/* request.c, all with the lock held but request_create and request_free. */
int request_create(struct generation *g, int64_t bytes, struct generation_state **ret_state);
void request_free(struct generation_state *r);
void request_link(struct scheduler *s, struct generation_state *r);
/* Gives back slots, reservation and place in the list, and puts it with the ended. */
void request_end(struct scheduler *s, struct generation_state *r, int status);
void request_slot_release(struct generation_state *r, int32_t image);
/* Executed steps after which frame `frame` is taken: 0 for the starting noise. */
int32_t generation_frame_of_step(int32_t n_rows, int32_t interval, int32_t steps_done); // -1: none

/* Something has changed that workers may wait for. Lock held. */
void scheduler_changed(struct scheduler *s);

/* pick.c: chooses lanes of one model on the worker's device into its picks. Returns their number, 0: nothing to do.
 * Lock held. */
int32_t pick_lanes(struct worker *w, int64_t now_ns, struct model_lane **ret_model);
/* Books the time of the step that they made. */
void pick_charge(struct worker *w, struct model_lane *m, int32_t n, double seconds, int64_t now_ns);
/* Whether a request may be given steps: it is not about to end. */
bool pick_allowed(const struct generation_state *r, int64_t now_ns);
/* The policy's order: < 0 when a is served before b. */
int pick_compare(const struct generation_state *a, const struct generation_state *b);
/* The part of a row's time that sharing a step saves: 0 where rows cost their full time, near 1 where they are free. */
double pick_sharing(const struct model_lane *m);
/* What all devices together do with one model: rows at once, and seconds of so many. */
int32_t fleet_rows(const struct model_lane *m);
double fleet_seconds(const struct model_lane *m, int32_t rows);
#define PICK_RESERVE 0.25 // of the device's time for the oldest request
#define PICK_GRACE_S 0.5  // that this may be behind

/* forecast.c, lock held. */
/* Time to the end of r: one of the list, or one that is not linked (GHOST_ID) with g, account, rows, open_images and
 * remaining_row_steps set, as if it were submitted now. */
int64_t forecast_end_ns(struct scheduler *s, struct generation_state *r, int64_t now_ns);
/* Until so many row-steps of anyone are done. */
int64_t forecast_row_steps_ns(struct scheduler *s, int64_t row_steps);
double forecast_row_step_seconds(const struct scheduler *s);

/* simulate.c, lock held. Time to the end of r, as forecast_end_ns(); -1: the backlog is too large to be played. */
int64_t simulate_end_ns(struct scheduler *s, struct generation_state *r, int64_t now_ns);
/* Until so many images, bytes of requests and row-steps of one client (NULL: of none) are done, all three. */
struct room {
    int64_t images, bytes;
    const struct account *client;
    int64_t client_row_steps;
};
int64_t simulate_room_ns(struct scheduler *s, const struct room *wanted, int64_t now_ns);
/* admit.c, lock held */
int admit_reserve_order(struct scheduler *s); // room for one more request in order; 0, -ENOMEM
/* A request as simulate and forecast want it, not linked. */
#define GHOST_ID UINT64_MAX // younger than all
struct generation_state admit_ghost(struct generation *g, struct account *a);

/* worker.c */
void *scheduler_worker(void *worker);   // the thread's main
bool worker_run_post(struct worker *w); // the next posted call; false: none

/* turn.c */
void deliver_ended(struct scheduler *s); // without the lock

/* stats.c */
void stats_init(struct scheduler_stats *stats);
void histogram_add(struct scheduler_histogram *h, double value);

#endif
