/* norm.c: group normalisation of one image, with what is fused to it.
 *
 *   y = act(gn(x + pre) gamma + beta + post)
 *
 * Statistics come in one pass: sums of (x - k) and (x - k)^2 per channel, k the channel's first value, so that a large
 * mean cancels before it is squared; the channels of a group are then merged (Chan, Golub, LeVeque 1979). pre moves a
 * channel's mean and nothing else, so the pass does not read it. The second pass is one multiply-add per element with
 * everything folded into a scale and a shift per channel; in f32 the mean is subtracted first, so that a large one
 * costs no digits (in bf16 x itself has none to lose).
 */
#include "kernels/cpu/loops/loops.h"
#include "kernels/cpu/loops/vec.h"

enum { BLOCK = 4 }; // vectors of channels that stay in registers over all pixels

/* Rows of g->scratch. */
static float *scratch_row(const struct group_norm_image *g, int i)
{
    return g->scratch + (size_t)i * ((g->channels + VEC - 1) / VEC * VEC);
}

ALWAYS_INLINE void sums_block(enum dtype t, const struct group_norm_image *g, size_t c, size_t w, int block,
                              float *mean, float *m2)
{
    vec first[BLOCK], sum[BLOCK], square[BLOCK];
    for (int v = 0; v < block; v++) {
        first[v] = vec_load(t, g->x.at, c + VEC * v, w);
        sum[v] = square[v] = (vec){0};
    }
    for (size_t p = 0; p < g->n; p++)
        for (int v = 0; v < block; v++) {
            vec d = vec_load(t, g->x.at, p * g->x.pitch + c + VEC * v, w) - first[v];
            sum[v] += d;
            square[v] += d * d;
        }
    for (int v = 0; v < block; v++) {
        vec average = sum[v] / (float)g->n;
        vec_store(DTYPE_F32, mean, c + VEC * v, VEC, first[v] + average);
        vec_store(DTYPE_F32, m2, c + VEC * v, VEC, square[v] - sum[v] * average);
    }
}

#define FOR_BLOCKS(channels, ...)                                                                                      \
    do {                                                                                                               \
        size_t c = 0;                                                                                                  \
        for (; c + BLOCK * VEC <= (channels); c += BLOCK * VEC) {                                                      \
            const int block = BLOCK;                                                                                   \
            const size_t w = VEC;                                                                                      \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
        for (; c < (channels); c += VEC) {                                                                             \
            const int block = 1;                                                                                       \
            const size_t w = (channels)-c < VEC ? (channels)-c : VEC;                                                  \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

static float element(enum dtype t, const void *p, size_t i)
{
    return !p ? 0.0f : t == DTYPE_F32 ? ((const float *)p)[i] : float_from_bf16(((const uint16_t *)p)[i]);
}

/* Channels' means and sums of squared deviations -> the group's. */
static void merge_group(const struct group_norm_image *g, size_t group, const float *mean, const float *m2,
                        float *ret_mean, float *ret_rstd)
{
    size_t width = g->channels / g->groups, c = group * width;
    float average = 0, squares = 0;
    for (size_t i = 0; i < width; i++)
        average += mean[c + i] + element(g->x.dtype, g->pre, c + i);
    average /= (float)width;
    for (size_t i = 0; i < width; i++) {
        float d = mean[c + i] + element(g->x.dtype, g->pre, c + i) - average;
        squares += m2[c + i] + (float)g->n * d * d;
    }
    float variance = squares / (float)(width * g->n);
    *ret_mean = average;
    *ret_rstd = 1.0f / sqrtf((variance > 0 ? variance : variance < 0 ? 0 : variance) + g->eps);
}

/* y = act((x - center) scale + shift); bf16: act(x scale + shift). */
static void fold(const struct group_norm_image *g, size_t group, float mean, float rstd, float *scale, float *shift,
                 float *center)
{
    size_t width = g->channels / g->groups;
    enum dtype t = g->x.dtype;
    for (size_t c = group * width; c < (group + 1) * width; c++) {
        scale[c] = g->gamma[c] * rstd;
        center[c] = mean - element(t, g->pre, c);
        shift[c] = g->beta[c] + element(t, g->post, c) - (t == DTYPE_F32 ? 0.0f : center[c] * scale[c]);
    }
}

ALWAYS_INLINE void apply_block(enum dtype t, bool act, const struct group_norm_image *g, size_t c, size_t w, int block,
                               const float *scale, const float *shift, const float *center)
{
    vec a[BLOCK], b[BLOCK], m[BLOCK];
    for (int v = 0; v < block; v++) {
        a[v] = vec_load(DTYPE_F32, scale, c + VEC * v, VEC);
        b[v] = vec_load(DTYPE_F32, shift, c + VEC * v, VEC);
        m[v] = vec_load(DTYPE_F32, center, c + VEC * v, VEC);
    }
    for (size_t p = 0; p < g->n; p++)
        for (int v = 0; v < block; v++) {
            vec x = vec_load(t, g->x.at, p * g->x.pitch + c + VEC * v, w);
            vec z = (t == DTYPE_F32 ? x - m[v] : x) * a[v] + b[v];
            vec_store(t, g->y.at, p * g->y.pitch + c + VEC * v, w, act ? z * vec_sigmoid(t, z) : z);
        }
}

ALWAYS_INLINE void forward_as(enum dtype t, const struct group_norm_image *g)
{
    float *mean = scratch_row(g, 0), *m2 = scratch_row(g, 1), *scale = scratch_row(g, 2), *shift = scratch_row(g, 3),
          *center = scratch_row(g, 4);
    FOR_BLOCKS(g->channels, sums_block(t, g, c, w, block, mean, m2));
    for (size_t group = 0; group < g->groups; group++) {
        float average, rstd;
        merge_group(g, group, mean, m2, &average, &rstd);
        if (g->mean)
            g->mean[group] = average;
        if (g->rstd)
            g->rstd[group] = rstd;
        fold(g, group, average, rstd, scale, shift, center);
    }
    if (g->silu)
        FOR_BLOCKS(g->channels, apply_block(t, true, g, c, w, block, scale, shift, center));
    else
        FOR_BLOCKS(g->channels, apply_block(t, false, g, c, w, block, scale, shift, center));
}

static void forward(const struct group_norm_image *g)
{
    g->x.dtype == DTYPE_F32 ? forward_as(DTYPE_F32, g) : forward_as(DTYPE_BF16, g);
}

/* ---- backward ----
 *
 * With h = (x + pre - mean) rstd, z = gamma h + beta + post, dz = dy act'(z):
 *   dbeta = dpost = sum dz, dgamma = sum dz h, and with a = the group's mean of gamma dz, b = that of gamma dz h,
 *   dx = rstd (gamma dz - a - h b),  dpre = sum dx.
 * One pass gathers the sums per channel, a second one computes dz again and writes dx. */

struct backward_rows {
    float *rstd, *offset, *bias; // h = x rstd + offset, z = gamma h + bias
    float *dz, *dzh, *h;         // sums over pixels
};

static struct backward_rows backward_rows(const struct group_norm_image *g)
{
    return (struct backward_rows){scratch_row(g, 0), scratch_row(g, 1), scratch_row(g, 2),
                                  scratch_row(g, 3), scratch_row(g, 4), scratch_row(g, 5)};
}

ALWAYS_INLINE vec gradient_of_z(enum dtype t, bool act, const struct group_norm_image *g, size_t p, size_t c, size_t w,
                                vec h, vec gamma, vec bias)
{
    vec dy = vec_load(t, g->dy.at, p * g->dy.pitch + c, w);
    if (!act)
        return dy;
    vec z = h * gamma + bias, s = vec_sigmoid(t, z);
    return dy * s * (1.0f + z * (1.0f - s));
}

ALWAYS_INLINE void gather_block(enum dtype t, bool act, const struct group_norm_image *g, size_t c, size_t w,
                                const struct backward_rows *r)
{
    vec a = vec_load(DTYPE_F32, r->rstd, c, w), b = vec_load(DTYPE_F32, r->offset, c, w);
    vec gamma = vec_load(DTYPE_F32, g->gamma, c, w), bias = vec_load(DTYPE_F32, r->bias, c, w);
    vec sum_dz = {0}, sum_dzh = {0}, sum_h = {0};
    for (size_t p = 0; p < g->n; p++) {
        vec h = vec_load(t, g->x.at, p * g->x.pitch + c, w) * a + b;
        vec dz = gradient_of_z(t, act, g, p, c, w, h, gamma, bias);
        sum_dz += dz;
        sum_dzh += dz * h;
        sum_h += h;
    }
    vec_store(DTYPE_F32, r->dz, c, w, sum_dz);
    vec_store(DTYPE_F32, r->dzh, c, w, sum_dzh);
    vec_store(DTYPE_F32, r->h, c, w, sum_h);
}

ALWAYS_INLINE void spread_block(enum dtype t, bool act, bool more, const struct group_norm_image *g, size_t c, size_t w,
                                const struct backward_rows *r)
{
    vec a = vec_load(DTYPE_F32, r->rstd, c, w), b = vec_load(DTYPE_F32, r->offset, c, w);
    vec gamma = vec_load(DTYPE_F32, g->gamma, c, w), bias = vec_load(DTYPE_F32, r->bias, c, w);
    vec k0 = vec_load(DTYPE_F32, r->dz, c, w) * a, k1 = vec_load(DTYPE_F32, r->dzh, c, w) * a, k2 = gamma * a;
    for (size_t p = 0; p < g->n; p++) {
        vec h = vec_load(t, g->x.at, p * g->x.pitch + c, w) * a + b;
        vec dx = gradient_of_z(t, act, g, p, c, w, h, gamma, bias) * k2 - k0 - h * k1;
        if (more)
            dx += vec_load(t, g->more.at, p * g->more.pitch + c, w);
        vec_store(t, g->dx.at, p * g->dx.pitch + c, w, dx);
    }
}

static void store_element(enum dtype t, void *p, size_t i, float x)
{
    vec_store(t, p, i, 1, vec_set(x));
}

/* Writes the channels' outputs and leaves the group's means a and b where the sums dz and dzh were. */
static void finish_group(const struct group_norm_image *g, size_t group, const struct backward_rows *r)
{
    size_t width = g->channels / g->groups, first = group * width;
    float a = 0, b = 0, count = (float)(width * g->n);
    for (size_t c = first; c < first + width; c++) {
        a += g->gamma[c] * r->dz[c];
        b += g->gamma[c] * r->dzh[c];
    }
    a /= count;
    b /= count;
    for (size_t c = first; c < first + width; c++) {
        float dz = r->dz[c], dzh = r->dzh[c];
        g->dbeta[c] = dz;
        g->dgamma[c] = dzh;
        if (g->dpost)
            store_element(g->x.dtype, g->dpost, c, dz);
        if (g->dpre)
            store_element(g->x.dtype, g->dpre, c, g->rstd[group] * (g->gamma[c] * dz - (float)g->n * a - b * r->h[c]));
        r->dz[c] = a;
        r->dzh[c] = b;
    }
}

ALWAYS_INLINE void backward_as(enum dtype t, bool act, const struct group_norm_image *g)
{
    struct backward_rows r = backward_rows(g);
    size_t width = g->channels / g->groups;
    for (size_t c = 0; c < g->channels; c++) {
        float rstd = g->rstd[c / width];
        r.rstd[c] = rstd;
        r.offset[c] = (element(t, g->pre, c) - g->mean[c / width]) * rstd;
        r.bias[c] = g->beta[c] + element(t, g->post, c);
    }
    FOR_VECTORS(0, g->channels, gather_block(t, act, g, i, w, &r));
    for (size_t group = 0; group < g->groups; group++)
        finish_group(g, group, &r);
    if (g->more.at)
        FOR_VECTORS(0, g->channels, spread_block(t, act, true, g, i, w, &r));
    else
        FOR_VECTORS(0, g->channels, spread_block(t, act, false, g, i, w, &r));
}

static void backward(const struct group_norm_image *g)
{
    if (g->x.dtype == DTYPE_F32)
        g->silu ? backward_as(DTYPE_F32, true, g) : backward_as(DTYPE_F32, false, g);
    else
        g->silu ? backward_as(DTYPE_BF16, true, g) : backward_as(DTYPE_BF16, false, g);
}

const struct norm_loops LOOPS(norm_loops) = {.forward = forward, .backward = backward};
