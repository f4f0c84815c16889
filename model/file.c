/* file.c: see file.h. */
#include "model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_TRANSFER = 1 << 30, COPY_BYTES = 1 << 20 }; // of one system call

static int error_errno(struct error *err, const char *verb, const char *path)
{
    int code = -errno;
    return error_set(err, code, NULL, "cannot %s %.200s: %s", verb, path, strerror(-code));
}

/* ---- writing ---- */

/* The folder of path as a descriptor, and the last component. */
static int open_folder(int dir_fd, const char *path, struct file_writer *w, struct error *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    size_t room = sizeof(w->temporary) - sizeof("..XXXXXXXX.tmp");
    if (!*name || !strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > room)
        return error_set(err, -EINVAL, NULL, "%.200s is not a name for a file", path);
    strcpy(w->name, name);
    char *folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!folder)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    w->dir_fd = openat(dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = w->dir_fd < 0 ? error_errno(err, "open the folder", folder) : 0;
    free(folder);
    return rc;
}

int file_writer_open(int dir_fd, const char *path, struct file_writer *ret_writer, struct error *err)
{
    struct file_writer w = {.fd = -1};
    int rc = open_folder(dir_fd, path, &w, err);
    if (rc)
        return rc;
    for (int attempt = 0; attempt < 16 && w.fd < 0; attempt++) {
        uint32_t random;
        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
            random = (uint32_t)getpid() + (uint32_t)attempt;
        snprintf(w.temporary, sizeof(w.temporary), ".%.241s.%08x.tmp", w.name, random);
        w.fd = openat(w.dir_fd, w.temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (w.fd < 0 && errno != EEXIST)
            break;
    }
    if (w.fd < 0) {
        rc = error_errno(err, "create a file beside", path);
        close(w.dir_fd);
        return rc;
    }
    *ret_writer = w;
    return 0;
}

int file_writer_append(struct file_writer *w, const void *bytes, size_t n, struct error *err)
{
    const char *p = bytes;
    while (n > 0) {
        ssize_t written = write(w->fd, p, n < MAX_TRANSFER ? n : MAX_TRANSFER);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return error_errno(err, "write", w->name);
        p += written;
        n -= (size_t)written;
    }
    return 0;
}

int file_writer_copy(struct file_writer *w, int from_fd, struct error *err)
{
    char *buffer = malloc(COPY_BYTES);
    ssize_t n = 0;
    int rc = buffer ? 0 : error_set(err, -ENOMEM, NULL, "no memory to copy a file");
    for (off_t at = 0; rc == 0 && (n = pread(from_fd, buffer, COPY_BYTES, at)) > 0; at += n)
        rc = file_writer_append(w, buffer, (size_t)n, err);
    if (rc == 0 && n < 0)
        rc = error_errno(err, "read what is copied to", w->name);
    free(buffer);
    return rc;
}

static void writer_close(struct file_writer *w)
{
    if (w->fd >= 0)
        close(w->fd);
    close(w->dir_fd);
    *w = (struct file_writer){.fd = -1, .dir_fd = -1};
}

int file_writer_commit(struct file_writer *w, struct error *err)
{
    int rc = 0;
    if (fsync(w->fd))
        rc = error_errno(err, "sync", w->name);
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) && !rc)
        rc = error_errno(err, "close", w->name);
    if (!rc && renameat(w->dir_fd, w->temporary, w->dir_fd, w->name))
        rc = error_errno(err, "rename the new", w->name);
    if (rc) {
        file_writer_abort(w);
        return rc;
    }
    if (fsync(w->dir_fd) && errno != EINVAL) // EINVAL: a file system that has no such thing
        rc = error_errno(err, "sync the folder of", w->name);
    writer_close(w);
    return rc;
}

void file_writer_abort(struct file_writer *w)
{
    if (!w->temporary[0])
        return;
    unlinkat(w->dir_fd, w->temporary, 0);
    writer_close(w);
}

int file_write(int dir_fd, const char *path, const void *bytes, size_t n, struct error *err)
{
    struct file_writer w;
    int rc = file_writer_open(dir_fd, path, &w, err);
    if (rc)
        return rc;
    rc = file_writer_append(&w, bytes, n, err);
    if (!rc)
        return file_writer_commit(&w, err);
    file_writer_abort(&w);
    return rc;
}

/* ---- reading ---- */

/* A folder's descriptor is a root: what lies outside of it is not opened, by no link and no "..". Where the kernel or a
 * filter does not know openat2(), only plain names are, and no links. */
static int open_beneath(int dir_fd, const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)flags, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    int fd = (int)syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
        return fd;
    if (strchr(path, '/')) {
        errno = EXDEV;
        return -1;
    }
    return openat(dir_fd, path, flags | O_NOFOLLOW);
}

int file_open(int dir_fd, const char *path, int *ret_fd, uint64_t *ret_bytes, struct error *err)
{
    const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int fd = dir_fd == AT_FDCWD ? openat(dir_fd, path, flags) : open_beneath(dir_fd, path, flags);
    if (fd < 0)
        return error_errno(err, "open", path);
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st))
        rc = error_errno(err, "read", path);
    else if (!S_ISREG(st.st_mode))
        rc = error_set(err, -EINVAL, NULL, "%.200s is not a regular file", path);
    if (rc) {
        close(fd);
        return rc;
    }
    *ret_fd = fd;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

int file_read_at(int fd, void *ret_bytes, size_t n, uint64_t offset, struct error *err)
{
    char *p = ret_bytes;
    while (n > 0) {
        ssize_t got = pread(fd, p, n < MAX_TRANSFER ? n : MAX_TRANSFER, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_errno(err, "read", "the file");
        if (got == 0)
            return error_set(err, -EINVAL, NULL, "the file became shorter while it was read");
        p += got;
        n -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

int file_read(int dir_fd, const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_n, struct error *err)
{
    int fd;
    uint64_t n;
    int rc = file_open(dir_fd, path, &fd, &n, err);
    if (rc)
        return rc;
    char *bytes = NULL;
    if (n > max_bytes)
        rc = error_set(err, -EFBIG, NULL, "%.200s is longer than %zu bytes", path, max_bytes);
    else if (!(bytes = malloc(n + 1)))
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    else
        rc = file_read_at(fd, bytes, n, 0, err);
    close(fd);
    if (rc) {
        free(bytes);
        return rc;
    }
    bytes[n] = '\0';
    *ret_bytes = bytes;
    *ret_n = n;
    return 0;
}

/* ---- digests ---- */

static void digest_hex(struct sha256_ctx *sha, char *ret_hex)
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(sha, sizeof(digest), digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

void sha256_hex(const void *bytes, size_t n, char *ret_hex)
{
    struct sha256_ctx sha;
    sha256_init(&sha);
    sha256_update(&sha, n, bytes);
    digest_hex(&sha, ret_hex);
}

int file_sha256(int dir_fd, const char *path, char *ret_hex, struct error *err)
{
    enum { BLOCK = 1 << 16 };
    int fd;
    uint64_t size;
    int rc = file_open(dir_fd, path, &fd, &size, err);
    if (rc)
        return rc;
    char *block = malloc(BLOCK);
    if (!block)
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    struct sha256_ctx sha;
    sha256_init(&sha);
    for (uint64_t at = 0; !rc && at < size; at += BLOCK) {
        size_t n = size - at < BLOCK ? (size_t)(size - at) : BLOCK;
        rc = file_read_at(fd, block, n, at, err);
        if (!rc)
            sha256_update(&sha, n, (const uint8_t *)block);
    }
    if (!rc)
        digest_hex(&sha, ret_hex);
    free(block);
    close(fd);
    return rc;
}
