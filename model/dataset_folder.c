/* dataset_folder.c: PNG and JPEG files, one sub-folder per class.
 *
 * Classes are the sub-folders in byte order of their names, images likewise, so that an index means the same image on
 * every machine. A folder that holds only `train` and `test` (or `val`) of such folders is entered by dataset.train;
 * one with images and no sub-folders is a set of one class. What all fits into the cache is decoded while opening, in
 * parallel.
 */
#include "model/dataset_readers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WARNINGS_SHOWN = 20, MAX_THREADS = 64 };

/* ---- lists of names ---- */

struct names {
    char **v;
    size_t n, cap;
};

static void names_done(struct names *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->v[i]);
    free(s->v);
    *s = (struct names){0};
}

/* Takes over name, also on failure; NULL is -ENOMEM. */
static int names_add(struct names *s, char *name)
{
    if (name && s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        char **v = realloc(s->v, cap * sizeof *v);
        if (v) {
            s->v = v;
            s->cap = cap;
        }
    }
    if (!name || s->n == s->cap) {
        free(name);
        return -ENOMEM;
    }
    s->v[s->n++] = name;
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool has_suffix(const struct dataset_options *o, const char *name)
{
    static const char usual[][DATASET_SUFFIX_BYTES] = {"png", "jpg", "jpeg"};
    const char(*suffix)[DATASET_SUFFIX_BYTES] = o->n_suffixes ? o->suffix : usual;
    int32_t n = o->n_suffixes ? o->n_suffixes : 3;
    const char *dot = strrchr(name, '.');
    for (int32_t i = 0; dot && i < n; i++)
        if (strcasecmp(dot + 1, suffix[i]) == 0)
            return true;
    return false;
}

/* Sorted names in dir_fd/folder: sub-folders, and files with a suffix of ours. Hidden names are left out. */
static int list(const struct dataset_options *o, int dir_fd, const char *folder, struct names *folders,
                struct names *files)
{
    int fd = openat(dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    int r = 0;
    for (struct dirent *e; r == 0 && (e = readdir(dir));) {
        struct stat st;
        if (e->d_name[0] == '.' || fstatat(fd, e->d_name, &st, 0) < 0)
            continue;
        if (S_ISDIR(st.st_mode))
            r = names_add(folders, strdup(e->d_name));
        else if (S_ISREG(st.st_mode) && has_suffix(o, e->d_name))
            r = names_add(files, strdup(e->d_name));
    }
    closedir(dir);
    if (folders->n)
        qsort(folders->v, folders->n, sizeof *folders->v, compare_names);
    if (files->n)
        qsort(files->v, files->n, sizeof *files->v, compare_names);
    return r;
}

/* ---- which files there are ---- */

static bool is_part(const char *name)
{
    return strcmp(name, "train") == 0 || strcmp(name, "test") == 0 || strcmp(name, "val") == 0;
}

/* Goes from a folder of parts into the wanted one. */
static int enter_part(const struct dataset_options *o, struct dataset *d)
{
    struct names folders = {0}, files = {0};
    int r = list(o, d->dir_fd, ".", &folders, &files);
    const char *part = NULL;
    bool all_parts = folders.n > 0;
    for (size_t i = 0; i < folders.n; i++) {
        all_parts = all_parts && is_part(folders.v[i]);
        if ((strcmp(folders.v[i], "train") == 0) == o->train)
            part = folders.v[i];
    }
    if (r == 0 && all_parts && part) {
        int fd = openat(d->dir_fd, part, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) {
            r = -errno;
        } else {
            close(d->dir_fd);
            d->dir_fd = fd;
        }
    }
    names_done(&folders);
    names_done(&files);
    return r;
}

/* Appends folder/name for every name, with the label. */
static int add_files(struct dataset *d, const char *folder, const struct names *files, int32_t label, struct names *all)
{
    int32_t *labels = realloc(d->labels, (all->n + files->n + 1) * sizeof *labels);
    if (!labels)
        return -ENOMEM;
    d->labels = labels;
    for (size_t i = 0; i < files->n; i++) {
        char *path;
        if (asprintf(&path, "%s/%s", folder, files->v[i]) < 0)
            return -ENOMEM;
        d->labels[all->n] = label;
        int r = names_add(all, path);
        if (r < 0)
            return r;
    }
    return 0;
}

static int scan(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    struct names classes = {0}, here = {0}, all = {0};
    int r = enter_part(o, d);
    if (r == 0)
        r = list(o, d->dir_fd, ".", &classes, &here);
    if (r == 0 && classes.n > MODEL_MAX_CLASSES)
        r = error_set(err, -EINVAL, "dataset.path", "%s has %zu class folders, at most %d are supported", o->path,
                      classes.n, MODEL_MAX_CLASSES);
    else if (r == 0 && classes.n == 0)
        r = add_files(d, ".", &here, 0, &all);
    for (size_t c = 0; r == 0 && c < classes.n; c++) {
        struct names deeper = {0}, files = {0};
        r = list(o, d->dir_fd, classes.v[c], &deeper, &files);
        if (r == 0)
            r = add_files(d, classes.v[c], &files, (int32_t)c, &all);
        names_done(&deeper);
        names_done(&files);
    }
    if (r == 0)
        r = classes.n ? dataset_name_classes(d, (int32_t)classes.n, (const char *const *)classes.v)
                      : dataset_name_classes(d, 1, NULL);
    d->files = all.v;
    d->n = (int64_t)all.n;
    names_done(&classes);
    names_done(&here);
    if (r < 0 && r != -EINVAL)
        error_set(err, r, "dataset.path", "%s: %s", o->path, strerror(-r));
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
        uint8_t *pixels;
        int32_t h, w;
        int r = dataset_image_load(d->dir_fd, d->files[i], d->channels, &pixels, &h, &w);
        if (r == 0) {
            r = dataset_image_fit(pixels, h, w, d->channels, d->height, d->width, d->channels,
                                  d->pixels + (size_t)i * bytes);
            free(pixels);
        }
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

int dataset_folder_open(const struct dataset_options *o, struct dataset *d, struct error *err)
{
    d->dir_fd = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->dir_fd < 0)
        return error_set(err, -errno, "dataset.path", "%s: %s", o->path, strerror(errno));
    int r = scan(o, d, err);
    if (r < 0 || d->n == 0)
        return r;
    int64_t n_files = d->n;
    size_t bytes = (size_t)d->height * d->width * d->channels;
    if (o->cache_bytes / bytes >= (size_t)d->n && (r = keep_decoded(o, d)) < 0)
        return error_set(err, r, NULL, "out of memory");
    if (d->n == 0)
        return error_set(err, -ENOENT, "dataset.path", "none of the %lld files in %s is a readable image",
                         (long long)n_files, o->path);
    return 0;
}
