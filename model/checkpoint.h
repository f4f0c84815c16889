/* checkpoint.h: model files: safetensors with ddimd's metadata, read without trust and written durably.
 *
 * `__metadata__` has the key "ddimd", whose value is JSON: {"version": 1, "model": {..}, "diffusion": {..}, "data":
 * {..}, "training": {..}}; config.h parses the middle three, `training` is free form and may be absent. Tensors are
 * those of the reference's state_dict, by name, in its order, in PyTorch's layout. Any thread, one at a time per
 * object.
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
 * shape and nothing else; then reads the file. dir_fd, name: openat; AT_FDCWD and a path for a command line. 0,
 * -ENOENT, -EACCES, -EINVAL (err->field: the key of the metadata, or the tensor), -EIO, -ENOMEM. */
int checkpoint_open(int dir_fd, const char *name, struct checkpoint *ret_checkpoint, struct error *err);
void checkpoint_close(struct checkpoint *c); // a zeroed one is fine

/* Copies the parameters in the order and layout of g's table (struct param) into values[g->param_floats] (padding
 * zeroed), converting dtype. 0, -EINVAL (err names the tensor: not there, another shape, a value that is not finite),
 * -ENOMEM. */
int checkpoint_read_params(const struct checkpoint *c, const struct graph *g, float *values, struct error *err);

/* Writes a model file durably (file.h). dtype: "F32", "BF16" or "F16" (round to nearest even). training may be NULL.
 * The file's bytes are a function of the arguments. 0, -EINVAL (dtype), -ERANGE (err names the tensor: a value does not
 * fit dtype), -ENOMEM, -ENOSPC, -EIO, ... */
int checkpoint_write(const char *path, const struct model_config *model, const struct diffusion_config *diffusion,
                     const struct data_config *data, const json_t *training, const struct graph *g, const float *values,
                     const char *dtype, struct error *err);

#endif
