/* download.h: one file from an HTTP server, whole and unaltered or not at all (libcurl).
 *
 * What has arrived is kept in NAME.part, locked meanwhile, and a later call goes on from there; the file gets its name
 * when its digest is right. Blocks; one thread per call.
 */
#ifndef DDIMD_MODEL_DOWNLOAD_H
#define DDIMD_MODEL_DOWNLOAD_H

#include "kernels/error.h"

#include <signal.h>
#include <stdint.h>

struct download {
    const char *url;
    const char *sha256;                               // hexadecimal, lower case
    int64_t max_bytes;                                // more is refused; 0: any number
    int attempts;                                     // after failures that may pass; 0: 5
    int pause_ms;                                     // before the second attempt, doubled each time; 0: 1000
    const volatile sig_atomic_t *stop;                // ends it when it becomes 1; NULL: nothing does
    void (*note)(void *context, const char *message); // a sentence for the log; NULL: not wanted
    void *context;
};

/* Into the folder dir_fd. 0 (also where the file is there already: it is believed); -ECANCELED (stopped), -ENOENT (the
 * server has no such file), -EINVAL (another file than expected, which is removed), -EFBIG, -EIO (network), -ENOSPC,
 * -EACCES, ... */
int download_file(const struct download *d, int dir_fd, const char *name, struct error *err);

#endif
