/* scheduler.h: requests become lanes, lanes share steps.
 *
 * One worker thread per device owns it and loops: choose lanes of one model (each with its own timestep, class, row and
 * guidance), one step over them, retire the finished, repeat. A request's images join at a step and leave after their
 * own last one. Which lanes advance is a policy: see pick.c for it and for the bounds that it keeps.
 *
 * Several devices share one queue: every model has lanes on each, an image takes a lane of whichever device first has
 * room for it and stays there, so a request's images may be on several. Devices are of one kind, numbered from 0.
 *
 * Bytes: an image depends on model, recipe, seed and index alone, never on its batch mates or on the order of steps.
 * Bounds: images, bytes and row-steps, reserved in one atomic step. A row-step is one batch row in one step: an image
 * costs its steps, twice that with guidance != 1.
 * Threads: everything may be called from any thread, unless said; callbacks come from a worker (progress and previews
 * of a request that is on several devices from several, at the same time), must not block it, and may call anything
 * here but scheduler_call, scheduler_drain, scheduler_stop and scheduler_free.
 */
#ifndef DDIMD_SAMPLING_SCHEDULER_H
#define DDIMD_SAMPLING_SCHEDULER_H

#include "kernels/error.h"
#include "model/lanes.h"
#include "model/schedule.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the scheduler drives: one model's lanes on one device. The real one wraps model/lanes.h; tests drive a fake.
 * Called from the device's worker. The three functions return 0 or a negative errno; -EIO says that the device is lost,
 * anything else fails the requests concerned. */
struct stepper {
    void *self;
    int32_t capacity;      // lanes in the pool, running or paused; at least max_rows
    int32_t max_rows;      // batch rows of one step, at least 1; 2 where guidance is to be served
    size_t image_elements; // H * W * C
    int32_t n_measured;    // known step times, ascending rows; 0: learned while running
    const int32_t *measured_rows;
    const double *measured_seconds;
    int (*start)(void *self, int32_t slot, uint64_t seed, uint64_t image);
    int (*step)(void *self, const struct lane_step *lanes, int32_t n, uint8_t *ret_finite);
    int (*read)(void *self, int32_t slot, bool x0, float *ret_image);
};

enum { SCHEDULER_MAX_DEVICES = 8 };

enum priority { PRIORITY_LOW, PRIORITY_NORMAL, PRIORITY_HIGH, PRIORITY_COUNT };
extern const char *const priority_names[PRIORITY_COUNT + 1]; // NULL-terminated

struct model_lane; // one model attached to one device
struct generation_state;
struct generation;
struct generation_callbacks {
    /* Once for every submitted request, when nothing of it is left on the device; perhaps before scheduler_submit()
     * returned. g->status says how it ended. The receiver now owns the request. */
    void (*done)(struct generation *g, void *context);
    /* After a step in which images of the request advanced, at most once a step; NULL: not wanted. Steps of all its
     * images together (guidance counts once). */
    void (*progress)(struct generation *g, int64_t done_lane_steps, int64_t total_lane_steps, void *context);
    /* A preview of one image: the x0 prediction of its step-th executed step, from 1. x0: [H, W, C], valid during the
     * call. NULL: not wanted. */
    void (*preview)(struct generation *g, int32_t image, int32_t step, const float *x0, void *context);
};

/* One request. Filled by the caller (zeroed first), owned by the scheduler from a successful submit to done(). */
struct generation {
    struct model_lane *model; // attached until done(): hold a reference (models.h)
    int32_t n_images;
    int32_t *class_index;     // [n_images], malloc'd, owned
    struct step_table *table; // malloc'd, owned
    uint64_t seed;
    uint64_t first_image; // index of the first image, for the noise
    float guidance;       // 1: one row, else two
    bool clip;
    int32_t interval; // 0: the result only; else the starting noise, the state after every interval-th step, the result
    int32_t preview_every; // steps between previews; 0: none. None after the last step, whose result follows.
    enum priority priority;
    uint64_t client;              // for the fair share: a hash of key or address
    int64_t max_client_row_steps; // its client's bound; 0: that of the options
    int64_t deadline_ns;          // of the scheduler's clock; 0: none
    struct generation_callbacks on;
    void *context;

    /* Results, valid in done(). */
    int status;       // 0, -ECANCELED, -ETIMEDOUT, -ERANGE (a state not finite), -EIO (device lost), -ESHUTDOWN, other
    int32_t n_frames; // frames of one image, generation_frames()
    float *images;    // [n_images, n_frames, H, W, C], complete where status is 0
    int64_t submitted_ns, started_ns, finished_ns; // started_ns: the first of its lanes joined a step; 0: none did

    struct generation_state *state; // the scheduler's
};
/* Frees a request that was not submitted, or that done() was called for. NULL is fine. */
void generation_free(struct generation *g);
/* Frames of one image: 1, or as interval says; the result is never there twice. */
int32_t generation_frames(int32_t n_rows, int32_t interval);

struct scheduler_options {
    /* Bounds on what is queued and in flight; 0: none. Row-steps and images are given back as they are done, bytes (of
     * result frames) with the request. */
    int64_t max_images, max_row_steps, max_bytes;
    int64_t max_client_row_steps;
    int32_t n_devices; // 0: 1; at most SCHEDULER_MAX_DEVICES
    /* Test clock; NULL: CLOCK_MONOTONIC. From any thread. */
    int64_t (*now_ns)(void *context);
    /* From a worker after every turn and at least once a second while idle, as long as no other is stuck (the
     * watchdog's ping), NULL: none. */
    void (*alive)(void *context);
    /* Once, from the worker, after everything that the lost device held has ended with -EIO. NULL: none. */
    void (*device_lost)(void *context);
    void *context;
    bool no_worker; // tests: turned by scheduler_turn(), calls run in the caller
    /* After so long without a step, a free lane runs one step of nobody's, so that a device that fails is noticed
     * before a request is. 0: never. */
    int64_t probe_ns;
};

struct scheduler;
/* 0, -ENOMEM, -EAGAIN (no thread). o is copied. */
int scheduler_create(const struct scheduler_options *o, struct scheduler **ret_scheduler, struct error *err);
/* Ends the worker after the step it is in; what is left ends with -ESHUTDOWN, in the caller's thread, which is from
 * then on the worker: scheduler_post() and scheduler_detach() run in it. Idempotent. */
void scheduler_stop(struct scheduler *s);
/* Stops; every model must be detached. NULL is fine. */
void scheduler_free(struct scheduler *s);
int64_t scheduler_now_ns(const struct scheduler *s);
int32_t scheduler_n_devices(const struct scheduler *s);

/* Attaches one model's lanes, which have just been tried. steppers: [n_devices], copied (self and measurements must
 * live until detach). 0, -ENOMEM, -EINVAL (sizes). */
int scheduler_attach(struct scheduler *s, const struct stepper *steppers, struct model_lane **ret_lane);
/* No new requests (they get -ESHUTDOWN); returns when its lanes are empty. On the worker itself nothing may be left of
 * its requests but ones in done(). NULL is fine. */
void scheduler_detach(struct scheduler *s, struct model_lane *lane);

/* Runs call(context) on the device's worker between two steps and returns its value: loading, measuring, canaries. On
 * the worker itself: at once. -EIO when the device is lost, -ESHUTDOWN when stopped (call is not run then): a load
 * under way ends at its next call. */
int scheduler_call(struct scheduler *s, int32_t device, int (*call)(void *context), void *context);
/* As scheduler_call() without waiting, also when the device is lost: to free what the device holds. From any thread,
 * callbacks included. The entry is the caller's, lives until call() begins; it may free it. */
struct scheduler_post {
    void (*call)(struct scheduler_post *post);
    struct scheduler_post *next;
};
void scheduler_post(struct scheduler *s, int32_t device, struct scheduler_post *post);

struct scheduler_ticket {
    uint64_t id;            // never 0, never reused
    int64_t expected_ns;    // until its end, by estimate
    int64_t retry_after_ns; // refused: until it would fit, by estimate
};
/* 0; -EAGAIN: the queue is full; -EDQUOT: the client's share is; -E2BIG: it would not fit an empty queue (err->field
 * "n" or "steps"); -ETIMEDOUT: the deadline cannot be met; -ESHUTDOWN: draining; -EIO: device lost; -EINVAL; -ENOMEM.
 * On failure the caller still owns g. *ret_ticket (may be NULL) is filled for 0, -EAGAIN, -EDQUOT and -ETIMEDOUT. */
int scheduler_submit(struct scheduler *s, struct generation *g, struct scheduler_ticket *ret_ticket, struct error *err);
/* Its lanes are freed before the next step; done() follows with -ECANCELED unless it ends otherwise first. By id, so
 * that no cancel can meet a request that was freed. 0, -ENOENT (ended, or never was). */
int scheduler_cancel(struct scheduler *s, uint64_t id);
/* Expected time to the end of g, were it submitted now. Reads model, n_images, table, guidance, priority, client. */
int64_t scheduler_expected_ns(struct scheduler *s, struct generation *g);

struct scheduler_place {
    int64_t images_ahead; // of other requests, expected to be served before its next step; 0: it is running
    int64_t done_lane_steps, total_lane_steps;
    int64_t expected_ns; // until its end
    int64_t queued_ns;   // from submit to its first step, or until now
    int64_t running_ns;  // since its first step; 0: none yet
};
int scheduler_place(struct scheduler *s, uint64_t id, struct scheduler_place *ret_place); // 0, -ENOENT

/* No new submissions from now on; returns when nothing is queued or in flight, or -ETIMEDOUT at deadline_ns (of the
 * scheduler's clock; 0: none). Submissions stay closed. */
int scheduler_drain(struct scheduler *s, int64_t deadline_ns);

/* Counts by upper bound: count[i] of values <= bounds[i], not cumulated; the last count is of those above all. */
enum { SCHEDULER_BUCKETS = 14 };
struct scheduler_histogram {
    double bounds[SCHEDULER_BUCKETS];
    int64_t count[SCHEDULER_BUCKETS + 1], n;
    double sum;
};

enum refusal {
    REFUSAL_QUEUE,
    REFUSAL_CLIENT,
    REFUSAL_SIZE,
    REFUSAL_DEADLINE,
    REFUSAL_DRAINING,
    REFUSAL_DEVICE,
    REFUSAL_COUNT
};
extern const char *const refusal_names[REFUSAL_COUNT + 1];

struct scheduler_stats {
    int64_t requests, images, row_steps, bytes; // held now, of all models
    int64_t active_lanes;                       // images that hold a slot, running or paused
    int64_t last_step_lanes, last_step_ns;      // of the last good step; clock at its end, 0: none yet
    int64_t shown_ns; // when every device last showed that it works: a good step, a probe, a model's trial
    int64_t models;   // attached
    int64_t steps, lane_steps, joins, leaves; // since start, as are the following; joins = leaves when idle
    int64_t submitted, completed, cancelled, timed_out, failed; // requests; failed: every other status
    int64_t failed_lanes;                                       // whose state was not finite
    int64_t refused[REFUSAL_COUNT];
    struct scheduler_histogram queue_seconds;  // submit to first step, of requests
    struct scheduler_histogram step_seconds;   //
    struct scheduler_histogram step_lanes;     //
    struct scheduler_histogram cancel_seconds; // cancel to done()
    double row_step_seconds; // device time of one row-step in full steps: what backlog is multiplied with
    bool draining, device_lost;
};
void scheduler_stats(struct scheduler *s, struct scheduler_stats *ret_stats);

/* One turn of a worker's loop, for tests without workers: returns the lanes stepped, 0 when idle. */
int scheduler_turn(struct scheduler *s, int32_t device);

#endif
