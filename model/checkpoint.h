/* checkpoint.h: model files: safetensors with ddimd's metadata (DESIGN 3), read without trust and written durably.
 */
#ifndef DDIMD_MODEL_CHECKPOINT_H
#define DDIMD_MODEL_CHECKPOINT_H

#include "kernels/graph.h"
#include "model/config.h"

enum { CHECKPOINT_DIGEST_CHARS = 64 }; // SHA-256 of the file, hexadecimal

struct checkpoint {
    struct model_config model;
    struct diffusion_config diffusion;
    struct data_config data;
    json_t *training; // free form, NULL where absent
    char digest[CHECKPOINT_DIGEST_CHARS + 1];
    struct safetensors *tensors; // the mapped file
};

/* Opens and checks all of it: header, offsets, dtypes, that each parameter of the configured network is there with its
 * shape and nothing else. dir_fd, name: openat; AT_FDCWD and a path for a command line. 0, -ENOENT, -EINVAL (err),
 * -EIO, -ENOMEM. */
int checkpoint_open(int dir_fd, const char *name, struct checkpoint *ret_checkpoint, struct error *err);
void checkpoint_close(struct checkpoint *c);

/* Copies the parameters in the order and layout of g's table (struct param) into values[g->param_floats] (padding
 * zeroed), converting dtype. 0, -EINVAL (names the tensor). */
int checkpoint_read_params(const struct checkpoint *c, const struct graph *g, float *values, struct error *err);

/* Writes a model file: temporary name beside it, write, fsync, rename, fsync of the folder. dtype: "F32", "BF16" or
 * "F16" (round to nearest even). training may be NULL. The file's bytes are a function of the arguments. */
int checkpoint_write(const char *path, const struct model_config *model, const struct diffusion_config *diffusion,
                     const struct data_config *data, const json_t *training, const struct graph *g, const float *values,
                     const char *dtype, struct error *err);

#endif
