/* philox.c: see philox.h. */
#include "kernels/philox.h"

#include <math.h>

void philox_normal(float *z, size_t n, uint64_t seed, uint64_t image, uint32_t draw)
{
    const float two_pi = 6.28318530717958647692f;
    for (size_t j = 0; 4 * j < n; j++) {
        struct philox_block r = philox4x32_10(seed, (uint32_t)j, draw, (uint32_t)image, (uint32_t)(image >> 32));
        float normal[4];
        for (int i = 0; i < 4; i += 2) {
            float radius = sqrtf(-2.0f * logf(philox_uniform(r.v[i])));
            float angle = two_pi * philox_uniform(r.v[i + 1]);
            normal[i] = radius * cosf(angle);
            normal[i + 1] = radius * sinf(angle);
        }
        for (size_t i = 0; i < 4 && 4 * j + i < n; i++)
            z[4 * j + i] = normal[i];
    }
}
