/* device.c: a CUDA device: whether there is one, its stream, its memory, and the backend's table.
 *
 * Device options are "", or the device's number, or "NUMBER,low": the stream then yields to others on the device
 * (training beside sampling). Calls come from one thread at a time, which may be another one than opened the device.
 */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CUDNN_NEEDED = 91300 };

/* ---- whether there is one ---- */

/* The runtime calls a missing driver an old one. */
static bool driver_exists(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver)
        dlclose(driver);
    return driver != NULL;
}

static int no_device(struct error *err, cudaError_t e)
{
    if (e == cudaErrorInsufficientDriver && !driver_exists())
        return error_set(err, -ENODEV, "device", "there is no NVIDIA driver on this machine (libcuda.so.1)");
    if (e == cudaErrorInsufficientDriver)
        return error_set(err, -ENODEV, "device", "the NVIDIA driver is older than CUDA %d.%d, which this ddimd uses",
                         CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (e == cudaErrorNoDevice || e == cudaErrorStubLibrary)
        return error_set(err, -ENODEV, "device", "this machine has no NVIDIA GPU that the driver could see");
    return error_set(err, -ENODEV, "device", "CUDA does not start: %s (%s)", cudaGetErrorString(e),
                     cudaGetErrorName(e));
}

static int count_devices(int *ret_count, struct error *err)
{
    int count = 0;
    cudaError_t e = cudaGetDeviceCount(&count);
    if (e != cudaSuccess || count == 0)
        return no_device(err, e == cudaSuccess ? cudaErrorNoDevice : e);
    if (cudnnGetVersion() < CUDNN_NEEDED)
        return error_set(err, -ENODEV, "device", "cuDNN %zu.%zu.%zu is too old: 9.13 or later is wanted",
                         cudnnGetVersion() / 10000, cudnnGetVersion() / 100 % 100, cudnnGetVersion() % 100);
    *ret_count = count;
    return 0;
}

int cuda_available(struct error *err)
{
    int count = 0;
    return count_devices(&count, err);
}

/* ---- open and close ---- */

static int parse_options(const char *options, int count, int *ret_index, bool *ret_low, struct error *err)
{
    int index = 0, used = 0;
    bool number = sscanf(options, "%d%n", &index, &used) == 1;
    const char *rest = options + used;
    bool low = !strcmp(rest, ",low");
    if (!(*options == '\0' || (number && (*rest == '\0' || low))))
        return error_set(err, -EINVAL, "device", "CUDA options are NUMBER or NUMBER,low, not \"%.64s\"", options);
    if (index < 0 || index >= count)
        return error_set(err, -ENODEV, "device", "there is no CUDA device %d: this machine has %d, numbered from 0",
                         index, count);
    *ret_index = index;
    *ret_low = low;
    return 0;
}

static int describe(struct device *d, struct error *err)
{
    struct cudaDeviceProp p;
    int rc = CUDA(d, cudaGetDeviceProperties(&p, d->index), err);
    if (rc)
        return rc;
    if (p.major < 8)
        return error_set(err, -ENODEV, "device", "%.100s has compute capability %d.%d: 8.0 or later is wanted", p.name,
                         p.major, p.minor);
    snprintf(d->base.description, sizeof(d->base.description), "GPU %d, %.70s, sm_%d%d, cuDNN %zu.%zu.%zu", d->index,
             p.name, p.major, p.minor, cudnnGetVersion() / 10000, cudnnGetVersion() / 100 % 100,
             cudnnGetVersion() % 100);
    return 0;
}

static int open_stream(struct device *d, bool low, struct error *err)
{
    int least, greatest;
    int rc = CUDA(d, cudaDeviceGetStreamPriorityRange(&least, &greatest), err);
    if (rc == 0)
        rc = CUDA(d, cudaStreamCreateWithPriority(&d->stream, cudaStreamNonBlocking, low ? least : greatest), err);
    if (rc == 0)
        rc = CUDA(d, cudaMallocHost((void **)&d->staging.memory, CUDA_STAGING_BYTES), err);
    for (int i = 0; i < 2 && rc == 0; i++)
        rc = CUDA(d, cudaEventCreateWithFlags(&d->staging.done[i], cudaEventDisableTiming), err);
    if (rc == 0)
        rc = CUDNN(d, cudnnCreate(&d->cudnn), err);
    if (rc == 0)
        rc = CUDNN(d, cudnnSetStream(d->cudnn, d->stream), err);
    return rc;
}

static void device_close(struct device *d)
{
    if (!d)
        return;
    if (d->stream)
        cudaStreamSynchronize(d->stream);
    cuda_sampler_done(d);
    cuda_optimizer_done(d);
    engines_free(d->engines);
    if (d->cudnn)
        cudnnDestroy(d->cudnn);
    for (int i = 0; i < 2; i++)
        if (d->staging.done[i])
            cudaEventDestroy(d->staging.done[i]);
    cudaFreeHost(d->staging.memory);
    if (d->stream)
        cudaStreamDestroy(d->stream);
    free(d);
}

extern const struct backend ddimd_backend;

static int device_open(const char *options, struct device **ret_device, struct error *err)
{
    int count = 0;
    bool low = false;
    int rc = count_devices(&count, err);
    if (rc)
        return rc;
    struct device *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, -ENOMEM, NULL, "no memory for a CUDA device");
    d->base = (struct device_base){
        .backend = &ddimd_backend, .n_threads = 1, .whole_images = CUDA_WHOLE_IMAGES, .native = DTYPE_BF16};
    rc = parse_options(options ? options : "", count, &d->index, &low, err);
    if (rc == 0)
        rc = CUDA(d, cudaSetDevice(d->index), err);
    if (rc == 0)
        rc = describe(d, err);
    if (rc == 0)
        rc = open_stream(d, low, err);
    if (rc == 0)
        rc = engines_create(d->cudnn, d->stream, d->base.description, &d->engines, err);
    if (rc) {
        device_close(d);
        return rc;
    }
    *ret_device = d;
    return 0;
}

/* ---- memory ---- */

size_t cuda_align(size_t bytes)
{
    return (bytes + CUDA_ALIGNMENT - 1) / CUDA_ALIGNMENT * CUDA_ALIGNMENT;
}

int cuda_alloc(struct device *d, size_t bytes, void **ret_memory)
{
    void *memory;
    int rc = CUDA(d, cudaSetDevice(d->index), NULL);
    if (rc == 0)
        rc = CUDA(d, cudaMalloc(&memory, cuda_align(bytes ? bytes : 1)), NULL);
    if (rc)
        return rc;
    d->base.bytes_in_use += cuda_align(bytes);
    *ret_memory = memory;
    return 0;
}

void cuda_free(struct device *d, void *memory, size_t bytes)
{
    if (!memory)
        return;
    cudaFree(memory);
    d->base.bytes_in_use -= cuda_align(bytes);
}

/* *ret_part: room for bytes <= CUDA_STAGING_BYTES / 2 that no copy under way reads. */
static int staging_take(struct device *d, size_t bytes, char **ret_part)
{
    struct staging *s = &d->staging;
    const size_t half = CUDA_STAGING_BYTES / 2;
    size_t from = s->used, which = from / half;
    int rc = 0;
    if (from + bytes > (which + 1) * half) { // go on in the other half, once its last copies are done
        rc = CUDA(d, cudaEventRecord(s->done[which], d->stream), NULL);
        which = 1 - which;
        from = which * half;
        if (rc == 0)
            rc = CUDA(d, cudaEventSynchronize(s->done[which]), NULL);
    }
    if (rc)
        return rc;
    s->used = from + (bytes + 63) / 64 * 64;
    if (s->used >= (which + 1) * half) // full to the brim: the next one shall not take this for the other half
        s->used = (which + 1) * half - 1;
    *ret_part = s->memory + from;
    return 0;
}

int cuda_upload(struct device *d, void *to, const void *from, size_t bytes)
{
    const size_t piece = CUDA_STAGING_BYTES / 4;
    int rc = 0;
    for (size_t at = 0; at < bytes && rc == 0; at += piece) {
        size_t count = bytes - at < piece ? bytes - at : piece;
        char *part;
        rc = staging_take(d, count, &part);
        if (rc)
            return rc;
        memcpy(part, (const char *)from + at, count);
        rc = CUDA(d, cudaMemcpyAsync((char *)to + at, part, count, cudaMemcpyHostToDevice, d->stream), NULL);
    }
    return rc;
}

int cuda_download(struct device *d, void *to, const void *from, size_t bytes)
{
    int rc = CUDA(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->stream), NULL);
    return rc ? rc : CUDA(d, cudaStreamSynchronize(d->stream), NULL);
}

int cuda_copy(struct device *d, void *to, const void *from, size_t bytes)
{
    return CUDA(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, d->stream), NULL);
}

/* ---- the table ---- */

static int run_strands(struct device *d, int count, int (*body)(void *context, int strand), void *context)
{
    int rc = CUDA(d, cudaSetDevice(d->index), NULL);
    for (int i = 0; i < count && rc == 0; i++)
        rc = body(context, i);
    return rc;
}

__attribute__((visibility("default"))) const struct backend ddimd_backend = {
    .abi = BACKEND_ABI,
    .name = "cuda",
    .available = cuda_available,
    .open = device_open,
    .close = device_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .weights_create = cuda_weights_create,
    .weights_free = cuda_weights_free,
    .weights_seal = cuda_weights_seal,
    .weights_repack = cuda_weights_repack,
    .weights_master = cuda_weights_master,
    .weights_bytes = cuda_weights_bytes,
    .lower =
        {
            [OP_CAST] = lower_cast,
            [OP_CONV2D] = lower_conv2d,
            [OP_LINEAR] = lower_linear,
            [OP_GROUP_NORM] = lower_group_norm,
            [OP_SILU] = lower_silu,
            [OP_ADD] = lower_add,
            [OP_ADD_CHANNEL] = lower_add_channel,
            [OP_CONCAT] = lower_concat,
            [OP_UPSAMPLE2X] = lower_upsample2x,
            [OP_AVG_POOL2X] = lower_avg_pool2x,
            [OP_ATTENTION] = lower_attention,
            [OP_EMBEDDING] = lower_embedding,
            [OP_TIMESTEP_EMBEDDING] = lower_timestep_embedding,
            [OP_DROPOUT] = lower_dropout,
            [OP_MSE] = lower_mse,
            [OP_RELU] = lower_relu,
            [OP_POOL] = lower_pool,
            [OP_GLOBAL_MEAN] = lower_global_mean,
            [OP_CROSS_ENTROPY] = lower_cross_entropy,
            [OP_CONV2D_BACKWARD_DATA] = lower_conv2d_backward_data,
            [OP_CONV2D_BACKWARD_WEIGHTS] = lower_conv2d_backward_weights,
            [OP_LINEAR_BACKWARD_DATA] = lower_linear_backward_data,
            [OP_LINEAR_BACKWARD_WEIGHTS] = lower_linear_backward_weights,
            [OP_GROUP_NORM_BACKWARD] = lower_group_norm_backward,
            [OP_SILU_BACKWARD] = lower_silu_backward,
            [OP_ADD_CHANNEL_BACKWARD] = lower_add_channel_backward,
            [OP_SLICE] = lower_slice,
            [OP_UPSAMPLE2X_BACKWARD] = lower_upsample2x_backward,
            [OP_AVG_POOL2X_BACKWARD] = lower_avg_pool2x_backward,
            [OP_ATTENTION_BACKWARD] = lower_attention_backward,
            [OP_EMBEDDING_BACKWARD] = lower_embedding_backward,
            [OP_DROPOUT_BACKWARD] = lower_dropout,
            [OP_MSE_BACKWARD] = lower_mse_backward,
            [OP_GLOBAL_MEAN_BACKWARD] = lower_global_mean_backward,
            [OP_CROSS_ENTROPY_BACKWARD] = lower_cross_entropy_backward,
        },
    .run_plan = cuda_run_plan,
    .recording_free = cuda_recording_free,
    .run_strands = run_strands,
    .fill_noise = cuda_fill_noise,
    .gather_rows = cuda_gather_rows,
    .update_rows = cuda_update_rows,
    .sum_vectors = cuda_sum_vectors,
    .sum_of_squares = cuda_sum_of_squares,
    .adamw = cuda_adamw,
};
