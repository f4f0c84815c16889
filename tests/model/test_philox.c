/* test_philox.c: Philox4x32-10 against Random123's known answers, normals against float64
 * (tests/fixtures/make_noise.py).
 */
#include "kernels/philox.h"
#include "model/safetensors.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { N = 4096 };

/* Random123's kat_vectors, philox4x32 10. */
static void test_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], answer[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const uint32_t *c = cases[i].counter;
        uint64_t key = (uint64_t)cases[i].key[1] << 32 | cases[i].key[0];
        struct philox_block r = philox4x32_10(key, c[0], c[1], c[2], c[3]);
        assert_memory_equal(r.v, cases[i].answer, sizeof(r.v));
    }
}

static void test_uniform_stays_inside(void **state)
{
    assert_true(philox_uniform(0) == 0x1p-25f);
    assert_true(philox_uniform(0xFF) == 0x1p-25f);
    assert_true(philox_uniform(0x100) == 3 * 0x1p-25f);
    assert_true(philox_uniform(UINT32_MAX) <= 1.0f);
}

/* Every fixture normal.SEED.IMAGE.DRAW. Measured: 3.4e-7; the worst over all uniforms is 6e-7. */
static void test_normals_match_float64(void **state)
{
    struct safetensors *s;
    assert_int_equal(safetensors_open(AT_FDCWD, FIXTURES "/noise.safetensors", &s, NULL), 0);
    assert_int_equal(safetensors_load(s, NULL), 0);
    assert_int_equal(safetensors_count(s), 3);
    static float z[N];
    static double want[N];
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensor *t = safetensors_at(s, i);
        unsigned long long seed, image;
        unsigned draw;
        assert_int_equal(sscanf(t->name, "normal.%llu.%llu.%u", &seed, &image, &draw), 3);
        assert_int_equal(t->bytes, sizeof(want));
        memcpy(want, t->data, sizeof(want));
        philox_normal(z, N, seed, image, draw);
        double worst = 0;
        for (int j = 0; j < N; j++)
            worst = fmax(worst, fabs((double)z[j] - want[j]));
        print_message("%s: worst error %.2g\n", t->name, worst);
        assert_true(worst < 6e-7);
    }
    safetensors_close(s);
}

/* Element i is the same whatever n is, and nothing is written past n. */
static void test_normals_do_not_depend_on_n(void **state)
{
    static float all[N];
    philox_normal(all, N, 42, 7, 3);
    for (size_t n = 0; n < 150; n++) {
        float z[160];
        memset(z, 0xA5, sizeof(z));
        philox_normal(z, n, 42, 7, 3);
        assert_memory_equal(z, all, n * sizeof(float));
        for (size_t j = n * sizeof(float); j < sizeof(z); j++)
            assert_int_equal(((uint8_t *)z)[j], 0xA5);
    }
    static float odd[N + 1];
    philox_normal(odd + 1, N - 1, 42, 7, 3); // another alignment
    assert_memory_equal(odd + 1, all, (N - 1) * sizeof(float));
}

static void test_keys_and_counters_matter(void **state)
{
    float base[8], other[8];
    philox_normal(base, 8, 1, 2, 3);
    const struct {
        uint64_t seed, image;
        uint32_t draw;
    } changed[] = {{1 + (1ull << 32), 2, 3}, {2, 2, 3}, {1, 3, 3}, {1, 2 + (1ull << 32), 3}, {1, 2, 4}};
    for (size_t i = 0; i < sizeof(changed) / sizeof(*changed); i++) {
        philox_normal(other, 8, changed[i].seed, changed[i].image, changed[i].draw);
        for (int j = 0; j < 8; j++)
            assert_true(base[j] != other[j]);
    }
}

/* Mean, variance and fourth moment of 2^20 normals, within 5 standard errors. */
static void test_moments(void **state)
{
    enum { COUNT = 1 << 20 };
    float *z = malloc(COUNT * sizeof(*z));
    assert_non_null(z);
    philox_normal(z, COUNT, 99, 0, 0);
    double m1 = 0, m2 = 0, m4 = 0;
    for (int i = 0; i < COUNT; i++) {
        double v = z[i];
        m1 += v;
        m2 += v * v;
        m4 += v * v * v * v;
    }
    free(z);
    assert_true(fabs(m1 / COUNT) < 5 / 1024.0);
    assert_true(fabs(m2 / COUNT - 1) < 5 * sqrt(2) / 1024.0);
    assert_true(fabs(m4 / COUNT - 3) < 5 * sqrt(96) / 1024.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_uniform_stays_inside),
        cmocka_unit_test(test_normals_match_float64),
        cmocka_unit_test(test_normals_do_not_depend_on_n),
        cmocka_unit_test(test_keys_and_counters_matter),
        cmocka_unit_test(test_moments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
