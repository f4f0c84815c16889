/* dataset_cifar10.c: CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html): data_batch_1.bin .. and
 * test_batch.bin, records of one label byte and 3 planes of 32 x 32. The folder may be the one that holds
 * cifar-10-batches-bin.
 */
#include "model/dataset_readers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SIDE = 32, PLANE = SIDE * SIDE, RECORD = 1 + 3 * PLANE, N_CLASSES = 10, MAX_BATCHES = 5 };

static const char *const class_names[N_CLASSES] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                                   "dog",      "frog",       "horse", "ship", "truck"};

static int read_record(FILE *file, const char *name, struct dataset *d, int64_t *capacity, struct error *err)
{
    uint8_t record[RECORD], rgb[3 * PLANE];
    if (fread(record, 1, RECORD, file) != RECORD)
        return error_set(err, -EINVAL, "dataset.path", "%s ends within an image", name);
    if (record[0] >= N_CLASSES)
        return error_set(err, -EINVAL, "dataset.path", "%s has a label above 9: not CIFAR-10's binary version", name);
    for (int i = 0; i < PLANE; i++)
        for (int c = 0; c < 3; c++)
            rgb[3 * i + c] = record[1 + c * PLANE + i];
    int r = dataset_append(d, capacity, rgb, SIDE, SIDE, 3, record[0]);
    return r < 0 ? error_set(err, r, NULL, "out of memory") : 0;
}

/* 1: read, 0: no such file. */
static int read_batch(int dir_fd, const char *name, struct dataset *d, int64_t *capacity, struct error *err)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : error_set(err, -errno, "dataset.path", "%s: %s", name, strerror(errno));
    FILE *file = fdopen(fd, "rb");
    if (!file) {
        close(fd);
        return error_set(err, -ENOMEM, NULL, "out of memory");
    }
    struct stat st;
    int r = 0;
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0 || st.st_size % RECORD)
        r = error_set(err, -EINVAL, "dataset.path", "%s is not a whole number of %d-byte images", name, RECORD);
    for (off_t i = 0; r == 0 && i < st.st_size / RECORD; i++)
        r = read_record(file, name, d, capacity, err);
    fclose(file);
    return r < 0 ? r : 1;
}

static int read_all(int dir_fd, const struct dataset_options *o, struct dataset *d, struct error *err)
{
    int64_t capacity = 0;
    int found = 0;
    for (int i = 1; o->train && i <= MAX_BATCHES; i++) {
        char name[32];
        snprintf(name, sizeof name, "data_batch_%d.bin", i);
        int r = read_batch(dir_fd, name, d, &capacity, err);
        if (r < 0)
            return r;
        found += r;
    }
    if (!o->train) {
        int r = read_batch(dir_fd, "test_batch.bin", d, &capacity, err);
        if (r < 0)
            return r;
        found += r;
    }
    if (!found)
        return error_set(err, -ENOENT, "dataset.path", "%s holds no %s (CIFAR-10's binary version, unpacked)", o->path,
                         o->train ? "data_batch_*.bin" : "test_batch.bin");
    return 0;
}

int dataset_cifar10_open(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    int dir_fd = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_set(err, -errno, "dataset.path", "%s: %s", o->path, strerror(errno));
    int inner = openat(dir_fd, "cifar-10-batches-bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (inner >= 0) {
        close(dir_fd);
        dir_fd = inner;
    }
    int r = read_all(dir_fd, o, d, err);
    close(dir_fd);
    if (r == 0 && (r = dataset_name_classes(d, N_CLASSES, class_names)) < 0)
        error_set(err, r, NULL, "out of memory");
    return r;
}
