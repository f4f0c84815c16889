/* test_inception.c: FID's Inception and its resizes against PyTorch (tests/fixtures/make_inception.py), with weights
 * and images that both sides draw from the same Philox numbers, through a file as the converter writes it.
 */
#include "kernels/philox.h"
#include "model/extractor.h"
#include "model/file.h"
#include "model/inception.h"
#include "model/metrics.h"
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { KEY = 7, N_IMAGES = 4, SIDE = 32, FC_INDEX = 470 };

static struct safetensors *fixture;
static struct device *device;
static char path[64];

/* ---- what both sides draw ---- */

static void fill(float *v, size_t n, uint32_t tensor, float scale, float shift)
{
    for (size_t i = 0; i < n; i++)
        v[i] = scale * philox_uniform(philox4x32_10(KEY, (uint32_t)(i / 4), 0, tensor, 0).v[i % 4]) + shift;
}

static void draw_image(uint8_t *pixels, size_t n, uint32_t number)
{
    for (size_t i = 0; i < n; i++)
        pixels[i] = (uint8_t)philox4x32_10(KEY, (uint32_t)(i / 4), number, 0, 1).v[i % 4];
}

struct tensors {
    struct safetensor list[480];
    char names[480][112];
    size_t n;
};

static void add(struct tensors *t, const char *name, int32_t rank, const int64_t dim[4], float scale, float shift)
{
    struct safetensor *s = &t->list[t->n];
    *s = (struct safetensor){.name = t->names[t->n], .dtype = SAFETENSORS_F32, .rank = rank};
    snprintf(t->names[t->n], sizeof t->names[0], "%s", name);
    memcpy(s->dim, dim, (size_t)rank * sizeof *dim);
    size_t n = (size_t)safetensor_elements(s);
    float *values = malloc(n * sizeof *values);
    fill(values, n, (uint32_t)t->n, scale, shift);
    s->data = values;
    t->n++;
}

/* The file that tools/convert_inception.py would write: tensors in the order in which the network meets them. */
static void write_weights(void)
{
    static const char metadata[] = "{\"version\": 1, \"inception\": {\"sha256\": \"0\"}}";
    static const char *const norms[4] = {"weight", "bias", "running_mean", "running_var"};
    struct tensors *t = calloc(1, sizeof *t);
    struct graph *g = graph_create(1, DTYPE_F32, false);
    tensor_id features;
    inception_record(g, graph_input(g, DTYPE_F32, INCEPTION_SIDE, INCEPTION_SIDE, 3), &features);
    assert_int_equal(graph_error(g, NULL), 0);
    for (int32_t i = 0; i + 1 < g->n_params; i += 2) {
        const int32_t *d = g->params[i].dim;
        const int64_t filter[4] = {d[0], d[3], d[1], d[2]};
        float bound = sqrtf(6.0f / (float)(d[1] * d[2] * d[3]));
        add(t, g->params[i].name, 4, filter, 2 * bound, -bound);
        for (int k = 0; k < 4; k++) {
            char name[112];
            snprintf(name, sizeof name, "%.*sbn.%s", (int)(strlen(g->params[i].name) - strlen("conv.weight")),
                     g->params[i].name, norms[k]);
            add(t, name, 1, filter, 1, k == 0 || k == 3 ? 0.5f : -0.5f);
        }
    }
    assert_int_equal(t->n, FC_INDEX);
    add(t, "fc.weight", 2, (const int64_t[4]){INCEPTION_CLASSES, INCEPTION_FEATURES}, 0.25f, -0.125f);
    assert_int_equal(
        safetensors_write(AT_FDCWD, path, t->list, t->n, &(struct safetensors_entry){"ddimd", metadata}, 1, NULL), 0);
    for (size_t i = 0; i < t->n; i++)
        free((void *)t->list[i].data);
    free(t);
    graph_free(g);
}

static int set_up(void **state)
{
    struct error err = {0};
    (void)state;
    snprintf(path, sizeof path, "test_inception_%d.safetensors", (int)getpid());
    if (safetensors_open(AT_FDCWD, FIXTURES "/inception.safetensors", &fixture, NULL) ||
        safetensors_load(fixture, NULL))
        return -1;
    if (backend_cpu.open("2", &device, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    write_weights();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    safetensors_close(fixture);
    backend_cpu.close(device);
    return 0;
}

/* ---- tests ---- */

static void test_resize(void **state)
{
    static const int32_t sizes[][2] = {{32, 32}, {28, 45}, {299, 299}, {400, 310}, {1, 1}};
    float *image = malloc(299 * 299 * 3 * sizeof *image);
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int how = 0; how < RESIZE_COUNT; how++) {
            int32_t h = sizes[i][0], w = sizes[i][1];
            size_t n = (size_t)h * (size_t)w * 3;
            uint8_t *pixels = malloc(n);
            char name[64], hex[FILE_SHA256_CHARS + 1], want[FILE_SHA256_CHARS + 1];
            draw_image(pixels, n, 0);
            resize_image((enum resize)how, pixels, h, w, 3, 299, image);
            sha256_hex(image, 299 * 299 * 3 * sizeof *image, hex);
            snprintf(name, sizeof name, "resize.%s.%dx%d", resize_names[how], h, w);
            const struct safetensor *t = safetensors_find(fixture, name);
            assert_non_null(t);
            for (int k = 0; k < 32; k++)
                snprintf(want + 2 * k, 3, "%02x", ((const uint8_t *)t->data)[k]);
            if (strcmp(hex, want) != 0)
                fail_msg("%s has other bits than PyTorch's", name);
            free(pixels);
        }
    free(image);
}

static double relative_error(const float *got, const char *name, size_t n)
{
    const struct safetensor *t = safetensors_find(fixture, name);
    float *want = malloc(n * sizeof *want);
    double difference = 0, norm = 0;
    assert_int_equal(safetensor_to_f32(t, 0, n, want), 0);
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        norm += (double)want[i] * want[i];
    }
    free(want);
    return sqrt(difference / norm);
}

/* Measured 4.2e-7 and 8e-7 against float64; the bound for features is 1e-4. */
static void test_features(void **state)
{
    enum { BYTES = SIDE * SIDE * 3 };
    struct extractor *e;
    struct error err = {0};
    uint8_t pixels[N_IMAGES * BYTES];
    float *features = malloc(N_IMAGES * INCEPTION_FEATURES * sizeof *features),
          *logits = malloc(N_IMAGES * INCEPTION_CLASSES * sizeof *logits);
    (void)state;
    for (uint32_t i = 0; i < N_IMAGES; i++)
        draw_image(pixels + i * BYTES, BYTES, i);
    assert_int_equal(extractor_open(device, AT_FDCWD, path, RESIZE_TF1, &e, &err), 0);
    assert_string_equal(extractor_info(e)->kind, "inception");
    assert_false(extractor_info(e)->published);
    assert_int_equal(extractor_run(e, pixels, N_IMAGES, SIDE, SIDE, 3, features, logits, &err), 0);
    double error = relative_error(features, "features", N_IMAGES * INCEPTION_FEATURES),
           logits_error = relative_error(logits, "logits", N_IMAGES * INCEPTION_CLASSES);
    printf("features %.2e, logits %.2e\n", error, logits_error);
    assert_true(error < 2e-6);
    assert_true(logits_error < 3e-6);
    extractor_close(e);

    assert_int_equal(extractor_open(device, AT_FDCWD, path, RESIZE_PYTORCH_FID, &e, &err), 0);
    assert_int_equal(extractor_run(e, pixels, 1, SIDE, SIDE, 3, features, logits, &err), 0);
    assert_true(relative_error(features, "features_pytorch", INCEPTION_FEATURES) < 2e-6);
    extractor_close(e);
    free(features);
    free(logits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resize), cmocka_unit_test(test_features)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
