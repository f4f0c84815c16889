/* test_models.c: the model store on the real CPU device: names, loading, swapping, unloading, limits. */
#include "model_folder.h"
#include "sampling/cards.h"
#include "sampling/resident.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct resident_model *acquire(struct model_folder *f, const char *name)
{
    struct error err = {0};
    struct resident_model *r = NULL;
    if (model_store_acquire(f->store, name, &r, &err))
        fail_msg("%s", err.message);
    return r;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

static void test_names(void **state)
{
    const char *good[] = {"digits", "a", "A-b_c.9", "0123456789012345678901234567890123456789012345678901234567890123"};
    const char *bad[] = {
        "",          ".",   "..",  ".hidden",  "a/b",
        "../digits", "a b", "a\n", "\xc3\xa4", "01234567890123456789012345678901234567890123456789012345678901234"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(model_name_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(model_name_valid(bad[i]));
}

static void test_knee(void **state)
{
    const int32_t rows[] = {1, 2, 4, 8};
    assert_int_equal(resident_knee(rows, (double[]){1, 2, 4, 8}, 4), 1);        // every row costs its full time
    assert_int_equal(resident_knee(rows, (double[]){1, 1, 1, 1}, 4), 8);        // rows are free
    assert_int_equal(resident_knee(rows, (double[]){1, 1.2, 2.02, 4}, 4), 4);   // 4 is within 5 % of 8
    assert_int_equal(resident_knee(rows, (double[]){1, 1.2, 2.2, 4}, 4), 8);    // and here it is not
    assert_int_equal(resident_knee(rows, (double[]){1, 1.01, 2.5, 6.5}, 4), 2); // larger is worse
    assert_int_equal(resident_knee(rows, (double[]){1}, 1), 1);
}

static void test_errors(void **state)
{
    struct model_folder f;
    struct resident_model *r = NULL;
    struct error err = {0};
    model_folder_open(&f);
    model_folder_store(&f, NULL);
    assert_int_equal(model_store_acquire(f.store, NULL, &r, &err), -ENOENT); // an empty folder
    model_folder_write(&f, "digits", 1, 1);
    assert_int_equal(model_store_acquire(f.store, "digit", &r, &err), -ENOENT);
    assert_string_equal(err.field, "model");
    assert_string_equal(err.nearest, "digits");
    assert_int_equal(model_store_acquire(f.store, "../digits", &r, &err), -EINVAL);
    assert_int_equal(model_store_set_default(f.store, "no", &err), -ENOENT);
    assert_int_equal(model_store_unload(f.store, "no", &err), -ENOENT);
    assert_null(model_store_describe(f.store, "no", &err));
    assert_int_equal(err.code, -ENOENT);
    assert_null(r);
    model_folder_close(&f);

    struct model_store_options o = {.folder = "/no/such/folder"};
    assert_int_equal(model_store_open(&o, NULL, NULL, &f.store, &err), -ENOENT);
}

static void test_load_and_describe(void **state)
{
    struct model_folder f;
    model_folder_open(&f);
    model_folder_write(&f, "b", 1, 1);
    model_folder_write(&f, "a", 2, 1);
    model_folder_write_garbage(&f, "c");
    model_folder_store(&f, NULL);
    assert_null(model_store_resident(f.store, "a"));
    struct resident_model *a = acquire(&f, NULL), *again = acquire(&f, "a"), *b = acquire(&f, "b");
    assert_string_equal(a->name, "a"); // the first by name
    char name[MODEL_NAME_BYTES];
    struct model_store *preferring;
    struct model_store_options o = {.folder = f.path, .preferred = "b"};
    struct error opening = {0};
    assert_int_equal(model_store_open(&o, &f.device, f.scheduler, &preferring, &opening), 0);
    model_store_default(preferring, name);
    assert_string_equal(name, "b");
    model_store_close(preferring);
    assert_ptr_equal(a, again);
    assert_ptr_not_equal(a, b);
    assert_string_not_equal(a->digest, b->digest);
    assert_true(a->max_rows >= 2 && a->capacity >= a->max_rows && a->n_measured >= 2);
    assert_int_equal(a->measured_rows[0], 1);
    for (int i = 0; i < a->n_measured; i++)
        assert_true(a->measured_seconds[i] > 0);
    assert_true(a->bytes > (size_t)a->parameters * sizeof(float));
    assert_int_equal(a->parameters, model_config_parameters(&a->model));

    json_t *list = model_store_list(f.store);
    assert_int_equal(json_array_size(list), 3);
    const json_t *first = json_array_get(list, 0), *third = json_array_get(list, 2);
    assert_string_equal(text_of(first, "name"), "a");
    assert_true(json_is_true(json_object_get(first, "default")));
    assert_true(json_is_true(json_object_get(first, "resident")));
    assert_string_equal(text_of(first, "digest"), a->digest);
    assert_string_equal(text_of(first, "mode"), "L");
    assert_int_equal(json_integer_value(json_object_get(first, "max_rows")), a->max_rows);
    assert_int_equal(json_array_size(json_object_get(first, "classes")), TINY_CLASSES);
    assert_int_equal(json_array_size(json_object_get(first, "step_times")), a->n_measured);
    assert_string_equal(text_of(third, "name"), "c");
    assert_non_null(text_of(third, "error"));
    assert_true(json_is_false(json_object_get(third, "resident")));
    json_decref(list);

    struct error err = {0};
    struct resident_model *c = NULL;
    assert_int_equal(model_store_acquire(f.store, "c", &c, &err), -EINVAL);
    assert_int_equal(model_store_set_default(f.store, "b", &err), 0);
    struct resident_model *now = acquire(&f, NULL);
    assert_ptr_equal(now, b);
    model_release(now);
    model_release(a);
    model_release(again);
    model_release(b);
    model_release(NULL);
    model_folder_close(&f);
}

struct acquirer {
    struct model_folder *f;
    struct resident_model *got;
};

static void *acquirer_main(void *context)
{
    struct acquirer *a = context;
    struct error err = {0};
    model_store_acquire(a->f->store, "a", &a->got, &err);
    return NULL;
}

static void test_loaded_once(void **state)
{
    enum { N = 8 };
    struct model_folder f;
    struct acquirer a[N];
    pthread_t threads[N];
    model_folder_open(&f);
    model_folder_write(&f, "a", 1, 1);
    model_folder_store(&f, NULL);
    for (int i = 0; i < N; i++) {
        a[i] = (struct acquirer){&f, NULL};
        pthread_create(&threads[i], NULL, acquirer_main, &a[i]);
    }
    for (int i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < N; i++) {
        assert_non_null(a[i].got);
        assert_ptr_equal(a[i].got, a[0].got);
    }
    assert_int_equal(resident_references(a[0].got), N + 1);
    for (int i = 0; i < N; i++)
        model_release(a[i].got);
    model_folder_close(&f);
}

/* A request in flight finishes on the model that it began with, whatever happens to the name. */
static void test_swap_and_unload_in_flight(void **state)
{
    struct model_folder f;
    struct answer alone, old, fresh;
    struct error err = {0};
    const struct question q = {.images = 2, .steps = 60, .guidance = 1, .seed = 5};
    model_folder_open(&f);
    model_folder_write(&f, "a", 1, 1);
    model_folder_store(&f, NULL);
    struct resident_model *first = acquire(&f, "a");
    answer_begin(&alone, &f, first, &q);
    answer_wait(&alone);

    answer_begin(&old, &f, first, &q);
    model_folder_write(&f, "a", 2, 1);
    struct resident_model *second = acquire(&f, "a");
    assert_ptr_not_equal(first, second);
    assert_string_not_equal(first->digest, second->digest);
    answer_begin(&fresh, &f, second, &q);
    assert_int_equal(model_store_unload(f.store, "a", &err), 0);
    assert_null(model_store_resident(f.store, "a"));
    answer_wait(&old);
    answer_wait(&fresh);
    assert_memory_equal(old.images, alone.images, alone.floats * sizeof(float));
    assert_memory_not_equal(fresh.images, alone.images, alone.floats * sizeof(float));
    model_release(first);
    model_release(second);
    assert_int_equal(model_store_unload(f.store, "a", &err), 0); // again: fine
    answer_done(&alone);
    answer_done(&old);
    answer_done(&fresh);
    model_folder_close(&f);
}

struct taker {
    struct model_folder *f;
    pthread_t thread;
    int failed;
};

static void *take_often(void *context)
{
    struct taker *t = context;
    for (int i = 0; i < 3; i++) {
        struct resident_model *r = NULL;
        t->failed += model_store_acquire(t->f->store, "a", &r, NULL) != 0;
        model_release(r);
    }
    return NULL;
}

/* Whoever asks for a model gets it, also where another unloads it the moment that it is there. */
static void test_unload_against_acquire(void **state)
{
    enum { TAKERS = 6 };
    struct model_folder f;
    struct taker takers[TAKERS];
    model_folder_open(&f);
    model_folder_write(&f, "a", 1, 1);
    model_folder_store(&f, NULL);
    for (int i = 0; i < TAKERS; i++) {
        takers[i] = (struct taker){.f = &f};
        assert_int_equal(pthread_create(&takers[i].thread, NULL, take_often, &takers[i]), 0);
    }
    for (int i = 0; i < 3000; i++) {
        usleep(500);
        model_store_unload(f.store, "a", NULL);
    }
    for (int i = 0; i < TAKERS; i++) {
        pthread_join(takers[i].thread, NULL);
        assert_int_equal(takers[i].failed, 0);
    }
    model_folder_close(&f);
}

/* A bad file under a served name: requests go on with what is resident, an order to load says what is wrong. */
static void test_bad_replacement(void **state)
{
    struct model_folder f;
    struct error err = {0};
    struct resident_model *r = NULL;
    model_folder_open(&f);
    model_folder_write(&f, "a", 1, 1);
    model_folder_store(&f, NULL);
    struct resident_model *first = acquire(&f, "a");
    model_folder_write_garbage(&f, "a");
    struct resident_model *again = acquire(&f, "a");
    assert_ptr_equal(first, again);
    assert_int_equal(model_store_load(f.store, "a", &r, &err), -EINVAL);
    json_t *card = model_store_describe(f.store, "a", &err);
    assert_non_null(text_of(card, "error"));
    assert_true(json_is_true(json_object_get(card, "resident")));
    json_decref(card);
    model_folder_remove(&f, "a");
    model_release(again);
    again = acquire(&f, "a"); // the file is gone, the model is there
    assert_ptr_equal(first, again);
    model_folder_write(&f, "a", 2, 1);
    assert_int_equal(model_store_load(f.store, "a", &r, &err), 0);
    assert_ptr_not_equal(first, r);
    model_release(first);
    model_release(again);
    model_release(r);
    model_folder_close(&f);
}

static void test_canary(void **state)
{
    struct model_folder f;
    struct error err = {0};
    struct resident_model *r = NULL;
    model_folder_open(&f);
    model_folder_write(&f, "wild", 1, 1e30f);
    model_folder_store(&f, NULL);
    assert_int_equal(model_store_acquire(f.store, "wild", &r, &err), -ERANGE);
    assert_int_equal(model_store_acquire(f.store, "wild", &r, &err), -ERANGE); // known, not tried again
    model_folder_close(&f);
}

static void test_limit(void **state)
{
    struct model_folder f;
    struct error err = {0};
    struct resident_model *r = NULL;
    model_folder_open(&f);
    model_folder_write(&f, "a", 1, 1);
    model_folder_write(&f, "b", 2, 1);
    model_folder_store(&f, NULL);
    struct resident_model *a = acquire(&f, "a");
    size_t bytes = a->bytes;
    model_release(a);
    model_folder_store(&f, &(struct model_store_options){.precision = DTYPE_F32, .max_bytes = bytes + bytes / 2});
    a = acquire(&f, "a");
    assert_int_equal(model_store_acquire(f.store, "b", &r, &err), -ENOMEM); // a is in use
    model_release(a);
    struct resident_model *b = acquire(&f, "b"); // a was idle
    assert_null(model_store_resident(f.store, "a"));
    model_release(b);
    model_folder_close(&f);
}

/* The same bytes alone and in any company, in any order of arrival, after another load. */
static void test_same_bytes(void **state)
{
    enum { N = 24 };
    struct model_folder f;
    static struct answer alone[N], mixed[N];
    struct question q[N];
    model_folder_open(&f);
    model_folder_write(&f, "a", 1, 1);
    model_folder_store(&f, NULL);
    struct resident_model *r = acquire(&f, "a");
    for (int32_t i = 0; i < N; i++) {
        q[i] = (struct question){.images = 1 + i % 3,
                                 .steps = 1 + (i * 7) % 12,
                                 .interval = i % 5 == 0 ? 2 : 0,
                                 .method = (enum step_method)(i % STEP_METHOD_COUNT),
                                 .sampler = i % 4 ? SAMPLER_DDIM : SAMPLER_DPMPP_2M,
                                 .eta = i % 4 ? 0.25 * (i % 3) : 0,
                                 .guidance = i % 3 ? 1 : 2.5f,
                                 .clip = i % 2,
                                 .seed = (uint64_t)i * 12345,
                                 .client = (uint64_t)(i % 4),
                                 .class_index = i};
        answer_begin(&alone[i], &f, r, &q[i]);
        answer_wait(&alone[i]);
    }
    const int32_t strides[] = {1, 5, 7, 11}; // prime to N
    for (size_t k = 0; k < sizeof(strides) / sizeof(strides[0]); k++) {
        if (k == 2) { // a second life
            model_release(r);
            struct error err = {0};
            assert_int_equal(model_store_unload(f.store, "a", &err), 0);
            r = acquire(&f, "a");
        }
        for (int32_t i = 0; i < N; i++)
            answer_begin(&mixed[i * strides[k] % N], &f, r, &q[i * strides[k] % N]);
        for (int32_t i = 0; i < N; i++) {
            answer_wait(&mixed[i]);
            assert_memory_equal(mixed[i].images, alone[i].images, alone[i].floats * sizeof(float));
            answer_done(&mixed[i]);
        }
    }
    for (int32_t i = 0; i < N; i++)
        answer_done(&alone[i]);
    model_release(r);
    model_folder_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_knee),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_load_and_describe),
        cmocka_unit_test(test_loaded_once),
        cmocka_unit_test(test_swap_and_unload_in_flight),
        cmocka_unit_test(test_unload_against_acquire),
        cmocka_unit_test(test_bad_replacement),
        cmocka_unit_test(test_canary),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
