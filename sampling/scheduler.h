/* scheduler.h: requests become lanes, lanes share steps.
 *
 * One worker thread per device owns it and loops: admit waiting images into free lanes, one step over the active lanes
 * of a model (each with its own timestep, class, row, guidance), retire the finished, repeat. A request's images join
 * at the next step and leave after their own last one.
 *
 * Bytes: an image depends on model, recipe, seed and index alone, never on its batch mates.
 * Admission: first come, first served within a priority, fair share per client; bounded in images, lane-steps and
 * bytes, reserved in one atomic step. Threads: submit, cancel, stats from any thread; callbacks from the worker thread,
 * which must not be blocked.
 */
#ifndef DDIMD_SAMPLING_SCHEDULER_H
#define DDIMD_SAMPLING_SCHEDULER_H

#include "kernels/error.h"
#include "model/schedule.h"

#include <stdatomic.h>

struct lane_step; // model/lanes.h

/* What the scheduler drives: one model's lanes on one device. The real one wraps model/lanes.h; tests drive a fake.
 * Called from the device's worker. */
struct stepper {
    void *self;
    int32_t capacity;      // lanes
    int32_t max_rows;      // batch rows of one step (guidance takes two)
    size_t image_elements; // H * W * C
    int (*start)(void *self, int32_t slot, uint64_t seed, uint64_t image);
    int (*step)(void *self, const struct lane_step *lanes, int32_t n, uint8_t *ret_finite);
    int (*read)(void *self, int32_t slot, bool x0, float *ret_image);
};

enum priority { PRIORITY_LOW, PRIORITY_NORMAL, PRIORITY_HIGH, PRIORITY_COUNT };
extern const char *const priority_names[PRIORITY_COUNT + 1];

struct generation;
struct generation_callbacks {
    /* Once, when nothing of the request is left on the device. status as generation_status(). The receiver now owns the
     * request. */
    void (*done)(struct generation *g, void *context);
    /* After a step in which images of the request advanced, at most once a step; NULL: not wanted. done_steps of all
     * its images together. */
    void (*progress)(struct generation *g, int64_t done_lane_steps, int64_t total_lane_steps, void *context);
    /* A preview of one image (the x0 prediction, [H, W, C]); NULL: not wanted. */
    void (*preview)(struct generation *g, int32_t image, int32_t step, const float *x0, void *context);
};

/* One request. Filled by the caller (zeroed first), owned by the scheduler from a successful submit to done(). */
struct generation {
    struct model_lane *model; // models.h; a reference is held while the request lives
    int32_t n_images;
    int32_t *class_index;     // [n_images], owned
    struct step_table *table; // owned
    uint64_t seed;
    float guidance;
    bool clip;
    int32_t
        interval; // 0: the result only; else the starting noise, the state after every interval-th step, and the result
    int32_t preview_every; // steps between previews; 0: none
    enum priority priority;
    uint64_t client;     // for the fair share: a hash of key or address
    int64_t deadline_ns; // CLOCK_MONOTONIC; 0: none
    struct generation_callbacks on;
    void *context;

    /* results, valid in done() */
    int status; // 0, -ECANCELED, -ETIMEDOUT, -ERANGE (a lane's state was not finite), -EIO (device lost), -ESHUTDOWN
    int32_t n_frames; // images of one row: 1, or as interval says
    float *images;    // [n_images, n_frames, H, W, C]
    int64_t submitted_ns, started_ns, finished_ns;

    struct generation_state *state; // the scheduler's
};
/* Frees a request that was never submitted, or that done() was called for. NULL is fine. */
void generation_free(struct generation *g);

struct scheduler_limits {
    int64_t max_queued_images, max_queued_lane_steps, max_queued_bytes; // queued and in flight, all clients
    int64_t max_client_lane_steps;                                      // of one client
};

struct scheduler_clock {
    int64_t (*now_ns)(void *context);
    void *context;
};

struct scheduler;

/* clock NULL: CLOCK_MONOTONIC. start_worker false: tests turn it by scheduler_turn(). */
int scheduler_create(const struct scheduler_limits *l, const struct scheduler_clock *clock, bool start_worker,
                     struct scheduler **ret_scheduler, struct error *err);
/* Stops the worker after the current step; what is left ends with -ESHUTDOWN. */
void scheduler_free(struct scheduler *s);

/* Attaches one model's lanes. The stepper must live until scheduler_detach() returned. Runs `load` (may be NULL) on the
 * worker thread first, since the device is its own. */
int scheduler_attach(struct scheduler *s, struct stepper *stepper, struct model_lane **ret_lane);
/* No new requests; waits until its lanes are empty; then returns. */
void scheduler_detach(struct scheduler *s, struct model_lane *lane);
/* Runs call(context) on the device's worker between two steps, waits, returns its value: for loading, measuring,
 * canaries. */
int scheduler_call(struct scheduler *s, int (*call)(void *context), void *context);

/* 0; -EAGAIN: the queue is full, -EDQUOT: the client's share is, both with the wait after which it would fit;
 * -ETIMEDOUT: the deadline cannot be met; -ESHUTDOWN: draining. On failure the caller still owns g. */
int scheduler_submit(struct scheduler *s, struct generation *g, int64_t *ret_retry_after_ns, struct error *err);
/* Its lanes are freed at the next step; done() follows with -ECANCELED unless it already ended. Any thread, any time
 * until done(). */
void scheduler_cancel(struct scheduler *s, struct generation *g);

/* No new submissions; returns when nothing is queued or in flight, or at the deadline (-ETIMEDOUT). */
int scheduler_drain(struct scheduler *s, int64_t deadline_ns);

struct scheduler_stats {
    int64_t queued_images, queued_lane_steps, active_lanes;
    int64_t steps, lane_steps, joins, leaves, cancelled, failed_lanes; // since start
    int64_t last_step_ns;                                              // clock at the end of the last good step
    double step_seconds_ewma;                                          // one step
    double lane_step_seconds;                                          // per lane-step at the present load
    bool device_lost;
};
void scheduler_stats(struct scheduler *s, struct scheduler_stats *ret_stats);
/* Expected wait until a request of this many lane-steps would be finished, from backlog and measured step times. */
int64_t scheduler_expected_ns(struct scheduler *s, int64_t lane_steps);

/* One turn of the worker's loop, for tests without a worker: returns the lanes stepped, 0 when idle. */
int scheduler_turn(struct scheduler *s);

#endif
