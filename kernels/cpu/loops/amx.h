/* amx.h: AMX tiles of bf16 for the files that are compiled for them.
 *
 * A tile holds 16 rows of 64 bytes. The left factor's tile is 16 rows x 32 k in bf16, the right one's is 16 pairs of k
 * x 16 columns x 2, the result's 16 x 16 f32.
 */
#ifndef DDIMD_CPU_LOOPS_AMX_H
#define DDIMD_CPU_LOOPS_AMX_H

#include "kernels/cpu/loops/vec.h"

enum { ROWS = 16, DEPTH = 32, TILE = ROWS * DEPTH };

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* GCC's tile intrinsics do not tell it which memory they read. */
ALWAYS_INLINE void memory_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}

ALWAYS_INLINE void tiles_begin(void)
{
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = 64;
        c.rows[i] = ROWS;
    }
    __asm__ volatile("" ::"r"(&c) : "memory");
    _tile_loadconfig(&c);
}

ALWAYS_INLINE void tiles_end(void)
{
    _tile_release();
}

/* Two rows of 16 elements as 16 pairs; NULL is a row of zeros. */
ALWAYS_INLINE veci pair_rows(const uint16_t *even, const uint16_t *odd)
{
    vech a = {0}, b = {0};
    if (even)
        memcpy(&a, even, sizeof(a));
    if (odd)
        memcpy(&b, odd, sizeof(b));
    __m512i low = _mm512_cvtepu16_epi32((__m256i)a), high = _mm512_cvtepu16_epi32((__m256i)b);
    return (veci)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

#endif
