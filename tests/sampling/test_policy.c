/* test_policy.c: which lanes advance: fairness, priority, starvation bounds, and whether forecasts come true. */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MILLISECOND = 1000000 };

static uint64_t random_state;

static double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

static int compare_int64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* A client that sends one image, waits for it, pauses, and sends the next. */
struct light {
    struct outcome o;
    bool waiting;
    int64_t next_ns, submitted_ns;
};

static void submit_light(struct rig *r, struct light *l, int32_t steps, uint64_t client)
{
    l->submitted_ns = r->clock.now_ns;
    rig_submit(r, &l->o, SPEC(.steps = steps, .client = client, .seed = client));
    l->waiting = true;
}

/* Runs 20 light clients beside a heavy one for `requests` of their requests; returns the 99th percentile of their time,
 * in ns. pause_ns: mean of the pauses. */
static int64_t light_p99(struct rig *r, int32_t steps, double pause_ns, int32_t requests)
{
    struct outcome heavy = {.done = 1, .right = true};
    enum { LIGHTS = 20 };
    static struct light lights[LIGHTS];
    int64_t *times = calloc((size_t)requests, sizeof(*times));
    int32_t n = 0;
    memset(lights, 0, sizeof(lights));
    for (int i = 0; i < LIGHTS; i++)
        lights[i].next_ns = r->clock.now_ns + (int64_t)(uniform() * 2 * pause_ns);
    while (n < requests) {
        if (heavy.done) { // again and again
            assert_true(heavy.right);
            rig_submit(r, &heavy, SPEC(.images = 64, .steps = 1000, .client = 1));
            rig_turns(r, 20);
        }
        for (int i = 0; i < LIGHTS && n < requests; i++) {
            struct light *l = &lights[i];
            if (l->waiting && l->o.done) {
                assert_true(l->o.right);
                times[n++] = l->o.finished_ns - l->submitted_ns;
                l->waiting = false;
                l->next_ns = r->clock.now_ns + (int64_t)(uniform() * 2 * pause_ns);
            }
            if (!l->waiting && r->clock.now_ns >= l->next_ns)
                submit_light(r, l, steps, (uint64_t)(100 + i));
        }
        scheduler_turn(r->s, 0);
    }
    rig_until_idle(r);
    qsort(times, (size_t)n, sizeof(*times), compare_int64);
    int64_t p99 = times[(n * 99 - 1) / 100];
    free(times);
    return p99;
}

/* One heavy client with 64 images of 1000 steps, 20 light ones: p99 of a light request at most twice its time alone.
 * The light clients ask, all together, for a share `load` of the device. Where rows cost little beside each other that
 * is easy; where every row costs its full time (a CPU) lights that meet must wait for one another, and no policy keeps
 * the promise at much more than a twentieth. */
static void heavy_and_light(int64_t fixed_ns, int64_t row_ns, int32_t max_rows, double load)
{
    struct rig r;
    const int32_t steps = 50;
    random_state = 1;
    rig_open_timed(&r, 256, max_rows, NULL, fixed_ns, row_ns);
    double alone = (double)(steps * fake_step_ns(&r.device, 1));
    int64_t p99 = light_p99(&r, steps, 20 / load * alone, 1000);
    print_message("light p99 %.2f x alone (step %.1f + n %.1f ms, %d rows, load %.2f)\n", (double)p99 / alone,
                  (double)fixed_ns * 1e-6, (double)row_ns * 1e-6, max_rows, load);
    assert_true((double)p99 <= 2 * alone);
    rig_close(&r);
}

static void test_heavy_and_light(void **state)
{
    heavy_and_light(10 * MILLISECOND, MILLISECOND / 2, 32, 0.5);
    heavy_and_light(2 * MILLISECOND, 10 * MILLISECOND, 4, 0.05);
    heavy_and_light(0, 12 * MILLISECOND, 2, 0.05);
}

/* The heavy client meanwhile keeps at least its quarter. */
static void test_heavy_is_not_starved(void **state)
{
    struct rig r;
    struct outcome heavy = {0}, lights[8] = {0};
    rig_open(&r, 64, 4, NULL);
    rig_submit(&r, &heavy, SPEC(.images = 4, .steps = 2000, .client = 1, .rank = -1));
    int64_t from = r.clock.now_ns;
    for (int i = 0; i < 8; i++)
        lights[i].done = 1;
    while (!heavy.done)
        for (int i = 0; i < 8; i++) { // eight clients of higher priority who always have a request in the queue
            if (lights[i].done)
                rig_submit(&r, &lights[i], SPEC(.steps = 3, .client = (uint64_t)(2 + i), .rank = 1));
            scheduler_turn(r.s, 0);
        }
    double alone = 2000.0 * (double)fake_step_ns(&r.device, 4);
    assert_true(heavy.right);
    assert_true((double)(heavy.finished_ns - from) <= 4.1 * alone + 2e9);
    assert_true((double)(heavy.finished_ns - from) >= 3.5 * alone); // and it was left out as far as that
    rig_until_idle(&r);
    rig_close(&r);
}

static void test_priority_order(void **state)
{
    struct rig r;
    struct outcome o[3] = {0};
    int32_t counter = 0;
    rig_open(&r, 64, 2, NULL);
    for (int i = 0; i < 3; i++) {
        o[i].counter = &counter;
        rig_submit(&r, &o[i], SPEC(.images = 8, .steps = 20, .rank = i - 1, .client = (uint64_t)i));
    }
    rig_until_idle(&r);
    assert_int_equal(o[2].order, 0);
    assert_int_equal(o[1].order, 1);
    assert_int_equal(o[0].order, 2);
    rig_close(&r);
}

static void test_equal_clients_get_equal_shares(void **state)
{
    struct rig r;
    struct outcome o[3] = {0};
    struct scheduler_place place;
    struct scheduler_ticket ticket[3];
    int64_t done[3];
    rig_open(&r, 256, 4, NULL);
    for (int i = 0; i < 3; i++) {
        struct spec spec = SPEC(.model = r.model, .images = 60 + 30 * i, .steps = 500, .client = (uint64_t)i);
        assert_int_equal(fake_submit(r.s, &spec, &o[i], &ticket[i]), 0);
    }
    rig_turns(&r, 9000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(scheduler_place(r.s, ticket[i].id, &place), 0);
        done[i] = place.done_lane_steps;
        assert_in_range(done[i], 11000, 13000); // a third of 36,000, and a second is 800
    }
    rig_until_idle(&r);
    rig_close(&r);
}

/* Of one client: a short request overtakes the long ones that fill every lane. */
static void test_short_overtakes_long_of_one_client(void **state)
{
    struct rig r;
    struct outcome slow = {0}, quick = {0};
    rig_open(&r, 64, 4, NULL);
    rig_submit(&r, &slow, SPEC(.images = 16, .steps = 1000));
    rig_turns(&r, 50);
    rig_submit(&r, &quick, SPEC(.steps = 8));
    int n = 0;
    for (; !quick.done && n < 100; n++)
        scheduler_turn(r.s, 0);
    assert_in_range(n, 8, 11); // 8 steps, and what the reserve takes of them
    rig_until_idle(&r);
    assert_true(slow.right && quick.right);
    rig_close(&r);
}

/* And the long one is not starved by an endless stream of short ones of the same client. */
static void test_long_is_not_starved_by_short(void **state)
{
    struct rig r;
    struct outcome slow = {0}, quick[6] = {0};
    rig_open(&r, 64, 4, NULL);
    rig_submit(&r, &slow, SPEC(.steps = 1000));
    int64_t from = r.clock.now_ns;
    for (int i = 0; i < 6; i++)
        quick[i].done = 1;
    while (!slow.done)
        for (int i = 0; i < 6; i++) {
            if (quick[i].done)
                rig_submit(&r, &quick[i], SPEC(.images = 2, .steps = 4));
            scheduler_turn(r.s, 0);
        }
    /* First come, first served on a quarter of the device: a row of four in every step at least; and the grace. */
    assert_true(slow.finished_ns - from <= 1000 * fake_step_ns(&r.device, 4) + 2000 * MILLISECOND);
    rig_until_idle(&r);
    rig_close(&r);
}

/* What is random must not break the bound: no request ends later than first-come-first-served at a quarter of the speed
 * would end it. */
static void test_starvation_bound(void **state)
{
    enum { N = 300 };
    static struct outcome o[N];
    random_state = 7;
    for (int round = 0; round < 10; round++) {
        struct rig r;
        int64_t fifo_end = 0, bound[N];
        rig_open_timed(&r, 512, 4, NULL, 0, MILLISECOND); // a row costs the same in every step: work is time
        double row_ns = (double)r.device.row_ns;
        memset(o, 0, sizeof(o));
        for (int i = 0; i < N; i++) {
            struct spec spec = SPEC(.images = 1 + (int32_t)(uniform() * 6), .steps = 1 + (int32_t)(uniform() * 400),
                                    .client = (uint64_t)(uniform() * 5), .rank = (int32_t)(uniform() * 3) - 1);
            rig_submit(&r, &o[i], spec);
            if (fifo_end < r.clock.now_ns)
                fifo_end = r.clock.now_ns;
            fifo_end += (int64_t)(4 * row_ns * spec.images * spec.steps);
            bound[i] = fifo_end + 2000 * MILLISECOND;
            rig_turns(&r, (int)(uniform() * 200));
        }
        rig_until_idle(&r);
        for (int i = 0; i < N; i++) {
            assert_true(o[i].right);
            assert_true(o[i].finished_ns <= bound[i]);
        }
        rig_close(&r);
    }
}

/* Refused, then again after what retry_after said, with nobody else coming in between: how far off was it? */
static int32_t retries_within(const struct scheduler_options *limits, int32_t clients, int32_t *ret_refusals)
{
    enum { N = 4000, TRIALS = 100 };
    struct rig r;
    static struct outcome o[N];
    int32_t n = 0, within = 0, refusals = 0;
    rig_open(&r, 512, 8, limits);
    memset(o, 0, sizeof(o));
    for (int trial = 0; trial < TRIALS && n < N - 1; trial++) {
        struct scheduler_ticket ticket;
        struct spec spec;
        int rc = 0;
        while (rc == 0 && n < N - 1) { // fill
            spec = SPEC(.model = r.model, .images = 1 + (int32_t)(uniform() * 4), .interval = (int32_t)(uniform() * 9),
                        .steps = 5 + (int32_t)(uniform() * 60), .client = (uint64_t)(uniform() * clients));
            rc = fake_submit(r.s, &spec, &o[n], &ticket);
            n += rc == 0;
        }
        int64_t from = r.clock.now_ns, said = ticket.retry_after_ns;
        if (rc == 0)
            break;
        assert_true(rc == -EAGAIN || rc == -EDQUOT);
        refusals++;
        while ((rc = fake_submit(r.s, &spec, &o[n], &ticket)) == -EAGAIN || rc == -EDQUOT)
            scheduler_turn(r.s, 0);
        assert_int_equal(rc, 0);
        n++;
        int64_t truth = r.clock.now_ns - from, slack = 2 * fake_step_ns(&r.device, 8); // steps are the grain of time
        within += llabs(said - truth) <= truth / 4 + slack;
        rig_turns(&r, (int)(uniform() * 30));
    }
    rig_until_idle(&r);
    rig_close(&r);
    *ret_refusals = refusals;
    return within;
}

static void test_retry_after(void **state)
{
    const struct {
        const char *what;
        struct scheduler_options limits;
        int32_t clients, percent;
    } cases[] = {
        {"row-steps", {.max_row_steps = 5000}, 1, 90}, {"row-steps, 6 clients", {.max_row_steps = 5000}, 6, 90},
        {"images", {.max_images = 100}, 1, 90},        {"images, 6 clients", {.max_images = 100}, 6, 90},
        {"bytes", {.max_bytes = 30000}, 1, 90},        {"client's row-steps", {.max_client_row_steps = 2000}, 4, 90},
    };
    random_state = 3;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int32_t refusals, within = retries_within(&cases[i].limits, cases[i].clients, &refusals);
        print_message("retry_after within 25 %% of the truth: %d of %d (%s)\n", within, refusals, cases[i].what);
        assert_in_range(refusals, 50, 100);
        assert_true(100 * within >= cases[i].percent * refusals);
    }
}

/* The expectation that a ticket tells, against what comes, when nobody else comes. */
static void test_expectation(void **state)
{
    enum { TRIALS = 200, MATES = 30 };
    int32_t within = 0;
    random_state = 5;
    for (int trial = 0; trial < TRIALS; trial++) {
        struct rig r;
        struct outcome mates[MATES] = {0}, o = {0};
        struct scheduler_ticket ticket;
        int32_t n = (int32_t)(uniform() * MATES);
        rig_open(&r, 512, 8, NULL);
        for (int i = 0; i < n; i++) {
            rig_submit(&r, &mates[i],
                       SPEC(.images = 1 + (int32_t)(uniform() * 8), .steps = 5 + (int32_t)(uniform() * 400),
                            .client = (uint64_t)(uniform() * 5), .rank = (int32_t)(uniform() * 1.2)));
            rig_turns(&r, (int)(uniform() * 40));
        }
        struct spec spec = SPEC(.model = r.model, .images = 1 + (int32_t)(uniform() * 8),
                                .steps = 5 + (int32_t)(uniform() * 400), .client = (uint64_t)(uniform() * 5));
        assert_int_equal(fake_submit(r.s, &spec, &o, &ticket), 0);
        while (!o.done)
            scheduler_turn(r.s, 0);
        int64_t truth = o.finished_ns - o.submitted_ns;
        within += llabs(ticket.expected_ns - truth) <= truth / 4;
        rig_until_idle(&r);
        rig_close(&r);
    }
    print_message("expected within 25 %% of the truth: %d of %d\n", within, TRIALS);
    assert_true(within >= TRIALS * 9 / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heavy_and_light),
        cmocka_unit_test(test_heavy_is_not_starved),
        cmocka_unit_test(test_priority_order),
        cmocka_unit_test(test_equal_clients_get_equal_shares),
        cmocka_unit_test(test_short_overtakes_long_of_one_client),
        cmocka_unit_test(test_long_is_not_starved_by_short),
        cmocka_unit_test(test_starvation_bound),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_expectation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
