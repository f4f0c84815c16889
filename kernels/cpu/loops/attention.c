/* attention.c: one head of one image, in f32, ATTENTION_ROWS query rows at a time.
 *
 * Forward: s = q k^T / sqrt(d), p = e^(s - max), y = p v / sum. Backward computes p again from the kept log-sum-exp
 * (Dao et al. 2022, appendix B): dv = p^T dy, dp = dy v^T, ds = p (dp - rowsum(dy y)), dq = ds k / sqrt(d),
 * dk = ds^T q / sqrt(d).
 */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

enum { ATTENTION_ROWS = 64 };

static size_t scratch_floats(enum dtype t, size_t T, size_t d, bool backward)
{
    return backward ? 10 * T * d + 2 * ATTENTION_ROWS * T : 4 * T * d + ATTENTION_ROWS * T;
}

/* to[T, d] = factor x */
static void load_rows(const struct attention_head *h, float *to, const void *x, size_t pitch, float factor)
{
    for (size_t t = 0; t < h->T; t++)
        for (size_t i = 0; i < h->d; i += VEC) {
            size_t w = h->d - i < VEC ? h->d - i : VEC;
            vec_store(DTYPE_F32, to, t * h->d + i, w, vec_load(h->dtype, x, t * pitch + i, w) * factor);
        }
}

static void store_rows(const struct attention_head *h, void *x, size_t pitch, const float *from, float factor)
{
    for (size_t t = 0; t < h->T; t++)
        for (size_t i = 0; i < h->d; i += VEC) {
            size_t w = h->d - i < VEC ? h->d - i : VEC;
            vec_store(h->dtype, x, t * pitch + i, w, vec_load(DTYPE_F32, from, t * h->d + i, w) * factor);
        }
}

static void transpose(float *to, const float *from, size_t rows, size_t columns)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            to[j * rows + i] = from[i * columns + j];
}

/* c[m, n] (+)= a[m, k] b[k, n], b dense; a dense, or read transposed from [k, m] with a_column rows apart. */
static void product(float *c, const float *a, size_t a_row, size_t a_column, const float *b, size_t m, size_t n,
                    size_t k, bool accumulate)
{
    LOOPS(matrix_loops)
        .gemm(&(struct gemm){.m = m,
                             .n = n,
                             .k = k,
                             .a = a,
                             .a_row = a_row,
                             .a_column = a_column,
                             .b_dtype = DTYPE_F32,
                             .b = b,
                             .b_row = n,
                             .b_strip = GEMM_STRIP,
                             .c = c,
                             .c_row = n,
                             .accumulate = accumulate});
}

/* s = e^(s - max) in place. */
static void softmax_row(float *s, size_t T, float *ret_inverse, float *lse)
{
    vec high = vec_set(-INFINITY), sum = {0};
    FOR_VECTORS(0, T / VEC * VEC, high = vec_at_least(vec_load(DTYPE_F32, s, i, w), high));
    for (size_t j = T / VEC * VEC; j < T; j++)
        high = vec_at_least(vec_set(s[j]), high);
    float max = vec_highest(high);
    FOR_VECTORS(0, T, {
        vec e = vec_exp(vec_load(DTYPE_F32, s, i, w) - max);
        for (size_t j = w; j < VEC; j++)
            e[j] = 0;
        sum += e;
        vec_store(DTYPE_F32, s, i, w, e);
    });
    float total = vec_sum(sum);
    *ret_inverse = 1.0f / total;
    if (lse)
        *lse = max + logf(total);
}

static void softmax(float *s, size_t rows, size_t T, float *inverse, float *lse, size_t lse_pitch)
{
    for (size_t row = 0; row < rows; row++)
        softmax_row(s + row * T, T, &inverse[row], lse ? lse + row * lse_pitch : NULL);
}

static void forward(const struct attention_head *h)
{
    size_t T = h->T, d = h->d;
    float *q = h->scratch, *k = q + T * d, *v = k + T * d, *y = v + T * d, *s = y + T * d;
    load_rows(h, y, h->k, h->pitch, 1.0f);
    transpose(k, y, T, d);
    load_rows(h, q, h->q, h->pitch, 1.0f / sqrtf((float)d));
    load_rows(h, v, h->v, h->pitch, 1.0f);
    for (size_t row = 0; row < T; row += ATTENTION_ROWS) {
        size_t rows = T - row < ATTENTION_ROWS ? T - row : ATTENTION_ROWS;
        float inverse[ATTENTION_ROWS];
        product(s, q + row * d, d, 1, k, rows, T, d, false);
        softmax(s, rows, T, inverse, h->lse ? h->lse + row * h->lse_pitch : NULL, h->lse_pitch);
        product(y + row * d, s, T, 1, v, rows, d, T, false);
        for (size_t i = 0; i < rows * d; i++)
            y[row * d + i] *= inverse[i / d];
    }
    store_rows(h, h->y, h->y_pitch, y, 1.0f);
}

/* Rows [row, row + rows): p from the scores, ds from dp, both in place. */
static void score_gradient(const struct attention_head *h, size_t row, size_t rows, float *p, float *dp, const float *y,
                           const float *dy)
{
    size_t T = h->T, d = h->d;
    for (size_t r = 0; r < rows; r++) {
        vec dot = {0};
        for (size_t i = 0; i < d; i += VEC) {
            size_t w = d - i < VEC ? d - i : VEC;
            dot += vec_load(DTYPE_F32, y, (row + r) * d + i, w) * vec_load(DTYPE_F32, dy, (row + r) * d + i, w);
        }
        float delta = vec_sum(dot), lse = h->lse[(row + r) * h->lse_pitch];
        for (size_t i = 0; i < T; i += VEC) {
            size_t w = T - i < VEC ? T - i : VEC;
            vec e = vec_exp(vec_load(DTYPE_F32, p, r * T + i, w) - lse);
            vec_store(DTYPE_F32, p, r * T + i, w, e);
            vec_store(DTYPE_F32, dp, r * T + i, w, e * (vec_load(DTYPE_F32, dp, r * T + i, w) - delta));
        }
    }
}

static void backward(const struct attention_head *h)
{
    size_t T = h->T, d = h->d, size = T * d;
    float *q = h->scratch, *k = q + size, *k_t = k + size, *v_t = k_t + size, *y = v_t + size, *dy = y + size;
    float *dq = dy + size, *dk = dq + size, *dv = dk + size, *spare = dv + size;
    float *p = spare + size, *dp = p + ATTENTION_ROWS * T;
    float factor = 1.0f / sqrtf((float)d);
    load_rows(h, q, h->q, h->pitch, factor);
    load_rows(h, k, h->k, h->pitch, 1.0f);
    load_rows(h, spare, h->v, h->pitch, 1.0f);
    load_rows(h, y, h->y_in, h->y_pitch, 1.0f);
    load_rows(h, dy, h->dy, h->dy_pitch, 1.0f);
    transpose(k_t, k, T, d);
    transpose(v_t, spare, T, d);
    for (size_t row = 0; row < T; row += ATTENTION_ROWS) {
        size_t rows = T - row < ATTENTION_ROWS ? T - row : ATTENTION_ROWS;
        product(p, q + row * d, d, 1, k_t, rows, T, d, false);
        product(dp, dy + row * d, d, 1, v_t, rows, T, d, false);
        score_gradient(h, row, rows, p, dp, y, dy);
        product(dq + row * d, dp, T, 1, k, rows, d, T, false);
        product(dk, dp, 1, T, q + row * d, T, d, rows, row > 0);
        product(dv, p, 1, T, dy + row * d, T, d, rows, row > 0);
    }
    store_rows(h, h->dq, h->d_pitch, dq, factor);
    store_rows(h, h->dk, h->d_pitch, dk, 1.0f);
    store_rows(h, h->dv, h->d_pitch, dv, 1.0f);
}

const struct attention_loops LOOPS(attention_loops) = {
    .scratch_floats = scratch_floats, .forward = forward, .backward = backward};
