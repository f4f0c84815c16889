/* unpack.h: the regular files of an archive, one after the other: tar (gzip, xz, bzip2, zstd), ZIP and what else
 * libarchive reads.
 *
 * Nothing is written to disk; names are only names. One thread per reader.
 */
#ifndef DDIMD_MODEL_UNPACK_H
#define DDIMD_MODEL_UNPACK_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

struct unpacker;

/* Reads from the descriptor's beginning; it stays the caller's and outlives the reader. name: for messages, copied.
 * 0, -EINVAL (not an archive), -ENOMEM. */
int unpack_open(int fd, const char *name, struct unpacker **ret_unpacker, struct error *err);
void unpack_close(struct unpacker *u); // NULL is fine

/* Goes to the next regular file. 1: there is one, 0: the end; -EINVAL (damaged), -EIO. *ret_name: its path within the
 * archive without a leading "./", valid until the next call. */
int unpack_next(struct unpacker *u, const char **ret_name, struct error *err);

/* The present file's content, once. *ret_bytes: malloc'd. 0, -EFBIG (more than max_bytes), -EINVAL, -ENOMEM. */
int unpack_read(struct unpacker *u, size_t max_bytes, uint8_t **ret_bytes, size_t *ret_n, struct error *err);

#endif
