/* follow.h: what a running job's program leaves in its folder, read from outside.
 *
 * The records of ddimd-train (metrics.jsonl) are followed by byte offset instead of over a pipe: the file outlives both
 * daemon and program, so a daemon that was away reads on where its database says it was, and nothing is lost or read
 * twice. How far the program has kept its work is read from the head of its state file, or from a file that says only
 * that.
 * Any thread; plain functions of the folder's descriptor.
 */
#ifndef DDIMD_TRAINING_FOLLOW_H
#define DDIMD_TRAINING_FOLLOW_H

#include "kernels/error.h"
#include "training/jobs.h"

#include <sys/stat.h>

enum { FOLLOW_MAX_RECORDS = 512, FOLLOW_MAX_BYTES = 1 << 18 };

/* Records in the file's bytes [from, to). */
struct follow_batch {
    int64_t from, to;
    int32_t n;
    struct job_record records[FOLLOW_MAX_RECORDS]; // data points into text
    struct job_progress progress;                  // of all of them
    char outcome[JOB_KIND_BYTES];
    char text[FOLLOW_MAX_BYTES + 1];
};

/* Reads whole lines from byte `from`, as many as fit. A line that is no JSON object, or too long, is passed over. n and
 * to - from are 0 where there is nothing new, or no file yet. 0 or negative errno. */
int follow_records(int folder_fd, int64_t from, struct follow_batch *ret_batch);

/* The checkpoint that the program would go on from. */
struct follow_state {
    int64_t step, epoch;
    int64_t metrics_bytes; // of metrics.jsonl that belong to it
};

/* -ENOENT: no checkpoint yet. -EINVAL: a file that is not one, err says why. */
int follow_state(int folder_fd, struct follow_state *ret_state, struct error *err);

/* When the state file was written last, for who looks again only then. -ENOENT. */
int follow_state_stat(int folder_fd, struct stat *ret_stat);

/* Writes the checkpoint's place into checkpoints/state.json, for a job that keeps its work without tensors; makes the
 * folder. 0 or negative errno. */
int follow_state_write(int folder_fd, const struct follow_state *state, struct error *err);

/* Cuts off the records that a program wrote after its checkpoint, as it will itself when it resumes: then they cannot
 * be taken for new ones. Only while no program runs. *ret_bytes: what is left, 0 where there is no file. */
int follow_rewind(int folder_fd, int64_t bytes, int64_t *ret_bytes, struct error *err);

/* The last line of the log that is not empty, cut to the buffer; "" where there is none. */
void follow_last_words(int folder_fd, char *buffer, size_t bytes);

#define FOLLOW_RECORDS_NAME "metrics.jsonl"
#define FOLLOW_STATE_NAME "checkpoints/state.safetensors"
#define FOLLOW_PLACE_NAME "checkpoints/state.json"
#define FOLLOW_LOG_NAME "log"

#endif
