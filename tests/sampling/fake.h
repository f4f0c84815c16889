/* fake.h: a device without numerics, and requests for it, for the scheduler's tests.
 *
 * A lane's state is an integer hash of all that its step was told (row, class, guidance, clip, seed, image, draw) and
 * of the state before, so a wrong row, draw or slot, or a step too many or too few, changes the image; fake_expected()
 * computes the same without scheduler and slots. The device also checks what it is called with, and counts violations.
 * Time is a counter that a step of n rows moves on by fixed_ns + n row_ns.
 */
#ifndef DDIMD_TESTS_SAMPLING_FAKE_H
#define DDIMD_TESTS_SAMPLING_FAKE_H

#include "sampling/scheduler.h"

#include <pthread.h>
#include <stdatomic.h>

enum { FAKE_ELEMENTS = 4, FAKE_POISON_CLASS = 666, FAKE_READ_ERROR_CLASS = 667 };

struct fake_clock {
    _Atomic int64_t now_ns;
};
int64_t fake_now(void *clock);

struct fake_lane {
    bool running;
    uint64_t seed, image;
    uint32_t draw, class_index;
    float x[FAKE_ELEMENTS];
};

struct fake_device {
    struct fake_clock *clock;
    int64_t fixed_ns, row_ns;
    int64_t start_ns; // of one start
    struct stepper stepper;
    struct fake_lane *lanes; // [capacity]
    int64_t steps, row_steps;
    int32_t last_rows;
    int32_t violations;
    int64_t fail_at_step; // its step-th call, from 1, returns fail_with; 0: none
    int fail_with;
    pthread_t thread; // of the first call: all others must come from it
    bool thread_known, any_thread;
    int32_t measured_rows[2];
    double measured_seconds[2];
};
/* measured: whether the stepper tells the true times for 1 and max_rows rows. */
void fake_device_init(struct fake_device *d, struct fake_clock *clock, int32_t capacity, int32_t max_rows,
                      int64_t fixed_ns, int64_t row_ns, bool measured);
void fake_device_done(struct fake_device *d);
int64_t fake_step_ns(const struct fake_device *d, int32_t rows);

/* What done() was told of a request, and checks on the way. */
struct outcome {
    int done, status;
    bool right; // images are what fake_expected() says
    int64_t submitted_ns, started_ns, finished_ns;
    int64_t progress_calls, last_progress, total_progress;
    int32_t previews;
    bool previews_right;
    int32_t order; // how many of the same counter ended before
    int32_t *counter;
    pthread_mutex_t *lock; // threads test: guards done and all else; NULL: none
    pthread_cond_t *ended;
};

/* Zero means: one image, four steps, no guidance, normal priority. */
struct spec {
    struct model_lane *model;
    int32_t images, steps, interval, preview_every;
    uint64_t seed, client;
    float guidance;
    bool clip;
    int32_t rank; // -1: low, 1: high priority
    int64_t deadline_ns;
    int32_t class_index;
};
#define SPEC(...) ((struct spec){__VA_ARGS__})

/* A request that reports to *o (zeroed here). */
struct generation *fake_generation(const struct spec *spec, struct outcome *o);
/* Submits; on refusal frees. */
int fake_submit(struct scheduler *s, const struct spec *spec, struct outcome *o, struct scheduler_ticket *ret_ticket);
/* State of one image after steps_done of the request's rows. */
void fake_expected(const struct generation *g, int32_t image, int32_t steps_done, float ret_x[FAKE_ELEMENTS]);
bool fake_images_right(const struct generation *g);

#endif
