/* job_folder.c: see job_folder.h. */
#include "training/job_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_DEPTH = 16 };

int job_root_open(const char *path, int *ret_fd, struct error *err)
{
    if (mkdir(path, 0750) < 0 && errno != EEXIST)
        return error_set(err, -errno, NULL, "cannot make the folder %s: %s", path, strerror(errno));
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, NULL, "cannot open the folder %s: %s", path, strerror(errno));
    *ret_fd = fd;
    return 0;
}

char *job_folder_name(int64_t id, char buffer[JOB_FOLDER_NAME_BYTES])
{
    snprintf(buffer, JOB_FOLDER_NAME_BYTES, "%" PRId64, id);
    return buffer;
}

int job_folder_open(int root_fd, int64_t id, int create, int *ret_fd, struct error *err)
{
    char name[JOB_FOLDER_NAME_BYTES];
    job_folder_name(id, name);
    if (create && mkdirat(root_fd, name, 0750) < 0 && errno != EEXIST)
        return error_set(err, -errno, NULL, "cannot make the folder of job %s: %s", name, strerror(errno));
    int fd = openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, -errno, NULL, "cannot open the folder of job %s: %s", name, strerror(errno));
    *ret_fd = fd;
    return 0;
}

// openat2, and where the kernel or a filter does not know it, component by component without following links.
static int open_beneath(int folder_fd, const char *name, int flags, int mode)
{
    struct open_how how = {.flags = flags, .mode = mode, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    int fd = (int)syscall(SYS_openat2, folder_fd, name, &how, sizeof how);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
        return fd < 0 ? -errno : fd;
    int at = folder_fd;
    char part[256];
    for (const char *slash; (slash = strchr(name, '/')); name = slash + 1) {
        snprintf(part, sizeof part, "%.*s", (int)(slash - name), name);
        int next =
            strcmp(part, "..") == 0 || !*part ? -1 : openat(at, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int code = *part && next < 0 && strcmp(part, "..") != 0 ? -errno : -EXDEV;
        if (at != folder_fd)
            close(at);
        if (next < 0)
            return code;
        at = next;
    }
    fd = strcmp(name, "..") == 0 ? -1 : openat(at, name, flags | O_NOFOLLOW, mode);
    int code = fd >= 0 ? fd : strcmp(name, "..") == 0 ? -EXDEV : -errno;
    if (at != folder_fd)
        close(at);
    return code;
}

int job_file_open(int folder_fd, const char *name, int flags, int *ret_fd)
{
    struct stat s;
    // Without O_NONBLOCK, opening a pipe that somebody put there would wait for its writer.
    int fd = open_beneath(folder_fd, name, flags | O_CLOEXEC | O_NONBLOCK, flags & O_CREAT ? 0640 : 0);
    if (fd < 0)
        return fd;
    if (!(flags & O_DIRECTORY) && (fstat(fd, &s) < 0 || !S_ISREG(s.st_mode))) {
        close(fd);
        return -EINVAL;
    }
    *ret_fd = fd;
    return 0;
}

// Empties the folder behind fd, which is consumed.
static int remove_contents(int fd, int depth)
{
    int rc = 0;
    DIR *dir = depth > 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        close(fd);
        return depth > 0 ? -ENOMEM : -ELOOP;
    }
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), e->d_name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR && errno != EPERM) {
            rc = -errno;
            break;
        }
        int below = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        rc = below < 0 ? -errno : remove_contents(below, depth - 1);
        if (rc == 0 && unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR) < 0)
            rc = -errno;
    }
    closedir(dir);
    return rc;
}

int job_folder_remove(int root_fd, int64_t id, struct error *err)
{
    char name[JOB_FOLDER_NAME_BYTES];
    job_folder_name(id, name);
    int fd = openat(root_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return 0;
    int rc = fd < 0 ? -errno : remove_contents(fd, MAX_DEPTH);
    if (rc == 0 && unlinkat(root_fd, name, AT_REMOVEDIR) < 0)
        rc = -errno;
    return rc < 0 ? error_set(err, rc, NULL, "cannot remove the folder of job %s: %s", name, strerror(-rc)) : 0;
}
