/* winograd.c: the transforms of F(2x2, 3x3) (Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks",
 * section 4.1): 2x2 outputs of a 3x3 convolution from 4x4 inputs by 16 products instead of 36.
 *
 *   U = G g G^T    V = B^T d B    y = A^T (sum over channels of U V) A
 *
 * Sixteen channels at a time. Every value is computed alone, in one order, wherever its tile lies.
 */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

#ifdef __AVX512F__ // with fewer registers the gain is lost
/* One column or row of B^T d. */
ALWAYS_INLINE void transform_input(vec d[4], size_t s)
{
    vec d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s];
    d[0] = d0 - d2;
    d[s] = d1 + d2;
    d[2 * s] = d2 - d1;
    d[3 * s] = d1 - d3;
}

/* Addresses of a tile's 4x4 inputs, NULL outside of the image. */
static void input_addresses(const struct winograd_tiles *t, size_t tile, const float *at[16])
{
    size_t columns = (t->w + 1) / 2, row = tile / columns * 2, column = tile % columns * 2;
    for (size_t i = 0; i < 16; i++) {
        size_t y = row + i / 4 - 1, x = column + i % 4 - 1; // wraps around below 0
        size_t pixel = (y >> t->halvings) * (t->w >> t->halvings) + (x >> t->halvings);
        at[i] = y < t->h && x < t->w ? (const float *)t->image.at + pixel * t->image.pitch : NULL;
    }
}

static void input(const struct winograd_tiles *t)
{
    for (size_t tile = 0; tile < t->n; tile++) {
        const float *at[16];
        float *to = t->at + tile * t->row;
        input_addresses(t, t->first + tile, at);
        for (size_t c = 0; c < t->c; c += VEC) {
            vec d[16];
            for (size_t i = 0; i < 16; i++)
                d[i] = at[i] ? vec_load(DTYPE_F32, at[i], c, VEC) : (vec){0};
            for (size_t i = 0; i < 4; i++)
                transform_input(d + i, 4);
            for (size_t i = 0; i < 4; i++)
                transform_input(d + 4 * i, 1);
            for (size_t i = 0; i < 16; i++)
                vec_store(DTYPE_F32, to + i * t->position, c, VEC, d[i]);
        }
    }
}

/* One output pixel, where the image has it. */
ALWAYS_INLINE void store_output(const struct winograd_tiles *t, size_t y, size_t x, size_t c, vec v)
{
    size_t pixel = y * t->w + x;
    if (y >= t->h || x >= t->w)
        return;
    if (t->residual.at)
        v += vec_load(DTYPE_F32, t->residual.at, pixel * t->residual.pitch + c, VEC);
    vec_store(DTYPE_F32, t->image.at, pixel * t->image.pitch + c, VEC, v);
}

static void output(const struct winograd_tiles *t)
{
    size_t columns = (t->w + 1) / 2;
    for (size_t tile = 0; tile < t->n; tile++) {
        const float *from = t->at + tile * t->row;
        size_t row = (t->first + tile) / columns * 2, column = (t->first + tile) % columns * 2;
        for (size_t c = 0; c < t->c; c += VEC) {
            vec s[2][4], bias = t->bias ? vec_load(DTYPE_F32, t->bias, c, VEC) : (vec){0};
            for (size_t i = 0; i < 4; i++) {
                vec m[4];
                for (size_t r = 0; r < 4; r++)
                    m[r] = vec_load(DTYPE_F32, from + (4 * r + i) * t->position, c, VEC);
                s[0][i] = m[0] + m[1] + m[2];
                s[1][i] = m[1] - m[2] - m[3];
            }
            for (size_t r = 0; r < 2; r++) {
                store_output(t, row + r, column, c, s[r][0] + s[r][1] + s[r][2] + bias);
                store_output(t, row + r, column + 1, c, s[r][1] - s[r][2] - s[r][3] + bias);
            }
        }
    }
}

/* u[16] of one filter from its 9 taps, `step` elements apart. */
ALWAYS_INLINE void transform_filter(vec u[16], const float *w, ptrdiff_t step)
{
    vec g[3][3], h[4][3];
    for (size_t i = 0; i < 9; i++)
        g[i / 3][i % 3] = vec_load(DTYPE_F32, w + (ptrdiff_t)i * step, 0, VEC);
    for (size_t i = 0; i < 3; i++) {
        h[0][i] = g[0][i];
        h[1][i] = 0.5f * (g[0][i] + g[1][i] + g[2][i]);
        h[2][i] = 0.5f * (g[0][i] - g[1][i] + g[2][i]);
        h[3][i] = g[2][i];
    }
    for (size_t r = 0; r < 4; r++) {
        u[4 * r] = h[r][0];
        u[4 * r + 1] = 0.5f * (h[r][0] + h[r][1] + h[r][2]);
        u[4 * r + 2] = 0.5f * (h[r][0] - h[r][1] + h[r][2]);
        u[4 * r + 3] = h[r][2];
    }
}

static float *filter_address(float *u, size_t position, size_t k, size_t c, size_t o, size_t i)
{
    return u + position * k * c + (o / GEMM_STRIP * c + i) * GEMM_STRIP + o % GEMM_STRIP;
}

static void filters(float *u, const float *w, size_t k, size_t c)
{
    for (size_t o = 0; o < k; o += VEC)
        for (size_t i = 0; i < c; i += VEC) {
            veci block[16][VEC]; // of 16 filters, 16 channels
            for (size_t j = 0; j < VEC; j++) {
                vec taps[16];
                transform_filter(taps, w + (o + j) * 9 * c + i, (ptrdiff_t)c);
                for (size_t p = 0; p < 16; p++)
                    block[p][j] = (veci)taps[p];
            }
            for (size_t p = 0; p < 16; p++) {
                vec_transpose(block[p]);
                for (size_t j = 0; j < VEC; j++)
                    memcpy(filter_address(u, p, k, c, o, i + j), &block[p][j], sizeof(veci));
            }
        }
}

static void filters_turned(float *u, const float *w, size_t k, size_t c)
{
    for (size_t i = 0; i < c; i++)
        for (size_t o = 0; o < k; o += VEC) {
            vec taps[16];
            transform_filter(taps, w + (i * 9 + 8) * k + o, -(ptrdiff_t)k);
            for (size_t p = 0; p < 16; p++)
                memcpy(filter_address(u, p, k, c, o, i), &taps[p], sizeof(vec));
        }
}

const struct winograd_loops LOOPS(winograd_loops) = {
    .input = input,
    .output = output,
    .filters = filters,
    .filters_turned = filters_turned,
};
#endif
