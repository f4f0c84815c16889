/* vec.h: sixteen floats at a time, for the loops that are compiled once per instruction set.
 *
 * GCC's vector extensions: one register with AVX-512, two with AVX2, four with SSE2. A tail shorter than a vector is
 * loaded into a zero-padded vector and goes through the same arithmetic, so that a value does not depend on where in a
 * row it lies. bf16 is stored rounded to nearest even and computed in f32.
 */
#ifndef DDIMD_CPU_LOOPS_VEC_H
#define DDIMD_CPU_LOOPS_VEC_H

#include "kernels/graph.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define VEC 16
#define ALWAYS_INLINE static inline __attribute__((always_inline, unused))

typedef float vec __attribute__((vector_size(64)));
typedef int32_t veci __attribute__((vector_size(64)));
typedef uint32_t vecu __attribute__((vector_size(64)));
typedef uint16_t vech __attribute__((vector_size(32)));

ALWAYS_INLINE vec vec_set(float x)
{
    return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

ALWAYS_INLINE vec vec_from_bf16(vech h)
{
#ifdef __AVX512F__
    return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#else
    return (vec)(__builtin_convertvector(h, vecu) << 16);
#endif
}

/* Round to nearest even; a NaN stays one. */
ALWAYS_INLINE vech vec_to_bf16(vec x)
{
#ifdef __AVX512BF16__
    return (vech)_mm512_cvtneps_pbh((__m512)x);
#else
    vecu u = (vecu)x;
    vecu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    vecu is_nan = (vecu)((u & 0x7fffffff) > 0x7f800000);
    return __builtin_convertvector((rounded & ~is_nan) | (((u >> 16) | 0x40) & is_nan), vech);
#endif
}

ALWAYS_INLINE float float_from_bf16(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* n of 16 elements (n == VEC in the body of a row) at element i of p. */
ALWAYS_INLINE vec vec_load(enum dtype t, const void *p, size_t i, size_t n)
{
    if (t == DTYPE_F32) {
        vec x = {0};
        if (n == VEC)
            memcpy(&x, (const float *)p + i, sizeof(x));
        else
            memcpy(&x, (const float *)p + i, n * 4);
        return x;
    }
    vech h = {0};
    if (n == VEC)
        memcpy(&h, (const uint16_t *)p + i, sizeof(h));
    else
        memcpy(&h, (const uint16_t *)p + i, n * 2);
    return vec_from_bf16(h);
}

ALWAYS_INLINE void vec_store(enum dtype t, void *p, size_t i, size_t n, vec x)
{
    if (t == DTYPE_F32) {
        if (n == VEC)
            memcpy((float *)p + i, &x, sizeof(x));
        else
            memcpy((float *)p + i, &x, n * 4);
        return;
    }
    vech h = vec_to_bf16(x);
    if (n == VEC)
        memcpy((uint16_t *)p + i, &h, sizeof(h));
    else
        memcpy((uint16_t *)p + i, &h, n * 2);
}

/* The body for i = begin, begin + VEC, ... < end with w = VEC, then once more with what is left: the body is compiled
 * twice, without a test for the tail in the loop. */
#define FOR_VECTORS(begin, end, ...)                                                                                   \
    do {                                                                                                               \
        size_t i = (begin);                                                                                            \
        for (; i + VEC <= (end); i += VEC) {                                                                           \
            const size_t w = VEC;                                                                                      \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
        if (i < (end)) {                                                                                               \
            const size_t w = (end)-i;                                                                                  \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

/* Sum in a fixed order: halves, quarters, ... */
ALWAYS_INLINE float vec_sum(vec x)
{
#ifdef __AVX512F__
    return _mm512_reduce_add_ps((__m512)x);
#else
    float a[VEC];
    memcpy(a, &x, sizeof(x));
    for (int w = VEC / 2; w; w /= 2)
        for (int i = 0; i < w; i++)
            a[i] += a[i + w];
    return a[0];
#endif
}

/* Where mask (all ones or all zeros per lane) x, else y. */
ALWAYS_INLINE vec vec_select(veci mask, vec x, vec y)
{
    return (vec)(((veci)x & mask) | ((veci)y & ~mask));
}

/* The greater, the lesser; x where either is NaN. */
ALWAYS_INLINE vec vec_at_least(vec x, vec limit)
{
#ifdef __AVX512F__
    return (vec)_mm512_max_ps((__m512)limit, (__m512)x);
#else
    return vec_select(limit > x, limit, x);
#endif
}

ALWAYS_INLINE vec vec_at_most(vec x, vec limit)
{
#ifdef __AVX512F__
    return (vec)_mm512_min_ps((__m512)limit, (__m512)x);
#else
    return vec_select(limit < x, limit, x);
#endif
}

ALWAYS_INLINE float vec_highest(vec x)
{
#ifdef __AVX512F__
    return _mm512_reduce_max_ps((__m512)x);
#else
    float a[VEC];
    memcpy(a, &x, sizeof(x));
    for (int w = VEC / 2; w; w /= 2)
        for (int i = 0; i < w; i++)
            a[i] = a[i] > a[i + w] ? a[i] : a[i + w];
    return a[0];
#endif
}

/* e^x, relative error below 2e-7 in [-87, 88]; above, the value at 88, below, the value at -87; NaN stays NaN.
 * x = k ln 2 + r with |r| <= ln 2 / 2, then a polynomial of degree 6 in r (minimax) and a scaling by 2^k. */
ALWAYS_INLINE vec vec_exp(vec x)
{
    const vec round = vec_set(12582912.0f); // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = vec_at_least(vec_at_most(x, vec_set(88.0f)), vec_set(-87.0f));
    vec shifted = x * 1.44269504088896341f + round;
    vec k = shifted - round;
    vec r = x - k * 0.693145751953125f - k * 1.42860682030941723212e-6f;
    vec p = r * 1.381460119e-3f + 8.368720418e-3f;
    p = p * r + 4.166838826e-2f;
    p = p * r + 1.666652060e-1f;
    p = p * r + 4.999999345e-1f;
    p = p * (r * r) + r + 1.0f;
    return (vec)((veci)p + ((veci)shifted << 23));
}

/* 2^x, relative error 1e-4 where AVX-512 scales by the integer part, for results that are rounded to bf16. */
ALWAYS_INLINE vec vec_exp2_short(vec x)
{
#ifdef __AVX512F__
    vec k = (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec f = x - k;
    vec p = f * 5.500837350e-2f + 2.422117543e-1f;
    p = p * f + 6.932830744e-1f;
    p = p * f + 1.0f;
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
    return vec_exp(x * 0.693147180559945309f);
#endif
}

/* 1 / (1 + e^-x). Where the result is rounded to bf16 the short exponential and the hardware's reciprocal (2^-14) are
 * enough. */
ALWAYS_INLINE vec vec_sigmoid(__attribute__((unused)) enum dtype t, vec x)
{
#ifdef __AVX512F__
    if (t == DTYPE_BF16)
        return (vec)_mm512_rcp14_ps((__m512)(vec_exp2_short(x * -1.44269504088896341f) + 1.0f));
#endif
    return 1.0f / (1.0f + vec_exp(-x));
}

/* One stage of a transposition: rows i and i + s exchange the blocks of s columns across the diagonal. */
#define VEC_EXCHANGE(r, s, low, high)                                                                                  \
    for (int i = 0; i < 16; i++)                                                                                       \
        if (!(i & (s))) {                                                                                              \
            veci a = r[i], b = r[i + (s)];                                                                             \
            r[i] = __builtin_shuffle(a, b, low);                                                                       \
            r[i + (s)] = __builtin_shuffle(a, b, high);                                                                \
        }

/* Sixteen rows of sixteen 32-bit lanes, columns to rows. */
ALWAYS_INLINE void vec_transpose(veci r[16])
{
    const veci l1 = {0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
               h1 = {1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31},
               l2 = {0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
               h2 = {2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31},
               l4 = {0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
               h4 = {4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31},
               l8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
               h8 = {8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31};
    VEC_EXCHANGE(r, 1, l1, h1)
    VEC_EXCHANGE(r, 2, l2, h2)
    VEC_EXCHANGE(r, 4, l4, h4)
    VEC_EXCHANGE(r, 8, l8, h8)
}

#endif
