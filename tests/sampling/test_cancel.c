/* test_cancel.c: 2,000 random cancels at every phase leave nothing behind and change no survivor's bytes. */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t random_state = 99;

static uint32_t below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

struct request {
    struct outcome o;
    uint64_t id;
    bool cancelled;
};

static struct spec random_spec(struct model_lane *model)
{
    return SPEC(.model = model, .images = 1 + (int32_t)below(5), .steps = 1 + (int32_t)below(30),
                .interval = (int32_t)below(6), .preview_every = (int32_t)below(7), .guidance = below(3) ? 1 : 2.5f,
                .seed = below(1000), .client = below(4), .rank = (int32_t)below(3) - 1, .clip = below(2));
}

static void test_random_cancels(void **state)
{
    enum { CANCELS = 2000, N = 6000 };
    static struct request requests[N];
    struct rig r;
    int32_t n = 0, cancels = 0, survivors = 0, cancelled = 0;
    rig_open(&r, 24, 6, NULL); // a pool that is short of lanes too
    while (cancels < CANCELS) {
        for (uint32_t k = below(3); k > 0 && n < N; k--, n++) {
            struct scheduler_ticket ticket;
            struct spec spec = random_spec(r.model);
            assert_int_equal(fake_submit(r.s, &spec, &requests[n].o, &ticket), 0);
            requests[n].id = ticket.id;
        }
        if (n > 0 && below(3)) { // of the recent ones; perhaps ended, perhaps cancelled before
            struct request *victim = &requests[n - 1 - (int32_t)below(n < 20 ? (uint32_t)n : 20)];
            bool ended = victim->o.done;
            int rc = scheduler_cancel(r.s, victim->id);
            assert_int_equal(rc, ended ? -ENOENT : 0);
            cancels += rc == 0 && !victim->cancelled;
            victim->cancelled = victim->cancelled || rc == 0;
        }
        for (uint32_t k = below(3); k > 0; k--)
            scheduler_turn(r.s, 0);
        assert_in_range(n, 0, N - 1);
    }
    rig_until_idle(&r);
    for (int32_t i = 0; i < n; i++) {
        assert_int_equal(requests[i].o.done, 1);
        assert_true(requests[i].o.previews_right);
        assert_int_equal(requests[i].o.status, requests[i].cancelled ? -ECANCELED : 0);
        assert_true(requests[i].cancelled || requests[i].o.right);
        survivors += !requests[i].cancelled;
        cancelled += requests[i].cancelled;
    }
    assert_int_equal(cancelled, CANCELS);
    assert_true(survivors > 100);
    struct scheduler_stats t;
    scheduler_stats(r.s, &t);
    assert_int_equal(t.cancelled, CANCELS);
    assert_int_equal(t.cancel_seconds.n, CANCELS);
    rig_close(&r);
}

/* The same requests with and without mates who come and are cancelled: the same bytes are checked by the fake, the same
 * number of steps here: nobody steps twice or is left out for ever. */
static void test_cancelled_frees_its_lanes_at_once(void **state)
{
    struct rig r;
    struct outcome big = {0}, next = {0};
    struct scheduler_ticket ticket;
    struct scheduler_stats t;
    rig_open(&r, 4, 4, NULL);
    struct spec spec = SPEC(.model = r.model, .images = 4, .steps = 1000);
    assert_int_equal(fake_submit(r.s, &spec, &big, &ticket), 0);
    rig_turns(&r, 3);
    scheduler_stats(r.s, &t);
    assert_int_equal(t.active_lanes, 4);
    rig_submit(&r, &next, SPEC(.images = 4, .steps = 2));
    assert_int_equal(scheduler_cancel(r.s, ticket.id), 0);
    rig_turns(&r, 1);
    assert_int_equal(big.status, -ECANCELED);
    scheduler_stats(r.s, &t);
    assert_int_equal(t.active_lanes, 4); // the next one's
    rig_turns(&r, 1);
    assert_true(next.right);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_cancels),
        cmocka_unit_test(test_cancelled_frees_its_lanes_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
