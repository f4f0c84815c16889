/* philox.h: counter-based random numbers, so that a value depends on its key and counter alone.
 *
 * Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Pure functions,
 * any thread. Kernels for a GPU include this file and philox_normal.h with PHILOX_FUNCTION defined as what makes a
 * function theirs.
 */
#ifndef DDIMD_PHILOX_H
#define DDIMD_PHILOX_H

#include <stddef.h>
#include <stdint.h>

#ifndef PHILOX_FUNCTION
#define PHILOX_FUNCTION static inline
#endif

struct philox_block {
    uint32_t v[4];
};

PHILOX_FUNCTION struct philox_block philox4x32_10(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct philox_block r = {{c0, c1, c2, c3}};
    return r;
}

/* ((r >> 8) + 1/2) 2^-24 rounded to f32 (half of the values above 1/2 are), in (0, 1]. */
PHILOX_FUNCTION float philox_uniform(uint32_t r)
{
    return ((float)(r >> 8) + 0.5f) * 0x1p-24f;
}

/* Fills z[n] with standard normals: element 4 j + i is normal i of the block with counter (j, draw, image mod 2^32,
 * image div 2^32), key = seed; of a block r0..r3 with u_i = ((r_i >> 8) + 1/2) 2^-24, exactly, the four normals are
 * sqrt(-2 ln u0) (cos, sin)(2 pi u1), sqrt(-2 ln u2) (cos, sin)(2 pi u3) (Box and Muller 1958), within 1e-6. n need not
 * be a multiple of 4; an element's bits depend on neither n nor the processor. */
void philox_normal(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw);

#endif
