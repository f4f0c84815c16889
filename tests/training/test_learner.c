/* test_learner.c: ten steps of training against PyTorch (tests/fixtures/make_unet.py): losses, norms of gradients,
 * weights and averages; micro-batches; the state file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/device.h"
#include "tests/support/unet_fixture.h"
#include "training/learner.h"
#include "training/state.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 10, BATCH = 4 };

struct run {
    struct unet_fixture f;
    struct device *device;
    struct learner *learner;
    struct diffuser diffuser;
    struct noised_batch batch;
    size_t elements;
};

static void open_run(struct run *r, const char *threads, int32_t micro_batch)
{
    struct error err = {0};
    memset(r, 0, sizeof *r);
    unet_fixture_open(FIXTURES, "training_losses", &r->f);
    r->elements = (size_t)r->f.height * r->f.width * r->f.model.in_channels;
    if (test_backend()->open(test_threads(threads), &r->device, &err) < 0)
        fail_msg("%s", err.message);
    struct learner_options o = {.device = r->device,
                                .model = r->f.model,
                                .height = r->f.height,
                                .width = r->f.width,
                                .precision = DTYPE_F32,
                                .batch_size = BATCH,
                                .micro_batch = micro_batch,
                                .forward_batch = 8};
    if (learner_create(&o, &r->learner, &err) < 0)
        fail_msg("%s", err.message);
    float *values = unet_fixture_weights(learner_graph(r->learner), r->f.seed);
    assert_int_equal(learner_set(r->learner, LEARNER_WEIGHTS, values), 0);
    assert_int_equal(learner_set(r->learner, LEARNER_EMA, values), 0);
    free(values);
    assert_int_equal(diffuser_init(&r->diffuser, &diffusion_config_default, r->f.model.num_classes, 0, 0, false, 0), 0);
    assert_int_equal(noised_batch_init(&r->batch, BATCH, r->elements), 0);
}

static void close_run(struct run *r)
{
    noised_batch_done(&r->batch);
    diffuser_done(&r->diffuser);
    learner_free(r->learner);
    test_backend()->close(r->device);
    unet_fixture_close(&r->f);
}

/* Step k of the fixture: mean loss and norm of the gradient; then the update as the fixture made it. */
static void do_step(struct run *r, int k, double *ret_loss, double *ret_norm)
{
    struct error err = {0};
    size_t n;
    float losses[BATCH];
    const float *x0 = unet_fixture_f32(&r->f, "x0", &n), *eps = unet_fixture_f32(&r->f, "eps", &n);
    const int32_t *t = unet_fixture_i32(&r->f, "t", &n), *y = unet_fixture_i32(&r->f, "y", &n);
    size_t at = (size_t)k * BATCH * r->elements;
    diffuser_set(&r->diffuser, x0 + at, y + k * BATCH, t + k * BATCH, eps + at, BATCH, &r->batch);
    if (learner_gradient(r->learner, &r->batch, losses, ret_norm, &err) < 0)
        fail_msg("%s", err.message);
    *ret_loss = 0;
    for (int i = 0; i < BATCH; i++)
        *ret_loss += losses[i] / BATCH;
    double step = k + 1;
    struct adamw o = {.lr = 1e-3f,
                      .beta1 = 0.9f,
                      .beta2 = 0.999f,
                      .eps = 1e-8f,
                      .weight_decay = 1e-2f,
                      .scale = (float)fmin(1.0, 1.0 / (*ret_norm + 1e-6)),
                      .ema_decay = (float)fmin(0.9999, (1 + step) / (10 + step)),
                      .step = k + 1};
    assert_int_equal(learner_update(r->learner, &o), 0);
}

static double relative(double a, double b)
{
    return fabs(a - b) / fabs(b);
}

/* Biases before a group norm of one channel per group (32 channels here): their gradient is zero but for rounding, and
 * AdamW makes steps of about lr out of the rounding. All that can be said of them is how far ten steps go. */
static bool has_no_gradient(const struct param *p)
{
    static const char *const names[] = {"down.1.0.conv1.bias",  "down.1.0.conv2.bias", "up.2.0.conv1.bias",
                                        "up.2.0.conv2.bias",    "up.3.0.conv1.bias",   "up.3.0.conv2.bias",
                                        "up.3.0.shortcut.bias", "up.2.0.shortcut.bias"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(p->name, names[i]) == 0)
            return true;
    return false;
}

/* The largest error of any parameter that has a gradient, relative to its norm. */
static double compare_vector(struct run *r, enum learner_vector which, const char *name)
{
    const struct graph *g = learner_graph(r->learner);
    char key[64];
    size_t n;
    double worst = 0;
    float *values = malloc(g->param_floats * sizeof *values);
    assert_int_equal(learner_get(r->learner, which, values), 0);
    snprintf(key, sizeof key, "%s_norm", name);
    const float *norm = unet_fixture_f32(&r->f, key, &n);
    assert_int_equal(n, g->n_params);
    snprintf(key, sizeof key, "%s_projection", name);
    const float *projection = unet_fixture_f32(&r->f, key, &n);
    for (int32_t i = 0; i < g->n_params; i++) {
        struct digest_error e = digest_compare(g, i, values, r->f.seed, norm, projection);
        if (has_no_gradient(&g->params[i]))
            assert_true(e.difference <= 1e-3 * STEPS * sqrt(g->params[i].dim[3]));
        else
            worst = fmax(worst, e.difference / e.norm);
    }
    free(values);
    return worst;
}

static void check_ten_losses(const char *threads, int32_t micro_batch)
{
    struct run r;
    size_t n;
    double worst_loss = 0, worst_norm = 0;
    open_run(&r, threads, micro_batch);
    const float *loss = unet_fixture_f32(&r.f, "loss", &n), *norm = unet_fixture_f32(&r.f, "gradient_norm", &n);
    for (int k = 0; k < STEPS; k++) {
        double found_loss, found_norm;
        do_step(&r, k, &found_loss, &found_norm);
        worst_loss = fmax(worst_loss, relative(found_loss, loss[k]));
        worst_norm = fmax(worst_norm, relative(found_norm, norm[k]));
    }
    double weights = compare_vector(&r, LEARNER_WEIGHTS, "weight"), ema = compare_vector(&r, LEARNER_EMA, "ema");
    print_message("%s threads, micro-batch %d: loss %.1e, norm %.1e, weights %.1e, average %.1e\n", threads,
                  micro_batch, worst_loss, worst_norm, weights, ema);
    assert_true(worst_loss < 3e-6);
    assert_true(worst_norm < 5e-6);
    assert_true(weights < 4e-5);
    assert_true(ema < 4e-5);
    close_run(&r);
}

static void test_ten_losses(void **state)
{
    (void)state;
    check_ten_losses("1", 0);
    if (!test_emulated())
        check_ten_losses("2", 0);
}

/* The same effective batch in pieces, the last one shorter. */
static void test_micro_batches(void **state)
{
    if (test_emulated())
        skip();
    (void)state;
    check_ten_losses("1", 3);
}

static float *vector(struct run *r, enum learner_vector which)
{
    float *v = malloc(learner_graph(r->learner)->param_floats * sizeof *v);
    assert_int_equal(learner_get(r->learner, which, v), 0);
    return v;
}

/* Save, go on, reload, go on again: the same bits. */
static void test_state(void **state)
{
    if (test_emulated())
        skip();
    (void)state;
    struct run r;
    struct error err = {0};
    struct train_config c = {.model = {.in_channels = 0}};
    struct train_state s = train_state_initial(), found;
    char folder[256];
    const char *tmp = getenv("TMPDIR");
    double loss, norm, again, norm_again;
    open_run(&r, "2", 0);
    json_t *json = json_pack("{so s{ss ss ss s[ii]}}", "model", model_config_json(&r.f.model), "dataset", "kind",
                             "mnist", "path", "x", "mode", "L", "image_size", r.f.height, r.f.width);
    assert_int_equal(train_config_parse(json, &c, &err), 0);
    json_decref(json);
    snprintf(folder, sizeof folder, "%s/test_learner.XXXXXX", tmp ? tmp : P_tmpdir);
    assert_non_null(mkdtemp(folder));
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    do_step(&r, 0, &loss, &norm);
    s.step = s.updates = 1;
    s.best = 1.0 / 3.0;
    s.epoch_losses.sum = 0.1;
    s.epoch_losses.band_n[9] = 4;
    assert_int_equal(train_state_save(fd, "state", &s, &c, r.learner, &err), 0);
    do_step(&r, 1, &loss, &norm);
    float *weights = vector(&r, LEARNER_WEIGHTS), *ema = vector(&r, LEARNER_EMA);
    assert_int_equal(train_state_load(fd, "state", &c, r.learner, &found, &err), 0);
    assert_int_equal(found.step, 1);
    assert_true(found.best == s.best && found.epoch_losses.sum == s.epoch_losses.sum);
    assert_int_equal(found.epoch_losses.band_n[9], 4);
    assert_true(isnan(found.val_loss));
    do_step(&r, 1, &again, &norm_again);
    assert_true(loss == again && norm == norm_again);
    float *weights_again = vector(&r, LEARNER_WEIGHTS), *ema_again = vector(&r, LEARNER_EMA);
    size_t bytes = learner_graph(r.learner)->param_floats * sizeof(float);
    assert_memory_equal(weights, weights_again, bytes);
    assert_memory_equal(ema, ema_again, bytes);
    c.dataset.flip = 0.5f;
    assert_int_equal(train_state_load(fd, "state", &c, r.learner, &found, &err), -EINVAL);
    assert_string_equal(err.field, "dataset.flip");
    assert_int_equal(train_state_load(fd, "none", &c, r.learner, &found, &err), -ENOENT);
    assert_int_equal(unlinkat(fd, "state", 0), 0);
    close(fd);
    assert_int_equal(rmdir(folder), 0);
    free(weights);
    free(ema);
    free(weights_again);
    free(ema_again);
    close_run(&r);
}

/* ---- lack of memory ---- */

/* The CPU's backend on a device that is short of memory: the first allocation, and the first upload after the learner
 * is made, of just so many bytes fail. */
static struct backend short_backend;
static size_t alloc_limit, upload_limit;

static int short_alloc(struct device *d, size_t bytes, void **ret_memory)
{
    if (bytes != alloc_limit)
        return backend_cpu.alloc(d, bytes, ret_memory);
    alloc_limit = SIZE_MAX;
    return -ENOMEM;
}

static int short_upload(struct device *d, void *to, const void *from, size_t bytes)
{
    if (bytes != upload_limit)
        return backend_cpu.upload(d, to, from, bytes);
    upload_limit = SIZE_MAX;
    return -ENOMEM;
}

static void open_short(struct run *r, size_t alloc, size_t upload, int32_t micro_batch)
{
    open_run(r, "1", micro_batch);
    learner_free(r->learner);
    r->learner = NULL;
    short_backend = backend_cpu;
    short_backend.alloc = short_alloc;
    short_backend.upload = short_upload;
    ((struct device_base *)r->device)->backend = &short_backend;
    alloc_limit = alloc;
    upload_limit = SIZE_MAX;
    struct error err = {0};
    struct learner_options o = {.device = r->device,
                                .model = r->f.model,
                                .height = r->f.height,
                                .width = r->f.width,
                                .precision = DTYPE_F32,
                                .batch_size = BATCH,
                                .micro_batch = micro_batch,
                                .forward_batch = 2};
    if (learner_create(&o, &r->learner, &err) < 0)
        fail_msg("%s", err.message);
    float *values = unet_fixture_weights(learner_graph(r->learner), r->f.seed);
    assert_int_equal(learner_set(r->learner, LEARNER_WEIGHTS, values), 0);
    free(values);
    upload_limit = upload;
}

/* Two pieces of two images because four do not fit, at first or at the first step: the bits of two pieces on request.
 */
static void test_lack_of_memory(void **state)
{
    if (test_emulated())
        skip();
    (void)state;
    struct run r;
    double loss, norm, first_loss = 0, first_norm = 0;
    size_t image;
    open_run(&r, "1", 0);
    image = r.elements * sizeof(float);
    close_run(&r);
    const struct {
        size_t alloc, upload;
        int32_t asked;
    } cases[] = {{SIZE_MAX, SIZE_MAX, 2}, {BATCH * image, SIZE_MAX, 0}, {SIZE_MAX, BATCH * image, 0}};
    for (size_t i = 0; i < 3; i++) {
        open_short(&r, cases[i].alloc, cases[i].upload, cases[i].asked);
        do_step(&r, 0, &loss, &norm);
        assert_int_equal(learner_micro_batch(r.learner), 2);
        if (i == 0)
            first_loss = loss, first_norm = norm;
        assert_true(loss == first_loss && norm == first_norm);
        close_run(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ten_losses),
        cmocka_unit_test(test_micro_batches),
        cmocka_unit_test(test_state),
        cmocka_unit_test(test_lack_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
