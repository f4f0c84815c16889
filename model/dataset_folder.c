/* dataset_folder.c: PNG and JPEG files, one sub-folder per class, in a folder or in an archive.
 *
 * Classes are the sub-folders in byte order of their names, images likewise, so that an index means the same image on
 * every machine. A folder that holds only `train` and `test` (or `val`) of such folders is entered by dataset.train;
 * one with images and no sub-folders is a set of one class. What all fits into the cache is decoded while opening, in
 * parallel; an archive is read in two passes, one for the names and one that decodes.
 */
#include "model/dataset_readers.h"
#include "model/unpack.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WARNINGS_SHOWN = 20, MAX_THREADS = 64, MAX_DEPTH = 3 }; // part/class/file

/* ---- which files there are ---- */

// Adds one name of the folder `path` ("" or "a/").
static int add_entry(const struct dataset_options *o, DIR *dir, const char *path, const char *name, struct paths *all)
{
    struct stat st;
    char *full;
    if (name[0] == '.' || fstatat(dirfd(dir), name, &st, 0) < 0)
        return 0;
    bool folder = S_ISDIR(st.st_mode);
    if (!folder && (!S_ISREG(st.st_mode) || !paths_wanted(o, name)))
        return 0;
    if (asprintf(&full, "%s%s%s", path, name, folder ? "/" : "") < 0)
        return -ENOMEM;
    return paths_add(all, full);
}

// Adds what lies in the folder, and beneath it down to `depth` levels. A folder that leads out of the root is left out.
static int walk(const struct dataset_options *o, const struct dataset *d, const char *path, int depth,
                struct paths *all)
{
    size_t first = all->n;
    int fd = dataset_openat(d, *path ? path : ".", O_RDONLY | O_DIRECTORY);
    if (fd < 0)
        return fd == -EXDEV ? 0 : fd;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    int r = 0;
    for (struct dirent *e; r == 0 && (e = readdir(dir));)
        r = add_entry(o, dir, path, e->d_name, all);
    closedir(dir);
    size_t last = all->n;
    for (size_t i = first; r == 0 && depth > 1 && i < last; i++)
        if (all->v[i][strlen(all->v[i]) - 1] == '/')
            r = walk(o, d, all->v[i], depth - 1, all);
    return r;
}

static int scan(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    struct paths all = {0};
    int r = walk(o, d, "", MAX_DEPTH, &all);
    r = r < 0 ? error_set(err, r, "dataset.path", "%s: %s", o->path, strerror(-r))
              : dataset_arrange(o, &all, false, d, err);
    paths_done(&all);
    return r;
}

/* ---- decoding everything once ---- */

struct decoding {
    struct dataset *d;
    atomic_llong next;
    atomic_int failure; // negative errno that ends it
    int8_t *code;       // [n] 0, or an errno of a file left out
};

static void *decode_worker(void *context)
{
    struct decoding *job = context;
    struct dataset *d = job->d;
    size_t bytes = (size_t)d->height * d->width * d->channels;
    for (;;) {
        int64_t i = atomic_fetch_add(&job->next, 1);
        if (i >= d->n || atomic_load(&job->failure))
            return NULL;
        int r = dataset_image_load(d, d->files[i], d->pixels + (size_t)i * bytes);
        if (r == -ENOMEM)
            atomic_store(&job->failure, r);
        job->code[i] = (int8_t)-r;
    }
}

static int decode_all(const struct dataset_options *o, struct decoding *job)
{
    pthread_t threads[MAX_THREADS];
    int n = 0, wanted = o->n_threads < MAX_THREADS ? o->n_threads : MAX_THREADS;
    while (n < wanted - 1 && pthread_create(&threads[n], NULL, decode_worker, job) == 0)
        n++;
    decode_worker(job);
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    return atomic_load(&job->failure);
}

static void report_unreadable(const struct dataset_options *o, const struct dataset *d, const char *file, int code)
{
    char message[512];
    if (!o->warn || d->n_skipped > WARNINGS_SHOWN)
        return;
    if (d->n_skipped == WARNINGS_SHOWN)
        snprintf(message, sizeof message, "more unreadable images follow, not named");
    else
        snprintf(message, sizeof message, "%s: %s, left out", file,
                 code == EINVAL ? "damaged, or neither PNG nor JPEG" : strerror(code));
    o->warn(o->context, message);
}

/* Closes the gaps that unreadable files left in labels and pixels. */
static void compact(const struct dataset_options *o, struct dataset *d, const int8_t *code)
{
    size_t bytes = (size_t)d->height * d->width * d->channels;
    int64_t kept = 0;
    for (int64_t i = 0; i < d->n; i++) {
        if (code[i]) {
            report_unreadable(o, d, d->files[i], code[i]);
            d->n_skipped++;
            continue;
        }
        if (kept != i)
            memcpy(d->pixels + (size_t)kept * bytes, d->pixels + (size_t)i * bytes, bytes);
        d->labels[kept++] = d->labels[i];
    }
    for (int64_t i = 0; i < d->n; i++)
        free(d->files[i]);
    free(d->files);
    d->files = NULL;
    d->n = kept;
}

static int keep_decoded(const struct dataset_options *o, struct dataset *d)
{
    size_t bytes = (size_t)d->height * d->width * d->channels;
    struct decoding job = {.d = d, .code = calloc((size_t)d->n, 1)};
    d->pixels = malloc((size_t)d->n * bytes);
    int r = job.code && d->pixels ? decode_all(o, &job) : -ENOMEM;
    if (r == 0)
        compact(o, d, job.code);
    free(job.code);
    return r;
}

/* ---- archives ---- */

static int list_archive(const struct dataset_options *o, int fd, struct paths *all, struct error *err)
{
    struct unpacker *u;
    const char *name;
    int r = unpack_open(fd, o->path, &u, err);
    if (r < 0)
        return r;
    while ((r = unpack_next(u, &name, err)) > 0) {
        if (paths_wanted(o, name) && paths_add(all, strdup(name)) < 0) {
            r = error_set(err, -ENOMEM, NULL, "out of memory");
            break;
        }
    }
    unpack_close(u);
    return r;
}

struct place {
    const char *file;
    int64_t index;
};

static int compare_places(const void *a, const void *b)
{
    return strcmp(((const struct place *)a)->file, ((const struct place *)b)->file);
}

// The present file of the archive into its place.
static int decode_entry(struct unpacker *u, struct dataset *d, int64_t index, int8_t *code, struct error *err)
{
    size_t bytes = (size_t)d->height * d->width * d->channels, n;
    uint8_t *file;
    int r = unpack_read(u, DATASET_MAX_FILE_BYTES, &file, &n, err);
    if (r == 0) {
        r = dataset_image_decode(d, file, n, d->pixels + (size_t)index * bytes);
        free(file);
        if (r == -EINVAL) {
            code[index] = EINVAL;
            return 0;
        }
        if (r < 0)
            error_set(err, r, NULL, "out of memory");
    } else if (r == -EFBIG) {
        code[index] = EFBIG;
        r = 0;
    }
    return r;
}

static int decode_archive(const struct dataset_options *o, int fd, struct dataset *d, const struct place *places,
                          int8_t *code, struct error *err)
{
    struct unpacker *u;
    struct place key;
    int r = unpack_open(fd, o->path, &u, err);
    if (r < 0)
        return r;
    while ((r = unpack_next(u, &key.file, err)) > 0) {
        const struct place *at = bsearch(&key, places, (size_t)d->n, sizeof *places, compare_places);
        if (!at)
            continue;
        if ((r = decode_entry(u, d, at->index, code, err)) < 0)
            break;
    }
    unpack_close(u);
    return r;
}

static int keep_archive(const struct dataset_options *o, int fd, struct dataset *d, struct error *err)
{
    size_t bytes = (size_t)d->height * d->width * d->channels;
    struct place *places = malloc((size_t)d->n * sizeof *places);
    int8_t *code = calloc((size_t)d->n, 1);
    d->pixels = calloc((size_t)d->n, bytes);
    int r = places && code && d->pixels ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    if (r == 0) {
        for (int64_t i = 0; i < d->n; i++)
            places[i] = (struct place){d->files[i], i};
        qsort(places, (size_t)d->n, sizeof *places, compare_places);
        r = decode_archive(o, fd, d, places, code, err);
    }
    if (r == 0)
        compact(o, d, code);
    free(places);
    free(code);
    return r;
}

static int open_archive(const struct dataset_options *o, int fd, struct dataset *d, struct error *err)
{
    size_t bytes = (size_t)d->height * d->width * d->channels;
    struct paths all = {0};
    int r = list_archive(o, fd, &all, err);
    if (r == 0)
        r = dataset_arrange(o, &all, true, d, err);
    paths_done(&all);
    if (r == 0 && d->n && !o->look_only && o->cache_bytes / bytes < (size_t)d->n)
        r = error_set(err, -EINVAL, "dataset.cache_mib", "is too small for the %lld images of an archive: unpack it",
                      (long long)d->n);
    if (r == 0 && d->n && !o->look_only)
        r = keep_archive(o, fd, d, err);
    if (r < 0 && err && !err->field[0])
        snprintf(err->field, sizeof err->field, "dataset.path");
    return r;
}

/* ---- opening ---- */

static int open_folder(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    size_t bytes = (size_t)d->height * d->width * d->channels;
    int r = scan(o, d, err);
    if (r == 0 && d->n && !o->look_only && o->cache_bytes / bytes >= (size_t)d->n && (r = keep_decoded(o, d)) < 0)
        error_set(err, r, NULL, "out of memory");
    return r;
}

int dataset_folder_open(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    struct stat st;
    int fd, r = dataset_open_path(o, O_RDONLY, &fd, err);
    if (r < 0)
        return r;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        r = open_archive(o, fd, d, err);
        close(fd);
    } else {
        d->dir_fd = fd;
        r = open_folder(o, d, err);
    }
    if (r == 0 && d->n == 0 && d->n_skipped)
        return error_set(err, -ENOENT, "dataset.path", "none of the %lld files in %s is a readable image",
                         (long long)d->n_skipped, o->path);
    return r;
}
