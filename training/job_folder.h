/* job_folder.h: the folders of jobs, below one root.
 *
 * A job's folder is named by its number, so that no name of a client's ever reaches the file system. What lies in it is
 * opened beneath it only: no "..", no absolute name, no symbolic link leads out. Any thread; plain functions of a
 * descriptor.
 */
#ifndef DDIMD_TRAINING_JOB_FOLDER_H
#define DDIMD_TRAINING_JOB_FOLDER_H

#include "kernels/error.h"

#include <stddef.h>
#include <stdint.h>

enum { JOB_FOLDER_NAME_BYTES = 24 };

/* Makes (unless it is there) and opens the root. The caller closes the descriptor. 0 or negative errno. */
int job_root_open(const char *path, int *ret_fd, struct error *err);

/* "7". Returns buffer. */
char *job_folder_name(int64_t id, char buffer[JOB_FOLDER_NAME_BYTES]);

/* Opens a job's folder; create: makes it where it is not there. -ENOENT where it is gone. */
int job_folder_open(int root_fd, int64_t id, int create, int *ret_fd, struct error *err);

/* Opens a regular file (or, with O_DIRECTORY, a folder) beneath folder_fd. flags: of open(2); with O_CREAT, mode 0640.
 * name: may contain '/'. -ENOENT; -ELOOP or -EXDEV where it would lead out; -EINVAL where it is not a regular file. */
int job_file_open(int folder_fd, const char *name, int flags, int *ret_fd);

/* Removes a job's folder with all that is in it; it need not be there. Does not follow links. */
int job_folder_remove(int root_fd, int64_t id, struct error *err);

#endif
