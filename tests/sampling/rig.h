/* rig.h: a scheduler without a worker on one fake device and clock; cmocka asserts inside. */
#ifndef DDIMD_TESTS_SAMPLING_RIG_H
#define DDIMD_TESTS_SAMPLING_RIG_H

#include "fake.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct rig {
    struct fake_clock clock;
    struct fake_device device;
    struct scheduler *s;
    struct model_lane *model;
    int lost; // calls of the hook
};
/* A step of n rows takes 1 + n ms. limits: NULL for none. */
void rig_open(struct rig *r, int32_t capacity, int32_t max_rows, const struct scheduler_options *limits);
void rig_open_timed(struct rig *r, int32_t capacity, int32_t max_rows, const struct scheduler_options *limits,
                    int64_t fixed_ns, int64_t row_ns);
/* Asserts that nothing is left: no lane, no byte, no image. */
void rig_close(struct rig *r);
void rig_assert_empty(struct rig *r);
int rig_turns(struct rig *r, int n);                                 // lanes of the last
int rig_until_idle(struct rig *r);                                   // turns taken
void rig_submit(struct rig *r, struct outcome *o, struct spec spec); // asserts that it is taken

#endif
