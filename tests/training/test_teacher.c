/* test_teacher.c: what a teacher says is the guided prediction of its network; a file that does not fit is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kernels/philox.h"
#include "model/checkpoint.h"
#include "training/learner.h"
#include "training/teacher.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 37, SIDE = 8, ELEMENTS = SIDE * SIDE, CLASSES = 3 }; // more than one piece of the teacher's

struct room {
    struct device *device;
    struct model_config model;
    struct learner *learner;
    struct noised_batch batch;
    char path[64];
};

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    struct error err = {0};
    assert_non_null(r);
    r->model = model_config_default;
    r->model.in_channels = r->model.out_channels = 1;
    r->model.model_channels = 32;
    r->model.n_levels = 1;
    r->model.num_res_blocks = 1;
    r->model.num_classes = CLASSES;
    assert_int_equal(backend_cpu.open("2", &r->device, &err), 0);
    const struct learner_options o = {.device = r->device,
                                      .model = r->model,
                                      .height = SIDE,
                                      .width = SIDE,
                                      .precision = DTYPE_F32,
                                      .batch_size = 2,
                                      .forward_batch = 8,
                                      .seed = 5};
    if (learner_create(&o, &r->learner, &err) < 0)
        fail_msg("%s", err.message);
    snprintf(r->path, sizeof r->path, "/tmp/ddimd-teacher-%d.safetensors", (int)getpid());
    const struct graph *g = learner_graph(r->learner);
    float *values = malloc(g->param_floats * sizeof *values);
    assert_int_equal(learner_get(r->learner, LEARNER_EMA, values), 0);
    static char names[CLASSES][MODEL_CLASS_NAME_BYTES] = {"a", "b", "c"};
    const struct data_config data = {
        .height = SIDE, .width = SIDE, .channels = 1, .classes = names, .n_classes = CLASSES};
    if (checkpoint_write(r->path, &r->model, &diffusion_config_default, &data, NULL, g, values, "F32", &err) < 0)
        fail_msg("%s", err.message);
    free(values);
    assert_int_equal(noised_batch_init(&r->batch, N, ELEMENTS), 0);
    r->batch.n = N;
    philox_normal(r->batch.x, N * ELEMENTS, 1, 0, 0);
    for (int32_t i = 0; i < N; i++) {
        r->batch.t[i] = (float)(27 * i);
        r->batch.y[i] = i % (CLASSES + 1);
    }
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    unlink(r->path);
    noised_batch_done(&r->batch);
    learner_free(r->learner);
    backend_cpu.close(r->device);
    free(r);
    return 0;
}

static struct teacher_options options(const struct room *r)
{
    return (struct teacher_options){.device = r->device,
                                    .path = r->path,
                                    .guidance = 2.5f,
                                    .model = r->model,
                                    .diffusion = diffusion_config_default,
                                    .height = SIDE,
                                    .width = SIDE,
                                    .precision = DTYPE_F32};
}

static void test_says_the_guided_prediction(void **state)
{
    struct room *r = *state;
    struct error err = {0};
    struct teacher *t;
    struct teacher_options o = options(r);
    static float with[N * ELEMENTS], without[N * ELEMENTS];
    int32_t none[N];
    for (int32_t i = 0; i < N; i++)
        none[i] = CLASSES;
    assert_int_equal(learner_forward(r->learner, N, r->batch.x, r->batch.t, r->batch.y, with, &err), 0);
    assert_int_equal(learner_forward(r->learner, N, r->batch.x, r->batch.t, none, without, &err), 0);
    if (teacher_open(&o, &t, &err) < 0 || teacher_eps(t, &r->batch, &err) < 0)
        fail_msg("%s", err.message);
    double moved = 0;
    for (size_t k = 0; k < N * ELEMENTS; k++) {
        float guided = without[k] + 2.5f * (with[k] - without[k]);
        assert_true(fabsf(r->batch.eps[k] - guided) <= 1e-6f * fmaxf(1, fabsf(guided)));
        moved += fabs((double)guided - with[k]);
    }
    assert_true(moved / (N * ELEMENTS) > 1e-3); // or it would show nothing
    assert_non_null(teacher_values(t));
    assert_int_equal(strlen(teacher_digest(t)), CHECKPOINT_DIGEST_CHARS);
    teacher_close(t);
}

static void test_another_architecture_begins_afresh(void **state)
{
    struct room *r = *state;
    struct error err = {0};
    struct teacher *t;
    struct teacher_options o = options(r);
    o.model.num_res_blocks = 2;
    assert_int_equal(teacher_open(&o, &t, &err), 0);
    assert_null(teacher_values(t));
    teacher_close(t);
}

static void refused(const struct teacher_options *o, int code, const char *says)
{
    struct error err = {0};
    struct teacher *t = NULL;
    assert_int_equal(teacher_open(o, &t, &err), code);
    assert_null(t);
    assert_non_null(strstr(err.message, says));
}

static void test_refusals(void **state)
{
    struct room *r = *state;
    struct teacher_options o = options(r);
    o.model.num_classes = 10;
    refused(&o, -EINVAL, "has 3 classes, the network that learns has 10");
    o = options(r);
    o.height = 16;
    refused(&o, -EINVAL, "is for images of 8x8, not 16x8");
    o = options(r);
    o.diffusion.T = 500;
    refused(&o, -EINVAL, "another noise schedule");
    o = options(r);
    o.path = "/nowhere/teacher.safetensors";
    refused(&o, -ENOENT, "teacher.safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_says_the_guided_prediction, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_architecture_begins_afresh, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
