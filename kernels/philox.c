/* philox.c: see philox.h.
 *
 * Normals are made 16 blocks at a time in plain loops that the compiler vectorises, for three instruction sets. All of
 * them give the same bits, and so does a GPU: every rounding is spelled out (philox_normal.h), and a tail is a whole
 * group of which a part is copied.
 */
#define PHILOX_FUNCTION static inline __attribute__((always_inline))
#include "kernels/philox.h"
#include "kernels/philox_normal.h"

#include <string.h>

enum { GROUP = 16 }; // blocks

/* The normals of blocks [first, first + GROUP). */
PHILOX_FUNCTION void normal_group(float *z, uint32_t first, uint64_t seed, uint64_t image, uint32_t draw)
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
            float size = philox_radius(m[i][j]), c, s;
            philox_cos_sin(m[i + 1][j], &c, &s);
            normal[i][j] = size * c;
            normal[i + 1][j] = size * s;
        }
    for (int j = 0; j < GROUP; j++)
        for (int i = 0; i < 4; i++)
            z[4 * j + i] = normal[i][j];
}

PHILOX_FUNCTION void normal_fill(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw)
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
