/* test_scheduler.c: a request's life on a fake device: lanes join and leave, frames, ends, bounds. */
#include "rig.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_leaves_after_its_steps(void **state)
{
    struct rig r;
    struct outcome one = {0}, four = {0}, late = {0};
    rig_open(&r, 16, 4, NULL);
    rig_submit(&r, &one, SPEC(.steps = 1, .seed = 1));
    rig_submit(&r, &four, SPEC(.steps = 4, .seed = 2));
    assert_int_equal(rig_turns(&r, 1), 2);
    assert_int_equal(one.done, 1);
    rig_submit(&r, &late, SPEC(.steps = 2, .seed = 3));
    assert_int_equal(rig_turns(&r, 1), 2);
    assert_int_equal(late.done, 0);
    assert_int_equal(rig_turns(&r, 1), 2);
    assert_int_equal(late.done, 1);
    assert_int_equal(rig_turns(&r, 1), 1);
    assert_int_equal(four.done, 1);
    assert_int_equal(rig_turns(&r, 1), 0);
    assert_true(one.right && four.right && late.right);
    assert_int_equal(four.progress_calls, 4);
    assert_int_equal(four.last_progress, 4);
    assert_int_equal(four.total_progress, 4);
    rig_close(&r);
}

/* The promise of the brief: a 4-step request beside a 1000-step one is answered within 5 steps. */
static void test_short_beside_long(void **state)
{
    struct rig r;
    struct outcome slow = {0}, quick = {0};
    rig_open(&r, 16, 4, NULL);
    rig_submit(&r, &slow, SPEC(.steps = 1000, .seed = 1, .client = 1));
    rig_turns(&r, 100);
    rig_submit(&r, &quick, SPEC(.steps = 4, .seed = 2, .client = 2));
    int n = 0;
    while (!quick.done && n < 10)
        n += scheduler_turn(r.s, 0) > 0;
    assert_int_equal(n, 4);
    rig_until_idle(&r);
    assert_true(slow.right && quick.right);
    rig_close(&r);
}

static void test_guidance_takes_two_rows(void **state)
{
    struct rig r;
    struct outcome guided = {0}, plain = {0};
    rig_open(&r, 16, 5, NULL);
    rig_submit(&r, &guided, SPEC(.images = 3, .steps = 3, .guidance = 4));
    rig_submit(&r, &plain, SPEC(.images = 1, .steps = 9, .seed = 5));
    rig_turns(&r, 1);
    assert_int_equal(r.device.last_rows, 5); // two guided, one plain
    rig_until_idle(&r);
    assert_true(guided.right && plain.right);
    assert_int_equal(r.device.row_steps, 3 * 3 * 2 + 9);
    rig_close(&r);

    rig_open(&r, 4, 1, NULL);
    struct spec spec = SPEC(.model = r.model, .guidance = 2);
    assert_int_equal(fake_submit(r.s, &spec, &guided, NULL), -EINVAL);
    rig_close(&r);
}

static void test_frames(void **state)
{
    assert_int_equal(generation_frames(10, 0), 1);
    assert_int_equal(generation_frames(10, 5), 3);
    assert_int_equal(generation_frames(10, 3), 5);
    assert_int_equal(generation_frames(10, 10), 2);
    assert_int_equal(generation_frames(10, 50), 2);
    assert_int_equal(generation_frames(1, 1), 2);
    struct rig r;
    rig_open(&r, 32, 8, NULL);
    for (int32_t steps = 1; steps <= 12; steps++)
        for (int32_t interval = 0; interval <= 13; interval++) {
            struct outcome o = {0};
            rig_submit(&r, &o, SPEC(.images = 2, .steps = steps, .interval = interval, .seed = (uint64_t)steps));
            rig_until_idle(&r);
            assert_true(o.right);
        }
    rig_close(&r);
}

static void test_previews(void **state)
{
    struct rig r;
    struct outcome o = {0}, none = {0};
    rig_open(&r, 32, 8, NULL);
    rig_submit(&r, &o, SPEC(.images = 3, .steps = 12, .preview_every = 4, .clip = true));
    rig_submit(&r, &none, SPEC(.images = 1, .steps = 3, .preview_every = 4));
    rig_until_idle(&r);
    assert_int_equal(o.previews, 3 * 2); // after 4 and 8; after 12 there is the result
    assert_true(o.previews_right && o.right);
    assert_int_equal(none.previews, 0);
    rig_close(&r);
}

static void test_cancel_at_every_phase(void **state)
{
    for (int phase = 0; phase <= 7; phase++) {
        struct rig r;
        struct outcome mate = {0}, o = {0};
        struct scheduler_ticket ticket;
        rig_open(&r, 16, 4, NULL);
        rig_submit(&r, &mate, SPEC(.images = 2, .steps = 9, .seed = 11));
        struct spec spec = SPEC(.model = r.model, .images = 6, .steps = 3, .seed = 12);
        assert_int_equal(fake_submit(r.s, &spec, &o, &ticket), 0);
        rig_turns(&r, phase);
        int rc = scheduler_cancel(r.s, ticket.id);
        bool ended = o.done;
        assert_int_equal(rc, ended ? -ENOENT : 0);
        if (!ended) {
            int64_t before = r.device.steps;
            rig_turns(&r, 1);
            assert_int_equal(o.done, 1);
            assert_int_equal(o.status, -ECANCELED);
            assert_true(r.device.steps - before <= 1);
            assert_int_equal(scheduler_cancel(r.s, ticket.id), -ENOENT);
        }
        rig_until_idle(&r);
        assert_true(mate.right);
        assert_int_equal(o.done, 1);
        assert_int_equal(scheduler_cancel(r.s, 999), -ENOENT);
        rig_close(&r);
    }
}

static void test_bad_lane_fails_alone(void **state)
{
    struct rig r;
    struct outcome bad = {0}, mate = {0}, unreadable = {0};
    struct scheduler_stats t;
    rig_open(&r, 16, 8, NULL);
    rig_submit(&r, &mate, SPEC(.images = 2, .steps = 9, .interval = 2));
    rig_submit(&r, &bad, SPEC(.images = 2, .steps = 9, .class_index = FAKE_POISON_CLASS));
    rig_submit(&r, &unreadable, SPEC(.steps = 5, .class_index = FAKE_READ_ERROR_CLASS));
    rig_turns(&r, 3);
    assert_int_equal(bad.done, 1);
    assert_int_equal(bad.status, -ERANGE);
    rig_until_idle(&r);
    assert_int_equal(unreadable.status, -ENOMEM);
    assert_true(mate.right);
    scheduler_stats(r.s, &t);
    assert_int_equal(t.failed_lanes, 2);
    assert_int_equal(t.failed, 2);
    assert_int_equal(t.completed, 1);
    assert_false(t.device_lost);
    rig_close(&r);
}

static void test_device_loss(void **state)
{
    struct rig r;
    struct outcome running = {0}, waiting[8] = {0}, late = {0};
    rig_open(&r, 8, 2, NULL);
    rig_submit(&r, &running, SPEC(.images = 2, .steps = 9));
    for (int i = 0; i < 8; i++)
        rig_submit(&r, &waiting[i], SPEC(.steps = 20));
    r.device.fail_at_step = 4;
    r.device.fail_with = -EIO;
    rig_turns(&r, 4);
    assert_int_equal(r.lost, 1);
    assert_int_equal(running.status, -EIO);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(waiting[i].done, 1);
        assert_int_equal(waiting[i].status, -EIO);
    }
    struct spec spec = SPEC(.model = r.model);
    assert_int_equal(fake_submit(r.s, &spec, &late, NULL), -EIO);
    assert_int_equal(rig_turns(&r, 3), 0);
    assert_int_equal(r.lost, 1);
    assert_int_equal(r.device.steps, 4);
    struct scheduler_stats t;
    scheduler_stats(r.s, &t);
    assert_true(t.device_lost);
    assert_int_equal(t.refused[REFUSAL_DEVICE], 1);
    rig_close(&r);
}

/* A step that fails otherwise fails those in it, and the device goes on. */
static void test_step_error(void **state)
{
    struct rig r;
    struct outcome in[2] = {0}, later = {0};
    rig_open(&r, 8, 2, NULL);
    rig_submit(&r, &in[0], SPEC(.steps = 9));
    rig_submit(&r, &in[1], SPEC(.steps = 9));
    r.device.fail_at_step = 2;
    r.device.fail_with = -ENOMEM;
    rig_turns(&r, 2);
    assert_int_equal(in[0].status, -ENOMEM);
    assert_int_equal(in[1].status, -ENOMEM);
    rig_submit(&r, &later, SPEC(.steps = 3));
    rig_until_idle(&r);
    assert_true(later.right);
    assert_int_equal(r.lost, 0);
    rig_close(&r);
}

static void test_deadlines(void **state)
{
    struct rig r;
    struct outcome o = {0}, mate = {0};
    struct scheduler_ticket ticket;
    rig_open(&r, 16, 4, NULL);
    int64_t now = r.clock.now_ns, step = fake_step_ns(&r.device, 1);
    /* Alone it takes ten steps: nine are refused, eleven are enough. */
    struct spec spec = SPEC(.model = r.model, .steps = 10, .deadline_ns = now + 9 * step);
    assert_int_equal(fake_submit(r.s, &spec, &o, &ticket), -ETIMEDOUT);
    assert_true(ticket.expected_ns >= 10 * step && ticket.retry_after_ns > 0);
    spec.deadline_ns = now + 11 * step;
    assert_int_equal(fake_submit(r.s, &spec, &o, NULL), 0);
    rig_until_idle(&r);
    assert_true(o.right);

    /* The device becomes slower than was known: it ends within one step of the deadline, its mate goes on. */
    spec.deadline_ns = r.clock.now_ns + 40 * step;
    rig_submit(&r, &mate, SPEC(.steps = 30, .seed = 3));
    assert_int_equal(fake_submit(r.s, &spec, &o, NULL), 0);
    r.device.fixed_ns *= 10;
    while (!o.done)
        scheduler_turn(r.s, 0);
    assert_int_equal(o.status, -ETIMEDOUT);
    assert_true(o.finished_ns >= spec.deadline_ns);
    assert_true(o.finished_ns <= spec.deadline_ns + fake_step_ns(&r.device, 2));
    rig_until_idle(&r);
    assert_true(mate.right);
    struct scheduler_stats t;
    scheduler_stats(r.s, &t);
    assert_int_equal(t.timed_out, 1);
    assert_int_equal(t.refused[REFUSAL_DEADLINE], 1);
    rig_close(&r);
}

static void test_bounds(void **state)
{
    struct rig r;
    struct outcome o[3] = {0}, refused = {0};
    struct scheduler_ticket ticket;
    struct scheduler_options limits = {.max_images = 10, .max_row_steps = 100, .max_client_row_steps = 60};
    limits.max_bytes = 40 * FAKE_ELEMENTS * (int64_t)sizeof(float);
    rig_open(&r, 16, 4, &limits);
    struct spec spec = SPEC(.model = r.model, .images = 11, .steps = 1);
    assert_int_equal(fake_submit(r.s, &spec, &refused, NULL), -E2BIG);
    spec = SPEC(.model = r.model, .steps = 31, .guidance = 3);
    assert_int_equal(fake_submit(r.s, &spec, &refused, NULL), -E2BIG); // 62 row-steps of a client's 60
    spec = SPEC(.model = r.model, .steps = 41, .interval = 1);
    assert_int_equal(fake_submit(r.s, &spec, &refused, NULL), -E2BIG); // 42 frames of 40

    rig_submit(&r, &o[0], SPEC(.images = 2, .steps = 25, .client = 1));
    spec = SPEC(.model = r.model, .steps = 11, .client = 1);
    assert_int_equal(fake_submit(r.s, &spec, &refused, &ticket), -EDQUOT);
    assert_true(ticket.retry_after_ns > 0);
    spec.client = 2;
    assert_int_equal(fake_submit(r.s, &spec, &o[1], NULL), 0);
    spec = SPEC(.model = r.model, .steps = 40, .client = 3);
    assert_int_equal(fake_submit(r.s, &spec, &refused, &ticket), -EAGAIN); // 61 + 40 of 100
    assert_true(ticket.retry_after_ns > 0);
    spec = SPEC(.model = r.model, .images = 8, .steps = 1, .client = 3);
    assert_int_equal(fake_submit(r.s, &spec, &refused, &ticket), -EAGAIN); // 3 + 8 images of 10
    spec = SPEC(.model = r.model, .steps = 37, .interval = 1, .client = 3);
    assert_int_equal(fake_submit(r.s, &spec, &refused, &ticket), -EAGAIN); // 3 + 38 frames of 40
    spec = SPEC(.model = r.model, .steps = 36, .interval = 1, .client = 3);
    assert_int_equal(fake_submit(r.s, &spec, &o[2], NULL), 0); // exactly
    struct scheduler_stats t;
    scheduler_stats(r.s, &t);
    assert_int_equal(t.row_steps, 50 + 11 + 36);
    assert_int_equal(t.bytes, limits.max_bytes);
    assert_int_equal(t.refused[REFUSAL_SIZE], 3);
    assert_int_equal(t.refused[REFUSAL_CLIENT], 1);
    assert_int_equal(t.refused[REFUSAL_QUEUE], 3);
    rig_until_idle(&r);
    assert_true(o[0].right && o[1].right && o[2].right);
    rig_close(&r);
}

static void test_drain(void **state)
{
    struct rig r;
    struct outcome o = {0}, late = {0};
    rig_open(&r, 16, 4, NULL);
    rig_submit(&r, &o, SPEC(.images = 5, .steps = 30));
    assert_int_equal(scheduler_drain(r.s, r.clock.now_ns + 5 * fake_step_ns(&r.device, 4)), -ETIMEDOUT);
    assert_int_equal(o.done, 0);
    struct spec spec = SPEC(.model = r.model);
    assert_int_equal(fake_submit(r.s, &spec, &late, NULL), -ESHUTDOWN);
    assert_int_equal(scheduler_drain(r.s, 0), 0);
    assert_true(o.right);
    rig_close(&r);
}

static void test_stop_ends_what_is_left(void **state)
{
    struct rig r;
    struct outcome o[6] = {0};
    rig_open(&r, 16, 2, NULL);
    for (int i = 0; i < 6; i++)
        rig_submit(&r, &o[i], SPEC(.steps = 30));
    rig_turns(&r, 3);
    scheduler_stop(r.s);
    for (int i = 0; i < 6; i++)
        assert_int_equal(o[i].status, -ESHUTDOWN);
    scheduler_stop(r.s);
    rig_close(&r);
}

static void test_models_in_turn(void **state)
{
    struct rig r;
    struct fake_device other;
    struct model_lane *second;
    struct outcome mine = {0}, its = {0}, quick = {0};
    rig_open(&r, 16, 4, NULL);
    fake_device_init(&other, &r.clock, 8, 2, 2000000, 1000000, true);
    assert_int_equal(scheduler_attach(r.s, &other.stepper, &second), 0);
    rig_submit(&r, &mine, SPEC(.images = 80, .steps = 200, .client = 1));
    struct spec spec = SPEC(.model = second, .images = 40, .steps = 200, .client = 2);
    assert_int_equal(fake_submit(r.s, &spec, &its, NULL), 0);
    rig_turns(&r, 3000);
    /* Two busy clients on two models: half of the time each. */
    double a = (double)r.device.row_steps + (double)r.device.steps,
           c = (double)other.row_steps + 2 * (double)other.steps;
    assert_true(a / (a + c) > 0.4 && a / (a + c) < 0.6);
    spec = SPEC(.model = second, .steps = 4, .client = 3);
    assert_int_equal(fake_submit(r.s, &spec, &quick, NULL), 0);
    rig_turns(&r, 7);
    assert_true(quick.right);
    rig_until_idle(&r);
    assert_true(mine.right && its.right);
    assert_int_equal(other.violations, 0);
    scheduler_detach(r.s, second);
    fake_device_done(&other);
    rig_close(&r);
}

/* One client, two models: the longer request does not starve behind a stream of short ones on the other model. */
static void test_model_not_starved(void **state)
{
    struct rig r;
    struct fake_device other;
    struct model_lane *second;
    struct outcome slow = {0}, quick[9000] = {0};
    rig_open(&r, 16, 4, NULL);
    fake_device_init(&other, &r.clock, 8, 2, 2000000, 1000000, true);
    assert_int_equal(scheduler_attach(r.s, &other.stepper, &second), 0);
    struct spec spec = SPEC(.model = second, .steps = 1000);
    assert_int_equal(fake_submit(r.s, &spec, &slow, NULL), 0);
    int64_t from = r.clock.now_ns;
    for (int i = 0; i < 9000; i++) {
        rig_submit(&r, &quick[i], SPEC(.images = 4, .steps = 2));
        rig_turns(&r, 2);
        if (slow.done)
            break;
    }
    assert_true(slow.right);
    assert_true(slow.finished_ns - from <= 4 * 1000 * fake_step_ns(&other, 1) + 2000000000);
    rig_until_idle(&r);
    scheduler_detach(r.s, second);
    fake_device_done(&other);
    rig_close(&r);
}

static void test_pool_smaller_than_the_queue(void **state)
{
    struct rig r;
    struct outcome o[40] = {0};
    rig_open(&r, 4, 4, NULL);
    for (int i = 0; i < 40; i++)
        rig_submit(&r, &o[i],
                   SPEC(.images = 1 + i % 3, .steps = 3 + i % 7, .client = (uint64_t)(i % 5), .seed = (uint64_t)i,
                        .guidance = i % 4 ? 1 : 3));
    rig_until_idle(&r);
    for (int i = 0; i < 40; i++)
        assert_true(o[i].right);
    rig_close(&r);
}

static int double_it(void *context)
{
    *(int *)context *= 2;
    return 7;
}

static void post_it(struct scheduler_post *post)
{
    free(post);
}

static void test_calls(void **state)
{
    struct rig r;
    int value = 21;
    rig_open(&r, 4, 4, NULL);
    assert_int_equal(scheduler_call(r.s, 0, double_it, &value), 7);
    assert_int_equal(value, 42);
    struct scheduler_post *post = calloc(1, sizeof(*post));
    post->call = post_it;
    scheduler_post(r.s, 0, post);
    rig_close(&r);
}

static void test_place_and_expectation(void **state)
{
    struct rig r;
    struct outcome first = {0}, second = {0};
    struct scheduler_ticket a, c;
    struct scheduler_place place;
    rig_open(&r, 16, 1, NULL);
    struct spec spec = SPEC(.model = r.model, .steps = 10);
    assert_int_equal(fake_submit(r.s, &spec, &first, &a), 0);
    spec.steps = 20;
    assert_int_equal(fake_submit(r.s, &spec, &second, &c), 0);
    int64_t from = r.clock.now_ns;
    rig_turns(&r, 1);
    assert_int_equal(scheduler_place(r.s, a.id, &place), 0);
    assert_int_equal(place.images_ahead, 0);
    assert_int_equal(place.done_lane_steps, 1);
    assert_int_equal(place.total_lane_steps, 10);
    assert_true(place.running_ns > 0);
    assert_int_equal(place.queued_ns + place.running_ns, r.clock.now_ns - from);
    assert_int_equal(scheduler_place(r.s, c.id, &place), 0);
    assert_int_equal(place.images_ahead, 1);
    assert_int_equal(place.running_ns, 0);
    assert_int_equal(place.queued_ns, r.clock.now_ns - from);
    rig_until_idle(&r);
    assert_int_equal(scheduler_place(r.s, c.id, &place), -ENOENT);
    assert_true(llabs((second.finished_ns - from) - c.expected_ns) <= c.expected_ns / 4);
    assert_true(llabs((first.finished_ns - from) - a.expected_ns) <= a.expected_ns / 4);
    rig_close(&r);
}

static void test_incomplete_requests(void **state)
{
    struct rig r;
    struct outcome o = {0};
    rig_open(&r, 4, 4, NULL);
    struct spec spec = SPEC(.model = r.model);
    struct generation *g = fake_generation(&spec, &o);
    g->on.done = NULL;
    assert_int_equal(scheduler_submit(r.s, g, NULL, NULL), -EINVAL);
    generation_free(g);
    struct stepper bad = r.device.stepper;
    struct model_lane *m;
    bad.capacity = bad.max_rows - 1;
    assert_int_equal(scheduler_attach(r.s, &bad, &m), -EINVAL);
    generation_free(NULL);
    scheduler_detach(r.s, NULL);
    scheduler_free(NULL);
    rig_close(&r);
}

static int64_t shown_ns(struct rig *r)
{
    struct scheduler_stats stats;
    scheduler_stats(r->s, &stats);
    return stats.shown_ns;
}

/* An idle device is tried once in a while; a busy one, or one that works well, is not. */
static void test_probe(void **state)
{
    struct rig r;
    struct outcome o = {0};
    rig_open(&r, 4, 4, &(struct scheduler_options){.probe_ns = 1000000000});
    int64_t attached = shown_ns(&r);
    assert_int_equal(attached, r.clock.now_ns);
    rig_turns(&r, 3);
    assert_int_equal(r.device.steps, 0);
    r.clock.now_ns += 1000000000;
    rig_turns(&r, 3);
    assert_int_equal(r.device.steps, 1);
    assert_int_equal(shown_ns(&r), r.clock.now_ns);
    r.clock.now_ns += 999000000;
    rig_submit(&r, &o, SPEC(.steps = 5));
    rig_until_idle(&r);
    assert_true(o.right);
    assert_int_equal(r.device.steps, 6);
    rig_assert_empty(&r);
    r.device.fail_at_step = 7;
    r.device.fail_with = -EIO;
    r.clock.now_ns += 1000000000;
    rig_turns(&r, 2);
    assert_int_equal(r.lost, 1);
    assert_int_equal(r.device.steps, 7);
    rig_close(&r);
}

/* Two devices and one queue: an image goes where there is room and stays there; a request may be on both. */
static void test_two_devices(void **state)
{
    struct rig r;
    struct fake_device other;
    struct outcome wide = {0}, late = {0}, victim = {0};
    struct scheduler_ticket ticket;
    rig_open(&r, 4, 2, &(struct scheduler_options){.n_devices = 2});
    fake_device_init(&other, &r.clock, 4, 2, 1000000, 1000000, true);
    struct stepper steppers[] = {r.device.stepper, other.stepper};
    struct model_lane *m;
    assert_int_equal(scheduler_attach(r.s, steppers, &m), 0);
    struct spec spec = SPEC(.model = m, .images = 4, .steps = 5, .preview_every = 2);
    assert_int_equal(fake_submit(r.s, &spec, &wide, NULL), 0);
    for (int k = 0; k < 5; k++) {
        assert_false(wide.done);
        assert_int_equal(scheduler_turn(r.s, 0), 2);
        assert_int_equal(scheduler_turn(r.s, 1), 2);
    }
    assert_true(wide.done && wide.right && wide.previews_right);
    assert_int_equal(scheduler_turn(r.s, 1), 0);

    spec = SPEC(.model = m, .images = 4, .steps = 50);
    assert_int_equal(fake_submit(r.s, &spec, &victim, &ticket), 0);
    scheduler_turn(r.s, 0);
    scheduler_turn(r.s, 1);
    spec = SPEC(.model = m, .steps = 3);
    assert_int_equal(fake_submit(r.s, &spec, &late, NULL), 0);
    assert_int_equal(scheduler_cancel(r.s, ticket.id), 0);
    assert_int_equal(scheduler_turn(r.s, 1), 1); // frees the lanes of both devices, and goes on with the other
    assert_int_equal(victim.status, -ECANCELED);
    assert_int_equal(scheduler_turn(r.s, 0), 0); // the one image is the other device's
    scheduler_turn(r.s, 1);
    scheduler_turn(r.s, 1);
    assert_true(late.done && late.right);
    scheduler_detach(r.s, m);
    assert_int_equal(other.violations, 0);
    fake_device_done(&other);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaves_after_its_steps),
        cmocka_unit_test(test_short_beside_long),
        cmocka_unit_test(test_guidance_takes_two_rows),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_previews),
        cmocka_unit_test(test_cancel_at_every_phase),
        cmocka_unit_test(test_bad_lane_fails_alone),
        cmocka_unit_test(test_device_loss),
        cmocka_unit_test(test_step_error),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_stop_ends_what_is_left),
        cmocka_unit_test(test_models_in_turn),
        cmocka_unit_test(test_model_not_starved),
        cmocka_unit_test(test_pool_smaller_than_the_queue),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_place_and_expectation),
        cmocka_unit_test(test_incomplete_requests),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_two_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
