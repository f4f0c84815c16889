/* dataset_download.c: where the known data sets are, and which files make them up. */
#include "model/dataset_readers.h"
#include "model/download.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { URL_BYTES = 1024 };

struct source {
    enum dataset_kind kind;
    bool train, test; // parts that need it
    const char *host, *name, *sha256;
    int64_t bytes;
};

#define TORONTO "https://www.cs.toronto.edu/~kriz/"
#define MNIST "https://storage.googleapis.com/cvdf-datasets/mnist/"
static const struct source sources[] = {
    {DATASET_CIFAR10, true, true, TORONTO, DATASET_CIFAR10_ARCHIVE,
     "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170052171},
    {DATASET_MNIST, true, false, MNIST, "train-images-idx3-ubyte.gz",
     "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609", 9912422},
    {DATASET_MNIST, true, false, MNIST, "train-labels-idx1-ubyte.gz",
     "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c", 28881},
    {DATASET_MNIST, false, true, MNIST, "t10k-images-idx3-ubyte.gz",
     "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6", 1648877},
    {DATASET_MNIST, false, true, MNIST, "t10k-labels-idx1-ubyte.gz",
     "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6", 4542},
};

int64_t dataset_published_images(enum dataset_kind kind, bool train)
{
    return kind == DATASET_CIFAR10 ? (train ? 50000 : 10000) : kind == DATASET_MNIST ? (train ? 60000 : 10000) : 0;
}

/* Makes the folder where it is missing; its parent is there. */
static int open_folder(const struct dataset_options *o, int *ret_fd, struct error *err)
{
    char parent[URL_BYTES], name[URL_BYTES];
    struct error ignored = {0};
    struct dataset_options above = *o;
    int fd, r = dataset_open_path(o, O_RDONLY | O_DIRECTORY, ret_fd, &ignored);
    if (r != -ENOENT) {
        if (r < 0 && err)
            *err = ignored;
        return r;
    }
    snprintf(parent, sizeof parent, "%s", o->path);
    snprintf(name, sizeof name, "%s", o->path);
    above.path = dirname(parent);
    r = dataset_open_path(&above, O_RDONLY | O_DIRECTORY, &fd, err);
    if (r < 0)
        return r;
    r = mkdirat(fd, basename(name), 0777) < 0 && errno != EEXIST ? -errno : 0;
    close(fd);
    if (r < 0)
        return error_set(err, r, "dataset.path", "%s cannot be made: %s", o->path, strerror(-r));
    return dataset_open_path(o, O_RDONLY | O_DIRECTORY, ret_fd, err);
}

/* Whether the part is there already, unpacked. */
static bool is_unpacked(const struct dataset_options *o, const struct source *s, int dir_fd)
{
    char name[64];
    const char *first = o->train ? "data_batch_1.bin" : "test_batch.bin";
    if (s->kind == DATASET_MNIST) {
        snprintf(name, sizeof name, "%.*s", (int)(strlen(s->name) - strlen(".gz")), s->name);
        return faccessat(dir_fd, name, F_OK, 0) == 0;
    }
    snprintf(name, sizeof name, DATASET_CIFAR10_FOLDER "/%s", first);
    return faccessat(dir_fd, name, F_OK, 0) == 0 || faccessat(dir_fd, first, F_OK, 0) == 0;
}

static int fetch(const struct dataset_options *o, const struct source *s, int dir_fd, struct error *err)
{
    char url[URL_BYTES];
    const char *host = o->mirror ? o->mirror : s->host;
    if (snprintf(url, sizeof url, "%s%s%s", host, host[strlen(host) - 1] == '/' ? "" : "/", s->name) >= (int)sizeof url)
        return error_set(err, -EINVAL, "dataset.download", "the mirror's address is too long");
    const struct download d = {.url = url,
                               .sha256 = s->sha256,
                               .max_bytes = s->bytes,
                               .stop = o->stop,
                               .note = o->warn,
                               .context = o->context};
    int r = download_file(&d, dir_fd, s->name, err);
    if (r < 0 && err)
        snprintf(err->field, sizeof err->field, "dataset.download");
    return r;
}

int dataset_download(const struct dataset_options *o, struct error *err)
{
    bool known = false;
    int dir_fd, r = 0;
    for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++)
        known = known || sources[i].kind == o->kind;
    if (!known)
        return error_set(err, -EINVAL, "dataset.download", "only cifar10 and mnist can be fetched");
    if ((r = open_folder(o, &dir_fd, err)) < 0)
        return r;
    for (size_t i = 0; r == 0 && i < sizeof sources / sizeof sources[0]; i++) {
        const struct source *s = &sources[i];
        if (s->kind == o->kind && (o->train ? s->train : s->test) && !is_unpacked(o, s, dir_fd))
            r = fetch(o, s, dir_fd, err);
    }
    close(dir_fd);
    return r;
}
