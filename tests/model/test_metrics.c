/* test_metrics.c: metrics against torch-fidelity, pytorch-fid and mpmath (tests/fixtures/make_metrics.py). */
#include "model/metrics.h"
#include "model/safetensors.h"
#include "model/subset.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct safetensors *fixture;

static int open_fixture(void **state)
{
    (void)state;
    return safetensors_open(AT_FDCWD, FIXTURES "/metrics.safetensors", &fixture, NULL) ||
           safetensors_load(fixture, NULL);
}

static int close_fixture(void **state)
{
    (void)state;
    safetensors_close(fixture);
    return 0;
}

/* A copy, aligned, the caller's to free. ret_rows may be NULL. */
static void *values(const char *name, int64_t *ret_rows)
{
    const struct safetensor *t = safetensors_find(fixture, name);
    assert_non_null(t);
    void *copy = malloc(t->bytes);
    memcpy(copy, t->data, t->bytes);
    if (ret_rows)
        *ret_rows = t->dim[0];
    return copy;
}

static void assert_near(double got, double want, double relative)
{
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("%.17g, wanted %.17g (relative error %.2g)", got, want, fabs(got - want) / fabs(want));
}

static void test_subsets(void **state)
{
    (void)state;
    struct subset_source source;
    int64_t *want = values("order", NULL), *got = malloc(50001 * sizeof *got);
    subset_seed(&source, 2020);
    subset_permutation(&source, 50001, got);
    assert_memory_equal(got, want, 64 * sizeof *got);
    subset_permutation(&source, 70, got);
    assert_memory_equal(got, want + 64, 70 * sizeof *got);
    free(want);
    free(got);
}

static void gather(const float *x, int64_t n, int32_t d, int64_t at_once, double *ret_mean, double *ret_covariance)
{
    struct moments m;
    assert_int_equal(moments_init(&m, d), 0);
    for (int64_t i = 0; i < n; i += at_once)
        moments_add(&m, x + i * d, i + at_once < n ? at_once : n - i);
    assert_int_equal(m.n, n);
    moments_finish(&m, ret_mean, ret_covariance);
    moments_done(&m);
}

/* However the images come: one by one, in blocks that are no divisor, all at once. */
static void test_moments(void **state)
{
    (void)state;
    enum { D = 16 };
    int64_t n, at_once[] = {1, 7, 300};
    float *a = values("a", &n);
    double *mean = values("mean", NULL), *covariance = values("covariance", NULL), got_mean[D], got[D * D];
    for (int i = 0; i < 3; i++) {
        gather(a, n, D, at_once[i], got_mean, got);
        for (int k = 0; k < D; k++)
            assert_near(got_mean[k], mean[k], 1e-14);
        for (int k = 0; k < D * D; k++)
            assert_true(fabs(got[k] - covariance[k]) <= 1e-13 * covariance[0]);
    }
    free(a);
    free(mean);
    free(covariance);
}

/* A large common offset costs no digits. */
static void test_moments_far_from_zero(void **state)
{
    (void)state;
    float x[64];
    double mean[2], covariance[4];
    for (int i = 0; i < 32; i++) {
        x[2 * i] = 1e6f + (float)(i % 2);
        x[2 * i + 1] = -1e6f - (float)(i % 2);
    }
    gather(x, 32, 2, 5, mean, covariance);
    assert_near(covariance[0], 8.0 / 31, 1e-12);
    assert_near(covariance[1], -8.0 / 31, 1e-12);
}

static double frechet(const char *a_name, const char *b_name, int32_t d)
{
    int64_t n_a, n_b;
    size_t square = (size_t)d * (size_t)d;
    float *a = values(a_name, &n_a), *b = values(b_name, &n_b);
    double *mean = malloc(2 * (size_t)d * sizeof *mean), *covariance = malloc(2 * square * sizeof *covariance),
           distance;
    gather(a, n_a, d, n_a, mean, covariance);
    gather(b, n_b, d, n_b, mean + d, covariance + square);
    const struct gaussian ga = {mean, covariance}, gb = {mean + d, covariance + square};
    assert_int_equal(metric_frechet(d, &ga, &gb, &distance, NULL), 0);
    free(a);
    free(b);
    free(mean);
    free(covariance);
    return distance;
}

static void test_frechet(void **state)
{
    (void)state;
    double *want = values("frechet", NULL), *thin = values("thin_frechet", NULL), got = frechet("a", "b", 16);
    assert_near(got, want[0], 1e-9); // torch-fidelity
    assert_near(got, want[1], 1e-9); // pytorch-fid
    assert_near(got, want[2], 1e-12);
    assert_near(frechet("b", "a", 16), got, 1e-12);
    assert_true(fabs(frechet("a", "a", 16)) < 1e-11 * want[2]);
    assert_near(frechet("thin_a", "thin_b", 20), thin[0], 1e-12);
    assert_true(fabs(frechet("thin_a", "thin_a", 20)) < 1e-11 * thin[0]);
    free(want);
    free(thin);
}

static void test_frechet_not_finite(void **state)
{
    (void)state;
    double mean[1] = {0}, one[1] = {1}, not_finite[1] = {NAN}, distance = 5;
    const struct gaussian good = {mean, one}, bad = {mean, not_finite};
    struct error err = {0};
    assert_int_equal(metric_frechet(1, &good, &bad, &distance, &err), -EDOM);
    assert_true(distance == 5);
    assert_string_equal(err.message, "features are not finite");
}

static void test_inception_score(void **state)
{
    (void)state;
    int64_t n;
    float *logits = values("logits", &n);
    double *want = values("score", NULL);
    struct spread got;
    assert_int_equal(metric_inception_score(logits, n, 10, METRICS_SPLITS, &got, NULL), 0);
    assert_near(got.mean, want[0], 1e-13);
    assert_near(got.std, want[1], 1e-11);
    assert_int_equal(metric_inception_score(logits, 9, 10, METRICS_SPLITS, &got, NULL), -EINVAL);
    free(logits);
    free(want);
}

/* All sure, all classes alike: as many as there are classes. All unsure: one. */
static void test_inception_score_extremes(void **state)
{
    (void)state;
    float logits[40 * 4] = {0};
    struct spread got;
    assert_int_equal(metric_inception_score(logits, 40, 4, 1, &got, NULL), 0);
    assert_near(got.mean, 1, 1e-14);
    for (int i = 0; i < 40; i++)
        logits[4 * i + i % 4] = 1000;
    assert_int_equal(metric_inception_score(logits, 40, 4, 1, &got, NULL), 0);
    assert_near(got.mean, 4, 1e-14);
}

static void test_kid(void **state)
{
    (void)state;
    int64_t n_a, n_b;
    float *a = values("a", &n_a), *b = values("b", &n_b);
    double *want = values("kid", NULL);
    struct spread got;
    assert_int_equal(metric_kid(a, n_a, b, n_b, 16, 100, 60, &got, NULL), 0);
    assert_near(got.mean, want[0], 1e-12);
    assert_near(got.std, want[1], 1e-12);
    assert_int_equal(metric_kid(a, n_a, b, n_b, 16, 100, (int32_t)n_b + 1, &got, NULL), -EINVAL);
    free(a);
    free(b);
    free(want);
}

static void test_precision_recall(void **state)
{
    (void)state;
    int64_t n_a, n_b;
    float *a = values("a", &n_a), *b = values("b", &n_b);
    double *want = values("precision_recall", NULL), precision, recall;
    assert_int_equal(metric_precision_recall(a, n_a, b, n_b, 16, 3, &precision, &recall, NULL), 0);
    assert_near(precision, want[0], 1e-6); // the tool averages in f32
    assert_near(recall, want[1], 1e-6);
    assert_int_equal(metric_precision_recall(a, 3, b, n_b, 16, 3, &precision, &recall, NULL), -EINVAL);
    free(a);
    free(b);
    free(want);
}

/* More rows than a block holds: 2500 points on a line, shuffled by a step that is coprime to their number. */
static void test_nearest(void **state)
{
    (void)state;
    enum { N = 2500 };
    int64_t n_a, n_b;
    float *a = values("a", &n_a), *b = values("b", &n_b);
    int64_t *want = values("nearest", NULL), got[N];
    double *want_distance = values("nearest_distance", NULL), distance[N];
    assert_int_equal(metric_nearest(a, n_a, b, n_b, 16, got, distance), 0);
    assert_memory_equal(got, want, (size_t)n_a * sizeof *got);
    for (int64_t i = 0; i < n_a; i++)
        assert_near(distance[i], want_distance[i], 1e-12);
    float line[N], queries[N];
    for (int i = 0; i < N; i++) {
        line[i] = (float)(i * 7 % N);
        queries[i] = line[i] + 0.25f;
    }
    assert_int_equal(metric_nearest(queries, N, line, N, 1, got, distance), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(got[i], i);
    double precision, recall;
    assert_int_equal(metric_precision_recall(queries, N, line, N, 1, 3, &precision, &recall, NULL), 0);
    assert_true(precision == 1 && recall == 1);
    free(a);
    free(b);
    free(want);
    free(want_distance);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_subsets),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_moments_far_from_zero),
        cmocka_unit_test(test_frechet),
        cmocka_unit_test(test_frechet_not_finite),
        cmocka_unit_test(test_inception_score),
        cmocka_unit_test(test_inception_score_extremes),
        cmocka_unit_test(test_kid),
        cmocka_unit_test(test_precision_recall),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
