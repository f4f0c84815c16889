/* philox.c: see philox.h.
 *
 * Normals are made 16 blocks at a time in plain loops that the compiler vectorises, for three instruction sets. All of
 * them give the same bits, and so can a GPU: every rounding is spelled out (fmaf, products, sqrtf), and a tail is a
 * whole group of which a part is copied. Uniforms stay integers as long as that is exact: u = m 2^-25 with m odd, so
 * that neither 1 - u (in ln u near u = 1) nor the distance of the angle from its quadrant is rounded. The result is
 * within 1e-6 of the formula in f64 (radius 3.5e-7, sine and cosine 1.1e-7, over all m).
 */
#include "kernels/philox.h"

#include <math.h>
#include <string.h>

enum { GROUP = 16 }; // blocks

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t float_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
}

/* sqrt(-2 ln(m 2^-25)), 0 < m < 2^25. m 2^shift lies in [2^24.5, 2^25.5], x = m 2^(shift - 25) - 1 is exact, and
 * ln u = ln(1 + x) - shift ln 2 with the polynomial of Cephes' logf for ln(1 + x). */
INLINE float radius(uint32_t m)
{
    const uint32_t root_half = 0xB504F3; // 2^24 / sqrt(2)
    uint32_t exponent = (float_bits((float)m) >> 23) - 127;
    uint32_t shift = 25 - exponent;                  // m 2^shift in [2^25, 2^26)
    shift -= (m << shift) >= root_half << 2 ? 1 : 0; // above 2^25.5: one less
    float x = (float)((int32_t)(m << shift) - (1 << 25)) * 0x1p-25f;
    float p = 7.0376836292e-2f;
    p = fmaf(p, x, -1.1514610310e-1f);
    p = fmaf(p, x, 1.1676998740e-1f);
    p = fmaf(p, x, -1.2420140846e-1f);
    p = fmaf(p, x, 1.4249322787e-1f);
    p = fmaf(p, x, -1.6668057665e-1f);
    p = fmaf(p, x, 2.0000714765e-1f);
    p = fmaf(p, x, -2.4999993993e-1f);
    p = fmaf(p, x, 3.3333331174e-1f);
    float square = x * x;
    float log1p = fmaf(-0.5f, square, x * square * p) + x;
    float n = (float)(int32_t)shift;
    // ln 2 = 0.693359375 - 2.12194440e-4, the first exact in products with small whole numbers
    float log = fmaf(n, -0.693359375f, fmaf(n, 2.12194440e-4f, log1p));
    return sqrtf(-2.0f * log);
}

/* cos and sin of 2 pi m 2^-25: the nearest quarter turn, and Cephes' polynomials on the rest, within pi / 4. */
INLINE void cos_sin(uint32_t m, float *ret_cos, float *ret_sin)
{
    uint32_t quarter = (m + (1u << 22)) >> 23;
    float y = (float)((int32_t)m - (int32_t)(quarter << 23)) * (6.28318530717958647692f * 0x1p-25f);
    float y2 = y * y;
    float s = fmaf(fmaf(-1.9515295891e-4f, y2, 8.3321608736e-3f), y2, -1.6666654611e-1f);
    s = fmaf(s * y2, y, y);
    float c = fmaf(fmaf(2.443315711809948e-5f, y2, -1.388731625493765e-3f), y2, 4.166664568298827e-2f);
    c = fmaf(c, y2 * y2, fmaf(-0.5f, y2, 1.0f));
    float cos = quarter & 1 ? s : c, sin = quarter & 1 ? c : s;
    *ret_cos = (quarter + 1) & 2 ? -cos : cos;
    *ret_sin = quarter & 2 ? -sin : sin;
}

/* The normals of blocks [first, first + GROUP). */
INLINE void normal_group(float *z, uint32_t first, uint64_t seed, uint64_t image, uint32_t draw)
{
    uint32_t m[4][GROUP];
    for (uint32_t j = 0; j < GROUP; j++) {
        struct philox_block r = philox4x32_10(seed, first + j, draw, (uint32_t)image, (uint32_t)(image >> 32));
        for (int i = 0; i < 4; i++)
            m[i][j] = r.v[i] >> 8 << 1 | 1;
    }
    float normal[4][GROUP];
    for (int i = 0; i < 4; i += 2)
        for (int j = 0; j < GROUP; j++) {
            float size = radius(m[i][j]), c, s;
            cos_sin(m[i + 1][j], &c, &s);
            normal[i][j] = size * c;
            normal[i + 1][j] = size * s;
        }
    for (int j = 0; j < GROUP; j++)
        for (int i = 0; i < 4; i++)
            z[4 * j + i] = normal[i][j];
}

INLINE void normal_fill(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw)
{
    uint32_t block = 0;
    for (; n >= 4 * GROUP; n -= 4 * GROUP, z += 4 * GROUP, block += GROUP)
        normal_group(z, block, seed, image, draw);
    if (n > 0) {
        float tail[4 * GROUP];
        normal_group(tail, block, seed, image, draw);
        memcpy(z, tail, n * sizeof(*z));
    }
}

static void normal_any(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw)
{
    normal_fill(z, n, seed, image, draw);
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void normal_avx2(float *z, size_t n, uint64_t seed, uint64_t image,
                                                            uint32_t draw)
{
    normal_fill(z, n, seed, image, draw);
}

__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))) static void
normal_avx512(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw)
{
    normal_fill(z, n, seed, image, draw);
}
#endif

void philox_normal(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        normal_avx512(z, n, seed, image, draw);
        return;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        normal_avx2(z, n, seed, image, draw);
        return;
    }
#endif
    normal_any(z, n, seed, image, draw);
}
