/* test_dataset.c: readers on files made here (good, damaged, hostile), and batches that do not depend on the workers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/dataset.h"
#include "model/image.h"
#include "model/loader.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <jpeglib.h>

/* ---- a folder for each test ---- */

struct scratch {
    char path[256];
    char warnings[4096];
};

static int make_folder(void **state)
{
    struct scratch *s = calloc(1, sizeof *s);
    const char *tmp = getenv("TMPDIR");
    snprintf(s->path, sizeof s->path, "%s/test_dataset.XXXXXX", tmp ? tmp : P_tmpdir);
    *state = s;
    return mkdtemp(s->path) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int remove_folder(void **state)
{
    struct scratch *s = *state;
    int r = nftw(s->path, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
    free(s);
    return r;
}

static const char *in(const struct scratch *s, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", s->path, name);
    return path;
}

static void write_bytes(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void collect(void *context, const char *message)
{
    struct scratch *s = context;
    strncat(s->warnings, message, sizeof s->warnings - strlen(s->warnings) - 2);
    strcat(s->warnings, "\n");
}

static struct dataset_options options(struct scratch *s, enum dataset_kind kind, int32_t side, int32_t channels)
{
    return (struct dataset_options){.kind = kind,
                                    .path = s->path,
                                    .train = true,
                                    .height = side,
                                    .width = side,
                                    .channels = channels,
                                    .cache_bytes = 64 << 20,
                                    .n_threads = 2,
                                    .warn = collect,
                                    .context = s};
}

/* ---- MNIST ---- */

enum { N_DIGITS = 12, SIDE = 28 };

static uint8_t digit_pixel(int image, int y, int x)
{
    return (uint8_t)(image * 37 + y * 5 + x * 3 + 1);
}

static void put32(uint8_t *b, uint32_t v)
{
    b[0] = (uint8_t)(v >> 24);
    b[1] = (uint8_t)(v >> 16);
    b[2] = (uint8_t)(v >> 8);
    b[3] = (uint8_t)v;
}

/* An IDX file of N_DIGITS images, with the header's words as given. */
static size_t idx_images(uint8_t *b, uint32_t magic, uint32_t n, uint32_t h, uint32_t w)
{
    put32(b, magic);
    put32(b + 4, n);
    put32(b + 8, h);
    put32(b + 12, w);
    uint8_t *p = b + 16;
    for (int i = 0; i < N_DIGITS; i++)
        for (int y = 0; y < SIDE; y++)
            for (int x = 0; x < SIDE; x++)
                *p++ = digit_pixel(i, y, x);
    return (size_t)(p - b);
}

static size_t idx_labels(uint8_t *b, uint32_t magic, uint32_t n, uint8_t first)
{
    put32(b, magic);
    put32(b + 4, n);
    for (int i = 0; i < N_DIGITS; i++)
        b[8 + i] = i ? (uint8_t)(i % 10) : first;
    return 8 + N_DIGITS;
}

static void write_idx(const struct scratch *s, const char *name, const uint8_t *b, size_t n, bool gzipped)
{
    if (!gzipped) {
        write_bytes(in(s, name), b, n);
        return;
    }
    gzFile f = gzopen(in(s, name), "wb");
    assert_non_null(f);
    assert_int_equal(gzwrite(f, b, (unsigned)n), n);
    assert_int_equal(gzclose(f), Z_OK);
}

static void write_digits(const struct scratch *s, const char *part, bool gzipped)
{
    static uint8_t b[16 + N_DIGITS * SIDE * SIDE];
    char name[64];
    size_t n = idx_images(b, 0x803, N_DIGITS, SIDE, SIDE);
    snprintf(name, sizeof name, "%s-images-idx3-ubyte%s", part, gzipped ? ".gz" : "");
    write_idx(s, name, b, n, gzipped);
    n = idx_labels(b, 0x801, N_DIGITS, 0);
    snprintf(name, sizeof name, "%s-labels-idx1-ubyte%s", part, gzipped ? ".gz" : "");
    write_idx(s, name, b, n, gzipped);
}

static void check_padded_digits(const struct dataset *d)
{
    uint8_t p[32 * 32];
    assert_int_equal(d->n, N_DIGITS);
    assert_int_equal(d->n_classes, 10);
    assert_string_equal(d->classes[7], "7");
    for (int i = 0; i < N_DIGITS; i++) {
        int32_t label;
        assert_int_equal(dataset_read(d, i, p, &label), 0);
        assert_int_equal(label, i % 10);
        for (int y = 0; y < 32; y++)
            for (int x = 0; x < 32; x++) {
                bool inside = y >= 2 && y < 30 && x >= 2 && x < 30;
                assert_int_equal(p[y * 32 + x], inside ? digit_pixel(i, y - 2, x - 2) : 0);
            }
    }
}

static void test_mnist(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_MNIST, 32, 1);
    write_digits(s, "t10k", true);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_non_null(strstr(s->warnings, "t10k"));
    check_padded_digits(d);
    dataset_close(d);
    write_digits(s, "train", false);
    s->warnings[0] = 0;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_string_equal(s->warnings, "");
    check_padded_digits(d);
    dataset_close(d);
}

/* Three channels are three copies; a smaller size is resampled and keeps the mean about. */
static void test_mnist_fit(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_MNIST, 28, 3);
    uint8_t p[28 * 28 * 3];
    int32_t label;
    write_digits(s, "train", true);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(dataset_read(d, 3, p, &label), 0);
    for (int i = 0; i < 28 * 28; i++)
        for (int c = 0; c < 3; c++)
            assert_int_equal(p[3 * i + c], digit_pixel(3, i / 28, i % 28));
    dataset_close(d);
    o = options(s, DATASET_MNIST, 14, 1);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(dataset_read(d, 0, p, &label), 0);
    long small = 0, large = 0;
    for (int i = 0; i < 14 * 14; i++)
        small += p[i];
    for (int i = 0; i < 28 * 28; i++)
        large += digit_pixel(0, i / 28, i % 28);
    assert_in_range(small * 4 - large + 28 * 28 * 2, 0, 28 * 28 * 4); // within 2 of the mean
    dataset_close(d);
}

static void test_mnist_hostile(void **state)
{
    struct scratch *s = *state;
    static const struct {
        uint32_t magic, n, h, w;
        int cut; // bytes removed from the end (negative: added)
        uint32_t label_magic, n_labels;
        uint8_t label;
        const char *message;
    } cases[] = {
        {0x802, N_DIGITS, SIDE, SIDE, 0, 0x801, N_DIGITS, 0, "IDX"},
        {0x803, 0, SIDE, SIDE, 0, 0x801, N_DIGITS, 0, "number of images"},
        {0x803, 0xFFFFFFFF, SIDE, SIDE, 0, 0x801, 0xFFFFFFFF, 0, "number of images"},
        {0x803, N_DIGITS, 0, SIDE, 0, 0x801, N_DIGITS, 0, "image size"},
        {0x803, N_DIGITS, 0x10000, 0x10000, 0, 0x801, N_DIGITS, 0, "image size"},
        {0x803, N_DIGITS + 1, SIDE, SIDE, 0, 0x801, N_DIGITS + 1, 0, "truncated"},
        {0x803, N_DIGITS, SIDE, SIDE, 1, 0x801, N_DIGITS, 0, "truncated"},
        {0x803, N_DIGITS, SIDE, SIDE, -1, 0x801, N_DIGITS, 0, "longer"},
        {0x803, N_DIGITS, SIDE, SIDE, 0, 0x801, N_DIGITS - 1, 0, "as many labels"},
        {0x803, N_DIGITS, SIDE, SIDE, 0, 0x803, N_DIGITS, 0, "IDX"},
        {0x803, N_DIGITS, SIDE, SIDE, 0, 0x801, N_DIGITS, 10, "label above 9"},
        {0x803, N_DIGITS, SIDE, SIDE, 16 + N_DIGITS * SIDE * SIDE, 0x801, N_DIGITS, 0, "truncated"},
    };
    static uint8_t b[17 + N_DIGITS * SIDE * SIDE];
    struct dataset_options o = options(s, DATASET_MNIST, 32, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct error err = {0};
        struct dataset *d = NULL;
        size_t n = idx_images(b, cases[i].magic, cases[i].n, cases[i].h, cases[i].w) - (size_t)cases[i].cut;
        write_idx(s, "train-images-idx3-ubyte", b, n, false);
        n = idx_labels(b, cases[i].label_magic, cases[i].n_labels, cases[i].label);
        write_idx(s, "train-labels-idx1-ubyte", b, n, false);
        assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
        assert_null(d);
        assert_string_equal(err.field, "dataset.path");
        if (!strstr(err.message, cases[i].message))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, err.message, cases[i].message);
    }
}

static void test_mnist_damaged_gzip(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_MNIST, 32, 1);
    write_digits(s, "train", true);
    struct stat st;
    assert_int_equal(stat(in(s, "train-images-idx3-ubyte.gz"), &st), 0);
    assert_int_equal(truncate(in(s, "train-images-idx3-ubyte.gz"), st.st_size / 2), 0);
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    assert_int_equal(unlink(in(s, "train-labels-idx1-ubyte.gz")), 0);
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    assert_non_null(strstr(err.message, "no labels file"));
    assert_int_equal(unlink(in(s, "train-images-idx3-ubyte.gz")), 0);
    assert_int_equal(dataset_open(&o, &d, &err), -ENOENT);
    o.path = "/nonexistent/folder";
    assert_int_equal(dataset_open(&o, &d, &err), -ENOENT);
}

/* ---- CIFAR-10 ---- */

enum { RECORD = 3073 };

static void fill_record(uint8_t *r, int label, int seed)
{
    r[0] = (uint8_t)label;
    for (int i = 0; i < 3072; i++)
        r[1 + i] = (uint8_t)(i * 7 + seed);
}

static void test_cifar10(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_CIFAR10, 32, 3);
    static uint8_t b[3 * RECORD], p[3072];
    int32_t label;
    assert_int_equal(dataset_open(&o, &d, &err), -ENOENT);
    assert_int_equal(mkdir(in(s, "cifar-10-batches-bin"), 0777), 0);
    for (int i = 0; i < 3; i++)
        fill_record(b + i * RECORD, i + 1, i);
    write_bytes(in(s, "cifar-10-batches-bin/data_batch_1.bin"), b, 2 * RECORD);
    write_bytes(in(s, "cifar-10-batches-bin/data_batch_3.bin"), b + 2 * RECORD, RECORD);
    write_bytes(in(s, "cifar-10-batches-bin/test_batch.bin"), b, RECORD);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 3);
    assert_string_equal(d->classes[9], "truck");
    assert_int_equal(dataset_read(d, 2, p, &label), 0);
    assert_int_equal(label, 3);
    for (int i = 0; i < 1024; i++)
        for (int c = 0; c < 3; c++)
            assert_int_equal(p[3 * i + c], (uint8_t)((c * 1024 + i) * 7 + 2));
    dataset_close(d);
    o.train = false;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 1);
    dataset_close(d);
    write_bytes(in(s, "cifar-10-batches-bin/test_batch.bin"), b, RECORD - 1);
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    fill_record(b, 10, 0);
    write_bytes(in(s, "cifar-10-batches-bin/test_batch.bin"), b, RECORD);
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    assert_non_null(strstr(err.message, "label above 9"));
}

/* ---- folders of PNG and JPEG ---- */

static void write_png(const char *path, int32_t h, int32_t w, int32_t channels, uint8_t value)
{
    struct image8 im = {.height = h, .width = w, .channels = channels, .pixels = malloc((size_t)h * w * channels)};
    uint8_t *png;
    size_t bytes;
    memset(im.pixels, value, (size_t)h * w * channels);
    assert_int_equal(image_png_encode(&im, NULL, NULL, &png, &bytes), 0);
    write_bytes(path, png, bytes);
    free(png);
    free(im.pixels);
}

static void write_jpeg(const char *path, int32_t h, int32_t w, const uint8_t rgb[3])
{
    struct jpeg_compress_struct info;
    struct jpeg_error_mgr errors;
    FILE *f = fopen(path, "wb");
    uint8_t *row = malloc((size_t)w * 3);
    for (int32_t x = 0; x < w * 3; x++)
        row[x] = rgb[x % 3];
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    jpeg_stdio_dest(&info, f);
    info.image_height = (JDIMENSION)h;
    info.image_width = (JDIMENSION)w;
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, 95, TRUE);
    jpeg_start_compress(&info, TRUE);
    for (int32_t y = 0; y < h; y++)
        jpeg_write_scanlines(&info, &row, 1);
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    free(row);
    fclose(f);
}

static void make_classes(const struct scratch *s)
{
    static const uint8_t red[3] = {200, 40, 30};
    assert_int_equal(mkdir(in(s, "cat"), 0777), 0);
    assert_int_equal(mkdir(in(s, "ape"), 0777), 0);
    assert_int_equal(mkdir(in(s, ".hidden"), 0777), 0);
    write_png(in(s, "cat/b.png"), 16, 16, 3, 90);
    write_png(in(s, "cat/a.PNG"), 40, 24, 1, 60);
    write_jpeg(in(s, "ape/z.jpg"), 33, 17, red);
    write_png(in(s, ".hidden/x.png"), 16, 16, 3, 1);
    write_bytes(in(s, "ape/notes.txt"), "text", 4);
}

static void check_flat(const struct dataset *d, int64_t i, int32_t label, int r, int g, int b, int tolerance)
{
    uint8_t p[16 * 16 * 3];
    int32_t found;
    const int wanted[3] = {r, g, b};
    assert_int_equal(dataset_read(d, i, p, &found), 0);
    assert_int_equal(found, label);
    for (int k = 0; k < 16 * 16 * 3; k++)
        assert_in_range(p[k] - wanted[k % 3] + tolerance, 0, 2 * tolerance);
}

static void test_folder(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    make_classes(s);
    for (int cached = 0; cached < 2; cached++) {
        struct dataset_options o = options(s, DATASET_FOLDER, 16, 3);
        o.cache_bytes = cached ? 1 << 20 : 0;
        assert_int_equal(dataset_open(&o, &d, &err), 0);
        assert_int_equal(d->pixels != NULL, cached);
        assert_int_equal(d->n, 3);
        assert_int_equal(d->n_classes, 2);
        assert_string_equal(d->classes[0], "ape");
        check_flat(d, 0, 0, 200, 40, 30, 4);
        check_flat(d, 1, 1, 60, 60, 60, 0);
        check_flat(d, 2, 1, 90, 90, 90, 0);
        dataset_close(d);
    }
    struct dataset_options o = options(s, DATASET_FOLDER, 16, 1);
    uint8_t p[16 * 16];
    int32_t label;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(dataset_read(d, 0, p, &label), 0);
    assert_in_range(p[0], 87 - 4, 87 + 4); // luma of (200, 40, 30)
    dataset_close(d);
    o.n_suffixes = 1;
    strcpy(o.suffix[0], "jpg");
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 1);
    dataset_close(d);
}

static void test_folder_parts_and_flat(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_FOLDER, 16, 3);
    assert_int_equal(mkdir(in(s, "train"), 0777), 0);
    assert_int_equal(mkdir(in(s, "train/one"), 0777), 0);
    assert_int_equal(mkdir(in(s, "test"), 0777), 0);
    assert_int_equal(mkdir(in(s, "test/one"), 0777), 0);
    write_png(in(s, "train/one/a.png"), 16, 16, 3, 10);
    write_png(in(s, "test/one/a.png"), 16, 16, 3, 20);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    check_flat(d, 0, 0, 10, 10, 10, 0);
    dataset_close(d);
    o.train = false;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    check_flat(d, 0, 0, 20, 20, 20, 0);
    assert_string_equal(d->classes[0], "one");
    dataset_close(d);
    o.path = in(s, "train/one");
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 1);
    assert_int_equal(d->n_classes, 1);
    dataset_close(d);
}

/* Unreadable files are counted, named and left out; the indices close up. Without a cache the next one is taken. */
static void test_folder_damaged(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct stat st;
    make_classes(s);
    struct dataset_options o = options(s, DATASET_FOLDER, 16, 3);
    write_bytes(in(s, "ape/a.png"), "not an image", 12);
    write_bytes(in(s, "cat/empty.jpg"), "", 0);
    write_png(in(s, "ape/cut.png"), 64, 64, 3, 7);
    assert_int_equal(stat(in(s, "ape/cut.png"), &st), 0);
    assert_int_equal(truncate(in(s, "ape/cut.png"), st.st_size / 2), 0);
    write_jpeg(in(s, "ape/cut.jpg"), 64, 64, (const uint8_t[]){1, 2, 3});
    assert_int_equal(stat(in(s, "ape/cut.jpg"), &st), 0);
    assert_int_equal(truncate(in(s, "ape/cut.jpg"), st.st_size - 40), 0);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 3);
    assert_int_equal(d->n_skipped, 4);
    assert_non_null(strstr(s->warnings, "ape/a.png"));
    assert_non_null(strstr(s->warnings, "ape/cut.png"));
    assert_non_null(strstr(s->warnings, "ape/cut.jpg"));
    assert_non_null(strstr(s->warnings, "cat/empty.jpg"));
    check_flat(d, 0, 0, 200, 40, 30, 4);
    check_flat(d, 2, 1, 90, 90, 90, 0);
    dataset_close(d);
    o.cache_bytes = 0;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 7);
    for (int64_t i = 0; i < 4; i++)
        check_flat(d, i, 0, 200, 40, 30, 4); // a.png, cut.jpg, cut.png -> z.jpg
    dataset_close(d);
}

/* A PNG that claims 2^31 pixels on a side must not cost memory. */
static void test_folder_nothing_readable(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_FOLDER, 16, 3);
    assert_int_equal(dataset_open(&o, &d, &err), -ENOENT);
    static const uint8_t bomb[] = {0x89, 'P', 'N', 'G', 13,  10,   26,  10,   0,    0,    0,
                                   13,   'I', 'H', 'D', 'R', 0x7F, 255, 0xFF, 0xFF, 0x7F, 0xFF,
                                   0xFF, 255, 8,   2,   0,   0,    0,   0x1A, 0x2B, 0x3C, 0x4D};
    assert_int_equal(mkdir(in(s, "one"), 0777), 0);
    write_bytes(in(s, "one/bomb.png"), bomb, sizeof bomb);
    assert_int_equal(dataset_open(&o, &d, &err), -ENOENT);
    assert_non_null(strstr(err.message, "none of the 1 files"));
    o.cache_bytes = 0;
    uint8_t p[16 * 16 * 3];
    int32_t label;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(dataset_read(d, 0, p, &label), -EIO);
    dataset_close(d);
}

/* ---- splits and batches ---- */

static void test_split(void **state)
{
    (void)state;
    int64_t *train, *held_out;
    bool seen[100] = {false};
    assert_int_equal(dataset_split(100, 100, 1, &train, &held_out), -EINVAL);
    assert_int_equal(dataset_split(100, 7, 1, &train, &held_out), 0);
    for (int i = 0; i < 93; i++) {
        assert_true(i == 0 || train[i] > train[i - 1]);
        seen[train[i]] = true;
    }
    for (int i = 0; i < 7; i++) {
        assert_false(seen[held_out[i]]);
        seen[held_out[i]] = true;
    }
    for (int i = 0; i < 100; i++)
        assert_true(seen[i]);
    free(train);
    free(held_out);
}

enum { N_BATCHES = 11, BATCH = 5, PIXELS = 28 * 28 };

struct copy {
    int64_t epoch, number, index[BATCH];
    int32_t n, y[BATCH];
    float x[BATCH * PIXELS];
};

/* N_BATCHES batches from (epoch, number) on. */
static void collect_batches(const struct loader_options *o, int64_t epoch, int64_t number, struct copy *to)
{
    struct loader *l;
    struct error err = {0};
    assert_int_equal(loader_create(o, &l, &err), 0);
    loader_seek(l, epoch, number);
    for (int i = 0; i < N_BATCHES; i++) {
        const struct loader_batch *b;
        assert_int_equal(loader_next(l, &b), 0);
        memset(&to[i], 0, sizeof to[i]);
        to[i].epoch = b->epoch;
        to[i].number = b->number;
        to[i].n = b->n;
        memcpy(to[i].index, b->index, (size_t)b->n * sizeof *b->index);
        memcpy(to[i].y, b->y, (size_t)b->n * sizeof *b->y);
        memcpy(to[i].x, b->x, (size_t)b->n * PIXELS * sizeof *b->x);
        loader_release(l);
    }
    loader_free(l);
}

static void test_loader(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_MNIST, 28, 1);
    static struct copy first[N_BATCHES], other[N_BATCHES];
    static const int64_t indices[N_DIGITS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    static const int32_t workers[] = {0, 1, 4};
    write_digits(s, "train", false);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    struct loader_options lo = {.dataset = d,
                                .indices = indices,
                                .n = N_DIGITS,
                                .batch_size = BATCH,
                                .shuffle = true,
                                .flip = 0.5f,
                                .seed = 42,
                                .prefetch = 3};
    collect_batches(&lo, 0, 0, first);
    for (size_t i = 1; i < 3; i++) {
        lo.num_workers = workers[i];
        collect_batches(&lo, 0, 0, other);
        assert_memory_equal(first, other, sizeof first);
    }
    /* 12 images are batches of 5, 5 and 2; batch 4 is epoch 1, number 1. */
    assert_int_equal(first[2].n, 2);
    assert_int_equal(first[4].epoch, 1);
    assert_int_equal(first[4].number, 1);
    collect_batches(&lo, 1, 1, other);
    assert_memory_equal(first + 4, other, (N_BATCHES - 4) * sizeof *first);
    dataset_close(d);
}

/* Every image once an epoch, another order in each; flipped or as it is, about half of them. */
static void test_loader_epoch(void **state)
{
    struct scratch *s = *state;
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(s, DATASET_MNIST, 28, 1);
    static struct copy b[N_BATCHES];
    static const int64_t indices[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11};
    write_digits(s, "train", false);
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    struct loader_options lo = {.dataset = d,
                                .indices = indices,
                                .n = 10,
                                .batch_size = BATCH,
                                .shuffle = true,
                                .drop_last = true,
                                .flip = 0.5f,
                                .seed = 7,
                                .num_workers = 2,
                                .prefetch = 2};
    collect_batches(&lo, 0, 0, b);
    int flipped = 0, same_place = 0, seen[N_DIGITS] = {0};
    for (int k = 0; k < 10; k++)
        for (int i = 0; i < BATCH; i++) {
            int64_t image = b[k].index[i];
            const float *x = b[k].x + i * PIXELS;
            bool flip = x[0] != (float)digit_pixel((int)image, 0, 0) / 127.5f - 1.0f;
            assert_true(x[1] == (float)digit_pixel((int)image, 0, flip ? 26 : 1) / 127.5f - 1.0f);
            seen[image]++;
            flipped += flip;
            same_place += k >= 2 && b[k].index[i] == b[k - 2].index[i];
        }
    for (int i = 0; i < 10; i++)
        assert_int_equal(seen[indices[i]], 5);
    assert_in_range(flipped, 13, 37); // 25 +- 3.4 standard deviations; fixed by the seed
    assert_in_range(same_place, 0, 15);
    struct loader *l;
    lo.batch_size = 11;
    assert_int_equal(loader_create(&lo, &l, &err), -EINVAL);
    assert_string_equal(err.field, "dataset.batch_size");
    dataset_close(d);
}

/* The real files, where there are some. */
static void test_real_mnist(void **state)
{
    struct scratch *s = *state;
    const char *data = getenv("DDIMD_DATA");
    if (!data) {
        print_message("DDIMD_DATA is not set: real MNIST not tested\n");
        skip();
    }
    struct dataset_options o = options(s, DATASET_MNIST, 32, 1);
    struct error err = {0};
    struct dataset *d;
    o.path = data;
    o.train = false;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 10000);
    int32_t per_class[10] = {0};
    for (int64_t i = 0; i < d->n; i++)
        per_class[d->labels[i]]++;
    assert_int_equal(per_class[0], 980);
    assert_int_equal(per_class[1], 1135);
    assert_int_equal(per_class[9], 1009);
    assert_int_equal(d->labels[0], 7);
    dataset_close(d);
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_FOLDER(test_mnist),
        WITH_FOLDER(test_mnist_fit),
        WITH_FOLDER(test_mnist_hostile),
        WITH_FOLDER(test_mnist_damaged_gzip),
        WITH_FOLDER(test_cifar10),
        WITH_FOLDER(test_folder),
        WITH_FOLDER(test_folder_parts_and_flat),
        WITH_FOLDER(test_folder_damaged),
        WITH_FOLDER(test_folder_nothing_readable),
        cmocka_unit_test(test_split),
        WITH_FOLDER(test_loader),
        WITH_FOLDER(test_loader_epoch),
        WITH_FOLDER(test_real_mnist),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
