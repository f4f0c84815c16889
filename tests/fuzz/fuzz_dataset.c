/* fuzz_dataset.c: the files of a data set: IDX (MNIST), CIFAR-10's binary batches, a folder's picture. The first byte
 * says which; of IDX, two bytes say how long the images' file is, the labels' follows.
 *
 * What is opened is read: every image, whose label is one of its classes.
 */
#include "tests/fuzz/fuzz.h"

#include "model/dataset.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64], inner[80];

static void folder_remove(void)
{
    static const char *const names[] = {"t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", "test_batch.bin",
                                        "a/x.png"};
    char path[128];
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(inner);
    rmdir(folder);
}

static void put(const char *name, const uint8_t *bytes, size_t n)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
        abort();
    close(fd);
}

static void read_all(enum dataset_kind kind)
{
    struct dataset_options o = {
        .kind = kind, .path = folder, .height = 8, .width = 8, .channels = 1, .cache_bytes = 1 << 20, .n_threads = 1};
    struct dataset *d;
    struct error err = {0};
    uint8_t pixels[64];
    int32_t label = -1;
    int rc = dataset_open(&o, &d, &err);
    if (rc) {
        if (err.code != rc || !err.message[0])
            abort();
        return;
    }
    for (int64_t i = 0; i < d->n && i < 64; i++)
        if (dataset_read(d, i, pixels, &label) == 0 && (label < 0 || label >= d->n_classes))
            abort();
    dataset_close(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (!folder[0]) {
        snprintf(folder, sizeof(folder), "%s/fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
        if (!mkdtemp(folder))
            abort();
        snprintf(inner, sizeof(inner), "%s/a", folder);
        mkdir(inner, 0700);
        atexit(folder_remove);
    }
    if (n < 3)
        return 0;
    size_t first = (size_t)bytes[1] << 8 | bytes[2], rest = n - 3;
    first = first < rest ? first : rest;
    switch (bytes[0] % 3) {
    case 0:
        put("t10k-images-idx3-ubyte", bytes + 3, first);
        put("t10k-labels-idx1-ubyte", bytes + 3 + first, rest - first);
        read_all(DATASET_MNIST);
        break;
    case 1:
        put("test_batch.bin", bytes + 3, rest);
        read_all(DATASET_CIFAR10);
        break;
    default:
        put("a/x.png", bytes + 3, rest);
        read_all(DATASET_FOLDER);
        break;
    }
    return 0;
}
