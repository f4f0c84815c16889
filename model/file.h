/* file.h: files that survive a crash, and digests.
 *
 * A durable file appears whole or not at all: it is written under a temporary name beside its own
 * (".NAME.XXXXXXXX.tmp"), synced, renamed, and its folder is synced. After a crash a temporary file may be left;
 * readers look for no such name. Any thread, one at a time per writer.
 */
#ifndef DDIMD_MODEL_FILE_H
#define DDIMD_MODEL_FILE_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

enum { FILE_NAME_BYTES = 256, FILE_SHA256_CHARS = 64 };

struct file_writer {
    int dir_fd, fd;
    char name[FILE_NAME_BYTES], temporary[FILE_NAME_BYTES];
};

/* Creates the temporary file. path is relative to dir_fd (AT_FDCWD for a command line's path); its folder must exist.
 * 0, -EINVAL (name), -ENOENT, -EACCES, -ENOSPC, -EIO, ... (err says what). A writer that was opened is ended by commit
 * or abort. */
int file_writer_open(int dir_fd, const char *path, struct file_writer *ret_writer, struct error *err);
int file_writer_append(struct file_writer *w, const void *bytes, size_t n, struct error *err);
/* The whole of an open file, wherever its offset is. */
int file_writer_copy(struct file_writer *w, int from_fd, struct error *err);
/* Sync, rename, sync the folder. On failure the temporary file is gone and what had the name before is as it was
 * (unless only the last sync failed: then the new file is there, but may not survive a crash). */
int file_writer_commit(struct file_writer *w, struct error *err);
void file_writer_abort(struct file_writer *w); // no-op after commit or abort, and on a zeroed writer

/* The three in one. */
int file_write(int dir_fd, const char *path, const void *bytes, size_t n, struct error *err);

/* A regular file's bytes, at most max_bytes. *ret_bytes: malloc'd, one NUL more than its length. 0, -EINVAL (not a
 * regular file), -EFBIG, -ENOENT, -EIO, -ENOMEM. */
int file_read(int dir_fd, const char *path, size_t max_bytes, char **ret_bytes, size_t *ret_n, struct error *err);

/* Opens a regular file for reading; never blocks on what is none. Beneath dir_fd, unless that is AT_FDCWD: -EXDEV for
 * what lies elsewhere. *ret_bytes: its size. */
int file_open(int dir_fd, const char *path, int *ret_fd, uint64_t *ret_bytes, struct error *err);
/* Reads exactly n bytes at offset. -EINVAL where the file ends before. */
int file_read_at(int fd, void *ret_bytes, size_t n, uint64_t offset, struct error *err);

/* SHA-256 in hexadecimal, of memory and of a file. ret_hex: [FILE_SHA256_CHARS + 1] */
void sha256_hex(const void *bytes, size_t n, char *ret_hex);
int file_sha256(int dir_fd, const char *path, char *ret_hex, struct error *err);

#endif
