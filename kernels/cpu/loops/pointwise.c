/* pointwise.c: operations whose result at an element needs that element, its 2x2 block or its channel alone. */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

/* Dense tensors are one long row. */
ALWAYS_INLINE void flatten(size_t *n, size_t *c, bool dense)
{
    if (dense) {
        *c *= *n;
        *n = 1;
    }
}

#define FOR_PIXELS(n, c, ...)                                                                                          \
    for (size_t p = 0; p < (n); p++)                                                                                   \
    FOR_VECTORS(0, c, __VA_ARGS__)

ALWAYS_INLINE vec at(enum dtype t, struct pixels x, size_t p, size_t i, size_t w)
{
    return vec_load(t, x.at, p * x.pitch + i, w);
}

ALWAYS_INLINE void put(enum dtype t, struct pixels y, size_t p, size_t i, size_t w, vec v)
{
    vec_store(t, y.at, p * y.pitch + i, w, v);
}

ALWAYS_INLINE void convert(enum dtype ty, enum dtype tx, struct pixels y, struct pixels x, size_t n, size_t c)
{
    flatten(&n, &c, x.pitch == c && y.pitch == c);
    FOR_PIXELS(n, c, put(ty, y, p, i, w, at(tx, x, p, i, w)));
}

static void copy(struct pixels y, struct pixels x, size_t n, size_t c)
{
    if (y.dtype == x.dtype) {
        size_t bytes = dtype_bytes(y.dtype);
        flatten(&n, &c, x.pitch == c && y.pitch == c);
        for (size_t p = 0; p < n; p++)
            memcpy((char *)y.at + p * y.pitch * bytes, (char *)x.at + p * x.pitch * bytes, c * bytes);
    } else if (y.dtype == DTYPE_F32) {
        convert(DTYPE_F32, DTYPE_BF16, y, x, n, c);
    } else {
        convert(DTYPE_BF16, DTYPE_F32, y, x, n, c);
    }
}

ALWAYS_INLINE void silu_as(enum dtype t, struct pixels y, struct pixels x, size_t n, size_t c)
{
    flatten(&n, &c, x.pitch == c && y.pitch == c);
    FOR_PIXELS(n, c, {
        vec v = at(t, x, p, i, w);
        put(t, y, p, i, w, v * vec_sigmoid(t, v));
    });
}

static void silu(struct pixels y, struct pixels x, size_t n, size_t c)
{
    x.dtype == DTYPE_F32 ? silu_as(DTYPE_F32, y, x, n, c) : silu_as(DTYPE_BF16, y, x, n, c);
}

ALWAYS_INLINE void relu_as(enum dtype t, struct pixels y, struct pixels x, size_t n, size_t c)
{
    flatten(&n, &c, x.pitch == c && y.pitch == c);
    FOR_PIXELS(n, c, put(t, y, p, i, w, vec_at_least(at(t, x, p, i, w), vec_set(0))));
}

static void relu(struct pixels y, struct pixels x, size_t n, size_t c)
{
    x.dtype == DTYPE_F32 ? relu_as(DTYPE_F32, y, x, n, c) : relu_as(DTYPE_BF16, y, x, n, c);
}

ALWAYS_INLINE void silu_backward_as(enum dtype t, struct pixels dx, struct pixels x, struct pixels dy, size_t n,
                                    size_t c)
{
    flatten(&n, &c, x.pitch == c && dx.pitch == c && dy.pitch == c);
    FOR_PIXELS(n, c, {
        vec v = at(t, x, p, i, w), s = vec_sigmoid(t, v);
        put(t, dx, p, i, w, at(t, dy, p, i, w) * s * (1.0f + v * (1.0f - s)));
    });
}

static void silu_backward(struct pixels dx, struct pixels x, struct pixels dy, size_t n, size_t c)
{
    x.dtype == DTYPE_F32 ? silu_backward_as(DTYPE_F32, dx, x, dy, n, c) : silu_backward_as(DTYPE_BF16, dx, x, dy, n, c);
}

ALWAYS_INLINE void add_as(enum dtype t, struct pixels y, struct pixels a, struct pixels b, size_t n, size_t c)
{
    flatten(&n, &c, y.pitch == c && a.pitch == c && b.pitch == c);
    FOR_PIXELS(n, c, put(t, y, p, i, w, at(t, a, p, i, w) + at(t, b, p, i, w)));
}

static void add(struct pixels y, struct pixels a, struct pixels b, size_t n, size_t c)
{
    y.dtype == DTYPE_F32 ? add_as(DTYPE_F32, y, a, b, n, c) : add_as(DTYPE_BF16, y, a, b, n, c);
}

ALWAYS_INLINE void add_channel_as(enum dtype t, struct pixels y, struct pixels x, const void *e, size_t n, size_t c)
{
    FOR_PIXELS(n, c, put(t, y, p, i, w, at(t, x, p, i, w) + vec_load(t, e, i, w)));
}

static void add_channel(struct pixels y, struct pixels x, const void *e, size_t n, size_t c)
{
    x.dtype == DTYPE_F32 ? add_channel_as(DTYPE_F32, y, x, e, n, c) : add_channel_as(DTYPE_BF16, y, x, e, n, c);
}

/* Two sums per channel, of even and odd pixels, to halve the chain of additions. */
ALWAYS_INLINE void sum_pixels_as(enum dtype tx, enum dtype t, void *sum, struct pixels x, size_t n, size_t c)
{
    for (size_t i = 0; i < c; i += VEC) {
        size_t w = c - i < VEC ? c - i : VEC, p = 0;
        vec even = {0}, odd = {0};
        for (; p + 2 <= n; p += 2) {
            even += at(tx, x, p, i, w);
            odd += at(tx, x, p + 1, i, w);
        }
        if (p < n)
            even += at(tx, x, p, i, w);
        vec_store(t, sum, i, w, even + odd);
    }
}

static void sum_pixels(enum dtype t, void *sum, struct pixels x, size_t n, size_t c)
{
    if (x.dtype == DTYPE_F32)
        sum_pixels_as(DTYPE_F32, t, sum, x, n, c);
    else
        sum_pixels_as(DTYPE_BF16, t, sum, x, n, c);
}

ALWAYS_INLINE void spread2x_as(enum dtype t, struct pixels y, struct pixels x, size_t h, size_t w2, size_t c,
                               float factor)
{
    for (size_t row = 0; row < h; row++)
        for (size_t column = 0; column < w2; column++) {
            size_t to = 4 * row * w2 + 2 * column;
            FOR_VECTORS(0, c, {
                vec v = at(t, x, row * w2 + column, i, w) * factor;
                put(t, y, to, i, w, v);
                put(t, y, to + 1, i, w, v);
                put(t, y, to + 2 * w2, i, w, v);
                put(t, y, to + 2 * w2 + 1, i, w, v);
            });
        }
}

static void spread2x(struct pixels y, struct pixels x, size_t h, size_t w, size_t c, float factor)
{
    if (x.dtype == DTYPE_F32)
        spread2x_as(DTYPE_F32, y, x, h, w, c, factor);
    else
        spread2x_as(DTYPE_BF16, y, x, h, w, c, factor);
}

ALWAYS_INLINE void gather2x_as(enum dtype t, struct pixels x, struct pixels y, size_t h, size_t w2, size_t c,
                               float factor)
{
    for (size_t row = 0; row < h; row++)
        for (size_t column = 0; column < w2; column++) {
            size_t from = 4 * row * w2 + 2 * column;
            FOR_VECTORS(0, c, {
                vec top = at(t, y, from, i, w) + at(t, y, from + 1, i, w);
                vec bottom = at(t, y, from + 2 * w2, i, w) + at(t, y, from + 2 * w2 + 1, i, w);
                put(t, x, row * w2 + column, i, w, (top + bottom) * factor);
            });
        }
}

static void gather2x(struct pixels x, struct pixels y, size_t h, size_t w, size_t c, float factor)
{
    if (x.dtype == DTYPE_F32)
        gather2x_as(DTYPE_F32, x, y, h, w, c, factor);
    else
        gather2x_as(DTYPE_BF16, x, y, h, w, c, factor);
}

static float mse(struct pixels a, struct pixels b, size_t n, size_t c)
{
    vec sum = {0};
    FOR_PIXELS(n, c, {
        vec d = at(a.dtype, a, p, i, w) - at(b.dtype, b, p, i, w);
        sum += d * d;
    });
    return vec_sum(sum) / (float)(n * c);
}

static void mse_backward(struct pixels da, struct pixels a, struct pixels b, float weight, size_t n, size_t c)
{
    float factor = 2.0f * weight / (float)(n * c);
    FOR_PIXELS(n, c, put(da.dtype, da, p, i, w, (at(a.dtype, a, p, i, w) - at(b.dtype, b, p, i, w)) * factor));
}

const struct pointwise_loops LOOPS(pointwise_loops) = {
    .copy = copy,
    .silu = silu,
    .relu = relu,
    .silu_backward = silu_backward,
    .add = add,
    .add_channel = add_channel,
    .sum_pixels = sum_pixels,
    .spread2x = spread2x,
    .gather2x = gather2x,
    .mse = mse,
    .mse_backward = mse_backward,
};
