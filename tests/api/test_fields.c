/* test_fields.c: how queries, forms and JSON become fields. What a client sees of it is in test_fields.py. */
#include "api/fields.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static int read_query(const char *query, struct fields *f, struct problem *p)
{
    struct field_source s = {.query = query, .query_bytes = strlen(query)};
    memset(p, 0, sizeof(*p));
    return fields_read(generate_fields, &s, f, p);
}

static int read_json(const char *json, struct fields *f, struct problem *p)
{
    struct field_source s = {.body = json, .body_bytes = strlen(json), .body_is_json = true};
    memset(p, 0, sizeof(*p));
    return fields_read(generate_fields, &s, f, p);
}

static void test_defaults(void **state)
{
    struct fields f;
    struct problem p;
    assert_int_equal(read_query("", &f, &p), 0);
    assert_int_equal(f.steps, 50);
    assert_int_equal(f.method, STEP_METHOD_QUADRATIC);
    assert_int_equal(f.classes.n, 0);
    assert_int_equal(f.n, 1);
    assert_true(f.result_only && !f.has_seed && !f.dry_run);
    assert_string_equal(f.model, "");
    fields_done(&f);
}

static void test_every_field(void **state)
{
    struct fields f;
    struct problem p;
    const char *query = "class=0,cat,none&n=2&steps=7&method=trailing&eta=0.25&sampler=dpmpp_2m&guidance=2.5e0&"
                        "seed=18446744073709551615&model=a.b-c_d&nrow=3&scale=4&to_grayscale=true&result_only=false&"
                        "interval=5&clip=true&priority=high&timeout_ms=9&dry_run=true";
    const char *json = "{\"class\": [0, \"cat\", \"none\"], \"n\": 2, \"steps\": 7, \"method\": \"trailing\", "
                       "\"eta\": 0.25, \"sampler\": \"dpmpp_2m\", \"guidance\": 2.5, \"seed\": 18446744073709551615, "
                       "\"model\": \"a.b-c_d\", \"nrow\": 3, \"scale\": 4, \"to_grayscale\": true, "
                       "\"result_only\": false, \"interval\": 5, \"clip\": true, \"priority\": \"high\", "
                       "\"timeout_ms\": 9, \"dry_run\": true}";
    for (int i = 0; i < 2; i++) {
        assert_int_equal(i ? read_json(json, &f, &p) : read_query(query, &f, &p), 0);
        assert_int_equal(f.classes.n, 3);
        assert_string_equal(f.classes.items[1], "cat");
        assert_int_equal(f.n * 100 + f.steps, 207);
        assert_int_equal(f.method, STEP_METHOD_TRAILING);
        assert_true(f.eta == 0.25 && f.guidance == 2.5);
        assert_int_equal(f.sampler, SAMPLER_DPMPP_2M);
        assert_true(f.has_seed && f.seed == UINT64_MAX);
        assert_string_equal(f.model, "a.b-c_d");
        assert_int_equal(f.nrow * 1000 + f.scale * 100 + f.interval * 10, 3450);
        assert_true(f.to_grayscale && !f.result_only && f.clip && f.dry_run);
        assert_int_equal(f.priority, PRIORITY_HIGH);
        assert_int_equal(f.timeout_ms, 9);
        fields_done(&f);
    }
}

static void test_percent_encoding(void **state)
{
    struct fields f;
    struct problem p;
    assert_int_equal(read_query("&&cl%61ss=a%2Cb%20c,d+e&", &f, &p), 0);
    assert_int_equal(f.classes.n, 3);
    assert_string_equal(f.classes.items[1], "b c");
    assert_string_equal(f.classes.items[2], "d e");
    fields_done(&f);
    const char *const bad[] = {"class=%", "class=%4", "class=%g0", "class=a%00", "%=1", "class=%c3%28"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_not_equal(read_query(bad[i], &f, &p), 0);
        assert_int_equal(p.kind, PROBLEM_BAD_FIELD);
    }
}

static void test_long_integers(void **state)
{
    struct fields f;
    struct problem p;
    assert_int_equal(read_json("{\"seed\":9223372036854775808}", &f, &p), 0);
    assert_true(f.seed == UINT64_C(9223372036854775808));
    assert_int_equal(read_json("{\"model\":\"1234567890123456789012\",\"seed\":0}", &f, &p), 0);
    assert_string_equal(f.model, "1234567890123456789012");
    assert_int_equal(read_json("{\"model\":\"\\\"12345678901234567890\",\"seed\":0}", &f, &p), 0);
    assert_string_equal(f.model, "\"12345678901234567890");
    assert_int_equal(read_json("{\"eta\":0.12345678901234567890123}", &f, &p), 0);
    assert_true(f.eta > 0.12345 && f.eta < 0.12346);
    assert_int_not_equal(read_json("{\"n\":12345678901234567890}", &f, &p), 0);
    assert_string_equal(p.field, "n");
    assert_int_not_equal(read_json("{\"seed\":-9223372036854775808}", &f, &p), 0);
    assert_string_equal(p.field, "seed");
}

static void test_query_wins(void **state)
{
    struct fields f;
    struct problem p;
    struct field_source s = {.query = "n=2", .query_bytes = 3, .body = "n=x&steps=9", .body_bytes = 11};
    assert_int_equal(fields_read(generate_fields, &s, &f, &p), 0);
    assert_int_equal(f.n * 100 + f.steps, 209);
    fields_done(&f);
}

static void test_negative_zero(void **state)
{
    struct fields f;
    struct problem p;
    assert_int_equal(read_query("eta=-0", &f, &p), 0);
    assert_true(!__builtin_signbit(f.eta));
    fields_done(&f);
}

static void test_class_limit(void **state)
{
    struct fields f;
    struct problem p;
    struct text query = {0};
    text_puts(&query, "class=0");
    for (int i = 1; i < FIELD_MAX_CLASS_ITEMS; i++)
        text_puts(&query, ",1");
    assert_int_equal(read_query(text_string(&query), &f, &p), 0);
    assert_int_equal(f.classes.n, FIELD_MAX_CLASS_ITEMS);
    fields_done(&f);
    text_puts(&query, ",1");
    assert_int_not_equal(read_query(text_string(&query), &f, &p), 0);
    assert_string_equal(p.field, "class");
    text_done(&query);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),         cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_percent_encoding), cmocka_unit_test(test_long_integers),
        cmocka_unit_test(test_query_wins),       cmocka_unit_test(test_negative_zero),
        cmocka_unit_test(test_class_limit),
    };
    return cmocka_run_group_tests_name("fields", tests, NULL, NULL);
}
