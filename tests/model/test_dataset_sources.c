/* test_dataset_sources.c: where images come from: archives (the same images as the folder that was packed), a root that
 * nothing leads out of, and files fetched from a server, which runs here in a thread.
 */
#include "model/dataset.h"
#include "model/download.h"
#include "model/file.h"
#include "model/image.h"
#include "tests/training/scratch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>
#include <cmocka.h>

enum { RECORD = 3073, SIDE = 8 };

static int set_up(void **state)
{
    *state = scratch_make();
    return 0;
}

static int tear_down(void **state)
{
    scratch_remove(*state);
    return 0;
}

static const char *in(const char *folder, const char *name)
{
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static void write_file(const char *folder, const char *name, const void *bytes, size_t n)
{
    assert_int_equal(file_write(AT_FDCWD, in(folder, name), bytes, n, NULL), 0);
}

/* ---- archives ---- */

struct entry {
    const char *name;
    const uint8_t *bytes;
    size_t n;
};

static void pack(const char *path, bool zip, const struct entry *entries, size_t n)
{
    struct archive *a = archive_write_new();
    if (zip) {
        archive_write_set_format_zip(a);
    } else {
        archive_write_add_filter_xz(a);
        archive_write_set_format_pax_restricted(a);
    }
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *e = archive_entry_new();
        archive_entry_set_pathname(e, entries[i].name);
        archive_entry_set_size(e, (int64_t)entries[i].n);
        archive_entry_set_filetype(e, entries[i].bytes ? AE_IFREG : AE_IFDIR);
        archive_entry_set_perm(e, 0755);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        if (entries[i].bytes)
            assert_int_equal(archive_write_data(a, entries[i].bytes, entries[i].n), entries[i].n);
        archive_entry_free(e);
    }
    archive_write_free(a);
}

static struct dataset_options options(enum dataset_kind kind, const char *path, int32_t side)
{
    return (struct dataset_options){.kind = kind,
                                    .path = path,
                                    .train = true,
                                    .height = side,
                                    .width = side,
                                    .channels = 3,
                                    .cache_bytes = 1 << 20,
                                    .n_threads = 2};
}

// A picture of one colour.
static struct entry picture(const char *name, uint8_t value, uint8_t **ret_owned)
{
    uint8_t pixels[SIDE * SIDE * 3];
    struct image8 im = {.height = SIDE, .width = SIDE, .channels = 3, .pixels = pixels};
    struct entry e = {.name = name};
    memset(pixels, value, sizeof pixels);
    assert_int_equal(image_png_encode(&im, NULL, NULL, ret_owned, &e.n), 0);
    e.bytes = *ret_owned;
    return e;
}

static void unpack_into(const char *folder, const struct entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entries[i].name);
        for (char *slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')); slash++) {
            *slash = 0;
            mkdir(path, 0755);
            *slash = '/';
        }
        if (entries[i].bytes)
            assert_int_equal(file_write(AT_FDCWD, path, entries[i].bytes, entries[i].n, NULL), 0);
    }
}

static void assert_same_set(const struct dataset *a, const struct dataset *b)
{
    uint8_t p[SIDE * SIDE * 3], q[SIDE * SIDE * 3];
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->n_classes, b->n_classes);
    assert_int_equal(a->n_skipped, b->n_skipped);
    for (int32_t i = 0; i < a->n_classes; i++)
        assert_string_equal(a->classes[i], b->classes[i]);
    for (int64_t i = 0; i < a->n; i++) {
        int32_t x, y;
        assert_int_equal(dataset_read(a, i, p, &x), 0);
        assert_int_equal(dataset_read(b, i, q, &y), 0);
        assert_int_equal(x, y);
        assert_memory_equal(p, q, sizeof p);
    }
}

/* The order within the archive is not the order of the set, "a-b" comes after "a", and both hold what is no image. */
static void an_archive_is_the_folder_that_was_packed(void **state)
{
    enum { N = 9 };
    uint8_t *owned[N] = {0};
    struct error err = {0};
    struct entry e[N] = {{"set/", NULL, 0},
                         picture("set/train/a-b/2.png", 30, &owned[1]),
                         picture("set/train/a/9.png", 20, &owned[2]),
                         picture("set/test/a/1.png", 90, &owned[3]),
                         {"set/train/a/broken.png", (const uint8_t *)"no picture", 10},
                         picture("set/train/a/1.PNG", 10, &owned[5]),
                         {"set/train/a/notes.txt", (const uint8_t *)"x", 1},
                         {"set/train/a/deeper/", NULL, 0},
                         picture("set/train/a/.hidden.png", 40, &owned[8])};
    unpack_into(*state, e, N);
    pack(in(*state, "set.tar.xz"), false, e, N);
    pack(in(*state, "set.zip"), true, e, N);
    for (int train = 0; train < 2; train++) {
        struct dataset *folder, *archive;
        struct dataset_options o = options(DATASET_FOLDER, in(*state, "set"), SIDE);
        o.train = train;
        assert_int_equal(dataset_open(&o, &folder, &err), 0);
        assert_int_equal(folder->n, train ? 3 : 1);
        assert_int_equal(folder->n_skipped, train);
        if (train) {
            assert_string_equal(folder->classes[0], "a");
            assert_string_equal(folder->classes[1], "a-b");
        }
        const char *const names[] = {"set.tar.xz", "set.zip"};
        for (int i = 0; i < 2; i++) {
            o.path = in(*state, names[i]);
            if (dataset_open(&o, &archive, &err) < 0)
                fail_msg("%s", err.message);
            assert_same_set(folder, archive);
            dataset_close(archive);
        }
        dataset_close(folder);
    }
    for (int i = 0; i < N; i++)
        free(owned[i]);
}

static void what_an_archive_cannot_be(void **state)
{
    uint8_t *owned;
    struct error err = {0};
    struct dataset *d;
    struct stat st;
    struct entry e = picture("one/a.png", 1, &owned);
    struct dataset_options o = options(DATASET_FOLDER, in(*state, "a.tar.xz"), SIDE);
    pack(o.path, false, &e, 1);
    o.cache_bytes = 10; // it does not fit
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    assert_string_equal(err.field, "dataset.cache_mib");
    o.look_only = true;
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 1);
    assert_int_equal(d->n_classes, 1);
    dataset_close(d);
    o.look_only = false;
    o.cache_bytes = 1 << 20;
    assert_int_equal(stat(o.path, &st), 0);
    assert_int_equal(truncate(o.path, st.st_size / 2), 0);
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    assert_string_equal(err.field, "dataset.path");
    write_file(*state, "a.tar.xz", "something else", 14);
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    pack(o.path, false, &(struct entry){"one/readme.txt", (const uint8_t *)"x", 1}, 1);
    assert_int_equal(dataset_open(&o, &d, &err), -ENOENT);
    free(owned);
}

/* The batches in the order of their numbers, not of the archive. */
static void cifar10_from_its_archive(void **state)
{
    static uint8_t records[3][2 * RECORD], p[32 * 32 * 3];
    struct error err = {0};
    struct dataset *d;
    int32_t label;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 2; k++) {
            memset(records[i] + k * RECORD, 10 * i + k, RECORD);
            records[i][k * RECORD] = (uint8_t)(2 * i + k);
        }
    const struct entry e[] = {{"cifar-10-batches-bin/data_batch_3.bin", records[1], 2 * RECORD},
                              {"cifar-10-batches-bin/readme.html", (const uint8_t *)"x", 1},
                              {"cifar-10-batches-bin/test_batch.bin", records[2], 2 * RECORD},
                              {"cifar-10-batches-bin/data_batch_1.bin", records[0], 2 * RECORD}};
    pack(in(*state, "cifar-10-binary.tar.gz"), false, e, 4);
    const char *const paths[] = {".", "cifar-10-binary.tar.gz"}; // the folder that holds it, and itself
    for (int i = 0; i < 2; i++) {
        struct dataset_options o = options(DATASET_CIFAR10, in(*state, paths[i]), 32);
        if (dataset_open(&o, &d, &err) < 0)
            fail_msg("%s", err.message);
        assert_int_equal(d->n, 4);
        for (int k = 0; k < 4; k++) {
            assert_int_equal(dataset_read(d, k, p, &label), 0);
            assert_int_equal(label, k);
            assert_int_equal(p[100], 10 * (k / 2) + k % 2);
        }
        dataset_close(d);
        o.train = false;
        assert_int_equal(dataset_open(&o, &d, &err), 0);
        assert_int_equal(d->labels[0], 4);
        dataset_close(d);
    }
}

static void nothing_leads_out_of_the_root(void **state)
{
    uint8_t *owned;
    struct error err = {0};
    struct dataset *d;
    struct entry e[] = {picture("out/one/a.png", 1, &owned), {0}};
    e[1] = e[0];
    e[1].name = "root/set/one/a.png";
    unpack_into(*state, e, 2);
    assert_int_equal(symlink("../../../out/one/a.png", in(*state, "root/set/one/b.png")), 0);
    assert_int_equal(symlink("../../out/one", in(*state, "root/set/two")), 0);
    assert_int_equal(symlink("../out", in(*state, "root/away")), 0);
    struct dataset_options o = options(DATASET_FOLDER, "set", SIDE);
    o.root = in(*state, "root");
    assert_int_equal(dataset_open(&o, &d, &err), 0);
    assert_int_equal(d->n, 1); // the linked file is unreadable, the linked folder empty
    assert_int_equal(d->n_skipped, 1);
    dataset_close(d);
    const char *const out[] = {"../out", "/", "away", "set/../../out"};
    for (size_t i = 0; i < sizeof out / sizeof out[0]; i++) {
        o.path = out[i];
        assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
        assert_non_null(strstr(err.message, "leads out"));
    }
    free(owned);
}

/* ---- a server ---- */

enum { BODY = 300000 };

struct server {
    int fd;
    uint16_t port;
    pthread_t thread;
    bool knows_ranges;
    int cut_after[8]; // bytes of the n-th answer's body before the connection ends; 0: all, -k: status k
    _Atomic int answers;
    _Atomic long first[8]; // where each answer began
    uint8_t body[BODY];
};

static void answer(struct server *s, int fd)
{
    char request[4096], head[256];
    long first = 0;
    size_t n = 0;
    while (n < sizeof request - 1) {
        ssize_t got = recv(fd, request + n, sizeof request - 1 - n, 0);
        if (got <= 0)
            return;
        request[n += (size_t)got] = 0;
        if (strstr(request, "\r\n\r\n"))
            break;
    }
    const char *range = strstr(request, "Range: bytes=");
    if (range && s->knows_ranges)
        first = atol(range + strlen("Range: bytes="));
    int turn = atomic_fetch_add(&s->answers, 1) % 8, cut = s->cut_after[turn];
    atomic_store(&s->first[turn], first);
    const char *status = cut < 0 ? "500 no" : first ? "206 part" : "200 all";
    if (cut == -404)
        status = "404 none";
    int length =
        snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %ld\r\n", status, cut < 0 ? 0 : BODY - first);
    if (first)
        length += snprintf(head + length, sizeof head - (size_t)length, "Content-Range: bytes %ld-%d/%d\r\n", first,
                           BODY - 1, BODY);
    length += snprintf(head + length, sizeof head - (size_t)length, "Connection: close\r\n\r\n");
    send(fd, head, (size_t)length, MSG_NOSIGNAL);
    for (long at = first, end = cut > 0 ? first + cut : BODY; cut >= 0 && at < end;) {
        ssize_t sent = send(fd, s->body + at, (size_t)(end - at), MSG_NOSIGNAL);
        if (sent <= 0)
            break;
        at += sent;
    }
}

static void *serve(void *context)
{
    struct server *s = context;
    for (int fd; (fd = accept(s->fd, NULL, NULL)) >= 0; close(fd))
        answer(s, fd);
    return NULL;
}

static struct server *server_start(bool knows_ranges)
{
    struct server *s = calloc(1, sizeof *s);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof address;
    for (int i = 0; i < BODY; i++)
        s->body[i] = (uint8_t)(i * 31 + i / 251);
    s->knows_ranges = knows_ranges;
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(s->fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(s->fd, 8), 0);
    assert_int_equal(getsockname(s->fd, (struct sockaddr *)&address, &n), 0);
    s->port = ntohs(address.sin_port);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    return s;
}

static void server_stop(struct server *s)
{
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    free(s);
}

static int fetch(struct server *s, const char *folder, const char *sha256, struct error *err)
{
    char url[64], digest[FILE_SHA256_CHARS + 1];
    sha256_hex(s->body, BODY, digest);
    snprintf(url, sizeof url, "http://127.0.0.1:%d/file", s->port);
    const struct download d = {.url = url, .sha256 = sha256 ? sha256 : digest, .attempts = 3, .pause_ms = 1};
    int fd = open(folder, O_RDONLY | O_DIRECTORY);
    memset(err, 0, sizeof *err);
    int r = download_file(&d, fd, "file", err);
    close(fd);
    return r;
}

static void assert_arrived(const struct server *s, const char *folder)
{
    char *bytes;
    size_t n;
    assert_int_equal(file_read(AT_FDCWD, in(folder, "file"), 1 << 20, &bytes, &n, NULL), 0);
    assert_int_equal(n, BODY);
    assert_memory_equal(bytes, s->body, n);
    free(bytes);
    assert_int_equal(access(in(folder, "file.part"), F_OK), -1);
}

static void a_download_goes_on_where_it_broke(void **state)
{
    struct error err;
    struct server *s = server_start(true);
    write_file(*state, "file.part", s->body, 1000); // of an earlier call
    s->cut_after[0] = 70000;
    if (fetch(s, *state, NULL, &err) < 0)
        fail_msg("%s", err.message);
    assert_arrived(s, *state);
    assert_int_equal(s->answers, 2);
    assert_int_equal(s->first[0], 1000);
    assert_int_equal(s->first[1], 71000);
    assert_int_equal(fetch(s, *state, NULL, &err), 0);
    assert_int_equal(s->answers, 2); // it is there already
    server_stop(s);
}

static void a_server_without_ranges_is_asked_from_the_beginning(void **state)
{
    struct error err;
    struct server *s = server_start(false);
    write_file(*state, "file.part", s->body, 1000);
    if (fetch(s, *state, NULL, &err) < 0)
        fail_msg("%s", err.message);
    assert_arrived(s, *state);
    server_stop(s);
}

static void another_file_is_not_kept(void **state)
{
    struct error err;
    struct server *s = server_start(true);
    char zeros[FILE_SHA256_CHARS + 1];
    memset(zeros, '0', FILE_SHA256_CHARS);
    zeros[FILE_SHA256_CHARS] = 0;
    assert_int_equal(fetch(s, *state, zeros, &err), -EINVAL);
    assert_non_null(strstr(err.message, "SHA-256"));
    assert_int_equal(access(in(*state, "file"), F_OK), -1);
    assert_int_equal(access(in(*state, "file.part"), F_OK), -1);
    server_stop(s);
}

static void failures_of_a_server(void **state)
{
    struct error err;
    struct server *s = server_start(true);
    s->cut_after[0] = -404;
    assert_int_equal(fetch(s, *state, NULL, &err), -ENOENT);
    assert_int_equal(s->answers, 1); // no use to try again
    s->cut_after[1] = s->cut_after[2] = s->cut_after[3] = -500;
    assert_int_equal(fetch(s, *state, NULL, &err), -EIO);
    assert_int_equal(s->answers, 4);
    s->cut_after[4] = -500;
    assert_int_equal(fetch(s, *state, NULL, &err), 0);
    assert_arrived(s, *state);
    server_stop(s);
}

static void what_cannot_be_fetched(void **state)
{
    struct error err = {0};
    struct dataset *d;
    struct dataset_options o = options(DATASET_MNIST, "digits", 32);
    o.root = *state;
    o.download = true;
    o.mirror = "file:///etc/";
    assert_int_equal(dataset_open(&o, &d, &err), -EIO); // only http and https
    assert_string_equal(err.field, "dataset.download");
    o.kind = DATASET_FOLDER;
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    o.kind = DATASET_MNIST;
    o.path = "../digits";
    assert_int_equal(dataset_open(&o, &d, &err), -EINVAL);
    assert_non_null(strstr(err.message, "leads out"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(an_archive_is_the_folder_that_was_packed),
        TEST(what_an_archive_cannot_be),
        TEST(cifar10_from_its_archive),
        TEST(nothing_leads_out_of_the_root),
        TEST(a_download_goes_on_where_it_broke),
        TEST(a_server_without_ranges_is_asked_from_the_beginning),
        TEST(another_file_is_not_kept),
        TEST(failures_of_a_server),
        TEST(what_cannot_be_fetched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
