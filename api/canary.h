/* canary.h: a grid of images by a checkpoint that is not served yet, before it is. */
#ifndef DDIMD_API_CANARY_H
#define DDIMD_API_CANARY_H

#include "api/exchange.h"

/* Serves the checkpoint file (from its beginning) for a moment under a name of its own, generates one image of each
 * class through the scheduler as any request would, and adds them as a PNG to ret_png. Waits for the device: on a
 * helper thread. 0, or -EINVAL with *ret_problem (it cannot be loaded, its images are not finite or nothing like
 * images, the queue is full). */
int canary_grid(struct api *a, int models_fd, int64_t job, int checkpoint_fd, struct text *ret_png,
                struct problem *ret_problem);

#endif
