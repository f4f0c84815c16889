/* export.h: a model file in another dtype, for shipping.
 */
#ifndef DDIMD_TRAINING_EXPORT_H
#define DDIMD_TRAINING_EXPORT_H

#include "kernels/error.h"

/* Reads a model file, writes its weights as dtype ("F32", "BF16", "F16") with the same metadata. Any thread. 0,
 * -ENOENT, -EINVAL (not a model file; dtype), -ERANGE (a weight does not fit dtype), -ENOMEM, -EIO, -ENOSPC, ... */
int export_model(const char *from, const char *dtype, const char *to, struct error *err);

#endif
