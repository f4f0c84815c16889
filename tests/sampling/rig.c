/* rig.c: see rig.h. */
#include "rig.h"

#include <string.h>

static int64_t rig_now(void *context)
{
    return fake_now(&((struct rig *)context)->clock);
}

static void rig_lost(void *context)
{
    ((struct rig *)context)->lost++;
}

void rig_open(struct rig *r, int32_t capacity, int32_t max_rows, const struct scheduler_options *limits)
{
    rig_open_timed(r, capacity, max_rows, limits, 1000000, 1000000);
}

void rig_open_timed(struct rig *r, int32_t capacity, int32_t max_rows, const struct scheduler_options *limits,
                    int64_t fixed_ns, int64_t row_ns)
{
    memset(r, 0, sizeof(*r));
    r->clock.now_ns = 1000000000;
    fake_device_init(&r->device, &r->clock, capacity, max_rows, fixed_ns, row_ns, true);
    struct scheduler_options o = limits ? *limits : (struct scheduler_options){0};
    o.now_ns = rig_now;
    o.device_lost = rig_lost;
    o.context = r;
    o.no_worker = true;
    assert_int_equal(scheduler_create(&o, &r->s, NULL), 0);
    const struct stepper steppers[] = {r->device.stepper, r->device.stepper}; // of two devices the tests turn one
    assert_int_equal(scheduler_attach(r->s, steppers, &r->model), 0);
}

void rig_assert_empty(struct rig *r)
{
    struct scheduler_stats t;
    scheduler_stats(r->s, &t);
    assert_int_equal(t.requests, 0);
    assert_int_equal(t.images, 0);
    assert_int_equal(t.row_steps, 0);
    assert_int_equal(t.bytes, 0);
    assert_int_equal(t.active_lanes, 0);
    assert_int_equal(t.joins, t.leaves);
    assert_int_equal(r->device.violations, 0);
}

void rig_close(struct rig *r)
{
    rig_assert_empty(r);
    scheduler_detach(r->s, r->model);
    scheduler_free(r->s);
    fake_device_done(&r->device);
}

int rig_turns(struct rig *r, int n)
{
    int lanes = 0;
    while (n-- > 0)
        lanes = scheduler_turn(r->s, 0);
    return lanes;
}

int rig_until_idle(struct rig *r)
{
    int n = 0;
    while (scheduler_turn(r->s, 0) > 0)
        n++;
    return n;
}

void rig_submit(struct rig *r, struct outcome *o, struct spec spec)
{
    spec.model = r->model;
    assert_int_equal(fake_submit(r->s, &spec, o, NULL), 0);
}
