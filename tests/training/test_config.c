/* test_config.c: training configurations: the shipped ones parse, and each mistake is told with its key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/json.h"
#include "training/config.h"
#include "training/diffuse.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char minimal[] =
    "{\"model\": {\"in_channels\": 1, \"out_channels\": 1, \"model_channels\": 32, \"channel_mult\": [1, 2]},"
    " \"dataset\": {\"kind\": \"mnist\", \"path\": \"x\"}}";

/* The minimal configuration with one more assignment. */
static int load_with(const char *set, struct train_config *ret, struct error *err)
{
    char path[] = "config.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    FILE *f = fdopen(fd, "w");
    fputs(minimal, f);
    fclose(f);
    memset(err, 0, sizeof *err);
    int r = train_config_load(path, &set, set ? 1 : 0, ret, err);
    remove(path);
    return r;
}

static void test_defaults(void **state)
{
    (void)state;
    struct train_config c;
    struct error err;
    assert_int_equal(load_with(NULL, &c, &err), 0);
    assert_int_equal(c.dataset.batch_size, 64);
    assert_int_equal(c.dataset.mode, 0);
    assert_true(c.ema.ramp);
    assert_int_equal(c.diffusion.T, 1000);
    assert_true(c.validation.fraction > 0);
    assert_string_equal(c.resume, "");
}

static void test_mistakes(void **state)
{
    (void)state;
    static const struct {
        const char *set, *field, *message;
    } cases[] = {
        {"optimizer.leaning_rate=1", "optimizer.leaning_rate", "unknown"},
        {"optimiser.lr=1", "optimiser", "optimizer"},
        {"optimizer.warmup_step=1", "optimizer.warmup_step", "warmup_steps"},
        {"optimizer.lr=0", "optimizer.lr", "above 0"},
        {"optimizer.lr=\"fast\"", "optimizer.lr", "number"},
        {"optimizer.lr_min=1", "optimizer.lr_min", "above lr"},
        {"optimizer.schedule=cosin", "optimizer.schedule", "cosine"},
        {"dataset.kind=mnst", "dataset.kind", "mnist"},
        {"dataset.batch_size=0", "dataset.batch_size", "1"},
        {"dataset.batch_size=6.5", "dataset.batch_size", "whole"},
        {"dataset.image_size=[33, 32]", "dataset.image_size[0]", "multiple of 2"},
        {"dataset.mode=RGB", "dataset.mode", "L"},
        {"dataset.flip=1.5", "dataset.flip", "1"},
        {"dataset={\"kind\": \"folder\", \"path\": \"x\", \"download\": true}", "dataset.download",
         "cifar10 and mnist"},
        {"model.dropout=1", "model.dropout", "0.999"},
        {"model.model_channels=48", "model.model_channels", "multiple of 32"},
        {"diffusion.T=0", "diffusion.T", "1"},
        {"sample.steps=1001", "sample.steps", "diffusion.T"},
        {"micro_batch=65", "micro_batch", "batch_size"},
        {"validation={\"images\": 0, \"fraction\": 0}", "checkpoint.monitor", "held-out"},
        {"checkpoint.dtype=F64", "checkpoint.dtype", "F32"},
        {"epochs=0", "epochs", "1"},
        {"label_dropout=2", "label_dropout", "1"},
        {"seed=-1", "seed", "18446744073709551615"},
        {"precision=f16", "precision", "bf16"},
        {"early_stopping.patience=-1", "early_stopping.patience", "0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct train_config c = {.epochs = 12345};
        struct error err;
        int r = load_with(cases[i].set, &c, &err);
        if (r != -EINVAL || strcmp(err.field, cases[i].field) != 0 || !strstr(err.message, cases[i].message))
            fail_msg("%s: %d, field \"%s\", \"%s\"", cases[i].set, r, err.field, err.message);
        assert_int_equal(c.epochs, 12345);
    }
}

static void test_set(void **state)
{
    (void)state;
    struct train_config c;
    struct error err;
    assert_int_equal(load_with("dataset.path=/a=b/c d", &c, &err), 0);
    assert_string_equal(c.dataset.path, "/a=b/c d");
    assert_int_equal(load_with("sample={\"n\": 8}", &c, &err), 0);
    assert_int_equal(c.sample.n, 8);
    assert_int_equal(load_with("seed=18446744073709551615", &c, &err), 0);
    assert_true(c.seed == UINT64_MAX);
    assert_int_equal(load_with("optimizer..lr=1", &c, &err), -EINVAL);
    assert_int_equal(load_with("=1", &c, &err), -EINVAL);
    assert_int_equal(load_with("epochs", &c, &err), -EINVAL);
    assert_int_equal(train_config_load("no such file", NULL, 0, &c, &err), -ENOENT);
}

/* What is written reads as the same configuration. */
static void test_round_trip(void **state)
{
    (void)state;
    struct train_config a, b;
    struct error err;
    assert_int_equal(load_with("optimizer.lr=0.00030000000000000003", &a, &err), 0);
    json_t *json = train_config_json(&a);
    assert_non_null(json);
    assert_int_equal(train_config_parse(json, &b, &err), 0);
    json_t *again = train_config_json(&b);
    assert_true(json_equal(json, again));
    assert_true(a.optimizer.lr == b.optimizer.lr);
    json_decref(json);
    json_decref(again);
}

static void test_compatible(void **state)
{
    (void)state;
    struct train_config a, b;
    struct error err;
    assert_int_equal(load_with(NULL, &a, &err), 0);
    assert_int_equal(load_with("epochs=7", &b, &err), 0);
    assert_int_equal(train_config_compatible(&a, &b, &err), 0);
    assert_int_equal(load_with("dataset.path=elsewhere", &b, &err), 0);
    assert_int_equal(train_config_compatible(&a, &b, &err), 0);
    assert_int_equal(load_with("min_snr_gamma=5", &b, &err), 0);
    assert_int_equal(train_config_compatible(&a, &b, &err), 0);
    assert_int_equal(load_with("dataset.batch_size=32", &b, &err), 0);
    assert_int_equal(train_config_compatible(&a, &b, &err), -EINVAL);
    assert_string_equal(err.field, "dataset.batch_size");
    assert_int_equal(load_with("model.dropout=0.2", &b, &err), 0);
    assert_int_equal(train_config_compatible(&a, &b, &err), -EINVAL);
    assert_string_equal(err.field, "model");
}

static void test_shipped(void **state)
{
    (void)state;
    static const char *const names[] = {"digits", "cifar10", "cifar10-small", "folder"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[512];
        struct train_config c;
        struct error err = {0};
        snprintf(path, sizeof path, "%s/etc/train/%s.json", SOURCE_ROOT, names[i]);
        if (train_config_load(path, NULL, 0, &c, &err) < 0)
            fail_msg("%s: %s: %s", names[i], err.field, err.message);
        if (i == 0)
            assert_true(model_config_parameters(&c.model) * 2 <= (6 << 20) - 65536); // as F16 with its header
        if (i == 1) // the reference's defaults are the seed configuration
            assert_memory_equal(&c.model, &model_config_default, sizeof c.model);
    }
}

static void test_lr(void **state)
{
    (void)state;
    struct train_optimizer o = {.lr = 1e-3, .lr_min = 1e-5, .warmup_steps = 10, .schedule = LR_COSINE};
    assert_float_equal(train_config_lr(&o, 0, 110), 1e-4, 1e-12);
    assert_float_equal(train_config_lr(&o, 9, 110), 1e-3, 1e-12);
    assert_float_equal(train_config_lr(&o, 10, 110), 1e-3, 1e-12);
    assert_float_equal(train_config_lr(&o, 60, 110), 0.5 * (1e-3 + 1e-5), 1e-12);
    assert_float_equal(train_config_lr(&o, 110, 110), 1e-5, 1e-12);
    o.schedule = LR_CONSTANT;
    assert_float_equal(train_config_lr(&o, 60, 110), 1e-3, 1e-12);
    o.warmup_steps = 0;
    assert_float_equal(train_config_lr(&o, 0, 110), 1e-3, 1e-12);
}

/* ---- what a step draws ---- */

enum { N = 64, ELEMENTS = 48 };

static void test_draw(void **state)
{
    (void)state;
    struct diffuser d;
    struct noised_batch a, b;
    float x0[N * ELEMENTS] = {0};
    int32_t y[N], nulls = 0;
    double mean = 0, square = 0, t_mean = 0;
    for (int i = 0; i < N; i++)
        y[i] = i % 10;
    assert_int_equal(diffuser_init(&d, &diffusion_config_default, 10, 0.25f, 0, false, 5), 0);
    assert_int_equal(noised_batch_init(&a, N, ELEMENTS), 0);
    assert_int_equal(noised_batch_init(&b, N, ELEMENTS), 0);
    for (uint32_t step = 0; step < 100; step++) {
        diffuser_draw(&d, x0, y, N, step, &a);
        for (int i = 0; i < N; i++) {
            assert_true(a.t[i] >= 0 && a.t[i] < 1000 && a.t[i] == floorf(a.t[i]));
            assert_true(a.y[i] == y[i] || a.y[i] == 10);
            assert_int_equal(a.key[4 * i + 2], step);
            assert_true(a.loss_scale[i] == 1.0f);
            nulls += a.y[i] == 10;
            t_mean += a.t[i] / (100.0 * N);
        }
        for (int k = 0; k < N * ELEMENTS; k++) {
            mean += a.eps[k] / (100.0 * N * ELEMENTS);
            square += a.eps[k] * a.eps[k] / (100.0 * N * ELEMENTS);
        }
    }
    assert_in_range(nulls, 1600 - 140, 1600 + 140); // 4 standard deviations; fixed by the seed
    assert_float_equal(t_mean, 499.5, 15);
    assert_float_equal(mean, 0, 0.01);
    assert_float_equal(square, 1, 0.015);
    diffuser_draw(&d, x0, y, N, 99, &b);
    assert_memory_equal(a.eps, b.eps, sizeof x0);
    assert_memory_equal(a.t, b.t, N * sizeof *a.t);
    diffuser_draw(&d, x0, y, N, 98, &b);
    assert_memory_not_equal(a.eps, b.eps, sizeof x0);
    noised_batch_done(&a);
    noised_batch_done(&b);
    diffuser_done(&d);
}

/* Pairs t and T - 1 - t; min(SNR, 5) / SNR is 1 where there is little signal and small where there is much. */
static void test_antithetic_and_min_snr(void **state)
{
    (void)state;
    struct diffuser d;
    struct noised_batch b;
    float x0[N * ELEMENTS] = {0};
    int32_t y[N] = {0};
    assert_int_equal(diffuser_init(&d, &diffusion_config_default, 10, 0, 5, true, 5), 0);
    assert_int_equal(noised_batch_init(&b, N, ELEMENTS), 0);
    diffuser_draw(&d, x0, y, N, 3, &b);
    for (int i = 0; i < N; i += 2)
        assert_true(b.t[i] + b.t[i + 1] == 999);
    assert_true(d.loss_scale[999] == 1.0f);
    assert_float_equal(d.loss_scale[0], 5 * 1e-4 / (1 - 1e-4), 1e-6); // SNR of the first step: (1 - beta) / beta
    noised_batch_done(&b);
    diffuser_done(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_compatible),
        cmocka_unit_test(test_shipped),
        cmocka_unit_test(test_lr),
        cmocka_unit_test(test_draw),
        cmocka_unit_test(test_antithetic_and_min_snr),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
