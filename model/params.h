/* params.h: the parameters of a recorded graph as a safetensors file holds them: by name, in PyTorch's layout.
 *
 * `__metadata__` has one key, "ddimd", whose value is JSON and says what the network is. Any thread, one at a time per
 * object.
 */
#ifndef DDIMD_MODEL_PARAMS_H
#define DDIMD_MODEL_PARAMS_H

#include "kernels/graph.h"
#include "model/safetensors.h"

#include <jansson.h>

/* The JSON of the key. 0, -EINVAL (no such key, or not JSON), -ENOMEM. *ret_json: new reference. */
int params_metadata(const struct safetensors *s, json_t **ret_json, struct error *err);

/* Whether each parameter of g is there with its shape, and nothing else. 0, -EINVAL (err->field: the tensor). */
int params_check(const struct safetensors *s, const struct graph *g, struct error *err);

/* Copies the parameters in the order and layout of g's table (struct param) into values[g->param_floats] (padding
 * zeroed), converting dtype. 0, -EINVAL (err names the tensor: not there, another shape, a value that is not finite),
 * -ENOMEM. */
int params_read(const struct safetensors *s, const struct graph *g, float *values, struct error *err);

/* Writes them durably (file.h). dtype: "F32", "BF16" or "F16" (round to nearest even). The file's bytes are a function
 * of the arguments. 0, -EINVAL (dtype), -ERANGE (err names the tensor: a value does not fit dtype), -ENOMEM, -ENOSPC,
 * -EIO, ... */
int params_write(const char *path, const json_t *metadata, const struct graph *g, const float *values,
                 const char *dtype, struct error *err);

#endif
