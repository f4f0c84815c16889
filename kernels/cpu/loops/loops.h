/* loops.h: what the CPU backend computes itself, as tables of functions, one table per instruction set.
 *
 * Every file of this folder is compiled once per instruction set (meson.build, LOOPS_ISA), all functions static, and
 * exports one table; device.c picks the best set that oneDNN would pick too. A function works on one image or one
 * range, on the calling thread; the drivers in cpu/ split work over threads. Tensors are pixels of c channels, one
 * pixel `pitch` elements after the other.
 */
#ifndef DDIMD_CPU_LOOPS_H
#define DDIMD_CPU_LOOPS_H

#include "kernels/backend.h"

/* A tensor's pixels of one image. */
struct pixels {
    enum dtype dtype;
    void *at;
    size_t pitch; // elements from one pixel to the next
};

struct pointwise_loops {
    /* y = x, dtypes may differ. */
    void (*copy)(struct pixels y, struct pixels x, size_t n, size_t c);
    void (*silu)(struct pixels y, struct pixels x, size_t n, size_t c);
    void (*relu)(struct pixels y, struct pixels x, size_t n, size_t c);
    /* dx = dy silu'(x) */
    void (*silu_backward)(struct pixels dx, struct pixels x, struct pixels dy, size_t n, size_t c);
    void (*add)(struct pixels y, struct pixels a, struct pixels b, size_t n, size_t c);
    /* y[p, c] = x[p, c] + e[c], e of x's dtype */
    void (*add_channel)(struct pixels y, struct pixels x, const void *e, size_t n, size_t c);
    /* sum[c] = sum over p of x[p, c], f32 inside */
    void (*sum_pixels)(enum dtype t, void *sum, struct pixels x, size_t n, size_t c);
    /* x: [h, w, c], y: [2 h, 2 w, c]: every y of a 2x2 block = factor x */
    void (*spread2x)(struct pixels y, struct pixels x, size_t h, size_t w, size_t c, float factor);
    /* x: [h, w, c] of a [2 h, 2 w, c] y: x = factor (sum of the 2x2 block) */
    void (*gather2x)(struct pixels x, struct pixels y, size_t h, size_t w, size_t c, float factor);
    /* The mean over n c elements of (a - b)^2; da = 2 (a - b) weight / (n c). */
    float (*mse)(struct pixels a, struct pixels b, size_t n, size_t c);
    void (*mse_backward)(struct pixels da, struct pixels a, struct pixels b, float weight, size_t n, size_t c);
};

/* y[p, c] = the largest or the mean of the pixels of x in a window that begins pad above and left of stride p. Pixels
 * outside x do not count; at least one is inside. */
struct pool_image {
    struct pixels y, x;
    size_t h, w, c; // of x
    size_t out_w;   // of y
    size_t window, stride, pad;
    size_t row, end; // rows of y to compute
    bool max;
};

struct pool_loops {
    void (*pool)(const struct pool_image *p);
};

struct dropout_key {
    uint64_t key;
    uint32_t draw, image, stream;
    float rate;
};

struct random_loops {
    /* y = x / (1 - rate) where element e = pixel c + channel is kept, else 0. It is kept where u >= rate, u the uniform
     * of Philox word (e / 16) mod 4 of the block with counter (16 (e / 64) + e mod 16, draw, image, stream): sixteen
     * blocks at a time give sixteen neighbours each. */
    void (*dropout)(struct pixels y, struct pixels x, size_t n, size_t c, const struct dropout_key *key);
};

struct group_norm_image {
    size_t n, channels, groups;
    float eps;
    bool silu;
    struct pixels x, y;
    const float *gamma, *beta;
    const void *pre, *post; // [channels] of x's dtype, or NULL
    float *mean, *rstd;     // [groups]; forward: out, NULL where not wanted; backward: in
    float *scratch;         // [6 * channels rounded up to 16]
    /* backward */
    struct pixels dy, more, dx; // more.at may be NULL
    float *dgamma, *dbeta;      // [channels], of this image
    void *dpre, *dpost;         // [channels] of x's dtype, or NULL
};

struct norm_loops {
    void (*forward)(const struct group_norm_image *g);
    void (*backward)(const struct group_norm_image *g);
};

/* c[m, n] = or += a[m, k] b[k, n], each element a chain of multiply-adds over k in order whatever m and n are. */
struct gemm {
    size_t m, n, k;
    const float *a;
    size_t a_row, a_column; // elements from one row, one column to the next
    enum dtype b_dtype;
    const void *b;
    size_t b_row, b_strip; // from one row to the next inside a strip of GEMM_STRIP columns; from one strip to the next
    float *c;
    size_t c_row;
    bool accumulate;
};
enum { GEMM_STRIP = 32 };

struct matrix_loops {
    void (*gemm)(const struct gemm *g);
    /* strips of w^T: to[strip][c][GEMM_STRIP] from w[k][c], zero past k. */
    void (*pack_strips)(enum dtype t, void *to, const float *w, size_t k, size_t c);
    /* to[i] = tile[table[i]], n of them, as t */
    void (*shuffle)(enum dtype t, void *to, const float *tile, const uint16_t *table, size_t n);
    /* to[i / 2][o][i % 2] in bf16 of w[o][i], o in 0 .. n - 1, i in 0 .. 31, rows of w `row` floats apart; n a multiple
     * of 16. turned: of w[i][o]. */
    void (*pack_pairs)(uint16_t *to, size_t n, const float *w, size_t row);
    void (*pack_pairs_turned)(uint16_t *to, size_t n, const float *w, size_t row);
    /* to[o][i] = from[i][o], rows of `to` to_row apart, o and i multiples of 16 */
    void (*turn_block)(float *to, size_t to_row, const float *from, size_t o, size_t i);
    /* y = x + b, b may be NULL */
    void (*store_row)(enum dtype t, void *y, const float *x, const float *b, size_t n);
};

/* Tiles of 2x2 outputs, counted row by row, of one image of f32, and their 16 transformed values. */
struct winograd_tiles {
    struct pixels image; // input: x; output: y
    size_t h, w, c;      // c a multiple of 16
    int halvings;    // input: 1: the image is stored at half of h and w, and read as its nearest 2x upsampling; else 0
    size_t first, n; // tiles
    float *at;       // of tile `first`: [16][n][c], positions and tiles apart as follows
    size_t position, row;
    const float *bias;      // output: [c] or NULL
    struct pixels residual; // output: added to y, maybe y itself; at NULL: none
};

/* A 3x3 convolution with one pixel of zeros around is, at each of 16 positions, one matrix product over channels. */
struct winograd_loops {
    void (*input)(const struct winograd_tiles *t);
    void (*output)(const struct winograd_tiles *t);
    /* u: [16][k / 32][c][32] of filters w [k, 3, 3, c]; k a multiple of 32, c of 16 */
    void (*filters)(float *u, const float *w, size_t k, size_t c);
    /* The same of the filters that give the gradient of the input: w is [c, 3, 3, k], its taps are read backwards. */
    void (*filters_turned)(float *u, const float *w, size_t k, size_t c);
};

/* A few images whose gradients of the filters are summed, with packed copies of both factors in bf16. */
struct conv_weights_group {
    size_t h, w, c, k, r;   // of the output: h, w even; c, k multiples of 32; r x r filters, 1 or 3, stride 1
    int halvings;           // as in winograd_tiles
    size_t images;          // of this group
    const uint16_t *x, *dy; // packed, image after image
    float *dw;              // [k, r, r, c]
    float *db;              // [k] or NULL
    bool accumulate;        // add to what is there
};

struct conv_weights_loops {
    /* Elements of one image, packed; of the group h, w, c, k, r are read. */
    size_t (*x_elements)(const struct conv_weights_group *g);
    size_t (*dy_elements)(const struct conv_weights_group *g);
    /* One image of bf16. */
    void (*pack_x)(const struct conv_weights_group *g, uint16_t *to, struct pixels x);
    void (*pack_dy)(const struct conv_weights_group *g, uint16_t *to, struct pixels dy);
    /* 32 output channels from k on. */
    void (*multiply)(const struct conv_weights_group *g, size_t k);
};

/* One head of one image: T positions of dimension d. */
struct attention_head {
    size_t T, d;
    enum dtype dtype;
    const void *q, *k, *v; // [T, d], pitch apart
    size_t pitch;
    const void *y_in; // backward
    void *y;          // [T, d]
    size_t y_pitch;
    float *lse; // [T], lse_pitch apart, or NULL
    size_t lse_pitch;
    const void *dy;
    size_t dy_pitch;
    void *dq, *dk, *dv; // d_pitch apart
    size_t d_pitch;
    float *scratch; // [scratch_floats()], 64-byte aligned
};

struct attention_loops {
    size_t (*scratch_floats)(enum dtype t, size_t T, size_t d, bool backward);
    void (*forward)(const struct attention_head *h);
    void (*backward)(const struct attention_head *h);
};

struct state_loops {
    bool (*update_row)(float *x, float *l, const float *e, const float *e_uncond, const float *z, size_t n,
                       const struct row_update *r);
    void (*sum)(float *y, float *const *vectors, int count, size_t begin, size_t end);
    double (*sum_of_squares)(const float *x, size_t n);
    void (*adamw)(float *w, const float *g, float *m, float *v, float *ema, size_t n, const struct adamw *o,
                  float step_size, float inverse_root_correction);
};

struct loops {
    const char *name;
    const struct pointwise_loops *pointwise;
    const struct pool_loops *pool;
    const struct random_loops *random;
    const struct norm_loops *norm;
    const struct matrix_loops *matrix;
    const struct attention_loops *attention;
    const struct winograd_loops *winograd;         // NULL where it would not be faster
    const struct conv_weights_loops *conv_weights; // bf16; NULL where there is no kernel of ours
    const struct state_loops *state;
};

#define LOOPS_JOIN2(a, b) a##_##b
#define LOOPS_JOIN(a, b) LOOPS_JOIN2(a, b)
#ifdef LOOPS_ISA
#define LOOPS(name) LOOPS_JOIN(name, LOOPS_ISA)
extern const struct pointwise_loops LOOPS(pointwise_loops);
extern const struct pool_loops LOOPS(pool_loops);
extern const struct random_loops LOOPS(random_loops);
extern const struct norm_loops LOOPS(norm_loops);
extern const struct matrix_loops LOOPS(matrix_loops);
extern const struct attention_loops LOOPS(attention_loops), LOOPS(attention_amx_loops);
extern const struct winograd_loops LOOPS(winograd_loops);
extern const struct conv_weights_loops LOOPS(conv_weights_loops);
extern const struct state_loops LOOPS(state_loops);
#endif

extern const struct loops loops_baseline, loops_avx2, loops_avx512, loops_avx512bf16, loops_amx;

#endif
