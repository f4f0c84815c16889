/* cpu.h: what the files of the CPU backend share.
 *
 * device.c owns threads and memory, onednn.c speaks to oneDNN, weights.c packs parameters; the other files lower one
 * family of operations each. A primitive with n_threads == 1 runs on the thread that calls it (one strand of
 * run_strands) and starts no other; else it may use n_threads. Results do not depend on that number.
 */
#ifndef DDIMD_CPU_H
#define DDIMD_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/loops/loops.h"

#include <dnnl.h>

enum { CPU_MAX_THREADS = 256, CPU_ALIGNMENT = 64 };

struct device {
    struct device_base base;
    const struct loops *loops;
    dnnl_engine_t engine;
    dnnl_stream_t stream[CPU_MAX_THREADS]; // one per strand
    int first_processor;                   // threads are pinned from here on; -1: not pinned
    bool pinned;
    float *noise; // sampler.c: one image per thread
    size_t noise_floats;
};

/* ---- device.c ---- */

/* body(context, 0 .. count - 1), over n_threads threads where that is more than one. Static split. */
void cpu_parallel(int n_threads, size_t count, void (*body)(void *context, size_t i), void *context);
/* [begin, end) of part i of `parts` of n, in multiples of grain. */
void cpu_split(size_t n, size_t grain, size_t parts, size_t i, size_t *ret_begin, size_t *ret_end);
size_t cpu_align(size_t bytes);

/* ---- a node's tensors ---- */

/* One tensor of a node as a primitive keeps it. place.base < 0: the node has none at this position. */
struct operand {
    struct place place;
    enum dtype dtype;
    int32_t n, h, w, c;
};

struct operand cpu_operand(const struct lowering *l, tensor_id id);
static inline bool operand_exists(const struct operand *o)
{
    return o->place.base >= 0;
}
static inline size_t operand_pixels(const struct operand *o) // of one image
{
    return (size_t)o->h * (size_t)o->w;
}
static inline bool operand_dense(const struct operand *o)
{
    return o->place.pitch == o->c;
}
/* Bytes of all images stored densely. */
static inline size_t operand_bytes(const struct operand *o)
{
    return (size_t)o->n * operand_pixels(o) * (size_t)o->c * dtype_bytes(o->dtype);
}
/* Address of image i. NULL where it does not exist. */
static inline void *operand_at(const struct operand *o, const struct frame *f, size_t i)
{
    if (!operand_exists(o))
        return NULL;
    return f->base[o->place.base] + o->place.offset +
           i * operand_pixels(o) * (size_t)o->place.pitch * dtype_bytes(o->dtype);
}
static inline struct pixels operand_view(const struct operand *o, const struct frame *f, size_t i)
{
    return (struct pixels){o->dtype, operand_at(o, f, i), (size_t)o->place.pitch};
}

/* y = x, densely or not, converting, all images, over n_threads. */
struct view_copy {
    const struct device *device;
    struct pixels y, x;
    size_t pixels, channels; // pixels of all images
};
void cpu_copy_pixels(const struct view_copy *copy, int n_threads);

/* ---- a primitive that loops.h computes ---- */

struct loop_primitive {
    struct primitive base;
    const struct device *device;
    int n_threads;
    struct node node; // its attributes; in and out point nowhere
    struct operand in[9], out[6];
    const float *vector[3]; // parameters, in the order that the operation says
};

/* Operands from the node, scratch none. Freed by primitive->free. */
int loop_primitive_create(struct device *d, const struct lowering *l,
                          int (*run)(struct primitive *, const struct frame *), struct loop_primitive **ret_primitive,
                          struct error *err);

/* ---- onednn.c ---- */

/* A vendor status as negative errno; err names the call. */
int onednn_status(dnnl_status_t status, const char *call, struct error *err);
#define ONEDNN(call, err) onednn_status(call, #call, err)

enum { ONEDNN_MAX_ARGUMENTS = 6 };

/* A oneDNN primitive with its memory objects; addresses are set before each run. */
struct onednn_call {
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t argument[ONEDNN_MAX_ARGUMENTS];
    int n_arguments;
    size_t scratch_bytes;
    int scratch_argument; // its position, -1: none
};

dnnl_data_type_t onednn_dtype(enum dtype t);
/* A dense NHWC tensor. */
int onednn_image(dnnl_memory_desc_t *ret_md, enum dtype t, int64_t n, int64_t h, int64_t w, int64_t c,
                 struct error *err);
/* Creates the primitive of an operation descriptor for n_threads, with user-mode scratchpad and, where `sum`, dst added
 * to. -ENOTSUP where oneDNN has none. */
int onednn_descriptor_create(struct device *d, const_dnnl_op_desc_t operation, const_dnnl_primitive_desc_t hint,
                             bool sum, int n_threads, dnnl_primitive_desc_t *ret_pd, struct error *err);
int onednn_call_create(struct device *d, const_dnnl_primitive_desc_t pd, int n_threads, struct onednn_call *ret_call,
                       struct error *err);
/* Adds an argument with the memory layout that pd chose (query: dnnl_query_src_md, ...); address may be NULL until
 * onednn_call_set(). Its position is the number of arguments added before. */
int onednn_call_add(struct device *d, struct onednn_call *c, const_dnnl_primitive_desc_t pd, dnnl_query_t query,
                    int index, int argument, void *address, struct error *err);
int onednn_call_set(struct onednn_call *c, int position, void *address);
int onednn_call_run(const struct device *d, struct onednn_call *c, int n_threads, void *scratch);
void onednn_call_done(struct onednn_call *c);

/* ---- weights.c ---- */

enum pack_kind {
    PACK_FORWARD,  // filter [O, I, R, S] of a convolution
    PACK_FLIPPED,  // [I, O, R, S] turned by 180 degrees: the convolution that computes the gradient of its input
    PACK_UPSAMPLE, // 2x2 filter of one of the four phases of a 3x3 convolution on a nearest 2x upsampling
    PACK_STRIPS,   // matrix, as loops' gemm reads it
    PACK_WINOGRAD, // 3x3 filters transformed, as winograd_loops says
    PACK_WINOGRAD_FLIPPED,
    PACK_VECTOR, // f32 as it is
};

struct pack_request {
    enum pack_kind kind;
    int32_t param;
    int32_t phase;             // upsample: 2 (row parity) + column parity
    enum dtype dtype;          // strips
    dnnl_memory_desc_t layout; // filters
};

/* The packed copy that equals the request, made where there is none. Its address stays while the weights live. */
int weights_packed(struct weights *w, const struct pack_request *request, const void **ret_address, struct error *err);
/* f32 vector of a parameter as it is: a bias, a table, a matrix. TENSOR_NONE or not a parameter: *ret is NULL. */
int weights_vector(const struct lowering *l, tensor_id id, const float **ret_vector, struct error *err);

/* Unpacks a convolution's weight gradient from oneDNN's layout into [K, R, S, C]. */
struct layout_map;
int layout_map_create(const dnnl_memory_desc_t *layout, struct layout_map **ret_map, struct error *err);
void layout_map_free(struct layout_map *m); // NULL is fine
size_t layout_map_bytes(const struct layout_map *m);
void layout_map_unpack(const struct device *d, const struct layout_map *m, const float *from, float *to, int n_threads);

int cpu_weights_create(struct device *d, const struct graph *params_of, const float *values, bool keep_master,
                       struct weights **ret_weights, struct error *err);
void cpu_weights_free(struct weights *w);
void cpu_weights_seal(struct weights *w);
int cpu_weights_repack(struct weights *w);
float *cpu_weights_master(struct weights *w);
size_t cpu_weights_bytes(const struct weights *w);

/* ---- device memory ---- */
int cpu_alloc(struct device *d, size_t bytes, void **ret_memory);
void cpu_free(struct device *d, void *memory, size_t bytes);

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
int cpu_fill_noise(struct device *d, float *x, size_t elements, int32_t slot, uint64_t seed, uint64_t image);
int cpu_gather_rows(struct device *d, const float *x, size_t elements, const int32_t *slots, int n, float *ret_rows);
int cpu_update_rows(struct device *d, float *x, float *l, const float *e, size_t elements,
                    const struct row_update *rows, int n, uint8_t *ret_finite);
int cpu_sum_vectors(struct device *d, float *y, float *const *vectors, int count, size_t n);
int cpu_sum_of_squares(struct device *d, const float *x, size_t n, double *ret_sum);
int cpu_adamw(struct device *d, float *w, const float *g, float *m, float *v, float *ema, size_t n,
              const struct adamw *o);

#endif
