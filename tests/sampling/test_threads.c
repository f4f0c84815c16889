/* test_threads.c: a real worker on the fake device, and threads that submit, cancel, ask, call, attach and detach at
 * once. Meant for the thread sanitizer; without it, it still finds lost, doubled and mixed-up requests, and bounds that
 * concurrent submits overshoot.
 */
#include "rig.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 6, REQUESTS = 300, MAX_IMAGES = 24, MAX_BYTES = 4096, MAX_ROW_STEPS = 400, DEVICES = 2 };

struct shared {
    struct fake_clock clock;
    int32_t n_devices;
    struct fake_device device[DEVICES];
    struct scheduler *s;
    struct model_lane *model;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    atomic_int alive, calls, lost;
    atomic_bool over;
};

/* Ticks at each question, so that deadlines pass now and then. */
static int64_t shared_now(void *context)
{
    return atomic_fetch_add(&((struct shared *)context)->clock.now_ns, 100);
}

static void shared_alive(void *context)
{
    atomic_fetch_add(&((struct shared *)context)->alive, 1);
}

static void shared_lost(void *context)
{
    atomic_fetch_add(&((struct shared *)context)->lost, 1);
}

/* state: how many devices. */
static void shared_open(struct shared *h, void **state)
{
    struct stepper steppers[DEVICES];
    memset(h, 0, sizeof(*h));
    h->clock.now_ns = 1000000000;
    h->n_devices = (int32_t)(intptr_t)*state;
    for (int32_t d = 0; d < h->n_devices; d++) {
        fake_device_init(&h->device[d], &h->clock, 16, 6, 1000, 1000, true);
        steppers[d] = h->device[d].stepper;
    }
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->ended, NULL);
    struct scheduler_options o = {
        .n_devices = h->n_devices,
        .max_images = MAX_IMAGES,
        .max_row_steps = MAX_ROW_STEPS,
        .max_bytes = MAX_BYTES,
        .max_client_row_steps = MAX_ROW_STEPS / 2,
        .now_ns = shared_now,
        .alive = shared_alive,
        .device_lost = shared_lost,
        .context = h,
    };
    assert_int_equal(scheduler_create(&o, &h->s, NULL), 0);
    assert_int_equal(scheduler_attach(h->s, steppers, &h->model), 0);
}

static void shared_close(struct shared *h)
{
    struct scheduler_stats t;
    scheduler_stats(h->s, &t);
    assert_int_equal(t.requests, 0);
    assert_int_equal(t.images, 0);
    assert_int_equal(t.row_steps, 0);
    assert_int_equal(t.bytes, 0);
    assert_int_equal(t.active_lanes, 0);
    assert_int_equal(t.joins, t.leaves);
    assert_int_equal(t.submitted, t.completed + t.cancelled + t.timed_out + t.failed);
    scheduler_detach(h->s, h->model);
    scheduler_free(h->s);
    for (int32_t d = 0; d < h->n_devices; d++) {
        assert_int_equal(h->device[d].violations, 0);
        fake_device_done(&h->device[d]);
    }
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->ended);
}

struct client {
    struct shared *h;
    uint64_t random;
    int32_t index;
    int32_t submitted, refused, cancelled;
    struct outcome o[REQUESTS];
    uint64_t ids[REQUESTS];
    bool taken[REQUESTS];
};

static uint32_t below(struct client *c, uint32_t n)
{
    c->random = c->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((c->random >> 33) % n);
}

static void wait_for(struct shared *h, struct outcome *o)
{
    pthread_mutex_lock(&h->lock);
    while (!o->done)
        pthread_cond_wait(&h->ended, &h->lock);
    pthread_mutex_unlock(&h->lock);
}

static void submit_one(struct client *c, int32_t i, struct model_lane *model)
{
    struct scheduler_ticket ticket = {0};
    struct spec spec = SPEC(.model = model, .images = 1 + (int32_t)below(c, 4), .steps = 1 + (int32_t)below(c, 12),
                            .interval = (int32_t)below(c, 5), .guidance = below(c, 3) ? 1 : 3, .seed = below(c, 100000),
                            .client = (uint64_t)(c->index / 2), .rank = (int32_t)below(c, 3) - 1,
                            .class_index = below(c, 20) ? 0 : FAKE_POISON_CLASS);
    if (below(c, 10) == 0)
        spec.deadline_ns = fake_now(&c->h->clock) + 20000 + below(c, 200000);
    c->o[i].lock = &c->h->lock;
    c->o[i].ended = &c->h->ended;
    int rc = fake_submit(c->h->s, &spec, &c->o[i], &ticket);
    c->taken[i] = rc == 0;
    c->ids[i] = ticket.id;
    c->submitted += rc == 0;
    c->refused += rc != 0;
}

static void *client_main(void *context)
{
    struct client *c = context;
    for (int32_t i = 0; i < REQUESTS; i++) {
        struct scheduler_place place;
        submit_one(c, i, c->h->model);
        for (int again = 0; !c->taken[i] && again < 5; again++) {
            nanosleep(&(struct timespec){0, 50000}, NULL);
            submit_one(c, i, c->h->model);
        }
        if (below(c, 3) == 0) {
            int32_t victim = i - (int32_t)below(c, i < 3 ? (uint32_t)i + 1 : 3);
            if (c->taken[victim])
                c->cancelled += scheduler_cancel(c->h->s, c->ids[victim]) == 0;
        }
        if (c->taken[i] && below(c, 4) == 0)
            scheduler_place(c->h->s, c->ids[i], &place);
        if (c->taken[i] && below(c, 3) == 0)
            wait_for(c->h, &c->o[i]);
    }
    for (int32_t i = 0; i < REQUESTS; i++)
        if (c->taken[i])
            wait_for(c->h, &c->o[i]);
    return NULL;
}

static int count_call(void *context)
{
    return atomic_fetch_add((atomic_int *)context, 1) >= 0 ? 5 : 0;
}

/* Looks at the bounds, which must never be overshot, and calls onto the worker. */
static void *watcher_main(void *context)
{
    struct shared *h = context;
    intptr_t bad = 0;
    while (!atomic_load(&h->over)) {
        struct scheduler_stats t;
        scheduler_stats(h->s, &t);
        bad += t.images > MAX_IMAGES || t.bytes > MAX_BYTES || t.row_steps > MAX_ROW_STEPS;
        bad += t.images < 0 || t.bytes < 0 || t.row_steps < 0 || t.active_lanes > 16 * h->n_devices;
        for (int32_t d = 0; d < h->n_devices; d++)
            bad += scheduler_call(h->s, d, count_call, &h->calls) != 5;
        sched_yield();
    }
    return (void *)bad;
}

/* A second model comes and goes. */
static void *attacher_main(void *context)
{
    struct shared *h = context;
    intptr_t bad = 0;
    while (!atomic_load(&h->over)) {
        struct fake_device d[DEVICES];
        struct stepper steppers[DEVICES];
        struct model_lane *m;
        struct outcome o = {.lock = &h->lock, .ended = &h->ended};
        for (int32_t i = 0; i < DEVICES; i++) {
            fake_device_init(&d[i], &h->clock, 4, 2, 1000, 1000, false);
            steppers[i] = d[i].stepper;
        }
        bad += scheduler_attach(h->s, steppers, &m) != 0;
        struct spec spec = SPEC(.model = m, .images = 2, .steps = 3, .client = 77);
        bool taken = fake_submit(h->s, &spec, &o, NULL) == 0;
        scheduler_detach(h->s, m);
        if (taken)
            wait_for(h, &o);
        bad += taken && !o.right;
        for (int32_t i = 0; i < DEVICES; i++) {
            bad += d[i].violations;
            fake_device_done(&d[i]);
        }
    }
    return (void *)bad;
}

static void check_client(struct client *c)
{
    for (int32_t i = 0; i < REQUESTS; i++) {
        struct outcome *o = &c->o[i];
        if (!c->taken[i])
            continue;
        assert_int_equal(o->done, 1);
        assert_true(o->status == 0 || o->status == -ECANCELED || o->status == -ETIMEDOUT || o->status == -ERANGE);
        assert_true(o->status != 0 || o->right);
    }
}

static void test_many_threads(void **state)
{
    struct shared h;
    static struct client clients[THREADS];
    pthread_t threads[THREADS], watcher, attacher;
    void *bad;
    int32_t cancelled = 0, submitted = 0, refused = 0;
    shared_open(&h, state);
    pthread_create(&watcher, NULL, watcher_main, &h);
    pthread_create(&attacher, NULL, attacher_main, &h);
    for (int i = 0; i < THREADS; i++) {
        clients[i] = (struct client){.h = &h, .random = (uint64_t)i + 1, .index = i};
        pthread_create(&threads[i], NULL, client_main, &clients[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&h.over, true);
    pthread_join(watcher, &bad);
    assert_null(bad);
    pthread_join(attacher, &bad);
    assert_null(bad);
    assert_int_equal(scheduler_drain(h.s, 0), 0);
    for (int i = 0; i < THREADS; i++) {
        check_client(&clients[i]);
        cancelled += clients[i].cancelled;
        submitted += clients[i].submitted;
        refused += clients[i].refused;
    }
    print_message("%d taken, %d refused, %d cancelled, %d calls\n", submitted, refused, cancelled,
                  atomic_load(&h.calls));
    assert_true(submitted > 100 && refused > 10 && cancelled > 10);
    assert_true(atomic_load(&h.alive) > 0);
    for (int32_t d = 0; d < h.n_devices; d++)
        assert_true(h.device[d].steps > 10); // none is left out
    shared_close(&h);
}

/* Stop while everything is in the air. */
static void test_stop_under_load(void **state)
{
    for (int round = 0; round < 20; round++) {
        struct shared h;
        static struct client clients[THREADS];
        pthread_t threads[THREADS];
        shared_open(&h, state);
        for (int i = 0; i < THREADS; i++) {
            clients[i] = (struct client){.h = &h, .random = (uint64_t)(i + 10 * round), .index = i};
            pthread_create(&threads[i], NULL, client_main, &clients[i]);
        }
        struct timespec pause = {0, 100000 * round};
        nanosleep(&pause, NULL);
        scheduler_stop(h.s);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < THREADS; i++)
            for (int32_t k = 0; k < REQUESTS; k++)
                if (clients[i].taken[k])
                    assert_int_equal(clients[i].o[k].done, 1);
        h.device[0].any_thread = h.device[1].any_thread = true;
        shared_close(&h);
    }
}

static void test_device_loss_under_load(void **state)
{
    struct shared h;
    static struct client clients[THREADS];
    pthread_t threads[THREADS];
    shared_open(&h, state);
    h.device[h.n_devices - 1].fail_at_step = 50;
    h.device[h.n_devices - 1].fail_with = -EIO;
    for (int i = 0; i < THREADS; i++) {
        clients[i] = (struct client){.h = &h, .random = (uint64_t)i + 31, .index = i};
        pthread_create(&threads[i], NULL, client_main, &clients[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(scheduler_call(h.s, 0, count_call, &h.calls), -EIO);
    assert_int_equal(atomic_load(&h.lost), 1);
    for (int i = 0; i < THREADS; i++)
        for (int32_t k = 0; k < REQUESTS; k++)
            if (clients[i].taken[k])
                assert_int_equal(clients[i].o[k].done, 1);
    shared_close(&h);
}

int main(void)
{
    void *const one = (void *)(intptr_t)1, *const two = (void *)(intptr_t)DEVICES;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_many_threads, one),
        cmocka_unit_test_prestate(test_many_threads, two),
        cmocka_unit_test_prestate(test_stop_under_load, one),
        cmocka_unit_test_prestate(test_stop_under_load, two),
        cmocka_unit_test_prestate(test_device_loss_under_load, one),
        cmocka_unit_test_prestate(test_device_loss_under_load, two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
