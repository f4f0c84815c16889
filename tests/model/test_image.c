/* test_image.c: pixels against the oracle, grids against torchvision (tests/fixtures/make_image.py), PNG against
 * libpng.
 */
#include "model/file.h"
#include "model/image.h"
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <png.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

static int open_fixture(void **state)
{
    struct safetensors *s;
    if (safetensors_open(AT_FDCWD, FIXTURES "/image.safetensors", &s, NULL) || safetensors_load(s, NULL))
        return -1;
    *state = s;
    return 0;
}

static int close_fixture(void **state)
{
    safetensors_close(*state);
    return 0;
}

/* ---- pixels ---- */

static void test_to_uint8_at_ties(void **state)
{
    const struct safetensor *x = safetensors_find(*state, "edges.x"), *want = safetensors_find(*state, "edges.pixels");
    assert_true(x && want && want->bytes > 2000 && x->bytes == 4 * want->bytes);
    float *values = malloc(x->bytes);
    uint8_t *pixels = malloc(want->bytes);
    memcpy(values, x->data, x->bytes);
    image_to_uint8(values, want->bytes, pixels);
    assert_memory_equal(pixels, want->data, want->bytes);
    free(values);
    free(pixels);
}

static size_t sweep(float *ret_x)
{
    const float limit = 1.25f;
    uint32_t top, bits;
    memcpy(&top, &limit, sizeof(top));
    size_t n = 0;
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t b = 0; b < top; b += 9973) {
            bits = b | sign << 31;
            memcpy(&ret_x[n++], &bits, sizeof(bits));
        }
    return n;
}

static void test_to_uint8_over_a_sweep(void **state)
{
    enum { ROOM = 250000 };
    float *x = malloc(ROOM * sizeof(*x));
    size_t n = sweep(x);
    assert_in_range(n, 200000, ROOM);
    uint8_t *pixels = malloc(n);
    image_to_uint8(x, n, pixels);
    char got[FILE_SHA256_CHARS + 1], want[FILE_SHA256_CHARS + 1];
    sha256_hex(pixels, n, got);
    const uint8_t *digest = safetensors_find(*state, "sweep.sha256")->data;
    for (int i = 0; i < 32; i++)
        snprintf(want + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(got, want);
    free(x);
    free(pixels);
}

static void test_nan_is_black(void **state)
{
    float x[20];
    uint8_t pixels[20];
    for (int i = 0; i < 20; i++)
        x[i] = i % 2 ? NAN : -NAN;
    memset(pixels, 77, sizeof(pixels));
    image_to_uint8(x, 20, pixels);
    for (int i = 0; i < 20; i++)
        assert_int_equal(pixels[i], 0);
}

static void test_pixels_survive_both_ways(void **state)
{
    uint8_t p[256], back[256];
    float x[256];
    for (int i = 0; i < 256; i++)
        p[i] = (uint8_t)i;
    image_from_uint8(p, 256, x);
    assert_true(x[0] == -1.0f && x[255] == 1.0f);
    assert_true(fabsf(x[128] - (128 / 127.5f - 1)) < 1e-7f);
    image_to_uint8(x, 256, back);
    assert_memory_equal(p, back, sizeof(p));
}

/* ---- grids ---- */

static void test_grids_are_torchvisions(void **state)
{
    int checked = 0;
    for (size_t i = 0; i < safetensors_count(*state); i++) {
        const struct safetensor *in = safetensors_at(*state, i);
        int n, h, w, c, nrow, padding, end = 0;
        if (sscanf(in->name, "grid.%d.%d.%d.%d.%d.%d.in%n", &n, &h, &w, &c, &nrow, &padding, &end) != 6 || !end)
            continue;
        char name[64];
        snprintf(name, sizeof(name), "%.*sout", end - 2, in->name);
        const struct safetensor *out = safetensors_find(*state, name);
        assert_non_null(out);
        struct image8 grid;
        assert_int_equal(image_grid(in->data, n, h, w, c, nrow, padding, &grid), 0);
        assert_int_equal(grid.height, out->dim[0]);
        assert_int_equal(grid.width, out->dim[1]);
        assert_int_equal(grid.channels, out->dim[2]);
        assert_memory_equal(grid.pixels, out->data, out->bytes);
        image8_done(&grid);
        checked++;
    }
    assert_int_equal(checked, 9);
}

static void test_grids_that_cannot_be(void **state)
{
    struct image8 grid = {0};
    uint8_t p[12] = {0};
    assert_int_equal(image_grid(p, 0, 2, 2, 3, 1, 2, &grid), -EINVAL);
    assert_int_equal(image_grid(p, 1, 2, 2, 3, 0, 2, &grid), -EINVAL);
    assert_int_equal(image_grid(p, 1, 2, 2, 2, 1, 2, &grid), -EINVAL);
    assert_int_equal(image_grid(p, 1, 2, 2, 3, 1, -1, &grid), -EINVAL);
    assert_int_equal(image_grid(p, 2, 2, 2, 3, 1, INT32_MAX, &grid), -EINVAL);
    assert_int_equal(image_grid(p, INT32_MAX, 1024, 1024, 3, 1000, 2, &grid), -EINVAL);
    assert_null(grid.pixels);
}

static void test_scale_repeats_whole_pixels(void **state)
{
    uint8_t p[2 * 3 * 3];
    for (int i = 0; i < 18; i++)
        p[i] = (uint8_t)(10 * i + 1);
    struct image8 in = {2, 3, 3, p}, out;
    assert_int_equal(image_scale(&in, 4, &out), 0);
    assert_int_equal(out.height, 8);
    assert_int_equal(out.width, 12);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 12; x++)
            assert_memory_equal(out.pixels + (y * 12 + x) * 3, p + (y / 4 * 3 + x / 4) * 3, 3);
    image8_done(&out);
    assert_int_equal(image_scale(&in, 0, &out), -EINVAL);
    assert_int_equal(image_scale(&in, INT32_MAX, &out), -EINVAL);
}

static void test_grayscale_is_luma(void **state)
{
    uint8_t p[] = {255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 255, 1, 2, 3, 0, 0, 0};
    const uint8_t want[] = {76, 150, 29, 255, 2, 0};
    struct image8 in = {2, 3, 3, p}, out;
    assert_int_equal(image_to_grayscale(&in, &out), 0);
    assert_int_equal(out.channels, 1);
    assert_memory_equal(out.pixels, want, sizeof(want));
    image8_done(&out);
}

/* ---- PNG ---- */

/* Decodes with libpng's own reader and compares. */
static void assert_decodes_to(const uint8_t *png, size_t bytes, const struct image8 *im)
{
    png_image header = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_memory(&header, png, bytes));
    assert_int_equal(header.format, im->channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB);
    assert_int_equal(header.width, im->width);
    assert_int_equal(header.height, im->height);
    uint8_t *pixels = malloc(PNG_IMAGE_SIZE(header));
    assert_true(png_image_finish_read(&header, NULL, pixels, 0, NULL));
    assert_memory_equal(pixels, im->pixels, PNG_IMAGE_SIZE(header));
    free(pixels);
}

static void fill(uint8_t *p, size_t n)
{
    uint32_t v = 12345;
    for (size_t i = 0; i < n; i++) {
        v = v * 1664525 + 1013904223;
        p[i] = (uint8_t)(v >> 24);
    }
}

static void test_png_round_trip(void **state)
{
    static uint8_t p[100 * 70 * 3];
    fill(p, sizeof(p));
    static const int32_t sizes[][3] = {{1, 1, 1}, {1, 1, 3}, {70, 100, 3}, {100, 70, 1}, {3, 1, 3}};
    for (size_t i = 0; i < 5; i++) {
        struct image8 im = {sizes[i][0], sizes[i][1], sizes[i][2], p};
        uint8_t *a, *b;
        size_t na, nb;
        assert_int_equal(image_png_encode(&im, NULL, NULL, &a, &na), 0);
        assert_int_equal(image_png_encode(&im, NULL, NULL, &b, &nb), 0);
        assert_decodes_to(a, na, &im);
        assert_int_equal(na, nb);
        assert_memory_equal(a, b, na);
        free(a);
        free(b);
    }
}

static void test_png_text_round_trip(void **state)
{
    uint8_t p[] = {1, 2, 3};
    struct image8 im = {1, 1, 3, p};
    static const char *const texts[] = {"", "{\"seed\": 7}", "{\"class\": \"B\xC3\xA4r \xE7\x8C\xAB\"}"};
    for (size_t i = 0; i < 3; i++) {
        uint8_t *png;
        size_t n;
        char *text;
        struct error err = {0};
        assert_int_equal(image_png_encode(&im, "ddimd", texts[i], &png, &n), 0);
        assert_decodes_to(png, n, &im);
        assert_non_null(memmem(png, n, i == 2 ? "iTXtddimd" : "tEXtddimd", 9));
        assert_int_equal(image_png_text(png, n, "ddimd", &text, &err), 0);
        assert_string_equal(text, texts[i]);
        free(text);
        assert_int_equal(image_png_text(png, n, "ddim", &text, &err), -ENOENT);
        assert_int_equal(image_png_text(png, n, "ddimd2", &text, &err), -ENOENT);
        free(png);
    }
}

static void test_png_refuses_bad_arguments(void **state)
{
    uint8_t p[] = {1, 2, 3}, *png = NULL;
    size_t n;
    struct image8 im = {1, 1, 3, p}, two = {1, 1, 2, p};
    static const char *const keywords[] = {"", " a", "a ", "a  b", "a\nb", "\xC3\xA4"};
    for (size_t i = 0; i < sizeof(keywords) / sizeof(*keywords); i++)
        assert_int_equal(image_png_encode(&im, keywords[i], "x", &png, &n), -EINVAL);
    char long_keyword[81];
    memset(long_keyword, 'k', 80);
    long_keyword[80] = 0;
    assert_int_equal(image_png_encode(&im, long_keyword, "x", &png, &n), -EINVAL);
    assert_int_equal(image_png_encode(&im, "k", NULL, &png, &n), -EINVAL);
    assert_int_equal(image_png_encode(&im, NULL, "x", &png, &n), -EINVAL);
    assert_int_equal(image_png_encode(&two, NULL, NULL, &png, &n), -EINVAL);
    assert_null(png);
}

/* Cut everywhere and with every bit of the chunk flipped: an error, or the same text, never another one. */
static void test_png_text_of_damaged_files(void **state)
{
    uint8_t p[] = {1, 2, 3}, *png;
    struct image8 im = {1, 1, 3, p};
    size_t n;
    assert_int_equal(image_png_encode(&im, "ddimd", "{\"seed\": 7}", &png, &n), 0);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *copy = malloc(cut ? cut : 1); // its own block, so that a sanitizer sees reads past it
        char *text = NULL;
        memcpy(copy, png, cut);
        int rc = image_png_text(copy, cut, "ddimd", &text, NULL);
        assert_true(rc == 0 ? !strcmp(text, "{\"seed\": 7}") : rc == -EINVAL || rc == -ENOENT);
        free(text);
        free(copy);
    }
    for (size_t bit = 0; bit < 8 * n; bit++) {
        char *text = NULL;
        png[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int rc = image_png_text(png, n, "ddimd", &text, NULL);
        assert_true(rc == 0 ? !strcmp(text, "{\"seed\": 7}") : rc == -EINVAL || rc == -ENOENT);
        png[bit / 8] ^= (uint8_t)(1u << bit % 8);
        free(text);
    }
    free(png);
}

/* A file that is nothing but one chunk with a correct checksum. */
static size_t one_chunk(const char *type, const void *data, uint32_t n, uint8_t *ret_png)
{
    memcpy(ret_png, "\x89PNG\r\n\x1A\n\0\0", 10);
    ret_png[10] = (uint8_t)(n >> 8);
    ret_png[11] = (uint8_t)n;
    memcpy(ret_png + 12, type, 4);
    memcpy(ret_png + 16, data, n);
    uint32_t crc = (uint32_t)crc32(0, ret_png + 12, n + 4);
    for (int i = 0; i < 4; i++)
        ret_png[16 + n + i] = (uint8_t)(crc >> (24 - 8 * i));
    return 20 + n;
}

static void test_png_text_of_hostile_chunks(void **state)
{
    static const struct {
        const char *type, *data;
        uint32_t n;
        int rc;
    } cases[] = {
        {"tEXt", "ddimd\0ok", 8, 0},
        {"tEXt", "ddimd", 5, -ENOENT},              // no NUL after the keyword
        {"tEXt", "ddimd\0a\0b", 9, -EINVAL},        // NUL inside the text
        {"iTXt", "ddimd\0\0\0en\0key\0ok", 17, 0},  // with a language
        {"iTXt", "ddimd\0\1\0\0\0ok", 12, -EINVAL}, // compressed
        {"iTXt", "ddimd\0\0", 7, -EINVAL},
        {"iTXt", "ddimd\0\0\0en", 10, -EINVAL},
        {"iTXt", "ddimd\0\0\0en\0key", 14, -EINVAL},
        {"zTXt", "ddimd\0\0x", 8, -ENOENT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uint8_t png[64];
        char *text = NULL;
        size_t n = one_chunk(cases[i].type, cases[i].data, cases[i].n, png);
        assert_int_equal(image_png_text(png, n, "ddimd", &text, NULL), cases[i].rc);
        if (cases[i].rc == 0)
            assert_string_equal(text, "ok");
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_to_uint8_at_ties),
        cmocka_unit_test(test_to_uint8_over_a_sweep),
        cmocka_unit_test(test_nan_is_black),
        cmocka_unit_test(test_pixels_survive_both_ways),
        cmocka_unit_test(test_grids_are_torchvisions),
        cmocka_unit_test(test_grids_that_cannot_be),
        cmocka_unit_test(test_scale_repeats_whole_pixels),
        cmocka_unit_test(test_grayscale_is_luma),
        cmocka_unit_test(test_png_round_trip),
        cmocka_unit_test(test_png_text_round_trip),
        cmocka_unit_test(test_png_refuses_bad_arguments),
        cmocka_unit_test(test_png_text_of_damaged_files),
        cmocka_unit_test(test_png_text_of_hostile_chunks),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
