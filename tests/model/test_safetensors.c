/* test_safetensors.c: hostile files, number formats, durable writing, digests. */
#include "model/file.h"
#include "model/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A file in its own block of memory, so that a sanitizer sees what reads past it. */
static char *build(const char *header, size_t data_bytes, size_t *ret_n)
{
    size_t length = strlen(header);
    char *file = malloc(8 + length + data_bytes);
    for (int i = 0; i < 8; i++)
        file[i] = (char)((uint64_t)length >> 8 * i);
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++)
        file[8 + length + i] = (char)i;
    *ret_n = 8 + length + data_bytes;
    return file;
}

static int parse(const char *header, size_t data_bytes, struct error *err)
{
    size_t n;
    char *file = build(header, data_bytes, &n);
    struct safetensors *s = NULL;
    int rc = safetensors_from_memory(file, n, &s, err);
    assert_true(rc == 0 ? s != NULL : s == NULL);
    safetensors_close(s);
    free(file);
    return rc;
}

static void test_good_file(void **state)
{
    size_t n;
    char *file = build("{\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[6,14]},"
                       "\"a\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[0,6]},"
                       "\"e\":{\"dtype\":\"I64\",\"shape\":[0,9],\"data_offsets\":[6,6]},"
                       "\"s\":{\"dtype\":\"BOOL\",\"shape\":[],\"data_offsets\":[14,15]},"
                       "\"__metadata__\":{\"k\":\"v\"}}   ",
                       15, &n);
    struct safetensors *s;
    assert_int_equal(safetensors_from_memory(file, n, &s, NULL), 0);
    assert_int_equal(safetensors_count(s), 4);
    static const char *const order[] = {"a", "e", "b", "s"};
    for (size_t i = 0; i < 4; i++)
        assert_string_equal(safetensors_at(s, i)->name, order[i]);
    const struct safetensor *b = safetensors_find(s, "b");
    assert_int_equal(b->dtype, SAFETENSORS_F32);
    assert_int_equal(b->rank, 1);
    assert_int_equal(b->dim[0], 2);
    assert_int_equal(b->bytes, 8);
    assert_int_equal(*(const char *)b->data, 6);
    assert_int_equal(safetensors_find(s, "s")->rank, 0);
    assert_int_equal(safetensor_elements(safetensors_find(s, "s")), 1);
    assert_int_equal(safetensor_elements(safetensors_find(s, "e")), 0);
    assert_null(safetensors_find(s, "c"));
    assert_string_equal(safetensors_metadata(s, "k"), "v");
    assert_null(safetensors_metadata(s, "x"));
    safetensors_close(s);
    free(file);
}

#define T(name, dtype, shape, from, to)                                                                                \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" from "," to "]}"

static void test_hostile_headers(void **state)
{
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *word; // of the message; NULL: the file is good
    } cases[] = {
        {"{}", 0, NULL},
        {"{" T("a", "F32", "1", "0", "4") "}", 4, NULL},
        {"{" T("a", "F32", "1", "0", "4") "}", 3, "outside"},
        {"{" T("a", "F32", "1", "0", "4") "}", 5, "belong to no tensor"},
        {"{}", 1, "belong to no tensor"},
        {"[]", 0, "not a JSON object"},
        {" {}", 0, "not a JSON object"},
        {"{]", 0, "not valid JSON"},
        {"{}x", 0, "not valid JSON"},
        {"{\"a\":1}", 0, "not an object"},
        {"{\"a\":{}}", 0, "not an object"},
        {"{" T("a", "U8", "1", "0", "1") "," T("a", "U8", "1", "0", "1") "}", 1, "not valid JSON"}, // a name twice
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, "not valid JSON"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1],\"x\":1}}", 1, "not an object"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[],\"offsets\":[0,1]}}", 1, "data_offsets"},
        {"{" T("", "U8", "1", "0", "1") "}", 1, "name"},
        {"{" T("a\\nb", "U8", "1", "0", "1") "}", 1, "name"},
        {"{" T("\xC3\xA4", "U8", "1", "0", "1") "}", 1, "name"},
        {"{" T("a", "F31", "1", "0", "4") "}", 4, "dtype"},
        {"{" T("a", "f32", "1", "0", "4") "}", 4, "dtype"},
        {"{\"a\":{\"dtype\":7,\"shape\":[],\"data_offsets\":[0,1]}}", 1, "dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":3,\"data_offsets\":[0,3]}}", 3, "shape"},
        {"{" T("a", "U8", "1,1,1,1,1,1,1,1,1", "0", "1") "}", 1, "dimensions"},
        {"{" T("a", "U8", "-1", "0", "1") "}", 1, "whole number"},
        {"{" T("a", "U8", "1.0", "0", "1") "}", 1, "whole number"},
        {"{" T("a", "U8", "\"1\"", "0", "1") "}", 1, "whole number"},
        {"{" T("a", "F32", "4294967296,4294967296", "0", "0") "}", 0, "overflows"},
        {"{" T("a", "U8", "9223372036854775807,3", "0", "0") "}", 0, "overflows"},
        {"{" T("a", "F64", "2305843009213693952", "0", "0") "}", 0, "overflows"},
        {"{" T("a", "U8", "9223372036854775807", "0", "9223372036854775807") "}", 0, "outside"},
        {"{" T("a", "U8", "9223372036854775808", "0", "1") "}", 1, "not valid JSON"},
        {"{" T("a", "U8", "4", "4", "0") "}", 4, "outside"},
        {"{" T("a", "U8", "4", "-4", "0") "}", 4, "outside"},
        {"{" T("a", "U8", "4", "0.5", "4") "}", 4, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, "data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "data_offsets"},
        {"{" T("a", "U8", "3", "0", "4") "}", 4, "do not fit"},
        {"{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "4", "2", "6") "}", 6, "overlaps"},
        {"{" T("a", "U8", "4", "0", "4") "," T("b", "U8", "4", "0", "4") "}", 4, "overlaps"},
        {"{" T("a", "U8", "2", "0", "2") "," T("b", "U8", "2", "4", "6") "}", 6, "hole"},
        {"{" T("a", "U8", "2", "2", "4") "}", 4, "hole"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        {"{\"__metadata__\":null}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0, "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = {0};
        int rc = parse(cases[i].header, cases[i].data_bytes, &err);
        if (cases[i].word ? rc != -EINVAL || !strstr(err.message, cases[i].word) : rc != 0)
            fail_msg("case %zu %s: %d %s", i, cases[i].header, rc, err.message);
    }
}

static void test_hostile_lengths(void **state)
{
    static const uint64_t lengths[] = {0, 1, 3, 100, SAFETENSORS_MAX_HEADER + 1, INT64_MAX, UINT64_MAX - 7, UINT64_MAX};
    struct safetensors *s;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        char *file = malloc(10);
        memcpy(file, &lengths[i], 8);
        memcpy(file + 8, "{}", 2);
        assert_int_equal(safetensors_from_memory(file, 10, &s, NULL), -EINVAL);
        free(file);
    }
    for (size_t n = 0; n < 8; n++) {
        char *file = calloc(1, n ? n : 1);
        assert_int_equal(safetensors_from_memory(file, n, &s, NULL), -EINVAL);
        free(file);
    }
    // A long header that is one indeed, past the limit and within it.
    for (int over = 0; over < 2; over++) {
        char *header = malloc(SAFETENSORS_MAX_HEADER + 2);
        memset(header, ' ', SAFETENSORS_MAX_HEADER + 2);
        memcpy(header, "{}", 2);
        header[SAFETENSORS_MAX_HEADER + over] = 0;
        assert_int_equal(parse(header, 0, NULL), over ? -EINVAL : 0);
        free(header);
    }
}

static void test_deep_nesting_is_an_error(void **state)
{
    enum { DEPTH = 1 << 20 };
    char *header = malloc(DEPTH + 8);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    header[5 + DEPTH] = 0;
    assert_int_equal(parse(header, 0, NULL), -EINVAL);
    free(header);
}

/* ---- number formats ---- */

static uint16_t to_half(enum safetensors_dtype dtype, float v)
{
    uint16_t half;
    safetensor_from_f32(dtype, &v, 1, &half);
    return half;
}

static float from_half(enum safetensors_dtype dtype, uint16_t half)
{
    float v = -1;
    struct safetensor t = {.dtype = dtype, .data = &half};
    assert_int_equal(safetensor_to_f32(&t, 0, 1, &v), 0);
    return v;
}

/* The value of a half as its definition says. */
static double defined_half(uint16_t h, int exponent_bits, int fraction_bits)
{
    int exponent = h >> fraction_bits & ((1 << exponent_bits) - 1), fraction = h & ((1 << fraction_bits) - 1);
    int bias = (1 << (exponent_bits - 1)) - 1;
    double magnitude = exponent == 0 ? ldexp(fraction, 1 - bias - fraction_bits)
                                     : ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
    if (exponent == (1 << exponent_bits) - 1)
        magnitude = fraction ? NAN : INFINITY;
    return h >> 15 ? -magnitude : magnitude;
}

static void check_format(enum safetensors_dtype dtype, int exponent_bits, int fraction_bits)
{
    uint16_t infinity = (uint16_t)(((1 << exponent_bits) - 1) << fraction_bits);
    for (uint32_t h = 0; h < 65536; h++) {
        float v = from_half(dtype, (uint16_t)h);
        double want = defined_half((uint16_t)h, exponent_bits, fraction_bits);
        if (isnan(want)) {
            assert_true(isnan(v) && isnan(from_half(dtype, to_half(dtype, v))));
            continue;
        }
        assert_true((double)v == want && !signbit(v) == !signbit(want));
        assert_int_equal(to_half(dtype, v), h);
        if ((h & 0x7FFF) + 1 >= infinity)
            continue;
        // Half way to the next one goes to the even of the two, a hair beside it to the nearer.
        double next = defined_half((uint16_t)(h + 1), exponent_bits, fraction_bits);
        float middle = (float)((want + next) / 2);
        assert_true((double)middle == (want + next) / 2);
        assert_int_equal(to_half(dtype, middle), h & 1 ? h + 1 : h);
        assert_int_equal(to_half(dtype, nextafterf(middle, (float)want)), h);
        assert_int_equal(to_half(dtype, nextafterf(middle, (float)next)), h + 1);
    }
}

static void test_f16(void **state)
{
    check_format(SAFETENSORS_F16, 5, 10);
    uint16_t half;
    const float big[] = {65519.996f, 65520, 1e30f, INFINITY};
    const int rc[] = {0, -ERANGE, -ERANGE, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(safetensor_from_f32(SAFETENSORS_F16, &big[i], 1, &half), rc[i]);
        assert_int_equal(half, i ? 0x7C00 : 0x7BFF);
    }
    assert_int_equal(to_half(SAFETENSORS_F16, 0x1p-26f), 0);
    assert_int_equal(to_half(SAFETENSORS_F16, -0x1.8p-25f), 0x8001);
}

static void test_bf16(void **state)
{
    check_format(SAFETENSORS_BF16, 8, 7);
    uint16_t half;
    float big = 0x1.FFp127f;
    assert_int_equal(safetensor_from_f32(SAFETENSORS_BF16, &big, 1, &half), -ERANGE);
}

static void test_other_dtypes_are_no_weights(void **state)
{
    float v = 1;
    double d = 1;
    struct safetensor t = {.dtype = SAFETENSORS_F64, .data = &d};
    assert_int_equal(safetensor_to_f32(&t, 0, 1, &v), -EINVAL);
    assert_int_equal(safetensor_from_f32(SAFETENSORS_I32, &v, 1, &d), -EINVAL);
}

/* ---- files ---- */

static int make_folder(void **state)
{
    char folder[] = "safetensors_test_XXXXXX";
    *state = mkdtemp(folder) ? strdup(folder) : NULL;
    return *state ? 0 : -1;
}

static int remove_folder(void **state)
{
    DIR *d = opendir(*state);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        if (unlinkat(dirfd(d), e->d_name, 0))
            unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    closedir(d);
    int rc = rmdir(*state);
    free(*state);
    return rc;
}

static int entries(const char *folder)
{
    int n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

static int open_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

static void test_written_file_reads_back(void **state)
{
    int dir = open_folder(*state);
    const int64_t counters[3] = {1, -2, INT64_MAX};
    const float weights[2][3] = {{1, 2, 3}, {4, 5, NAN}};
    const struct safetensor tensors[] = {
        {.name = "counters", .dtype = SAFETENSORS_I64, .rank = 1, .dim = {3}, .data = counters},
        {.name = "w \"quoted\"", .dtype = SAFETENSORS_F32, .rank = 2, .dim = {2, 3}, .data = weights},
        {.name = "none", .dtype = SAFETENSORS_F32, .rank = 1, .dim = {0}},
        {.name = "one", .dtype = SAFETENSORS_U8, .data = "x"},
    };
    const struct safetensors_entry metadata[] = {{"a", "\xC3\xA4 \" \\ \n"}, {"b", ""}};
    struct safetensors *s;
    assert_int_equal(safetensors_write(dir, "x", tensors, 4, metadata, 2, NULL), 0);
    assert_int_equal(entries(*state), 1); // no temporary file is left
    assert_int_equal(safetensors_open(dir, "x", &s, NULL), 0);
    assert_null(safetensors_find(s, "counters")->data); // not loaded yet
    assert_int_equal(safetensors_load(s, NULL), 0);
    assert_int_equal(safetensors_load(s, NULL), 0);
    assert_memory_equal(safetensors_find(s, "counters")->data, counters, sizeof(counters));
    assert_memory_equal(safetensors_find(s, "w \"quoted\"")->data, weights, sizeof(weights));
    assert_int_equal((uintptr_t)safetensors_find(s, "counters")->data % 8, 0);
    assert_int_equal(*(const char *)safetensors_find(s, "one")->data, 'x');
    assert_string_equal(safetensors_metadata(s, "a"), metadata[0].value);
    assert_string_equal(safetensors_metadata(s, "b"), "");
    char digest[FILE_SHA256_CHARS + 1], of_file[FILE_SHA256_CHARS + 1];
    safetensors_digest(s, digest);
    assert_int_equal(file_sha256(dir, "x", of_file, NULL), 0);
    assert_string_equal(digest, of_file);
    safetensors_close(s);
    close(dir);
}

static void test_writer_refuses_what_the_reader_would(void **state)
{
    int dir = open_folder(*state);
    char long_name[SAFETENSORS_MAX_NAME + 2];
    memset(long_name, 'n', sizeof(long_name));
    long_name[SAFETENSORS_MAX_NAME + 1] = 0;
    const struct safetensor bad[] = {
        {.name = "", .dtype = SAFETENSORS_U8, .data = "x"},
        {.name = "__metadata__", .dtype = SAFETENSORS_U8, .data = "x"},
        {.name = "a\n", .dtype = SAFETENSORS_U8, .data = "x"},
        {.name = long_name, .dtype = SAFETENSORS_U8, .data = "x"},
        {.name = "a", .dtype = SAFETENSORS_U8, .rank = 9, .data = "x"},
        {.name = "a", .dtype = SAFETENSORS_U8, .rank = 1, .dim = {-1}, .data = "x"},
        {.name = "a", .dtype = SAFETENSORS_F32, .rank = 2, .dim = {INT64_MAX, 9}, .data = "x"},
        {.name = "good", .dtype = SAFETENSORS_U8, .data = "x"}, // a name twice
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        struct safetensor pair[] = {{.name = "good", .dtype = SAFETENSORS_U8, .data = "x"}, bad[i]};
        assert_int_equal(safetensors_write(dir, "bad", pair, 2, NULL, 0, NULL), -EINVAL);
    }
    const struct safetensors_entry metadata = {"a", "\xFF"};
    assert_int_equal(safetensors_write(dir, "bad", NULL, 0, &metadata, 1, NULL), -EINVAL);
    assert_int_equal(entries(*state), 0);
    close(dir);
}

static void test_a_file_that_shrinks_is_an_error(void **state)
{
    int dir = open_folder(*state);
    static char data[100000];
    const struct safetensor t = {.name = "a", .dtype = SAFETENSORS_U8, .rank = 1, .dim = {sizeof(data)}, .data = data};
    struct safetensors *s;
    assert_int_equal(safetensors_write(dir, "x", &t, 1, NULL, 0, NULL), 0);
    assert_int_equal(safetensors_open(dir, "x", &s, NULL), 0);
    int fd = openat(dir, "x", O_WRONLY);
    assert_int_equal(ftruncate(fd, 50000), 0);
    close(fd);
    assert_int_equal(safetensors_load(s, NULL), -EINVAL);
    safetensors_close(s);
    assert_int_equal(safetensors_open(dir, "x", &s, NULL), -EINVAL);
    close(dir);
}

static void assert_content(int dir, const char *name, const char *want)
{
    char *text;
    size_t n;
    assert_int_equal(file_read(dir, name, 100, &text, &n, NULL), 0);
    assert_int_equal(n, strlen(want));
    assert_string_equal(text, want);
    free(text);
}

/* What has the name stays until the new file is whole. */
static void test_replacing_is_atomic(void **state)
{
    int dir = open_folder(*state);
    struct file_writer w;
    assert_int_equal(file_write(dir, "f", "old", 3, NULL), 0);
    assert_int_equal(file_writer_open(dir, "f", &w, NULL), 0);
    assert_int_equal(file_writer_append(&w, "ne", 2, NULL), 0);
    assert_content(dir, "f", "old");
    assert_int_equal(entries(*state), 2);
    file_writer_abort(&w);
    file_writer_abort(&w);
    assert_int_equal(entries(*state), 1);
    assert_content(dir, "f", "old");
    assert_int_equal(file_writer_open(dir, "f", &w, NULL), 0);
    assert_int_equal(file_writer_append(&w, "ne", 2, NULL), 0);
    assert_int_equal(file_writer_append(&w, "w", 1, NULL), 0);
    assert_content(dir, "f", "old");
    assert_int_equal(file_writer_commit(&w, NULL), 0);
    file_writer_abort(&w); // no-op
    assert_content(dir, "f", "new");
    assert_int_equal(entries(*state), 1);
    close(dir);
}

static void test_failed_writes_leave_nothing(void **state)
{
    int dir = open_folder(*state);
    struct error err = {0};
    assert_int_equal(mkdirat(dir, "folder", 0700), 0);
    assert_int_equal(file_write(dir, "folder", "x", 1, &err), -EISDIR);
    assert_non_null(strstr(err.message, "folder"));
    assert_int_equal(file_write(dir, "absent/f", "x", 1, &err), -ENOENT);
    assert_int_equal(file_write(dir, "folder/", "x", 1, &err), -EINVAL);
    assert_int_equal(file_write(dir, "..", "x", 1, &err), -EINVAL);
    assert_int_equal(file_write(dir, "", "x", 1, &err), -EINVAL);
    assert_int_equal(entries(*state), 1);
    char name[300];
    memset(name, 'n', sizeof(name));
    name[241] = 0; // the longest that leaves room for the temporary name
    assert_int_equal(file_write(dir, name, "x", 1, &err), 0);
    name[241] = 'n';
    name[242] = 0;
    assert_int_equal(file_write(dir, name, "x", 1, &err), -EINVAL);
    assert_int_equal(entries(*state), 2);
    close(dir);
}

/* A write that fails half way, as on a full disk: here by the limit on a file's size. */
static void test_a_write_that_fails_half_way(void **state)
{
    int dir = open_folder(*state);
    static char data[5000];
    struct rlimit limit, small;
    assert_int_equal(file_write(dir, "f", "old", 3, NULL), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    small = (struct rlimit){1000, limit.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = file_write(dir, "f", data, sizeof(data), NULL);
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, handler);
    assert_int_equal(rc, -EFBIG);
    assert_content(dir, "f", "old");
    assert_int_equal(entries(*state), 1);
    close(dir);
}

static void test_read_has_a_limit(void **state)
{
    int dir = open_folder(*state);
    char *text;
    size_t n;
    assert_int_equal(file_write(dir, "f", "12345", 5, NULL), 0);
    assert_int_equal(file_read(dir, "f", 4, &text, &n, NULL), -EFBIG);
    assert_int_equal(file_read(dir, ".", 100, &text, &n, NULL), -EINVAL);
    assert_content(dir, "f", "12345");
    close(dir);
}

/* FIPS 180-4's examples. */
static void test_sha256(void **state)
{
    char hex[FILE_SHA256_CHARS + 1];
    sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    sha256_hex(million, 1000000, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    int dir = open_folder(*state);
    assert_int_equal(file_write(dir, "million", million, 1000000, NULL), 0);
    assert_int_equal(file_sha256(dir, "million", hex, NULL), 0);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    close(dir);
    free(million);
}

int main(void)
{
#define IN_FOLDER(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_hostile_lengths),
        cmocka_unit_test(test_deep_nesting_is_an_error),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_other_dtypes_are_no_weights),
        IN_FOLDER(test_written_file_reads_back),
        IN_FOLDER(test_writer_refuses_what_the_reader_would),
        IN_FOLDER(test_a_file_that_shrinks_is_an_error),
        IN_FOLDER(test_replacing_is_atomic),
        IN_FOLDER(test_failed_writes_leave_nothing),
        IN_FOLDER(test_a_write_that_fails_half_way),
        IN_FOLDER(test_read_has_a_limit),
        IN_FOLDER(test_sha256),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
