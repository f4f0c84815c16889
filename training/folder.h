/* folder.h: the folder of a run.
 *
 *   metrics.jsonl                  a line every few steps, one for each epoch, one for the end
 *   samples/epoch-0001.png         grids, the same seeds each time
 *   checkpoints/epoch-0001.safetensors   models to serve (averaged weights)
 *   checkpoints/best.safetensors, last.safetensors
 *   checkpoints/state.safetensors  what the run goes on from (state.h)
 *   config.json                    the configuration, every key
 *   lock                           held while a process trains here
 *
 * One thread per object. All errors are those of files: -EACCES, -ENOSPC, -EIO, ..., with err.
 */
#ifndef DDIMD_TRAINING_FOLDER_H
#define DDIMD_TRAINING_FOLDER_H

#include "kernels/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { RUN_PATH_BYTES = 4096 };

#define RUN_STATE_NAME "state.safetensors"
#define RUN_BEST_NAME "best.safetensors"
#define RUN_LAST_NAME "last.safetensors"

struct run_folder {
    char path[RUN_PATH_BYTES - 256];
    int dir_fd, checkpoints_fd, samples_fd, lock_fd, metrics_fd;
    int64_t metrics_bytes;
};

/* Makes the folder where it is missing and locks it. -EBUSY: another process trains here. *ret_folder is to be closed
 * also after a failure. */
int run_folder_open(const char *path, struct run_folder *ret_folder, struct error *err);
void run_folder_close(struct run_folder *f); // after run_folder_open, failed or not

/* Whether checkpoints/ has a file of this name. */
bool run_folder_has(const struct run_folder *f, const char *name);

/* metrics.jsonl goes on after its first `bytes`; what a killed process wrote after its last state is cut off. */
int run_folder_start_metrics(struct run_folder *f, int64_t bytes, struct error *err);
/* Appends one object as a line; takes over `line` (NULL is -ENOMEM). */
int run_folder_metrics(struct run_folder *f, json_t *line, struct error *err);

int run_folder_write_config(struct run_folder *f, json_t *config, struct error *err); // takes over config

/* "PATH/checkpoints/NAME". ret_path: [RUN_PATH_BYTES] */
char *run_folder_checkpoint_path(const struct run_folder *f, const char *name, char *ret_path);

/* name in checkpoints/ becomes another name for `of`, in one step. -ENOTSUP: the file system has no hard links. */
int run_folder_link(struct run_folder *f, const char *of, const char *name, struct error *err);

/* Removes the oldest epoch-*.safetensors beyond `keep` of them. A file that cannot be removed is left. */
void run_folder_prune(struct run_folder *f, int32_t keep);

#endif
