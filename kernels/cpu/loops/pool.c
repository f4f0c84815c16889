/* pool.c: the largest or the mean of a window. */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

/* Pixels [begin, end) of an axis of n that the window of output i covers. */
ALWAYS_INLINE void covered(const struct pool_image *p, size_t i, size_t n, size_t *ret_begin, size_t *ret_end)
{
    size_t first = i * p->stride, last = first + p->window;
    *ret_begin = first > p->pad ? first - p->pad : 0;
    *ret_end = last - p->pad < n ? last - p->pad : n;
}

ALWAYS_INLINE vec load(enum dtype t, const struct pool_image *p, size_t row, size_t column, size_t i, size_t w)
{
    return vec_load(t, p->x.at, (row * p->w + column) * p->x.pitch + i, w);
}

ALWAYS_INLINE void pool_pixel(enum dtype t, const struct pool_image *p, size_t row, size_t column)
{
    size_t r0, r1, s0, s1;
    covered(p, row, p->h, &r0, &r1);
    covered(p, column, p->w, &s0, &s1);
    float count = (float)((r1 - r0) * (s1 - s0));
    FOR_VECTORS(0, p->c, {
        vec y = p->max ? load(t, p, r0, s0, i, w) : vec_set(0);
        for (size_t r = r0; r < r1; r++)
            for (size_t s = s0; s < s1; s++) {
                vec x = load(t, p, r, s, i, w);
                y = p->max ? vec_at_least(x, y) : y + x;
            }
        vec_store(t, p->y.at, (row * p->out_w + column) * p->y.pitch + i, w, p->max ? y : y / count);
    });
}

ALWAYS_INLINE void pool_as(enum dtype t, const struct pool_image *p)
{
    for (size_t row = p->row; row < p->end; row++)
        for (size_t column = 0; column < p->out_w; column++)
            pool_pixel(t, p, row, column);
}

static void pool(const struct pool_image *p)
{
    p->x.dtype == DTYPE_F32 ? pool_as(DTYPE_F32, p) : pool_as(DTYPE_BF16, p);
}

const struct pool_loops LOOPS(pool_loops) = {.pool = pool};
