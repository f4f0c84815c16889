/* random.c: dropout, with its mask drawn from Philox sixteen blocks at a time. */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

typedef uint64_t vecl __attribute__((vector_size(128)));

/* High and low halves of x times a constant. */
ALWAYS_INLINE void multiply(vecu x, uint32_t factor, vecu *ret_high, vecu *ret_low)
{
#ifdef __AVX512F__
    __m512i f = _mm512_set1_epi32((int)factor);
    __m512i even = _mm512_mul_epu32((__m512i)x, f);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)x, 32), f);
    *ret_high = (vecu)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
    *ret_low = (vecu)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#else
    vecl product = __builtin_convertvector(x, vecl) * (uint64_t)factor;
    *ret_high = __builtin_convertvector(product >> 32, vecu);
    *ret_low = __builtin_convertvector(product, vecu);
#endif
}

/* Philox4x32-10 (philox.h) of counters (first + 0..15, c1, c2, c3). */
ALWAYS_INLINE void philox16(uint64_t key, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3, vecu r[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    vecu x0 = (vecu){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + first;
    vecu x1 = (vecu){0} + c1, x2 = (vecu){0} + c2, x3 = (vecu){0} + c3;
    for (int round = 0; round < 10; round++) {
        vecu high0, low0, high2, low2;
        multiply(x0, 0xD2511F53u, &high0, &low0);
        multiply(x2, 0xCD9E8D57u, &high2, &low2);
        x0 = high2 ^ x1 ^ k0;
        x2 = high0 ^ x3 ^ k1;
        x1 = low2;
        x3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    r[0] = x0;
    r[1] = x1;
    r[2] = x2;
    r[3] = x3;
}

/* Factors of elements 64 group .. 64 group + 63. */
ALWAYS_INLINE void factors(const struct dropout_key *k, size_t group, vec f[4])
{
    vecu r[4];
    philox16(k->key, (uint32_t)(16 * group), k->draw, k->image, k->stream, r);
    vec scale = vec_set(1.0f / (1.0f - k->rate));
    for (int i = 0; i < 4; i++) {
        vec u = (__builtin_convertvector(r[i] >> 8, vec) + 0.5f) * 0x1p-24f;
        f[i] = vec_select(u >= k->rate, scale, (vec){0});
    }
}

/* Not x * 0: what is dropped is 0 even where x is infinite. */
ALWAYS_INLINE vec select_kept(vec f, vec x)
{
    return vec_select(f > 0.0f, x * f, (vec){0});
}

ALWAYS_INLINE void dropout_dense(enum dtype t, struct pixels y, struct pixels x, size_t count,
                                 const struct dropout_key *k)
{
    for (size_t e = 0; e < count; e += 64) {
        vec f[4];
        factors(k, e / 64, f);
        for (size_t i = 0; i < 4 && e + VEC * i < count; i++) {
            size_t at = e + VEC * i, w = count - at < VEC ? count - at : VEC;
            vec_store(t, y.at, at, w, select_kept(f[i], vec_load(t, x.at, at, w)));
        }
    }
}

/* Through views, element by element. */
static void dropout_pitched(struct pixels y, struct pixels x, size_t n, size_t c, const struct dropout_key *k)
{
    float f[64];
    for (size_t e = 0; e < n * c; e++) {
        if (e % 64 == 0) {
            vec group[4];
            factors(k, e / 64, group);
            memcpy(f, group, sizeof(f));
        }
        vec v = vec_load(x.dtype, x.at, e / c * x.pitch + e % c, 1);
        vec_store(y.dtype, y.at, e / c * y.pitch + e % c, 1, select_kept(vec_set(f[e % 64]), v));
    }
}

static void dropout(struct pixels y, struct pixels x, size_t n, size_t c, const struct dropout_key *key)
{
    if (x.pitch != c || y.pitch != c)
        dropout_pitched(y, x, n, c, key);
    else if (x.dtype == DTYPE_F32)
        dropout_dense(DTYPE_F32, y, x, n * c, key);
    else
        dropout_dense(DTYPE_BF16, y, x, n * c, key);
}

const struct random_loops LOOPS(random_loops) = {.dropout = dropout};
