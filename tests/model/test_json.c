/* test_json.c: tables of fields: reading, messages, text, writing, schemas. */
#include "model/json.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const char *const color_names[] = {"red", "green", "blue", NULL};
enum color { COLOR_RED, COLOR_GREEN, COLOR_BLUE };

struct inner {
    int32_t x;
    double y;
};

struct everything {
    bool flag;
    int32_t whole;
    int64_t wide;
    uint64_t seed;
    float small;
    double big, above;
    enum color color;
    char name[8];
    int32_t n_list, list[3];
    double pair[2];
    int32_t n_words;
    char words[2][6];
    struct inner inner;
    int custom;
    const json_t *any;
};

static int read_even(const json_t *json, const char *path, void *member, struct error *err)
{
    if (!json_is_integer(json) || json_integer_value(json) % 2)
        return error_set(err, -EINVAL, path, "must be even");
    *(int *)member = (int)json_integer_value(json);
    return 0;
}

static json_t *write_even(const void *member)
{
    return json_integer(*(const int *)member);
}

static const struct json_field inner_fields[] = {
    {"x", FIELD_INT32, offsetof(struct inner, x), 0, 9, .required = true},
    {"y", FIELD_DOUBLE, offsetof(struct inner, y), .help = NULL},
    {0},
};

#define AT(m) offsetof(struct everything, m)
static const struct json_field fields[] = {
    {"flag", FIELD_BOOL, AT(flag), .help = "a flag"},
    {"whole", FIELD_INT32, AT(whole), -5, 1000, .help = NULL},
    {"wide", FIELD_INT64, AT(wide), .help = NULL},
    {"seed", FIELD_UINT64, AT(seed), .help = NULL},
    {"small", FIELD_FLOAT, AT(small), .help = NULL},
    {"big", FIELD_DOUBLE, AT(big), 0, 1, .help = NULL},
    {"above", FIELD_DOUBLE, AT(above), 0, DBL_MAX, .above_min = true, .nullable = true},
    {"color", FIELD_ENUM, AT(color), .names = color_names},
    {"name", FIELD_STRING, AT(name), .item_bytes = 8},
    {"list", FIELD_INT32_LIST, AT(list), 1, 99, .min_items = 1, .max_items = 3, .count_offset = AT(n_list)},
    {"pair", FIELD_DOUBLE_LIST, AT(pair), .min_items = 2, .max_items = 2},
    {"words", FIELD_STRING_LIST, AT(words), .item_bytes = 6, .max_items = 2, .count_offset = AT(n_words)},
    {"inner", FIELD_OBJECT, AT(inner), .fields = inner_fields},
    {"custom", FIELD_CUSTOM, AT(custom), .read = read_even, .write = write_even},
    {"any", FIELD_JSON, AT(any), .help = NULL},
    {0},
};
#undef AT

static json_t *parse(const char *text)
{
    json_t *json;
    struct error err = {0};
    if (json_parse(text, strlen(text), &json, &err))
        fail_msg("%s: %s", text, err.message);
    return json;
}

static void test_every_kind_is_read(void **state)
{
    json_t *json = parse("{\"flag\":true,\"whole\":-5,\"wide\":9007199254740993,\"seed\":\"18446744073709551615\","
                         "\"small\":0.1,\"big\":1,\"above\":1e-300,\"color\":\"blue\",\"name\":\"1234567\","
                         "\"list\":[1,99],\"pair\":[1,-2.5],\"words\":[\"ab\",\"cdefg\"],\"inner\":{\"x\":9},"
                         "\"custom\":8,\"any\":[null]}");
    struct everything e = {.list = {7, 7, 7}, .inner.y = 3};
    uint64_t given = 0;
    struct error err = {0};
    if (json_fields_read(json, "", fields, &e, &given, &err))
        fail_msg("%s: %s", err.field, err.message);
    assert_int_equal(given, (1 << 15) - 1);
    assert_true(e.flag);
    assert_int_equal(e.whole, -5);
    assert_true(e.wide == 9007199254740993);
    assert_true(e.seed == UINT64_MAX);
    assert_true(e.small == 0.1f && e.big == 1.0 && e.above == 1e-300);
    assert_int_equal(e.color, COLOR_BLUE);
    assert_string_equal(e.name, "1234567");
    assert_int_equal(e.n_list, 2);
    assert_true(e.list[0] == 1 && e.list[1] == 99 && e.list[2] == 7);
    assert_true(e.pair[0] == 1.0 && e.pair[1] == -2.5);
    assert_int_equal(e.n_words, 2);
    assert_string_equal(e.words[1], "cdefg");
    assert_true(e.inner.x == 9 && e.inner.y == 3);
    assert_int_equal(e.custom, 8);
    assert_ptr_equal(e.any, json_object_get(json, "any"));
    json_decref(json);
}

static void test_absent_and_null_keep_the_default(void **state)
{
    struct everything e = {.whole = 42, .above = 2, .n_list = 1, .list = {5}}, before = e;
    uint64_t given = 1;
    json_t *json = parse("{\"above\":null}");
    assert_int_equal(json_fields_read(json, "p", fields, &e, &given, NULL), 0);
    assert_memory_equal(&e, &before, sizeof(e));
    assert_int_equal(given, 0);
    json_decref(json);
}

static void test_errors_name_field_and_reason(void **state)
{
    static const struct {
        const char *json, *field, *message, *nearest;
    } cases[] = {
        {"[]", "p", "must be an object, not a list", ""},
        {"7", "p", "must be an object, not 7", ""},
        {"{\"colour\":1}", "p.colour", "unknown key \"colour\"; did you mean \"color\"?", "color"},
        {"{\"zzzzzzzz\":1}", "p.zzzzzzzz", "unknown key \"zzzzzzzz\"", ""},
        {"{\"zzzz\\nzzzz\":1}", "p.zzzz?zzzz", "unknown key \"zzzz?zzzz\"", ""},
        {"{\"flag\":1}", "p.flag", "must be true or false, not 1", ""},
        {"{\"flag\":null}", "p.flag", "must be true or false, not null", ""},
        {"{\"whole\":1001}", "p.whole", "must be a whole number from -5 to 1000, not 1001", ""},
        {"{\"whole\":-6}", "p.whole", "must be a whole number from -5 to 1000, not -6", ""},
        {"{\"whole\":1.0}", "p.whole", "must be a whole number from -5 to 1000, not 1.0", ""},
        {"{\"whole\":\"1\"}", "p.whole", "must be a whole number from -5 to 1000, not \"1\"", ""},
        {"{\"whole\":true}", "p.whole", "must be a whole number from -5 to 1000, not true", ""},
        {"{\"wide\":1e3}", "p.wide", "must be a whole number, not 1000.0", ""},
        {"{\"seed\":-1}", "p.seed", "must be a whole number from 0 to 18446744073709551615, not -1", ""},
        {"{\"seed\":\"18446744073709551616\"}", "p.seed", NULL, ""},
        {"{\"seed\":\"-1\"}", "p.seed", NULL, ""},
        {"{\"seed\":\" 1\"}", "p.seed", NULL, ""},
        {"{\"seed\":\"\"}", "p.seed", NULL, ""},
        {"{\"small\":1e39}", "p.small", "must be a number that fits a 32-bit float, not 1e39", ""},
        {"{\"small\":\"x\"}", "p.small", "must be a number, not \"x\"", ""},
        {"{\"big\":1.5}", "p.big", "must be a number from 0 to 1, not 1.5", ""},
        {"{\"above\":0}", "p.above", "must be a number above 0, not 0", ""},
        {"{\"color\":\"gren\"}", "p.color", "must be \"red\", \"green\" or \"blue\", not \"gren\"", "green"},
        {"{\"color\":2}", "p.color", "must be \"red\", \"green\" or \"blue\", not \"2\"", ""},
        {"{\"name\":\"12345678\"}", "p.name", "must be at most 7 bytes long", ""},
        {"{\"name\":7}", "p.name", "must be a string, not 7", ""},
        {"{\"list\":[]}", "p.list", "must be a list of 1 to 3 numbers", ""},
        {"{\"list\":[1,2,3,4]}", "p.list", "must be a list of 1 to 3 numbers", ""},
        {"{\"list\":{}}", "p.list", "must be a list of 1 to 3 numbers", ""},
        {"{\"list\":[1,2,0]}", "p.list[2]", "must be a whole number from 1 to 99, not 0", ""},
        {"{\"pair\":[1]}", "p.pair", "must be a list of 2 numbers", ""},
        {"{\"pair\":[1,\"2\"]}", "p.pair[1]", "must be a number, not \"2\"", ""},
        {"{\"words\":[\"a\",\"\"]}", "p.words[1]", "must not be empty", ""},
        {"{\"words\":[\"abcdef\"]}", "p.words[0]", "must be at most 5 bytes long", ""},
        {"{\"words\":[\"a\",\"a\",\"a\"]}", "p.words", "must be a list of 0 to 2 strings", ""},
        {"{\"inner\":3}", "p.inner", "must be an object, not 3", ""},
        {"{\"inner\":{}}", "p.inner.x", "is missing", ""},
        {"{\"inner\":{\"x\":10}}", "p.inner.x", "must be a whole number from 0 to 9, not 10", ""},
        {"{\"inner\":{\"x\":1,\"z\":1}}", "p.inner.z", "unknown key \"z\"; did you mean \"x\"?", "x"},
        {"{\"custom\":3}", "p.custom", "must be even", ""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct everything e = {0};
        struct error err = {0};
        json_t *json = parse(cases[i].json);
        assert_int_equal(json_fields_read(json, "p", fields, &e, NULL, &err), -EINVAL);
        assert_string_equal(err.field, cases[i].field);
        if (cases[i].message)
            assert_string_equal(err.message, cases[i].message);
        assert_string_equal(err.nearest, cases[i].nearest);
        json_decref(json);
    }
}

static bool is_utf8(const char *text)
{
    json_t *json = json_string(text);
    json_decref(json);
    return json != NULL;
}

/* Long foreign strings are cut between characters: what goes into an answer stays UTF-8. */
static void test_messages_stay_utf8(void **state)
{
    for (int shift = 0; shift < 4; shift++) {
        char text[512] = "";
        memset(text, 'x', (size_t)shift);
        for (size_t at = (size_t)shift; at < 300; at += 3)
            memcpy(text + at, "\xE7\x8C\xAB", 4);
        json_t *keys = json_pack("{si}", text, 1), *value = json_pack("{ss}", "color", text);
        struct everything e;
        struct error err = {0};
        assert_int_equal(json_fields_read(keys, "p", fields, &e, NULL, &err), -EINVAL);
        assert_true(is_utf8(err.field) && is_utf8(err.message));
        assert_int_equal(json_fields_read(value, "p", fields, &e, NULL, &err), -EINVAL);
        assert_true(is_utf8(err.message));
        json_decref(keys);
        json_decref(value);
    }
    static const char *const bad[] = {"[\"\\u0\xD7\x99\xFF\"]", "{\xFF", "[\"a\nb\"]"};
    for (size_t i = 0; i < 3; i++) {
        json_t *json;
        struct error err = {0};
        assert_int_equal(json_parse(bad[i], strlen(bad[i]), &json, &err), -EINVAL);
        assert_true(is_utf8(err.message) && !strchr(err.message, '\n'));
    }
}

static void test_parse_is_strict(void **state)
{
    static const char *const bad[] = {"",        "{",         "{\"a\":1,\"a\":2}", "{} {}", "{\"a\":1,}",
                                      "{'a':1}", "[1] // no", "\"\xFF\"",          "NaN",   "1e999"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        json_t *json = NULL;
        struct error err = {0};
        if (json_parse(bad[i], strlen(bad[i]), &json, &err) != -EINVAL)
            fail_msg("%s was taken", bad[i]);
        assert_null(json);
        assert_non_null(strstr(err.message, "line 1"));
    }
    json_t *json = NULL;
    assert_int_equal(json_parse("{}\0", 3, &json, NULL), -EINVAL);
}

static void test_paths_are_cut(void **state)
{
    char path[JSON_PATH_BYTES], again[JSON_PATH_BYTES], name[300];
    assert_string_equal(json_path(path, "", "a"), "a");
    assert_string_equal(json_path(again, path, "b"), "a.b");
    assert_string_equal(json_path_item(path, again, 12), "a.b[12]");
    memset(name, 'n', 299);
    name[299] = 0;
    assert_int_equal(strlen(json_path(path, "p", name)), JSON_PATH_BYTES - 1);
    json_path_item(again, path, 7);
    assert_string_equal(again + strlen(again) - 3, "[7]");
}

/* ---- text ---- */

static void test_text_becomes_values(void **state)
{
    static const struct {
        const char *name, *text, *json;
    } cases[] = {
        {"flag", "true", "true"},
        {"flag", "1", "true"},
        {"flag", "false", "false"},
        {"flag", "0", "false"},
        {"flag", "yes", "\"yes\""},
        {"whole", "12", "12"},
        {"whole", "-3", "-3"},
        {"whole", "+3", "\"+3\""},
        {"whole", "1.5", "\"1.5\""},
        {"whole", "0x10", "\"0x10\""},
        {"whole", " 1", "\" 1\""},
        {"whole", "", "\"\""},
        {"whole", "99999999999999999999", "\"99999999999999999999\""},
        {"big", "0.5", "0.5"},
        {"big", "1", "1"},
        {"big", "1e-2", "0.01"},
        {"big", "inf", "\"inf\""},
        {"big", "nan", "\"nan\""},
        {"big", "1,2", "\"1,2\""},
        {"seed", "18446744073709551615", "\"18446744073709551615\""},
        {"color", "red", "\"red\""},
        {"name", "12", "\"12\""},
        {"list", "1,2,3", "[1,2,3]"},
        {"list", "1,", "[1,\"\"]"},
        {"list", "", "[]"},
        {"list", "1,x", "[1,\"x\"]"},
        {"pair", "0.5,2", "[0.5,2]"},
        {"words", "a,b", "[\"a\",\"b\"]"},
        {"no such", "12", "\"12\""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        json_t *got = json_field_from_text(json_fields_find(fields, cases[i].name), cases[i].text);
        json_t *want = json_loads(cases[i].json, JSON_DECODE_ANY, NULL);
        if (!want || !json_equal(got, want))
            fail_msg("%s=%s", cases[i].name, cases[i].text);
        json_decref(got);
        json_decref(want);
    }
    assert_null(json_field_from_text(NULL, "\xFF"));
}

/* ---- writing ---- */

static void test_written_objects_read_back(void **state)
{
    json_t *any = json_pack("[i]", 3);
    struct everything e = {.flag = true,
                           .whole = 7,
                           .wide = INT64_MIN,
                           .seed = UINT64_MAX,
                           .small = 0.1f,
                           .big = 1.0 / 3,
                           .above = 5e-324,
                           .color = COLOR_GREEN,
                           .name = "n",
                           .n_list = 2,
                           .list = {3, 4},
                           .pair = {-1, 0.1},
                           .n_words = 1,
                           .words = {"w"},
                           .inner = {3, 4},
                           .custom = 6,
                           .any = any};
    json_t *json = json_fields_write(fields, &e);
    assert_int_equal(json_object_size(json), 15);
    assert_true(json_number_value(json_object_get(json, "small")) == 0.1); // not 0.10000000149011612
    char *text = json_dumps(json, JSON_REAL_PRECISION(17));
    json_decref(json);
    json = parse(text);
    struct everything back = {0};
    assert_int_equal(json_fields_read(json, "", fields, &back, NULL, NULL), 0);
    assert_true(json_equal(back.any, any));
    back.any = any;
    assert_true(back.wide == e.wide && back.seed == e.seed && back.small == e.small && back.big == e.big &&
                back.above == e.above);
    json_t *again = json_fields_write(fields, &back);
    char *text_again = json_dumps(again, JSON_REAL_PRECISION(17));
    assert_string_equal(text, text_again);
    free(text);
    free(text_again);
    json_decref(json);
    json_decref(again);
    json_decref(any);
}

static void test_floats_are_written_shortest(void **state)
{
    static const struct json_field one[] = {{.name = "v", .kind = FIELD_FLOAT}, {0}};
    static const float values[] = {0.3f, 1.0f / 3, 1e-4f, FLT_MAX, FLT_MIN, 0x1p-149f, 16777217.0f, -0.0f};
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        json_t *json = json_fields_write(one, &values[i]);
        float back = NAN;
        assert_int_equal(json_fields_read(json, "", one, &back, NULL, NULL), 0);
        assert_memory_equal(&back, &values[i], sizeof(back));
        json_decref(json);
    }
}

static void test_schema(void **state)
{
    struct everything defaults = {.whole = 50, .above = 1, .color = COLOR_GREEN, .n_list = 1, .list = {2}};
    json_t *schema = json_fields_schema(fields, &defaults);
    json_t *properties = json_object_get(schema, "properties");
    assert_int_equal(json_object_size(properties), 15);
    assert_true(json_is_false(json_object_get(schema, "additionalProperties")));
    assert_null(json_object_get(schema, "required"));
    static const char *const want[][2] = {
        {"flag", "{\"type\":\"boolean\",\"description\":\"a flag\",\"default\":false}"},
        {"whole", "{\"type\":\"integer\",\"minimum\":-5,\"maximum\":1000,\"default\":50}"},
        {"big", "{\"type\":\"number\",\"minimum\":0.0,\"maximum\":1.0,\"default\":0.0}"},
        {"above", "{\"type\":[\"number\",\"null\"],\"exclusiveMinimum\":0.0,\"default\":1.0}"},
        {"color", "{\"type\":\"string\",\"enum\":[\"red\",\"green\",\"blue\"],\"default\":\"green\"}"},
        {"name", "{\"type\":\"string\",\"maxLength\":7,\"default\":\"\"}"},
        {"list", "{\"type\":\"array\",\"items\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":99},\"minItems\":1,"
                 "\"maxItems\":3,\"default\":[2]}"},
        {"words", "{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"minItems\":0,\"maxItems\":2,\"default\":[]}"},
        {"any", "{}"},
    };
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        json_t *expected = parse(want[i][1]);
        if (!json_equal(json_object_get(properties, want[i][0]), expected))
            fail_msg("%s: %s", want[i][0], json_dumps(json_object_get(properties, want[i][0]), 0));
        json_decref(expected);
    }
    json_t *inner = json_object_get(properties, "inner");
    assert_string_equal(json_string_value(json_array_get(json_object_get(inner, "required"), 0)), "x");
    assert_null(json_object_get(json_object_get(json_object_get(inner, "properties"), "x"), "default"));
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_kind_is_read),
        cmocka_unit_test(test_absent_and_null_keep_the_default),
        cmocka_unit_test(test_errors_name_field_and_reason),
        cmocka_unit_test(test_messages_stay_utf8),
        cmocka_unit_test(test_parse_is_strict),
        cmocka_unit_test(test_paths_are_cut),
        cmocka_unit_test(test_text_becomes_values),
        cmocka_unit_test(test_written_objects_read_back),
        cmocka_unit_test(test_floats_are_written_shortest),
        cmocka_unit_test(test_schema),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
