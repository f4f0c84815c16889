/* launch.h: the kernels of this folder (*.cu) as C functions.
 *
 * Each enqueues on a stream and returns the status of the launch. Pointers are device memory. Reductions are taken in
 * an order that the shapes of one image fix, so that an image's bits do not depend on the batch; no atomics anywhere.
 */
#ifndef DDIMD_CUDA_LAUNCH_H
#define DDIMD_CUDA_LAUNCH_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "kernels/backend.h"

/* Pixels of `pitch` elements, of which an operation touches the first few; the images of a batch follow one another. */
struct gpu_pixels {
    enum dtype dtype; // F32 or BF16
    void *at;         // NULL: there is none
    size_t pitch;
};

/* ---- pointwise.cu; n pixels of c channels ---- */

cudaError_t gpu_copy(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t n, size_t c); // converts
cudaError_t gpu_silu(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t n, size_t c);
cudaError_t gpu_silu_backward(cudaStream_t s, struct gpu_pixels dx, struct gpu_pixels x, struct gpu_pixels dy, size_t n,
                              size_t c);
cudaError_t gpu_add(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels a, struct gpu_pixels b, size_t n, size_t c);
/* y = x + e[image], of `pixels` pixels each; y and x of one dtype, e: [images, c] of any. */
cudaError_t gpu_add_channel(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, struct gpu_pixels e,
                            size_t images, size_t pixels, size_t c);
/* y = x [+ bias[c]] [+ residual]: what a convolution's engine could not add itself. bias: one pixel. */
cudaError_t gpu_finish_conv(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, struct gpu_pixels bias,
                            struct gpu_pixels residual, size_t n, size_t c);
/* y: [images, 2 h, 2 w, c] = factor x: [images, h, w, c] in each 2x2 block. */
cudaError_t gpu_spread2x(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t images, size_t h, size_t w,
                         size_t c, float factor);
/* x: [images, h, w, c] = factor times the sums of y's 2x2 blocks [+ more]. */
cudaError_t gpu_gather2x(cudaStream_t s, struct gpu_pixels x, struct gpu_pixels y, struct gpu_pixels more,
                         size_t images, size_t h, size_t w, size_t c, float factor);

cudaError_t gpu_relu(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t n, size_t c);

/* ---- classify.cu: what classifiers need ---- */

/* y: [images, p, q, c] = the largest or the mean of x: [images, h, w, c] in windows of `window`, `stride` apart, the
 * first beginning `padding` before the image; what lies outside does not count. */
struct gpu_pool {
    size_t images, h, w, p, q, c;
    int32_t window, stride, padding;
    bool max;
};
cudaError_t gpu_pool(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, const struct gpu_pool *p);
cudaError_t gpu_global_mean(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t images, size_t pixels,
                            size_t c);
cudaError_t gpu_global_mean_backward(cudaStream_t s, struct gpu_pixels dx, struct gpu_pixels dy, size_t images,
                                     size_t pixels, size_t c);
/* loss[image] = log sum exp x - x[label]; dx NULL. Or dx = (softmax x - one-hot) weight[image]. All f32; labels outside
 * [0, c) are clamped. */
cudaError_t gpu_cross_entropy(cudaStream_t s, float *loss, struct gpu_pixels dx, struct gpu_pixels x,
                              const int32_t *label, const float *weight, size_t images, size_t c);

/* ---- reduce.cu ---- */

/* sum[image][c] = sum of the image's pixels. scratch: gpu_sum_pixels_scratch floats, may be NULL where that is 0. */
cudaError_t gpu_sum_pixels(cudaStream_t s, struct gpu_pixels sum, struct gpu_pixels x, size_t images, size_t pixels,
                           size_t c, float *scratch);
size_t gpu_sum_pixels_scratch(size_t pixels, size_t c);
/* loss[image] = mean of (a - b)^2. */
cudaError_t gpu_mse(cudaStream_t s, float *loss, struct gpu_pixels a, struct gpu_pixels b, size_t images, size_t pixels,
                    size_t c);
/* da = 2 (a - b) weight[image] / (pixels c) */
cudaError_t gpu_mse_backward(cudaStream_t s, struct gpu_pixels da, struct gpu_pixels a, struct gpu_pixels b,
                             const float *weight, size_t images, size_t pixels, size_t c);
/* sums[i], i < gpu_square_sums: of x's squares, to be added up on the host in that order. */
cudaError_t gpu_square_sums(cudaStream_t s, const float *x, size_t n, double *sums);
size_t gpu_n_square_sums(size_t n);

/* ---- embed.cu ---- */

/* y[image] = table[index[image]]; an index outside the table's rows is clamped. */
cudaError_t gpu_embedding(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels table, const int32_t *index,
                          size_t images, size_t rows, size_t c);
cudaError_t gpu_embedding_backward(cudaStream_t s, float *dtable, struct gpu_pixels dy, const int32_t *index,
                                   size_t images, size_t rows, size_t c);
/* y[image] = [cos(t f) | sin(t f)]; frequency: [half]. */
cudaError_t gpu_timestep_embedding(cudaStream_t s, struct gpu_pixels y, const float *t, const float *frequency,
                                   size_t images, size_t half);
/* kernels/backend.h says what the mask is. key: [images][4]. */
cudaError_t gpu_dropout(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, const uint32_t *key, size_t images,
                        size_t pixels, size_t c, uint32_t stream, float rate);

/* ---- gemm.cu ---- */

enum { GPU_MAX_TERMS = 24 };

/* c[m][n] = sum over the terms' k of a[m][k] b[k][n] [+ bias[n]] [+ more[m][n]]; addresses in elements: a[m][k] at a +
 * m a_row + k a_column, b[k][n] at b + k b_row + n b_column. */
struct gpu_matrix_term {
    const void *a, *b, *bias, *more;
    void *c;
    int32_t n, k;
    int32_t a_row, b_row, c_row, more_row;
    int32_t a_column, b_column;
};
struct gpu_product {
    enum dtype in, out; // of a, b, bias and more; of c
    int32_t m, n_terms;
    bool summed; // the terms' products add up in term[0].c (same n), else each has its own c
    struct gpu_matrix_term term[GPU_MAX_TERMS];
};
/* One chain of multiply-adds per element, over k in order: its bits depend on no other row. */
cudaError_t gpu_product(cudaStream_t s, const struct gpu_product *p);

/* ---- norm.cu ---- */

struct gpu_norm {
    size_t images, pixels, channels, groups;
    float eps;
    bool silu;
    struct gpu_pixels x, y, pre, post; // pre, post: [images, channels]
    struct gpu_pixels gamma, beta;     // one pixel, f32
    float *mean, *rstd;                // [images, groups]; forward: written, NULL for none; backward: read
    struct gpu_pixels dy, more, dx, dpre, dpost;
    float *dgamma, *dbeta; // [channels]
    float *scratch;        // backward: gpu_norm_scratch floats
};
enum { GPU_MAX_NORM_WIDTH = 256 }; // channels of a group
cudaError_t gpu_group_norm(cudaStream_t s, const struct gpu_norm *g);
cudaError_t gpu_group_norm_backward(cudaStream_t s, const struct gpu_norm *g);
size_t gpu_norm_scratch(const struct gpu_norm *g);

/* ---- attention.cu: any head size, f32 sums; cuDNN's takes over where it can ---- */

/* qkv: [images, tokens, heads, 3, size], y: [images, tokens, heads, size]; lse: [images, tokens, heads]. */
struct gpu_attention {
    enum dtype dtype;
    size_t images, tokens, heads, size;
    struct gpu_pixels qkv, y, dy;
    struct gpu_pixels to; // forward: y; backward: dqkv
    float *lse;
};
enum { GPU_MAX_TOKENS = 4096, GPU_MAX_HEAD = 1024 };
cudaError_t gpu_attention(cudaStream_t s, const struct gpu_attention *a);
cudaError_t gpu_attention_backward(cudaStream_t s, const struct gpu_attention *a);

/* ---- state.cu: the sampler and the optimiser ---- */

cudaError_t gpu_fill_noise(cudaStream_t s, float *x, size_t elements, uint64_t seed, uint64_t image, uint32_t draw);
/* slots: on the device, or host memory that the device reads. */
cudaError_t gpu_gather_rows(cudaStream_t s, float *rows, const float *x, size_t elements, const int32_t *slots, int n);
/* bad[i] = 1 where row i's new state has a NaN or infinity; must be 0 before. */
cudaError_t gpu_update_rows(cudaStream_t s, float *x, float *l, const float *e, size_t elements,
                            const struct row_update *rows, int n, uint8_t *bad);
/* y = a (+ b where it is not NULL) */
cudaError_t gpu_sum_two(cudaStream_t s, float *y, const float *a, const float *b, size_t n);
cudaError_t gpu_adamw(cudaStream_t s, float *w, const float *g, float *m, float *v, float *ema, size_t n,
                      const struct adamw *o, float step_size, float inverse_root_correction);

#ifdef __cplusplus
}
#endif

#endif
