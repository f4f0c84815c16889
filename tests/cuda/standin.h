/* standin.h: between the stand-ins for CUDA's runtime (standin_cuda.cpp) and for cuDNN (standin_cudnn.cpp).
 *
 * They are linked in the place of the real libraries, with the backend's C files as they are and its kernels through
 * emulation.h, and are compiled against the real headers, so that a call with a wrong signature does not build. They
 * show errors of sequence and of memory, and that results are right; speed, limits and what real engines do they cannot
 * show. STANDIN_FAIL=CALL:N makes the N-th call of that name fail.
 */
#ifndef DDIMD_TESTS_CUDA_STANDIN_H
#define DDIMD_TESTS_CUDA_STANDIN_H

#include <functional>

#include <cuda_runtime_api.h>

/* Enqueues work on a stream, or into the graph that the stream captures. */
void standin_submit(cudaStream_t s, std::function<void()> work);
/* Whether [p, p + bytes) lies in one allocation of device memory. */
bool standin_on_device(const void *p, size_t bytes);
/* Whether this call is the one that STANDIN_FAIL names. */
bool standin_fails(const char *call);

#endif
