/* dataset_cifar10.c: CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html): data_batch_1.bin .. and
 * test_batch.bin, records of one label byte and 3 planes of 32 x 32. They lie in the folder itself, in its
 * cifar-10-batches-bin, in its cifar-10-binary.tar.gz, or the path is such an archive.
 */
#include "model/dataset_readers.h"
#include "model/file.h"
#include "model/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, RECORD = 1 + 3 * PLANE, N_CLASSES = 10, MAX_BATCHES = 5 };
enum { MAX_BATCH_BYTES = 64 << 20 };

static const char *const class_names[N_CLASSES] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                                   "dog",      "frog",       "horse", "ship", "truck"};

/* The files of the wanted part, in order. */
struct batches {
    char name[MAX_BATCHES][32];
    uint8_t *bytes[MAX_BATCHES]; // NULL: not there
    size_t n[MAX_BATCHES];
    int count;
};

static void batches_init(struct batches *b, bool train)
{
    *b = (struct batches){.count = train ? MAX_BATCHES : 1};
    for (int i = 0; i < b->count; i++) {
        if (train)
            snprintf(b->name[i], sizeof b->name[i], "data_batch_%d.bin", i + 1);
        else
            strcpy(b->name[i], "test_batch.bin");
    }
}

static void batches_done(struct batches *b)
{
    for (int i = 0; i < b->count; i++)
        free(b->bytes[i]);
}

static int parse(const struct batches *b, int i, struct dataset *d, int64_t *capacity, struct error *err)
{
    uint8_t rgb[3 * PLANE];
    if (b->n[i] == 0 || b->n[i] % RECORD)
        return error_set(err, -EINVAL, "dataset.path", "%s is not a whole number of %d-byte images", b->name[i],
                         RECORD);
    for (size_t at = 0; at < b->n[i]; at += RECORD) {
        const uint8_t *record = b->bytes[i] + at;
        if (record[0] >= N_CLASSES)
            return error_set(err, -EINVAL, "dataset.path", "%s has a label above 9: not CIFAR-10's binary version",
                             b->name[i]);
        for (int p = 0; p < PLANE; p++)
            for (int c = 0; c < 3; c++)
                rgb[3 * p + c] = record[1 + c * PLANE + p];
        if (dataset_append(d, capacity, rgb, SIDE, SIDE, 3, record[0]) < 0)
            return error_set(err, -ENOMEM, NULL, "out of memory");
    }
    return 0;
}

/* Those that lie in the folder. */
static int read_folder(int dir_fd, struct batches *b, struct error *err)
{
    for (int i = 0; i < b->count; i++) {
        char *bytes;
        int r = file_read(dir_fd, b->name[i], MAX_BATCH_BYTES, &bytes, &b->n[i], err);
        if (r < 0 && r != -ENOENT)
            return r;
        b->bytes[i] = r == 0 ? (uint8_t *)bytes : NULL;
    }
    return 0;
}

/* Those that lie in the archive, whatever its folders. */
static int read_archive(int fd, const char *path, struct batches *b, struct error *err)
{
    struct unpacker *u;
    const char *name;
    int r = unpack_open(fd, path, &u, err);
    if (r < 0)
        return r;
    while ((r = unpack_next(u, &name, err)) > 0) {
        const char *slash = strrchr(name, '/');
        for (int i = 0; r > 0 && i < b->count; i++)
            if (!b->bytes[i] && strcmp(slash ? slash + 1 : name, b->name[i]) == 0 &&
                (r = unpack_read(u, MAX_BATCH_BYTES, &b->bytes[i], &b->n[i], err)) == 0)
                break;
        if (r < 0)
            break;
    }
    unpack_close(u);
    return r;
}

static bool is_empty(const struct batches *b)
{
    for (int i = 0; i < b->count; i++)
        if (b->bytes[i])
            return false;
    return true;
}

static int read_any(int fd, const char *path, struct batches *b, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return read_archive(fd, path, b, err);
    int inner = openat(fd, DATASET_CIFAR10_FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = read_folder(inner >= 0 ? inner : fd, b, err);
    if (inner >= 0)
        close(inner);
    if (r < 0 || !is_empty(b))
        return r;
    int archive = openat(fd, DATASET_CIFAR10_ARCHIVE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (archive < 0)
        return 0;
    r = read_archive(archive, DATASET_CIFAR10_ARCHIVE, b, err);
    close(archive);
    return r;
}

int dataset_cifar10_open(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    struct batches b;
    int64_t capacity = 0;
    int fd, r = dataset_open_path(o, O_RDONLY, &fd, err);
    if (r < 0)
        return r;
    batches_init(&b, o->train);
    r = read_any(fd, o->path, &b, err);
    close(fd);
    if (r == 0 && is_empty(&b))
        r = error_set(err, -ENOENT, "dataset.path", "%s holds no %s (CIFAR-10's binary version)", o->path,
                      o->train ? "data_batch_*.bin" : "test_batch.bin");
    for (int i = 0; r == 0 && i < b.count; i++)
        r = b.bytes[i] ? parse(&b, i, d, &capacity, err) : 0;
    batches_done(&b);
    if (r == 0 && (r = dataset_name_classes(d, N_CLASSES, class_names)) < 0)
        error_set(err, r, NULL, "out of memory");
    if (r < 0 && r != -ENOMEM && err)
        snprintf(err->field, sizeof err->field, "dataset.path");
    return r;
}
