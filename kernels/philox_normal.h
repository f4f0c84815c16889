/* philox_normal.h: from 24 random bits to a normal's radius and angle, for philox.c and for the kernels of a GPU.
 *
 * Every rounding is spelled out (fmaf, products, sqrtf), so that all processors give the same bits. Uniforms stay
 * integers as long as that is exact: u = m 2^-25 with m odd, so that neither 1 - u (in ln u near u = 1) nor the distance
 * of the angle from its quadrant is rounded. The result is within 1e-6 of the formula in f64 (radius 3.5e-7, sine and
 * cosine 1.1e-7, over all m). Include philox.h first, which says what PHILOX_FUNCTION is.
 */
#ifndef DDIMD_PHILOX_NORMAL_H
#define DDIMD_PHILOX_NORMAL_H

#include <math.h>
#include <stdint.h>
#include <string.h>

PHILOX_FUNCTION uint32_t philox_float_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof(bits));
    return bits;
}

/* sqrt(-2 ln(m 2^-25)), 0 < m < 2^25. m 2^shift lies in [2^24.5, 2^25.5], x = m 2^(shift - 25) - 1 is exact, and
 * ln u = ln(1 + x) - shift ln 2 with the polynomial of Cephes' logf for ln(1 + x). */
PHILOX_FUNCTION float philox_radius(uint32_t m)
{
    const uint32_t root_half = 0xB504F3; // 2^24 / sqrt(2)
    uint32_t exponent = (philox_float_bits((float)m) >> 23) - 127;
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
PHILOX_FUNCTION void philox_cos_sin(uint32_t m, float *ret_cos, float *ret_sin)
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

#endif
