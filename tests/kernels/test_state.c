/* test_state.c: the backend's functions over flat vectors: the optimiser and the sampler's step, against their formulas
 * in f64, and with the same bits on one thread and on two (on a GPU: twice).
 */
#include "kernels/backend.h"
#include "kernels/philox.h"
#include "tests/support/device.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct backend *backend;
static struct device *devices[2]; // of one thread and of two

static float uniform(uint32_t seed, uint32_t i)
{
    return 2.0f * philox_uniform(philox4x32_10(seed, i, 0, 0, 0).v[0]) - 1.0f;
}

static float *vector(uint32_t seed, size_t n)
{
    float *v = malloc(n * sizeof(float));
    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = uniform(seed, (uint32_t)i);
    return v;
}

enum { N = 200003 }; // several chunks and a tail

/* A copy of n floats on device d. */
static float *push(int d, const float *values, size_t n)
{
    void *memory = NULL;
    assert_int_equal(backend->alloc(devices[d], n * sizeof(float), &memory), 0);
    assert_int_equal(backend->upload(devices[d], memory, values, n * sizeof(float)), 0);
    return memory;
}

/* Brings it back into values (NULL: nothing) and frees it. */
static void pull(int d, float *values, float *memory, size_t n)
{
    if (values)
        assert_int_equal(backend->download(devices[d], values, memory, n * sizeof(float)), 0);
    backend->free(devices[d], memory, n * sizeof(float));
}

static void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance * (1 + fabs(want))))
        fail_msg("%.9g instead of %.9g", got, want);
}

/* Two steps of Loshchilov & Hutter 2019, algorithm 2, as torch.optim.AdamW does them, in f64. */
static void adamw_in_f64(double *w, double *m, double *v, double *ema, const float *g, const struct adamw *o)
{
    for (size_t i = 0; i < N; i++) {
        double gi = (double)g[i] * o->scale;
        w[i] -= (double)o->lr * o->weight_decay * w[i];
        m[i] = o->beta1 * m[i] + (1 - (double)o->beta1) * gi;
        v[i] = o->beta2 * v[i] + (1 - (double)o->beta2) * gi * gi;
        double m_hat = m[i] / (1 - pow(o->beta1, (double)o->step)), v_hat = v[i] / (1 - pow(o->beta2, (double)o->step));
        w[i] -= o->lr * m_hat / (sqrt(v_hat) + o->eps);
        ema[i] = o->ema_decay * ema[i] + (1 - (double)o->ema_decay) * w[i];
    }
}

static double *widen(const float *x)
{
    double *y = malloc(N * sizeof(double));
    assert_non_null(y);
    for (size_t i = 0; i < N; i++)
        y[i] = x[i];
    return y;
}

static void test_adamw(void **state)
{
    float *w[2], *m[2], *v[2], *ema[2], *g = vector(5, N);
    for (int d = 0; d < 2; d++) {
        w[d] = vector(1, N);
        ema[d] = vector(2, N);
        m[d] = calloc(N, sizeof(float));
        v[d] = calloc(N, sizeof(float));
    }
    double *w64 = widen(w[0]), *m64 = widen(m[0]), *v64 = widen(v[0]), *ema64 = widen(ema[0]);
    struct adamw o = {.lr = 1e-2f,
                      .beta1 = 0.9f,
                      .beta2 = 0.999f,
                      .eps = 1e-8f,
                      .weight_decay = 0.1f,
                      .scale = 0.5f,
                      .ema_decay = 0.75f};
    for (o.step = 1; o.step <= 2; o.step++) {
        adamw_in_f64(w64, m64, v64, ema64, g, &o);
        for (int d = 0; d < 2; d++) {
            float *on[5] = {push(d, w[d], N), push(d, g, N), push(d, m[d], N), push(d, v[d], N), push(d, ema[d], N)};
            assert_int_equal(backend->adamw(devices[d], on[0], on[1], on[2], on[3], on[4], N, &o), 0);
            pull(d, w[d], on[0], N);
            pull(d, NULL, on[1], N);
            pull(d, m[d], on[2], N);
            pull(d, v[d], on[3], N);
            pull(d, ema[d], on[4], N);
        }
    }
    for (size_t i = 0; i < N; i++) {
        assert_near(w[0][i], w64[i], 2e-6);
        assert_near(ema[0][i], ema64[i], 1e-6);
        assert_near(m[0][i], m64[i], 1e-6);
        assert_near(v[0][i], v64[i], 1e-6);
    }
    assert_memory_equal(w[0], w[1], N * sizeof(float));
    assert_memory_equal(ema[0], ema[1], N * sizeof(float));
    float *on[4] = {push(0, w[0], N), push(0, g, N), push(0, m[0], N), push(0, v[0], N)};
    assert_int_equal(backend->adamw(devices[0], on[0], on[1], on[2], on[3], NULL, N, &o), 0); // no EMA
    for (int i = 0; i < 4; i++)
        pull(0, NULL, on[i], N);
    for (int d = 0; d < 2; d++) {
        free(w[d]);
        free(m[d]);
        free(v[d]);
        free(ema[d]);
    }
    free(g);
    free(w64);
    free(m64);
    free(v64);
    free(ema64);
}

static void test_sums(void **state)
{
    float *a = vector(1, N), *b = vector(2, N), *c = vector(3, N), *y = malloc(N * sizeof(float));
    double want = 0, got[2];
    for (size_t i = 0; i < N; i++)
        want += (double)a[i] * a[i];
    for (int d = 0; d < 2; d++) {
        float *on = push(d, a, N);
        assert_int_equal(backend->sum_of_squares(devices[d], on, N, &got[d]), 0);
        pull(d, NULL, on, N);
    }
    assert_near(got[0], want, 1e-6);
    assert_memory_equal(&got[0], &got[1], sizeof(double));
    float *on[4] = {push(1, a, N), push(1, b, N), push(1, c, N), push(1, a, N)};
    assert_int_equal(backend->sum_vectors(devices[1], on[3], on, 3, N), 0);
    pull(1, y, on[3], N);
    for (size_t i = 0; i < N; i++)
        assert_near(y[i], (double)a[i] + b[i] + c[i], 5e-7);
    assert_int_equal(backend->sum_vectors(devices[1], on[0], on, 3, N), 0); // y may be the first
    pull(1, a, on[0], N);
    pull(1, NULL, on[1], N);
    pull(1, NULL, on[2], N);
    assert_memory_equal(a, y, N * sizeof(float));
    free(a);
    free(b);
    free(c);
    free(y);
}

/* ---- sampler ---- */

enum { SLOTS = 5, ELEMENTS = 6 * 5 * 3 };

static void expect_row(const struct row_update *r, const float *x, const float *l, const float *e, double *ret_x,
                       double *ret_l)
{
    float z[ELEMENTS];
    philox_normal(z, ELEMENTS, r->seed, r->image, r->draw);
    for (int i = 0; i < ELEMENTS; i++) {
        double eps = e[r->row_cond * ELEMENTS + i];
        if (r->row_uncond >= 0) {
            double u = e[r->row_uncond * ELEMENTS + i];
            eps = u + r->guidance * (eps - u);
        }
        double x0 = (x[i] - r->sigma * eps) / r->alpha;
        if (r->clip) {
            x0 = fmin(fmax(x0, -1), 1);
            eps = (x[i] - r->alpha * x0) / r->sigma;
        }
        ret_x[i] = r->a * x[i] + r->b * eps + r->c * l[i] + r->s * z[i];
        ret_l[i] = x0;
    }
}

static void test_update_rows(void **state)
{
    struct row_update rows[] = {
        {.alpha = 0.8f, .sigma = 0.6f, .a = 1.1f, .b = -0.3f, .row_cond = 1, .row_uncond = -1, .slot = 4},
        {.alpha = 0.6f,
         .sigma = 0.8f,
         .a = 1.2f,
         .b = -0.4f,
         .c = 0.2f,
         .s = 0.5f,
         .guidance = 3,
         .row_cond = 0,
         .row_uncond = 2,
         .slot = 0,
         .clip = true,
         .seed = 77,
         .image = 1ull << 33,
         .draw = 9},
        {.alpha = 0.8f, .sigma = 0.6f, .a = 1, .b = 1, .row_cond = 3, .row_uncond = -1, .slot = 2},
    };
    float *e = vector(8, 4 * ELEMENTS), *x[2], *l[2], *before_x = vector(6, SLOTS * ELEMENTS),
          *before_l = vector(7, SLOTS * ELEMENTS);
    e[3 * ELEMENTS + 89] = INFINITY;
    uint8_t finite[2][3];
    for (int d = 0; d < 2; d++) {
        x[d] = vector(6, SLOTS * ELEMENTS);
        l[d] = vector(7, SLOTS * ELEMENTS);
        float *on[3] = {push(d, x[d], SLOTS * ELEMENTS), push(d, l[d], SLOTS * ELEMENTS), push(d, e, 4 * ELEMENTS)};
        assert_int_equal(backend->update_rows(devices[d], on[0], on[1], on[2], ELEMENTS, rows, 3, finite[d]), 0);
        pull(d, x[d], on[0], SLOTS * ELEMENTS);
        pull(d, l[d], on[1], SLOTS * ELEMENTS);
        pull(d, NULL, on[2], 4 * ELEMENTS);
    }
    for (int k = 0; k < 2; k++) {
        double want_x[ELEMENTS], want_l[ELEMENTS];
        size_t at = (size_t)rows[k].slot * ELEMENTS;
        expect_row(&rows[k], before_x + at, before_l + at, e, want_x, want_l);
        for (int i = 0; i < ELEMENTS; i++) {
            assert_near(x[0][at + (size_t)i], want_x[i], 2e-6);
            assert_near(l[0][at + (size_t)i], want_l[i], 2e-6);
        }
    }
    assert_memory_equal(finite[0], ((uint8_t[]){1, 1, 0}), 3);
    assert_memory_equal(finite[0], finite[1], 3);
    assert_memory_equal(x[0], x[1], SLOTS * ELEMENTS * sizeof(float));
    for (size_t slot = 1; slot < SLOTS; slot += 2) // nobody's rows
        assert_memory_equal(x[0] + slot * ELEMENTS, before_x + slot * ELEMENTS, ELEMENTS * sizeof(float));
    for (int d = 0; d < 2; d++) {
        free(x[d]);
        free(l[d]);
    }
    free(e);
    free(before_x);
    free(before_l);
}

static void test_noise_and_gather(void **state)
{
    float *x = vector(6, SLOTS * ELEMENTS), *before = vector(6, SLOTS * ELEMENTS), rows[3 * ELEMENTS] = {0},
          z[ELEMENTS];
    float *pool = push(1, x, SLOTS * ELEMENTS), *gathered = push(1, rows, 3 * ELEMENTS);
    assert_int_equal(backend->fill_noise(devices[1], pool, ELEMENTS, 3, 11, 5), 0);
    assert_int_equal(backend->gather_rows(devices[1], pool, ELEMENTS, (int32_t[]){3, 0, 3}, 3, gathered), 0);
    pull(1, x, pool, SLOTS * ELEMENTS);
    pull(1, rows, gathered, 3 * ELEMENTS);
    philox_normal(z, ELEMENTS, 11, 5, 0);
    assert_memory_equal(x + 3 * ELEMENTS, z, sizeof(z));
    assert_memory_equal(x, before, 3 * ELEMENTS * sizeof(float));
    assert_memory_equal(rows, z, sizeof(z));
    assert_memory_equal(rows + ELEMENTS, before, sizeof(z));
    assert_memory_equal(rows + 2 * ELEMENTS, z, sizeof(z));
    free(x);
    free(before);
}

static void test_options(void **state)
{
    struct device *d = NULL;
    struct error err;
    if (backend != &backend_cpu)
        skip();
    static const char *const bad[] = {"x", "0x", "-1", "1@", "1@-1", "1@99999", "100000", "2 "};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_true(backend->open(bad[i], &d, &err) < 0);
        assert_null(d);
        assert_string_equal(err.field, "device");
    }
    assert_int_equal(backend->open("1@0", &d, &err), 0);
    assert_int_equal(((struct device_base *)d)->n_threads, 1);
    assert_true(strlen(((struct device_base *)d)->description) > 0);
    backend->close(d);
    backend->close(NULL);
}

static int open_devices(void **state)
{
    backend = test_backend();
    return backend->open(test_threads("1"), &devices[0], NULL) || backend->open(test_threads("2"), &devices[1], NULL);
}

static int close_devices(void **state)
{
    backend->close(devices[0]);
    backend->close(devices[1]);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adamw),       cmocka_unit_test(test_sums),
        cmocka_unit_test(test_update_rows), cmocka_unit_test(test_noise_and_gather),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
