/* test_negotiate.c: Accept, Content-Type, If-None-Match; the table of routes. */
#include "api/negotiate.h"
#include "api/routes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static const char *const offers[] = {"image/png", "application/json", "application/zip", "text/event-stream", NULL};

static void test_accept(void **state)
{
    const struct {
        const char *accept;
        int offer;
    } cases[] = {
        {NULL, 0},
        {"", 0},
        {"*/*", 0},
        {"image/png", 0},
        {"IMAGE/PNG", 0},
        {"image/*", 0},
        {"application/*", 1},
        {"application/json", 1},
        {"application/zip, application/json", 1},
        {"application/zip, application/json;q=0.9", 2},
        {"application/json;q=0.5, image/png;q=0.4", 1},
        {"image/png;q=0", -1},
        {"image/png;q=0, */*", 1},
        {"*/*;q=0.1, text/event-stream", 3},
        {"text/html,application/xhtml+xml,image/avif,*/*;q=0.8", 0},
        {"image/png;level=\"1,2\";q=0.1, application/json;q=0.2", 1},
        {"image/png ; q=0.1 , application/json ; Q=0.2", 1},
        {"image/png;q=1.000, application/json;q=0.999", 0},
        {"text/html", -1},
        {"image/pngx", -1},
        {"image", -1},
        {"png", -1},
        {"*", -1},
        {",,,", -1},
        {"application/*;q=0.2, application/json;q=0.1", 2},
        {"image/png;q=banana", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (negotiate_accept(cases[i].accept, offers) != cases[i].offer)
            fail_msg("Accept: %s gives %d", cases[i].accept, negotiate_accept(cases[i].accept, offers));
    }
}

static void test_content_type(void **state)
{
    assert_true(negotiate_content_type("application/json", "application/json"));
    assert_true(negotiate_content_type("Application/JSON; charset=utf-8", "application/json"));
    assert_true(negotiate_content_type(" application/json ;x", "application/json"));
    assert_false(negotiate_content_type("application/jsonp", "application/json"));
    assert_false(negotiate_content_type("application/jso", "application/json"));
    assert_false(negotiate_content_type(NULL, "application/json"));
}

static void test_etag(void **state)
{
    assert_true(negotiate_etag("\"a\"", "\"a\""));
    assert_true(negotiate_etag("W/\"a\"", "\"a\""));
    assert_true(negotiate_etag("\"a\"", "W/\"a\""));
    assert_true(negotiate_etag("\"b\", W/\"c,d\" , \"a\"", "\"a\""));
    assert_true(negotiate_etag("*", "\"a\""));
    assert_false(negotiate_etag("\"b\", \"c\"", "\"a\""));
    assert_false(negotiate_etag("\"x\\\"a\"\"", "\"a\""));
    assert_false(negotiate_etag("", "\"a\""));
    assert_false(negotiate_etag(NULL, "\"a\""));
}

static void test_routes(void **state)
{
    char name[MODEL_NAME_BYTES], allow[64];
    assert_string_equal(route_find("/generate", name)->path, "/generate");
    assert_string_equal(route_find("/v1/generate", name)->path, "/generate");
    assert_string_equal(route_find("/v1", name)->path, "/");
    assert_string_equal(route_find("/models/a.b-c_D/load", name)->path, "/models/{name}/load");
    assert_string_equal(name, "a.b-c_D");
    assert_string_equal(route_find("/models", name)->path, "/models");
    const char *const none[] = {
        "",          "/generate/",  "/Generate",   "/v1generate",   "/v2/generate",    "/models/",
        "/models//", "/models/a b", "/models/a/b", "/models/a%2fb", "/v1/v1/generate", "/jobs/"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        if (route_find(none[i], name))
            fail_msg("%s is a route", none[i]);
    char longest[128] = "/models/";
    memset(longest + 8, 'a', MODEL_NAME_BYTES - 1);
    assert_non_null(route_find(longest, name));
    longest[8 + MODEL_NAME_BYTES - 1] = 'a';
    assert_null(route_find(longest, name));
    route_allow(route_find("/generate", name), allow, sizeof(allow));
    assert_string_equal(allow, "GET, HEAD, POST, OPTIONS");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_accept), cmocka_unit_test(test_content_type),
                                       cmocka_unit_test(test_etag), cmocka_unit_test(test_routes)};
    return cmocka_run_group_tests_name("negotiate", tests, NULL, NULL);
}
