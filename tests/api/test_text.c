/* test_text.c: the buffer, Base64 (vectors of RFC 4648) and the JSON writer. */
#include "api/text.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static void expect(struct text *t, const char *what)
{
    assert_string_equal(text_string(t), what);
    text_done(t);
}

static void test_base64(void **state)
{
    const char *const vectors[][2] = {{"", ""},
                                      {"f", "Zg=="},
                                      {"fo", "Zm8="},
                                      {"foo", "Zm9v"},
                                      {"foob", "Zm9vYg=="},
                                      {"fooba", "Zm9vYmE="},
                                      {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        struct text t = {0};
        text_base64(&t, vectors[i][0], strlen(vectors[i][0]));
        expect(&t, vectors[i][1]);
    }
    struct text t = {0};
    text_base64(&t, "\xff\xef\xbe", 3);
    expect(&t, "/+++");
}

/* What is no UTF-8 is replaced, byte by byte; what is stays: the shortest forms only, no surrogates. */
static void test_json_utf8(void **state)
{
    const char *const pairs[][2] = {
        {"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"a\xb8z", "\"a\\ufffdz\""},
        {"\xc0\x80", "\"\\ufffd\\ufffd\""},
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},
        {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""},
        {"cut \xe2\x82", "\"cut \\ufffd\\ufffd\""}};
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        struct text t = {0};
        json_text(&t, pairs[i][0]);
        expect(&t, pairs[i][1]);
    }
}

static void test_json(void **state)
{
    struct text t = {0};
    json_open(&t, '{');
    json_key(&t, "a"), json_int(&t, -1);
    json_key(&t, "b"), json_uint(&t, UINT64_MAX);
    json_key(&t, "c");
    json_open(&t, '[');
    json_text(&t, "x\"\\\n\x7f\xc3\xa9");
    json_text(&t, NULL);
    json_text(&t, "");
    json_bool(&t, true);
    json_open(&t, '{');
    json_close(&t, '}');
    json_close(&t, ']');
    json_key(&t, "d"), json_base64(&t, "f", 1);
    json_close(&t, '}');
    expect(&t, "{\"a\":-1,\"b\":18446744073709551615,\"c\":[\"x\\\"\\\\\\u000a\\u007f\xc3\xa9\",null,\"\",true,{}],"
               "\"d\":\"Zg==\"}");
}

static void test_numbers(void **state)
{
    struct text t = {0};
    json_open(&t, '[');
    json_double(&t, 0.1);
    json_double(&t, 1.0 / 3);
    json_double(&t, 1e300);
    json_double(&t, 0);
    json_double(&t, NAN);
    json_double(&t, -INFINITY);
    json_float(&t, 0.1f);
    json_float(&t, 16777216.0f);
    json_float(&t, 1.0f / 3);
    json_close(&t, ']');
    expect(&t, "[0.1,0.3333333333333333,1e+300,0,null,null,0.1,16777216,0.33333334]");
}

static void test_growth(void **state)
{
    struct text t = {0};
    char big[1000];
    memset(big, 'x', sizeof(big));
    for (int i = 0; i < 1000; i++)
        text_append(&t, big, sizeof(big));
    text_printf(&t, "%.*s", 999, big);
    assert_int_equal(t.length, 1000999);
    assert_false(t.failed);
    assert_false(text_reserve(&t, SIZE_MAX / 2));
    text_puts(&t, "y");
    assert_int_equal(t.length, 1000999);
    assert_null(text_string(&t));
    text_done(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_base64), cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_json_utf8), cmocka_unit_test(test_numbers),
                                       cmocka_unit_test(test_growth)};
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
