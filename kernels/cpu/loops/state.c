/* state.c: the sampler's step and the optimiser, over flat f32 vectors. */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

ALWAYS_INLINE vec load(const float *x, size_t i, size_t w)
{
    return vec_load(DTYPE_F32, x, i, w);
}

/* e_uncond NULL: no guidance. z NULL: no noise. */
static bool update_row(float *x, float *l, const float *e, const float *e_uncond, const float *z, size_t n,
                       const struct row_update *r)
{
    veci bad = {0};
    FOR_VECTORS(0, n, {
        vec xi = load(x, i, w), ei = load(e, i, w);
        if (e_uncond) {
            vec u = load(e_uncond, i, w);
            ei = u + r->guidance * (ei - u);
        }
        vec x0 = (xi - r->sigma * ei) / r->alpha;
        if (r->clip) {
            x0 = vec_at_least(vec_at_most(x0, vec_set(1.0f)), vec_set(-1.0f));
            ei = (xi - r->alpha * x0) / r->sigma;
        }
        vec next = r->a * xi + r->b * ei;
        if (r->c != 0.0f)
            next += r->c * load(l, i, w);
        if (z)
            next += r->s * load(z, i, w);
        bad |= (next - next) != 0.0f; // NaN and infinity
        vec_store(DTYPE_F32, x, i, w, next);
        vec_store(DTYPE_F32, l, i, w, x0);
    });
    int32_t any = 0;
    for (int i = 0; i < VEC; i++)
        any |= bad[i];
    return !any;
}

static void sum(float *y, float *const *vectors, int count, size_t begin, size_t end)
{
    FOR_VECTORS(begin, end, {
        vec total = load(vectors[0], i, w);
        for (int k = 1; k < count; k++)
            total += load(vectors[k], i, w);
        vec_store(DTYPE_F32, y, i, w, total);
    });
}

static double sum_of_squares(const float *x, size_t n)
{
    vec total = {0};
    FOR_VECTORS(0, n, {
        vec v = load(x, i, w);
        total += v * v;
    });
    double result = 0;
    for (int i = 0; i < VEC; i++)
        result += (double)total[i];
    return result;
}

ALWAYS_INLINE vec root(vec x)
{
#ifdef __AVX512F__
    return (vec)_mm512_sqrt_ps((__m512)x);
#else
    for (int i = 0; i < VEC; i++)
        x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* PyTorch's order: decay, moments, then w -= step_size m / (sqrt(v) / sqrt(1 - beta2^t) + eps), step_size = lr / (1 -
 * beta1^t). */
static void adamw(float *w_, const float *g, float *m, float *v, float *ema, size_t n, const struct adamw *o,
                  float step_size, float inverse_root_correction)
{
    const float decay = 1.0f - o->lr * o->weight_decay;
    FOR_VECTORS(0, n, {
        vec gi = load(g, i, w) * o->scale, mi = load(m, i, w), vi = load(v, i, w), x = load(w_, i, w) * decay;
        mi += (gi - mi) * (1.0f - o->beta1);
        vi = vi * o->beta2 + gi * gi * (1.0f - o->beta2);
        x -= step_size * mi / (root(vi) * inverse_root_correction + o->eps);
        vec_store(DTYPE_F32, m, i, w, mi);
        vec_store(DTYPE_F32, v, i, w, vi);
        vec_store(DTYPE_F32, w_, i, w, x);
        if (ema) {
            vec average = load(ema, i, w);
            vec_store(DTYPE_F32, ema, i, w, average * o->ema_decay + x * (1.0f - o->ema_decay));
        }
    });
}

const struct state_loops LOOPS(state_loops) = {
    .update_row = update_row,
    .sum = sum,
    .sum_of_squares = sum_of_squares,
    .adamw = adamw,
};
