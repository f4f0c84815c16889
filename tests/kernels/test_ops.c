/* test_ops.c: every operation of the table, on every kind of tensor:
 * against PyTorch's results in f32 and bf16, dense and through views, in place where that is allowed, between guard
 * bytes; and that an image's bits do not depend on the batch or on the number of threads.
 */
#include "tests/support/device.h"
#include "tests/support/fixture.h"
#include "tests/support/op_run.h"

#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct backend *backend;
static struct device *device;
static bool small_only; // an emulated device takes minutes for the UNet's own shapes
static struct fixture *fixture;
static int not_lowered; // operations that this processor has no bf16 primitives for

/* Largest norm of the difference over the norm of the reference: measured 6.4e-7 (a mean of 30 under deviations of 1;
 * all others 2.4e-7) in f32, 2.8e-3 in bf16 (a residual added to a rounded sum). */
static double tolerance(enum dtype compute)
{
    return compute == DTYPE_BF16 ? 3.5e-3 : 1.5e-6;
}

/* Threads inside a primitive: a notion of the CPU's. */
static bool has_threads(void)
{
    return backend == &backend_cpu;
}

struct check {
    const struct op_case *c;
    struct op_run_options o;
    int failures;
};

static const char *describe(const struct check *k)
{
    static char text[160];
    snprintf(text, sizeof(text), "%s, %s, batch %d, %d thread%s%s%s", k->c->name,
             k->o.compute == DTYPE_F32 ? "f32" : "bf16", k->o.n, k->o.n_threads, k->o.n_threads == 1 ? "" : "s",
             k->o.views ? ", views" : "", k->o.in_place ? ", in place" : "");
    return text;
}

static void report(struct check *k, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s: ", describe(k));
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    k->failures++;
}

/* Created and lowered with the inputs that `set` gives. NULL: failed. */
static struct op_run *prepare(struct check *k, void (*set)(struct check *k, struct op_run *r, int i))
{
    struct error err = {0};
    struct op_run *r = op_run_create(device, k->c, &k->o, &err);
    for (int i = 0; i < op_run_shape(r)->n_in; i++)
        if (op_run_shape(r)->in[i].kind != OP_KIND_NONE)
            set(k, r, i);
    int rc = op_run_lower(r, &err);
    if (!rc)
        return r;
    /* oneDNN has bf16 convolutions from AVX-512 on */
    if (rc != -ENOTSUP || k->o.compute != DTYPE_BF16 || ((struct device_base *)device)->native == DTYPE_BF16)
        report(k, "cannot be lowered: %s", err.message);
    else
        not_lowered++;
    op_run_free(r);
    return NULL;
}

/* ---- against the fixture ---- */

static void name_of(char name[96], const struct op_case *c, const char *kind, int i)
{
    snprintf(name, 96, "%s/%s%d", c->name, kind, i);
}

static void set_from_fixture(struct check *k, struct op_run *r, int i)
{
    char name[96];
    size_t n;
    const struct op_tensor *t = &op_run_shape(r)->in[i];
    name_of(name, k->c, "in", i);
    const void *values = t->kind == OP_KIND_I32 ? (const void *)fixture_i32(fixture, name, &n)
                                                : (const void *)fixture_f32(fixture, name, &n);
    assert_int_equal(n, op_tensor_elements(t));
    op_run_set(r, i, values);
}

static double relative_error(const float *got, const float *want, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    return sqrt(difference / (norm + 1e-30));
}

static void compare_output(struct check *k, const struct op_run *r, int i)
{
    const struct op_tensor *t = &op_run_shape(r)->out[i];
    size_t n = op_tensor_elements(t), want_n;
    char name[96];
    name_of(name, k->c, "out", i);
    const float *want = fixture_f32(fixture, name, &want_n);
    assert_int_equal(n, want_n);
    float *got = malloc(n * sizeof(float));
    op_run_get(r, i, got);
    double error = relative_error(got, want, n), limit = tolerance(k->o.compute);
    if (getenv("OPS_ERRORS"))
        printf("%-60s out%d %.2e\n", describe(k), i, error);
    if (!(error <= limit))
        report(k, "output %d is %.2e from PyTorch's, more than %.0e", i, error, limit);
    free(got);
}

static void check_against_fixture(struct check *k)
{
    struct op_run *r = prepare(k, set_from_fixture);
    if (!r)
        return;
    if (op_run_execute(r))
        report(k, "did not run");
    for (int i = 0; i < op_run_shape(r)->n_out; i++)
        if (op_run_shape(r)->out[i].kind != OP_KIND_NONE)
            compare_output(k, r, i);
    size_t damage = op_run_damage(r);
    if (damage)
        report(k, "%zu bytes outside its outputs changed", damage);
    op_run_free(r);
}

static void test_pytorch(void **state)
{
    int failures = 0;
    for (int i = 0; i < N_OP_CASES; i++)
        for (int variant = 0; variant < (has_threads() ? 16 : 8) && !op_cases[i].large; variant++) {
            struct check k = {&op_cases[i],
                              {.n = op_cases[i].n,
                               .compute = variant & 1 ? DTYPE_BF16 : DTYPE_F32,
                               .views = variant & 2,
                               .in_place = variant & 4,
                               .n_threads = variant & 8 ? 2 : 1},
                              0};
            if (op_cases[i].offset != 0 && k.o.compute == DTYPE_BF16)
                continue; // bf16 cannot hold the input
            check_against_fixture(&k);
            failures += k.failures;
        }
    assert_int_equal(failures, 0);
}

/* ---- batch invariance ---- */

static int32_t first_image; // of the batch that set_generated fills

static void set_generated(struct check *k, struct op_run *r, int i)
{
    const struct op_shape *s = op_run_shape(r);
    void *values = malloc(op_tensor_elements(&s->in[i]) * 4);
    op_case_values(k->c, s, i, first_image, values);
    op_run_set(r, i, values);
    free(values);
}

/* Sums over images: not per image. */
static bool sums_images(enum op op)
{
    return op == OP_CONV2D_BACKWARD_WEIGHTS || op == OP_LINEAR_BACKWARD_WEIGHTS || op == OP_EMBEDDING_BACKWARD;
}

static struct op_run *run_generated(struct check *k, int32_t first)
{
    first_image = first;
    struct op_run *r = prepare(k, set_generated);
    if (r && op_run_execute(r))
        report(k, "did not run");
    if (r && op_run_damage(r))
        report(k, "bytes outside its outputs changed");
    return r;
}

/* Images [0, n) of a batch of n on n_threads have the bits that they have alone. */
static void check_invariance(struct check *k, const struct op_run *const *alone)
{
    struct op_run *r = run_generated(k, 0);
    for (int i = 0; r && i < op_run_shape(r)->n_out; i++) {
        const struct op_tensor *t = &op_run_shape(r)->out[i];
        if (t->kind == OP_KIND_NONE || !t->per_image)
            continue;
        size_t bytes = op_tensor_elements(t) * dtype_bytes(t->dtype), image_bytes = bytes / (size_t)k->o.n;
        char *batch = malloc(bytes), *one = malloc(image_bytes);
        op_run_bytes(r, i, batch);
        for (int32_t image = 0; image < k->o.n; image++) {
            assert_int_equal(op_run_bytes(alone[image], i, one), image_bytes);
            if (memcmp(one, batch + (size_t)image * image_bytes, image_bytes))
                report(k, "output %d of image %d has other bits than alone", i, image);
        }
        free(batch);
        free(one);
    }
    op_run_free(r);
}

enum { MOST_IMAGES = 7 };

static int check_case_invariance(const struct op_case *c, enum dtype compute)
{
    static const int32_t batches[] = {1, 2, 3, MOST_IMAGES};
    struct op_run *alone[MOST_IMAGES];
    struct check k = {c, {.n = 1, .compute = compute, .n_threads = 1}, 0};
    for (int32_t image = 0; image < MOST_IMAGES; image++) {
        alone[image] = run_generated(&k, image);
        if (!alone[image])
            return k.failures;
    }
    for (int i = 0; i < 4; i++)
        for (int threads = 1; threads <= (has_threads() ? 2 : 1); threads++) {
            k.o.n = batches[i];
            k.o.n_threads = threads;
            check_invariance(&k, (const struct op_run *const *)alone);
        }
    for (int32_t image = 0; image < MOST_IMAGES; image++)
        op_run_free(alone[image]);
    return k.failures;
}

static void test_batch_invariance(void **state)
{
    int failures = 0;
    for (int i = 0; i < N_OP_CASES; i++)
        for (int t = 0; t < 2 && !sums_images(op_cases[i].op) && !(small_only && op_cases[i].large); t++)
            failures += check_case_invariance(&op_cases[i], t ? DTYPE_BF16 : DTYPE_F32);
    assert_int_equal(failures, 0);
}

/* ---- bf16 against f32, on the large shapes ---- */

static void compare_precisions(struct check *k, const struct op_run *f32, const struct op_run *bf16, int i)
{
    const struct op_tensor *t = &op_run_shape(f32)->out[i];
    size_t n = op_tensor_elements(t);
    float *want = malloc(n * sizeof(float)), *got = malloc(n * sizeof(float));
    op_run_get(f32, i, want);
    op_run_get(bf16, i, got);
    double error = relative_error(got, want, n), limit = tolerance(DTYPE_BF16);
    if (getenv("OPS_ERRORS"))
        printf("%-60s out%d %.2e\n", describe(k), i, error);
    if (!(error <= limit))
        report(k, "output %d is %.2e from f32's, more than %.0e", i, error, limit);
    free(want);
    free(got);
}

static void test_large_precisions(void **state)
{
    int failures = 0;
    for (int i = 0; i < N_OP_CASES; i++) {
        if (!op_cases[i].large || small_only)
            continue;
        struct check k = {&op_cases[i], {.n = 2, .compute = DTYPE_F32, .n_threads = 1}, 0};
        struct op_run *f32 = run_generated(&k, 0);
        k.o.compute = DTYPE_BF16;
        struct op_run *bf16 = run_generated(&k, 0);
        for (int j = 0; f32 && bf16 && j < op_run_shape(f32)->n_out; j++)
            if (op_run_shape(f32)->out[j].kind != OP_KIND_NONE)
                compare_precisions(&k, f32, bf16, j);
        op_run_free(f32);
        op_run_free(bf16);
        failures += k.failures;
    }
    assert_int_equal(failures, 0);
}

static int open_device(void **state)
{
    struct error err = {0};
    small_only = test_emulated();
    fixture = fixture_open(FIXTURES "/ops.safetensors");
    backend = test_backend();
    int rc = backend->open(test_threads("2"), &device, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.message);
    return rc;
}

static int close_device(void **state)
{
    size_t left = ((struct device_base *)device)->bytes_in_use;
    if (left)
        fprintf(stderr, "%zu bytes of device memory were not given back\n", left);
    if (not_lowered)
        printf("skipped: %d runs in bf16, for which oneDNN has no primitives here\n", not_lowered);
    backend->close(device);
    fixture_close(fixture);
    return left != 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pytorch),
        cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_large_precisions),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
