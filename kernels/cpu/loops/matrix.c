/* matrix.c: a small matrix product in f32, for the rows of embeddings and for attention.
 *
 * Every element is one chain of multiply-adds in the order of k, so that it does not depend on m, n or how they are
 * split. Not for convolutions: those are oneDNN's.
 */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

/* `rows` rows by two vectors of columns; w0, w1: columns in each (w1 may be 0). */
ALWAYS_INLINE void tile(enum dtype tb, const struct gemm *g, size_t row, const char *strip, float *c, int rows,
                        size_t w0, size_t w1)
{
    vec sum[8][2];
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < 2; v++) {
            size_t w = v ? w1 : w0;
            sum[i][v] =
                g->accumulate && w ? vec_load(DTYPE_F32, c, (size_t)i * g->c_row + VEC * (size_t)v, w) : (vec){0};
        }
    const float *a = g->a + row * g->a_row;
    for (size_t k = 0; k < g->k; k++, a += g->a_column) {
        vec b0 = vec_load(tb, strip, k * g->b_row, w0);
        vec b1 = w1 ? vec_load(tb, strip, k * g->b_row + VEC, w1) : (vec){0};
        for (int i = 0; i < rows; i++) {
            float x = a[(size_t)i * g->a_row];
            sum[i][0] += x * b0;
            sum[i][1] += x * b1;
        }
    }
    for (int i = 0; i < rows; i++) {
        vec_store(DTYPE_F32, c, (size_t)i * g->c_row, w0, sum[i][0]);
        if (w1)
            vec_store(DTYPE_F32, c, (size_t)i * g->c_row + VEC, w1, sum[i][1]);
    }
}

ALWAYS_INLINE void strip_rows(enum dtype tb, const struct gemm *g, const char *strip, float *c, size_t w0, size_t w1)
{
    size_t row = 0;
    for (; row + 8 <= g->m; row += 8)
        tile(tb, g, row, strip, c + row * g->c_row, 8, w0, w1);
    for (; row + 4 <= g->m; row += 4)
        tile(tb, g, row, strip, c + row * g->c_row, 4, w0, w1);
    for (; row < g->m; row++)
        tile(tb, g, row, strip, c + row * g->c_row, 1, w0, w1);
}

ALWAYS_INLINE void gemm_as(enum dtype tb, const struct gemm *g)
{
    for (size_t n = 0; n < g->n; n += GEMM_STRIP) {
        const char *strip = (const char *)g->b + n / GEMM_STRIP * g->b_strip * (tb == DTYPE_F32 ? 4 : 2);
        size_t left = g->n - n;
        if (left >= GEMM_STRIP)
            strip_rows(tb, g, strip, g->c + n, VEC, VEC);
        else if (left > VEC)
            strip_rows(tb, g, strip, g->c + n, VEC, left - VEC);
        else
            strip_rows(tb, g, strip, g->c + n, left, 0);
    }
}

static void gemm(const struct gemm *g)
{
    g->b_dtype == DTYPE_F32 ? gemm_as(DTYPE_F32, g) : gemm_as(DTYPE_BF16, g);
}

static void pack_strips(enum dtype t, void *to, const float *w, size_t k, size_t c)
{
    for (size_t strip = 0; strip * GEMM_STRIP < k; strip++)
        for (size_t i = 0; i < c; i++)
            for (size_t v = 0; v < GEMM_STRIP; v += VEC) {
                float column[VEC] = {0};
                for (size_t j = 0; j < VEC && strip * GEMM_STRIP + v + j < k; j++)
                    column[j] = w[(strip * GEMM_STRIP + v + j) * c + i];
                vec_store(t, to, (strip * c + i) * GEMM_STRIP + v, VEC, vec_load(DTYPE_F32, column, 0, VEC));
            }
}

static void shuffle(enum dtype t, void *to, const float *tile, const uint16_t *table, size_t n)
{
    if (t == DTYPE_F32) {
        float *f = to;
        for (size_t i = 0; i < n; i++)
            f[i] = tile[table[i]];
        return;
    }
    for (size_t i = 0; i < n; i += VEC) {
        size_t w = n - i < VEC ? n - i : VEC;
        float x[VEC] = {0};
        for (size_t j = 0; j < w; j++)
            x[j] = tile[table[i + j]];
        vec_store(DTYPE_BF16, to, i, w, vec_load(DTYPE_F32, x, 0, VEC));
    }
}

/* 16 values as bf16 in the low halves of 32 bits. */
ALWAYS_INLINE vecu load_rounded(const float *w)
{
    return __builtin_convertvector(vec_to_bf16(vec_load(DTYPE_F32, w, 0, VEC)), vecu);
}

static void pack_pairs(uint16_t *to, size_t n, const float *w, size_t row)
{
    for (size_t o = 0; o < n; o += VEC) {
        veci r[VEC];
        for (size_t k = 0; k < VEC; k++) {
            vech low = vec_to_bf16(vec_load(DTYPE_F32, w, (o + k) * row, VEC));
            vech high = vec_to_bf16(vec_load(DTYPE_F32, w, (o + k) * row + VEC, VEC));
            memcpy(&r[k], &low, sizeof(low));
            memcpy((char *)&r[k] + sizeof(low), &high, sizeof(high));
        }
        vec_transpose(r);
        for (size_t k = 0; k < VEC; k++)
            memcpy(to + 2 * (k * n + o), &r[k], sizeof(r[k]));
    }
}

static void pack_pairs_turned(uint16_t *to, size_t n, const float *w, size_t row)
{
    for (size_t k = 0; k < VEC; k++)
        for (size_t o = 0; o < n; o += VEC) {
            vecu pair = load_rounded(w + 2 * k * row + o) | load_rounded(w + (2 * k + 1) * row + o) << 16;
            memcpy(to + 2 * (k * n + o), &pair, sizeof(pair));
        }
}

/* to[o][i] = from[i][o], o and i multiples of 16 */
static void turn_block(float *to, size_t to_row, const float *from, size_t o, size_t i)
{
    for (size_t column = 0; column < o; column += VEC)
        for (size_t row = 0; row < i; row += VEC) {
            veci r[VEC];
            for (size_t k = 0; k < VEC; k++)
                memcpy(&r[k], from + (row + k) * o + column, sizeof(r[k]));
            vec_transpose(r);
            for (size_t k = 0; k < VEC; k++)
                memcpy(to + (column + k) * to_row + row, &r[k], sizeof(r[k]));
        }
}

static void store_row(enum dtype t, void *y, const float *x, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i += VEC) {
        size_t w = n - i < VEC ? n - i : VEC;
        vec v = vec_load(DTYPE_F32, x, i, w);
        vec_store(t, y, i, w, b ? v + vec_load(DTYPE_F32, b, i, w) : v);
    }
}

const struct matrix_loops LOOPS(matrix_loops) = {
    .gemm = gemm,
    .pack_strips = pack_strips,
    .shuffle = shuffle,
    .pack_pairs = pack_pairs,
    .pack_pairs_turned = pack_pairs_turned,
    .turn_block = turn_block,
    .store_row = store_row,
};
