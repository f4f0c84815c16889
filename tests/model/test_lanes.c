/* test_lanes.c: whole sampling runs of a small network in lanes: against the oracle fed with the same noise, against
 * the same lanes alone, and with a lane that blows up.
 *
 * Fixtures: tests/fixtures/make_unet.py. Measured against the oracle at the end of a run: 4e-6 in f32, 3.4e-2 in bf16
 * (guided and clipped; 9e-3 else). The network reaches the lanes as in the daemon, through a checkpoint file.
 */
#include "kernels/backend.h"
#include "model/lanes.h"
#include "model/unet.h"
#include "tests/support/device.h"
#include "tests/support/unet_fixture.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { CAPACITY = 12, MAX_ROWS = 16 };

struct house {
    struct unet_fixture fixture;
    struct diffusion_config diffusion;
    struct device *device;
    struct network *network;
    struct lane_pool *pool;
    size_t elements; // of an image
    enum dtype precision;
};

static void check(int rc, const struct error *err)
{
    if (rc < 0)
        fail_msg("%s: %s (%d)", err->field, err->message, rc);
}

/* ---- set-up ---- */

static void record(const struct unet_fixture *f, struct graph *g)
{
    tensor_id x = graph_input(g, DTYPE_F32, f->height, f->width, f->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    assert_int_not_equal(unet_record(g, &f->model, x, t, y, TENSOR_NONE), TENSOR_NONE);
}

static void write_checkpoint(const struct house *h, const char *path)
{
    struct error err = {0};
    struct data_config data;
    const struct unet_fixture *f = &h->fixture;
    json_t *json =
        json_pack("{s:[i,i], s:s}", "image_size", f->height, f->width, "mode", f->model.in_channels == 1 ? "L" : "RGB");
    check(data_config_parse(json, "data", &f->model, &data, &err), &err);
    struct graph *g = graph_create(1, DTYPE_F32, false);
    record(f, g);
    float *values = unet_fixture_weights(g, f->seed);
    check(checkpoint_write(path, &f->model, &h->diffusion, &data, NULL, g, values, "F32", &err), &err);
    free(values);
    graph_free(g);
    data_config_done(&data);
    json_decref(json);
}

static void house_open(struct house *h, enum dtype precision, const char *threads)
{
    struct error err = {0};
    struct checkpoint checkpoint;
    const char *folder = getenv("TMPDIR");
    char path[256];
    snprintf(path, sizeof(path), "%s/test_lanes.%d.safetensors", folder ? folder : P_tmpdir, (int)getpid());
    *h = (struct house){.diffusion = diffusion_config_default, .precision = precision};
    unet_fixture_open(FIXTURES, "unet_fused", &h->fixture);
    write_checkpoint(h, path);
    check(checkpoint_open(AT_FDCWD, path, &checkpoint, &err), &err);
    unlink(path);
    check(test_backend()->open(test_threads(threads), &h->device, &err), &err);
    check(network_create(h->device, &checkpoint, precision, MAX_ROWS, &h->network, &err), &err);
    checkpoint_close(&checkpoint);
    check(lane_pool_create(h->network, CAPACITY, &h->pool, &err), &err);
    h->elements = (size_t)h->fixture.height * h->fixture.width * h->fixture.model.in_channels;
}

static void house_close(struct house *h)
{
    lane_pool_free(h->pool);
    network_free(h->network);
    struct device_base *base = (struct device_base *)h->device;
    size_t kept = (size_t)base->n_threads * h->elements * sizeof(float); // noise, kept by a CPU's threads
    if (test_backend() != &backend_cpu)
        kept = 65536; // a GPU's rows
    assert_true(base->bytes_in_use <= kept);
    test_backend()->close(h->device);
    unet_fixture_close(&h->fixture);
}

static bool device_runs_bf16(void)
{
    struct error err = {0};
    struct device *d = NULL;
    check(test_backend()->open(test_threads("1"), &d, &err), &err);
    bool runs = ((struct device_base *)d)->native == DTYPE_BF16;
    test_backend()->close(d);
    return runs;
}

/* ---- the oracle ---- */

struct request {
    struct sampling_recipe recipe;
    float guidance;
    bool clip;
    int32_t class_index;
    uint64_t seed, image;
};

static int index_of(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fail_msg("no %s", name);
    return -1;
}

static struct request parse_recipe(const json_t *j)
{
    return (struct request){
        .recipe = {.steps = (int32_t)json_integer_value(json_object_get(j, "steps")),
                   .method = index_of(step_method_names, json_string_value(json_object_get(j, "method"))),
                   .sampler = index_of(sampler_names, json_string_value(json_object_get(j, "sampler"))),
                   .eta = json_number_value(json_object_get(j, "eta"))},
        .guidance = (float)json_number_value(json_object_get(j, "guidance")),
        .clip = json_is_true(json_object_get(j, "clip")),
    };
}

static struct lane_step lane_of(const struct request *r, const struct step_table *table, int32_t step, int32_t slot)
{
    return (struct lane_step){.slot = slot,
                              .class_index = r->class_index,
                              .guidance = r->guidance,
                              .clip = r->clip,
                              .row = &table->rows[step],
                              .seed = r->seed,
                              .image = r->image,
                              .draw = (uint32_t)(1 + step)};
}

static double relative_error(const float *a, const float *reference, size_t n)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)a[i] - reference[i]) * ((double)a[i] - reference[i]);
        norm += (double)reference[i] * reference[i];
    }
    return sqrt(difference / norm);
}

/* The states of n lanes after a step, one after the other. */
static void read_lanes(const struct house *h, const int32_t *slots, int32_t n, float *ret_images)
{
    for (int32_t i = 0; i < n; i++)
        assert_int_equal(lane_pool_read(h->pool, slots[i], false, ret_images + (size_t)i * h->elements), 0);
}

/* Runs one recipe of the fixture for its classes in the given slots; compares first and last states. */
static void check_recipe(struct house *h, const char *name, struct request r, const int32_t *slots, double tolerance)
{
    struct error err = {0};
    struct step_table *table = NULL;
    size_t n_lanes, n_reference;
    const int32_t *y = unet_fixture_i32(&h->fixture, "y", &n_lanes);
    const float *reference = unet_fixture_f32(&h->fixture, name, &n_reference);
    assert_int_equal(n_reference, 2 * n_lanes * h->elements);
    float *images = malloc(n_lanes * h->elements * sizeof(*images));
    struct lane_step lanes[CAPACITY];
    uint8_t finite[CAPACITY];
    double first = 0;
    check(schedule_table(&h->diffusion, &r.recipe, &table, &err), &err);
    for (size_t i = 0; i < n_lanes; i++)
        assert_int_equal(lane_pool_start(h->pool, slots[i], r.seed, r.image + i), 0);
    for (int32_t step = 0; step < table->n_rows; step++) {
        for (size_t i = 0; i < n_lanes; i++) {
            struct request one = r;
            one.class_index = y[i];
            one.image = r.image + i;
            lanes[i] = lane_of(&one, table, step, slots[i]);
        }
        assert_int_equal(lane_pool_step(h->pool, lanes, (int32_t)n_lanes, finite), 0);
        for (size_t i = 0; i < n_lanes; i++)
            assert_true(finite[i]);
        read_lanes(h, slots, (int32_t)n_lanes, images);
        if (step == 0)
            first = relative_error(images, reference, n_lanes * h->elements);
    }
    double last = relative_error(images, reference + n_lanes * h->elements, n_lanes * h->elements);
    print_message("%s, %s: first step %.2e, last %.2e\n", name, h->precision == DTYPE_F32 ? "f32" : "bf16", first,
                  last);
    assert_true(first <= tolerance && last <= tolerance);
    free(images);
    free(table);
}

static void check_recipes(enum dtype precision, const char *threads, const int32_t *slots, double tolerance)
{
    struct house h;
    house_open(&h, precision, threads);
    unet_fixture_close(&h.fixture);
    unet_fixture_open(FIXTURES, "lanes_fused", &h.fixture);
    json_t *recipes = unet_fixture_json(&h.fixture, "recipes");
    const char *name;
    json_t *recipe;
    assert_int_equal(json_object_size(recipes), 6);
    json_object_foreach(recipes, name, recipe)
    {
        struct request r = parse_recipe(recipe);
        r.seed = unet_fixture_number(&h.fixture, "noise_seed");
        r.image = unet_fixture_number(&h.fixture, "first_image");
        check_recipe(&h, name, r, slots, tolerance);
    }
    json_decref(recipes);
    house_close(&h);
}

static void test_oracle_f32(void **state)
{
    (void)state;
    check_recipes(DTYPE_F32, "1", (const int32_t[]){4, 5}, 1e-5); // read in place
    check_recipes(DTYPE_F32, "2", (const int32_t[]){7, 2}, 1e-5); // gathered
}

static void test_oracle_bf16(void **state)
{
    (void)state;
    if (!device_runs_bf16()) {
        print_message("this processor does not compute in bf16\n");
        skip();
    }
    check_recipes(DTYPE_BF16, "2", (const int32_t[]){7, 2}, 5e-2);
}

/* ---- company ---- */

static const struct request crowd[] = {
    {{5, STEP_METHOD_LINEAR, SAMPLER_DDIM, 0.0}, 1.0f, false, 0, 1, 0},
    {{9, STEP_METHOD_QUADRATIC, SAMPLER_DDIM, 1.0}, 1.0f, false, 3, 1, 1},
    {{4, STEP_METHOD_TRAILING, SAMPLER_DPMPP_2M, 0.0}, 2.0f, false, 4, 2, 0},
    {{7, STEP_METHOD_LINEAR, SAMPLER_DDIM, 0.5}, 0.0f, true, 5, 3, 7},
    {{6, STEP_METHOD_TRAILING, SAMPLER_DPMPP_2M, 0.0}, 1.0f, true, 10, 4, 1},
    {{3, STEP_METHOD_QUADRATIC, SAMPLER_DDIM, 0.2}, 1.5f, false, 10, 5, (uint64_t)1 << 40},
    {{5, STEP_METHOD_LINEAR, SAMPLER_DDIM, 0.0}, 1.0f, false, 0, 1, 0}, // the first again
};
enum { CROWD = sizeof(crowd) / sizeof(crowd[0]) };

static void run_alone(struct house *h, const struct request *r, int32_t slot, float *ret_image)
{
    struct error err = {0};
    struct step_table *table = NULL;
    uint8_t finite;
    check(schedule_table(&h->diffusion, &r->recipe, &table, &err), &err);
    assert_int_equal(lane_pool_start(h->pool, slot, r->seed, r->image), 0);
    for (int32_t step = 0; step < table->n_rows; step++) {
        struct lane_step lane = lane_of(r, table, step, slot);
        assert_int_equal(lane_pool_step(h->pool, &lane, 1, &finite), 0);
        assert_true(finite);
    }
    read_lanes(h, &slot, 1, ret_image);
    free(table);
}

/* Requests join one step after another and leave as they finish; slots are scattered. spoiled: that request's rows are
 * turned to infinity from its second step on. ret_images: [CROWD]. */
static void run_crowd(struct house *h, int spoiled, float *ret_images)
{
    struct error err = {0};
    struct step_table *tables[CROWD];
    int32_t step_of[CROWD] = {0}, left = CROWD;
    bool failed = false;
    for (int i = 0; i < CROWD; i++)
        check(schedule_table(&h->diffusion, &crowd[i].recipe, &tables[i], &err), &err);
    for (int32_t turn = 0; left > 0; turn++) {
        struct lane_step lanes[CROWD];
        int who[CROWD], n = 0;
        uint8_t finite[CROWD];
        for (int i = 0; i < CROWD && i <= turn; i++) {
            int32_t slot = (5 * i + 3) % CAPACITY;
            if (step_of[i] == 0)
                assert_int_equal(lane_pool_start(h->pool, slot, crowd[i].seed, crowd[i].image), 0);
            if (step_of[i] == 1 && i == spoiled)
                for (int32_t k = 1; k < tables[i]->n_rows; k++)
                    tables[i]->rows[k].a = INFINITY;
            if (step_of[i] < tables[i]->n_rows) {
                lanes[n] = lane_of(&crowd[i], tables[i], step_of[i]++, slot);
                who[n++] = i;
            }
        }
        assert_int_equal(lane_pool_step(h->pool, lanes, n, finite), 0);
        for (int k = 0; k < n; k++) {
            failed = failed || !finite[k];
            assert_true(finite[k] || who[k] == spoiled);
            if (step_of[who[k]] == tables[who[k]]->n_rows) {
                read_lanes(h, &lanes[k].slot, 1, ret_images + (size_t)who[k] * h->elements);
                left--;
            }
        }
    }
    assert_int_equal(failed, spoiled >= 0);
    for (int i = 0; i < CROWD; i++)
        free(tables[i]);
}

static void compare(const struct house *h, const float *images, const float *alone, int except)
{
    for (int i = 0; i < CROWD; i++)
        if (i != except)
            if (memcmp(images + i * h->elements, alone + i * h->elements, h->elements * sizeof(float)) != 0)
                fail_msg("request %d has other bits in company than alone", i);
    assert_memory_equal(images, images + (CROWD - 1) * h->elements, h->elements * sizeof(float));
}

static void check_company(enum dtype precision)
{
    float *alone = NULL;
    for (int threads = 1; threads <= 2; threads++) {
        struct house h;
        house_open(&h, precision, threads == 1 ? "1" : "2");
        if (!alone)
            alone = malloc(CROWD * h.elements * sizeof(*alone));
        float *images = malloc(CROWD * h.elements * sizeof(*images));
        for (int i = 0; threads == 1 && i < CROWD; i++)
            run_alone(&h, &crowd[i], 0, alone + i * h.elements);
        run_crowd(&h, -1, images);
        size_t bytes = ((struct device_base *)h.device)->bytes_in_use;
        compare(&h, images, alone, -1);
        for (int spoiled = 1; spoiled < 4; spoiled++) { // x infinite, with and without guidance and clipping
            run_crowd(&h, spoiled, images);
            compare(&h, images, alone, spoiled);
            run_alone(&h, &crowd[2], (5 * spoiled + 3) % CAPACITY, images); // in the spoiled lane's slot
            assert_memory_equal(images, alone + 2 * h.elements, h.elements * sizeof(float));
        }
        assert_int_equal(((struct device_base *)h.device)->bytes_in_use, bytes);
        free(images);
        house_close(&h);
    }
    free(alone);
}

static void test_company_f32(void **state)
{
    if (test_emulated())
        skip();
    (void)state;
    check_company(DTYPE_F32);
}

static void test_company_bf16(void **state)
{
    if (test_emulated())
        skip();
    (void)state;
    if (!device_runs_bf16()) {
        print_message("this processor does not compute in bf16\n");
        skip();
    }
    check_company(DTYPE_BF16);
}

/* ---- the rest of the interface ---- */

static void test_x0_and_bytes(void **state)
{
    (void)state;
    struct house h;
    house_open(&h, DTYPE_F32, "1");
    size_t in_use = ((struct device_base *)h.device)->bytes_in_use;
    assert_true(network_bytes(h.network) > 0 && lane_pool_bytes(h.pool) > 0);
    assert_true(network_bytes(h.network) + lane_pool_bytes(h.pool) <= in_use);
    assert_int_equal(network_max_rows(h.network), MAX_ROWS);

    float *x0 = malloc(h.elements * sizeof(*x0));
    assert_int_equal(lane_pool_start(h.pool, 1, 9, 9), 0);
    assert_int_equal(lane_pool_read(h.pool, 1, true, x0), 0);
    for (size_t i = 0; i < h.elements; i++)
        assert_true(x0[i] == 0);
    struct step_row row = {.t = 500, .alpha = 0.5f, .sigma = 0.8f, .a = 1};
    struct lane_step lane = {.slot = 1, .class_index = 2, .guidance = 1, .clip = true, .row = &row, .draw = 1};
    uint8_t finite;
    assert_int_equal(lane_pool_step(h.pool, &lane, 1, &finite), 0);
    assert_int_equal(lane_pool_read(h.pool, 1, true, x0), 0);
    double squares = 0;
    for (size_t i = 0; i < h.elements; i++) {
        assert_true(fabsf(x0[i]) <= 1);
        squares += (double)x0[i] * x0[i];
    }
    assert_true(squares > 0);
    free(x0);
    house_close(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oracle_f32),   cmocka_unit_test(test_oracle_bf16),  cmocka_unit_test(test_company_f32),
        cmocka_unit_test(test_company_bf16), cmocka_unit_test(test_x0_and_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
