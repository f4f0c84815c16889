/* test_schedule.c: alpha_bar, timesteps and rows against the PyTorch oracle (tests/fixtures/make_schedule.py). */
#include "model/file.h"
#include "model/safetensors.h"
#include "model/schedule.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int open_fixture(void **state)
{
    struct safetensors *s;
    if (safetensors_open(AT_FDCWD, FIXTURES "/schedule.safetensors", &s, NULL) || safetensors_load(s, NULL))
        return -1;
    *state = s;
    return 0;
}

static int close_fixture(void **state)
{
    safetensors_close(*state);
    return 0;
}

/* Equal bit for bit. */
static void test_alpha_bar(void **state)
{
    int checked = 0;
    for (size_t i = 0; i < safetensors_count(*state); i++) {
        const struct safetensor *t = safetensors_at(*state, i);
        struct diffusion_config d;
        if (strncmp(t->name, "alpha_bar.", 10))
            continue;
        // alpha_bar.T.b0.b1, where b0 and b1 have a point of their own
        char *end;
        d.T = (int32_t)strtol(t->name + 10, &end, 10);
        d.beta[0] = strtod(end + 1, &end);
        d.beta[1] = strtod(end + 1, &end);
        assert_int_equal(*end, 0);
        float *alpha_bar = malloc((size_t)d.T * sizeof(float));
        schedule_alpha_bar(&d, alpha_bar);
        assert_int_equal(t->bytes, (size_t)d.T * sizeof(float));
        assert_memory_equal(alpha_bar, t->data, t->bytes);
        free(alpha_bar);
        checked++;
    }
    assert_int_equal(checked, 5);
}

/* Every S in 1..1000, by digest. */
static void test_timesteps_by_digest(void **state)
{
    for (int method = 0; method < STEP_METHOD_COUNT; method++) {
        char name[64];
        snprintf(name, sizeof(name), "timesteps.%s", step_method_names[method]);
        const struct safetensor *t = safetensors_find(*state, name);
        assert_non_null(t);
        for (int32_t steps = 1; steps <= 1000; steps++) {
            int32_t tau[1000];
            char got[FILE_SHA256_CHARS + 1], want[17];
            schedule_timesteps(steps, method, 1000, tau);
            sha256_hex(tau, (size_t)steps * sizeof(*tau), got);
            for (int i = 0; i < 8; i++)
                snprintf(want + 2 * i, 3, "%02x", ((const uint8_t *)t->data)[8 * (steps - 1) + i]);
            assert_memory_equal(got, want, 16);
        }
    }
}

/* Every S of several T, number by number. */
static void test_timesteps_of_other_T(void **state)
{
    static const int32_t sizes[] = {1, 2, 7, 50};
    for (int method = 0; method < STEP_METHOD_COUNT; method++)
        for (size_t i = 0; i < 4; i++) {
            int32_t T = sizes[i];
            char name[64];
            snprintf(name, sizeof(name), "timesteps.%s.%d", step_method_names[method], T);
            const struct safetensor *t = safetensors_find(*state, name);
            assert_non_null(t);
            for (int32_t steps = 1; steps <= T; steps++) {
                int32_t tau[50];
                schedule_timesteps(steps, method, T, tau);
                assert_memory_equal(tau, (const int32_t *)t->data + (steps - 1) * T, (size_t)steps * sizeof(*tau));
            }
        }
}

static int index_of(const char *name, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(name, names[i]))
            return i;
    fail_msg("%s", name);
    return -1;
}

/* "steps.SAMPLER.S.METHOD.ETA.T.b0.b1", numbers with p for the point. */
static void parse_recipe(const char *name, struct sampling_recipe *ret_recipe, struct diffusion_config *ret_diffusion)
{
    char text[128], *part[8], *save = NULL;
    snprintf(text, sizeof(text), "%s", name);
    for (int i = 0; i < 8; i++) {
        part[i] = strtok_r(i ? NULL : text, ".", &save);
        assert_non_null(part[i]);
        char *point = i >= 4 ? strchr(part[i], 'p') : NULL;
        if (point)
            *point = '.';
    }
    *ret_recipe = (struct sampling_recipe){.sampler = (enum sampler)index_of(part[1], sampler_names),
                                           .steps = atoi(part[2]),
                                           .method = (enum step_method)index_of(part[3], step_method_names),
                                           .eta = atof(part[4])};
    *ret_diffusion = (struct diffusion_config){atoi(part[5]), {atof(part[6]), atof(part[7])}};
}

/* Each step of the oracle's run, redone from the oracle's own x: the error relative to the size of the terms. */
static double worst_step(const struct step_table *table, const double *steps)
{
    double worst = 0;
    for (int lane = 0; lane < 3; lane++) {
        double last = 0;
        for (int32_t k = 0; k < table->n_rows; k++) {
            const struct step_row *r = &table->rows[k];
            const double *step = steps + 12 * k + lane;
            double x = step[0], eps = step[3], z = step[6], want = step[9];
            double got = r->a * x + r->b * eps + r->c * last + r->s * z;
            double size = fabs(r->a * x) + fabs(r->b * eps) + fabs(r->c * last) + fabs(r->s * z);
            worst = fmax(worst, fabs(got - want) / size);
            last = (x - r->sigma * eps) / r->alpha;
        }
    }
    return worst;
}

/* Measured: 6e-8, the rounding of the coefficients to f32. */
static void test_rows_step_as_the_oracle_does(void **state)
{
    int checked[SAMPLER_COUNT] = {0};
    for (size_t i = 0; i < safetensors_count(*state); i++) {
        const struct safetensor *t = safetensors_at(*state, i);
        if (strncmp(t->name, "steps.", 6))
            continue;
        struct sampling_recipe recipe;
        struct diffusion_config d;
        struct step_table *table;
        parse_recipe(t->name, &recipe, &d);
        assert_int_equal(schedule_table(&d, &recipe, &table, NULL), 0);
        assert_int_equal(table->n_rows, t->dim[0]);
        double worst = worst_step(table, t->data);
        print_message("%s: %.2g\n", t->name, worst);
        assert_true(worst < 1e-7);
        free(table);
        checked[recipe.sampler]++;
    }
    assert_int_equal(checked[SAMPLER_DDIM], 8);
    assert_int_equal(checked[SAMPLER_DDPM], 2);
    assert_int_equal(checked[SAMPLER_DPMPP_2M], 7);
}

/* What the rows promise besides: timesteps descend, alpha and sigma are a point on the circle, no noise without eta. */
static void test_rows_are_well_formed(void **state)
{
    for (int sampler = 0; sampler < SAMPLER_COUNT; sampler++) {
        struct sampling_recipe recipe = {.steps = 30, .method = STEP_METHOD_TRAILING, .sampler = (enum sampler)sampler};
        struct step_table *table;
        assert_int_equal(schedule_table(&diffusion_config_default, &recipe, &table, NULL), 0);
        assert_int_equal(table->n_rows, sampler == SAMPLER_DDPM ? 1000 : 30);
        for (int32_t k = 0; k < table->n_rows; k++) {
            const struct step_row *r = &table->rows[k];
            assert_true(k == 0 || r->t < table->rows[k - 1].t);
            assert_true(fabsf(r->alpha * r->alpha + r->sigma * r->sigma - 1) < 1e-6f);
            assert_true(sampler == SAMPLER_DDPM || r->s == 0);
            assert_true(sampler == SAMPLER_DPMPP_2M || r->c == 0);
        }
        const struct step_row *first = &table->rows[0], *last = &table->rows[table->n_rows - 1];
        assert_int_equal(first->t, 999);
        assert_true(first->c == 0 && last->c == 0 && last->s == 0); // the first has no past, the last gives x0
        free(table);
    }
}

static void test_ddpm_ignores_steps_method_and_eta(void **state)
{
    struct sampling_recipe plain = {.steps = 1000, .method = STEP_METHOD_LINEAR, .sampler = SAMPLER_DDIM, .eta = 1};
    struct sampling_recipe ddpm = {.steps = -5, .method = STEP_METHOD_TRAILING, .sampler = SAMPLER_DDPM, .eta = 17};
    struct step_table *a, *b;
    assert_int_equal(schedule_table(&diffusion_config_default, &plain, &a, NULL), 0);
    assert_int_equal(schedule_table(&diffusion_config_default, &ddpm, &b, NULL), 0);
    assert_int_equal(b->n_rows, 1000);
    assert_memory_equal(a->rows, b->rows, 1000 * sizeof(a->rows[0]));
    free(a);
    free(b);
}

static void test_bad_recipes_name_the_field(void **state)
{
    static const struct {
        struct sampling_recipe recipe;
        const char *field;
    } cases[] = {
        {{0, STEP_METHOD_LINEAR, SAMPLER_DDIM, 0}, "steps"},
        {{1001, STEP_METHOD_LINEAR, SAMPLER_DDIM, 0}, "steps"},
        {{-1, STEP_METHOD_LINEAR, SAMPLER_DPMPP_2M, 0}, "steps"},
        {{10, STEP_METHOD_LINEAR, SAMPLER_DDIM, -0.1}, "eta"},
        {{10, STEP_METHOD_LINEAR, SAMPLER_DDIM, 1.1}, "eta"},
        {{10, STEP_METHOD_LINEAR, SAMPLER_DDIM, NAN}, "eta"},
        {{10, STEP_METHOD_LINEAR, SAMPLER_DPMPP_2M, 0.5}, "eta"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = {0};
        struct step_table *table = NULL;
        assert_int_equal(schedule_table(&diffusion_config_default, &cases[i].recipe, &table, &err), -EINVAL);
        assert_null(table);
        assert_string_equal(err.field, cases[i].field);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alpha_bar),
        cmocka_unit_test(test_timesteps_by_digest),
        cmocka_unit_test(test_timesteps_of_other_T),
        cmocka_unit_test(test_rows_step_as_the_oracle_does),
        cmocka_unit_test(test_rows_are_well_formed),
        cmocka_unit_test(test_ddpm_ignores_steps_method_and_eta),
        cmocka_unit_test(test_bad_recipes_name_the_field),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
