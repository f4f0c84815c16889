/* status.c: statuses of the CUDA runtime and of cuDNN as negative errno plus a sentence that names call and place. */
#include "kernels/cuda/cuda.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* "cudaMalloc(ret_memory, bytes)" -> "cudaMalloc" */
static int call_name_length(const char *call)
{
    return (int)strcspn(call, "(");
}

static const char *file_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

static int report(struct device *d, int rc, const char *what, const char *why, const char *call, const char *file,
                  int line, struct error *err)
{
    char text[sizeof(err->message)];
    snprintf(text, sizeof(text), "%.*s: %s%s%.200s (%s:%d)", call_name_length(call), call, what, *why ? ": " : "", why,
             file_name(file), line);
    if (d && rc == -EIO && !d->base.failure[0])
        snprintf(d->base.failure, sizeof(d->base.failure), "%.*s", (int)sizeof(d->base.failure) - 1, text);
    return error_set(err, rc, NULL, "%s", text);
}

int cuda_status(struct device *d, cudaError_t e, const char *call, const char *file, int line, struct error *err)
{
    if (e == cudaSuccess)
        return 0;
    cudaGetLastError(); // an error that is not sticky must not be found again by the next launch
    return report(d, e == cudaErrorMemoryAllocation ? -ENOMEM : -EIO, cudaGetErrorName(e), cudaGetErrorString(e), call,
                  file, line, err);
}

int cudnn_status(struct device *d, cudnnStatus_t e, const char *call, const char *file, int line, struct error *err)
{
    char why[256] = "";
    if (e == CUDNN_STATUS_SUCCESS)
        return 0;
    cudnnGetLastErrorString(why, sizeof(why));
    bool memory = e == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
                  e == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED;
    bool no_engine = e / 1000 == CUDNN_STATUS_NOT_SUPPORTED / 1000;
    return report(d,
                  memory      ? -ENOMEM
                  : no_engine ? -ENOTSUP
                              : -EIO,
                  cudnnGetErrorString(e), why, call, file, line, err);
}
