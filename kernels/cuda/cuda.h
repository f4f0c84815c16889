/* cuda.h: what the C files of the CUDA backend share.
 *
 * device.c owns the device, its stream and memory; status.c turns every vendor status into an errno and a text; dnn.c
 * writes cuDNN's operation graphs and engine.c chooses who runs them; recording.c keeps a plan as a CUDA graph; the
 * other files lower one family of operations each. Everything is enqueued on one stream; download() and update_rows()
 * wait for it, nothing else does while running.
 */
#ifndef DDIMD_CUDA_H
#define DDIMD_CUDA_H

#include "kernels/cuda/launch.h"

#include <cudnn.h>

enum { CUDA_ALIGNMENT = 256, CUDA_WHOLE_IMAGES = 512, CUDA_STAGING_BYTES = 1 << 21 };

struct engines; // engine.c: which cuDNN engine runs which graph

/* Pinned memory that small uploads pass through, so that they need not wait: used from the start to the end and again
 * from the start; one event for each half says when the copies out of it are done. */
struct staging {
    char *memory;
    size_t used;
    cudaEvent_t done[2];
};

struct device {
    struct device_base base;
    int index;
    cudaStream_t stream;
    cudnnHandle_t cudnn;
    struct engines *engines;
    struct staging staging;
    double *square_sums; // optimizer: pinned, n_square_sums
    size_t n_square_sums;
    uint8_t *bad, *host_bad; // sampler: [n_bad] on the device, pinned
    struct row_update *rows; // sampler: [n_bad] on the device
    size_t n_bad;
};

/* ---- status.c ---- */

/* 0, or -ENOMEM, -ENOTSUP (cuDNN only), -EIO. A failure fills err (NULL: nothing) and, where it is the device's first,
 * d's failure (d NULL: nothing). */
int cuda_status(struct device *d, cudaError_t e, const char *call, const char *file, int line, struct error *err);
int cudnn_status(struct device *d, cudnnStatus_t e, const char *call, const char *file, int line, struct error *err);
#define CUDA(d, call, err) cuda_status((d), (call), #call, __FILE__, __LINE__, (err))
#define CUDNN(d, call, err) cudnn_status((d), (call), #call, __FILE__, __LINE__, (err))

/* ---- device.c ---- */

int cuda_available(struct error *err);
int cuda_alloc(struct device *d, size_t bytes, void **ret_memory);
void cuda_free(struct device *d, void *memory, size_t bytes);
int cuda_upload(struct device *d, void *to, const void *from, size_t bytes);
int cuda_download(struct device *d, void *to, const void *from, size_t bytes);
int cuda_copy(struct device *d, void *to, const void *from, size_t bytes);
size_t cuda_align(size_t bytes);

/* ---- recording.c ---- */

int cuda_run_plan(struct device *d, struct primitive *const *primitives, int32_t n, const struct frame *f,
                  int32_t n_bases, struct recording **recording);
void cuda_recording_free(struct recording *r);

/* ---- weights.c: one flat f32 vector, and where the compute dtype is bf16 the same vector in it ---- */

int cuda_weights_create(struct device *d, const struct graph *params_of, const float *values, bool keep_master,
                        struct weights **ret_weights, struct error *err);
void cuda_weights_free(struct weights *w);
void cuda_weights_seal(struct weights *w);
int cuda_weights_repack(struct weights *w);
float *cuda_weights_master(struct weights *w);
size_t cuda_weights_bytes(const struct weights *w);
/* A parameter in the graph's compute dtype, or in f32 where f32 is set: [K, R, S, C] dense, an address that stays while
 * the weights live. TENSOR_NONE: at NULL. */
int weights_at(const struct lowering *l, tensor_id id, bool f32, struct gpu_pixels *ret_param, struct error *err);

/* ---- a node's tensors ---- */

/* One tensor of a node as a primitive keeps it. place.base < 0: the node has none at this position. */
struct operand {
    struct place place;
    enum dtype dtype;
    int32_t n, h, w, c;
};

struct operand cuda_operand(const struct lowering *l, tensor_id id);
static inline bool operand_exists(const struct operand *o)
{
    return o->place.base >= 0;
}
static inline size_t operand_pixels(const struct operand *o) // of one image
{
    return (size_t)o->h * (size_t)o->w;
}
static inline size_t operand_all(const struct operand *o) // pixels of all images
{
    return (size_t)o->n * operand_pixels(o);
}
static inline size_t operand_bytes(const struct operand *o) // stored densely
{
    return operand_all(o) * (size_t)o->c * dtype_bytes(o->dtype);
}
static inline void *operand_at(const struct operand *o, const struct frame *f)
{
    return operand_exists(o) ? f->base[o->place.base] + o->place.offset : NULL;
}
static inline struct gpu_pixels operand_view(const struct operand *o, const struct frame *f)
{
    return (struct gpu_pixels){o->dtype, operand_at(o, f), (size_t)o->place.pitch};
}
/* Whether cuDNN can use it where it lies: dense, and aligned as the arena's tensors are. */
static inline bool operand_plain(const struct operand *o)
{
    return o->place.pitch == o->c && o->place.offset % 16 == 0;
}
/* A part of the scratch memory as dense pixels of c channels. */
static inline struct gpu_pixels scratch_view(const struct frame *f, size_t offset, enum dtype dtype, int32_t c)
{
    return (struct gpu_pixels){dtype, f->base[BASE_SCRATCH] + offset, (size_t)c};
}

/* ---- a primitive that our own kernels compute ---- */

struct kernel_primitive {
    struct primitive base;
    struct device *device;
    struct node node; // its attributes; in and out point nowhere
    struct operand in[9], out[6];
    struct gpu_pixels param[3]; // in the order that the operation says
    float *constants;           // on the device, owned; NULL for none
    size_t constants_bytes;
};
int kernel_primitive_create(struct device *d, const struct lowering *l,
                            int (*run)(struct primitive *, const struct frame *),
                            struct kernel_primitive **ret_primitive, struct error *err);

/* ---- operations ---- */

typedef int lower_function(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                           struct error *err);
lower_function lower_conv2d, lower_conv2d_backward_data, lower_conv2d_backward_weights;
lower_function lower_linear, lower_linear_backward_data, lower_linear_backward_weights;
lower_function lower_group_norm, lower_group_norm_backward;
lower_function lower_attention, lower_attention_backward;
lower_function lower_cast, lower_silu, lower_silu_backward, lower_add, lower_add_channel, lower_add_channel_backward;
lower_function lower_concat, lower_slice, lower_upsample2x, lower_upsample2x_backward, lower_avg_pool2x;
lower_function lower_avg_pool2x_backward, lower_dropout, lower_mse, lower_mse_backward;
lower_function lower_embedding, lower_embedding_backward, lower_timestep_embedding;
lower_function lower_relu, lower_pool, lower_global_mean, lower_global_mean_backward;
lower_function lower_cross_entropy, lower_cross_entropy_backward;

/* ---- sampler.c, optimizer.c ---- */

int cuda_fill_noise(struct device *d, float *x, size_t elements, int32_t slot, uint64_t seed, uint64_t image);
int cuda_gather_rows(struct device *d, const float *x, size_t elements, const int32_t *slots, int n, float *ret_rows);
int cuda_update_rows(struct device *d, float *x, float *l, const float *e, size_t elements,
                     const struct row_update *rows, int n, uint8_t *ret_finite);
void cuda_sampler_done(struct device *d);
int cuda_sum_vectors(struct device *d, float *y, float *const *vectors, int count, size_t n);
int cuda_sum_of_squares(struct device *d, const float *x, size_t n, double *ret_sum);
int cuda_adamw(struct device *d, float *w, const float *g, float *m, float *v, float *ema, size_t n,
               const struct adamw *o);
void cuda_optimizer_done(struct device *d);

#endif
