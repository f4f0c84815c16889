/* folder.c: see folder.h.
 */
#include "training/folder.h"

#include "model/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int fail(const struct run_folder *f, const char *name, struct error *err)
{
    int code = errno ? -errno : -EIO;
    return error_set(err, code, NULL, "%s/%s: %s", f->path, name, strerror(-code));
}

static int open_part(const struct run_folder *f, const char *name, int *ret_fd, struct error *err)
{
    if (mkdirat(f->dir_fd, name, 0777) < 0 && errno != EEXIST)
        return fail(f, name, err);
    *ret_fd = openat(f->dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? fail(f, name, err) : 0;
}

static int lock(struct run_folder *f, struct error *err)
{
    f->lock_fd = openat(f->dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (f->lock_fd < 0)
        return fail(f, "lock", err);
    if (flock(f->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return error_set(err, -EBUSY, NULL, "%s: another ddimd-train is at work in this folder", f->path);
    return fail(f, "lock", err);
}

int run_folder_open(const char *path, struct run_folder *ret_folder, struct error *err)
{
    struct run_folder *f = ret_folder;
    *f = (struct run_folder){.dir_fd = -1, .checkpoints_fd = -1, .samples_fd = -1, .lock_fd = -1, .metrics_fd = -1};
    if (strlen(path) >= sizeof f->path)
        return error_set(err, -ENAMETOOLONG, NULL, "the path of the run's folder is too long");
    strcpy(f->path, path);
    if (mkdir(path, 0777) < 0 && errno != EEXIST)
        return error_set(err, -errno, NULL, "%s: %s", path, strerror(errno));
    f->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->dir_fd < 0)
        return error_set(err, -errno, NULL, "%s: %s", path, strerror(errno));
    int r = lock(f, err);
    if (r == 0)
        r = open_part(f, "checkpoints", &f->checkpoints_fd, err);
    if (r == 0)
        r = open_part(f, "samples", &f->samples_fd, err);
    return r;
}

void run_folder_close(struct run_folder *f)
{
    int *const fds[] = {&f->metrics_fd, &f->samples_fd, &f->checkpoints_fd, &f->lock_fd, &f->dir_fd};
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

bool run_folder_has(const struct run_folder *f, const char *name)
{
    return faccessat(f->checkpoints_fd, name, F_OK, 0) == 0;
}

int run_folder_start_metrics(struct run_folder *f, int64_t bytes, struct error *err)
{
    struct stat st;
    f->metrics_fd = openat(f->dir_fd, "metrics.jsonl", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (f->metrics_fd < 0 || fstat(f->metrics_fd, &st) < 0)
        return fail(f, "metrics.jsonl", err);
    if (st.st_size > bytes && ftruncate(f->metrics_fd, bytes) < 0)
        return fail(f, "metrics.jsonl", err);
    f->metrics_bytes = st.st_size > bytes ? bytes : st.st_size;
    return 0;
}

int run_folder_metrics(struct run_folder *f, json_t *line, struct error *err)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(line);
    size_t n = text ? strlen(text) : 0, done = 0;
    if (!text)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    text[n++] = '\n'; // in the place of the NUL: the line goes out in one write
    int r = 0;
    while (r == 0 && done < n) {
        ssize_t k = write(f->metrics_fd, text + done, n - done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            r = fail(f, "metrics.jsonl", err);
        else
            done += (size_t)k;
    }
    f->metrics_bytes += (int64_t)done;
    free(text);
    return r;
}

int run_folder_write_config(struct run_folder *f, json_t *config, struct error *err)
{
    char *text = config ? json_dumps(config, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(config);
    int r = text ? file_write(f->dir_fd, "config.json", text, strlen(text), err)
                 : error_set(err, -ENOMEM, NULL, "out of memory");
    free(text);
    return r;
}

char *run_folder_checkpoint_path(const struct run_folder *f, const char *name, char *ret_path)
{
    snprintf(ret_path, RUN_PATH_BYTES, "%s/checkpoints/%.200s", f->path, name);
    return ret_path;
}

int run_folder_link(struct run_folder *f, const char *of, const char *name, struct error *err)
{
    char temporary[64];
    snprintf(temporary, sizeof temporary, ".%.48s.link", name);
    unlinkat(f->checkpoints_fd, temporary, 0);
    if (linkat(f->checkpoints_fd, of, f->checkpoints_fd, temporary, 0) < 0) {
        bool unable = errno == EPERM || errno == ENOTSUP || errno == EMLINK || errno == ENOSYS || errno == EXDEV;
        return unable ? error_set(err, -ENOTSUP, NULL, "no hard links in %s", f->path) : fail(f, name, err);
    }
    int r = renameat(f->checkpoints_fd, temporary, f->checkpoints_fd, name) < 0 ? fail(f, name, err) : 0;
    unlinkat(f->checkpoints_fd, temporary, 0); // rename leaves it where both were one file already
    if (r == 0 && fsync(f->checkpoints_fd) < 0)
        r = fail(f, name, err);
    return r;
}

static int compare_epochs(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Epoch numbers of the model files, ascending. *ret_epochs malloc'd, NULL for none. */
static size_t list_epochs(const struct run_folder *f, int32_t **ret_epochs)
{
    int fd = openat(f->checkpoints_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    size_t n = 0, cap = 0;
    *ret_epochs = NULL;
    if (!dir && fd >= 0)
        close(fd);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        int32_t epoch;
        int end = 0;
        if (sscanf(e->d_name, "epoch-%d.safetensors%n", &epoch, &end) != 1 || end == 0 || e->d_name[end])
            continue;
        if (n == cap) {
            cap = cap ? 2 * cap : 64;
            int32_t *grown = realloc(*ret_epochs, cap * sizeof *grown);
            if (!grown)
                break;
            *ret_epochs = grown;
        }
        (*ret_epochs)[n++] = epoch;
    }
    if (dir)
        closedir(dir);
    if (n)
        qsort(*ret_epochs, n, sizeof **ret_epochs, compare_epochs);
    return n;
}

void run_folder_prune(struct run_folder *f, int32_t keep)
{
    int32_t *epochs;
    size_t n = list_epochs(f, &epochs);
    for (size_t i = 0; n > (size_t)keep && i < n - (size_t)keep; i++) {
        char name[64];
        snprintf(name, sizeof name, "epoch-%04d.safetensors", epochs[i]);
        unlinkat(f->checkpoints_fd, name, 0);
    }
    free(epochs);
}
