/* attention_amx.c: attention in bf16 on AMX tiles: the same maths as attention.c, with the products of 16 x 32 by 32 x
 * 16 blocks, p and its gradient rounded to bf16 between them. For heads whose dimension is a multiple of 32;
 * attention.c serves the others and f32.
 *
 * A tile holds 16 rows of 64 bytes. The left factor's tile is 16 rows x 32 k in bf16, the right one's is 16 pairs of k
 * x 16 columns x 2, the result's 16 x 16 f32. Right factors are packed tile after tile (TILE elements each): `pairs`
 * from rows of k (two rows interleaved), `turned` from rows of columns (a transposition of 32-bit pairs). Queries go in
 * blocks, and no block's result depends on the others. Sizes are padded with zeros to whole tiles; scores of padding
 * are left out of the softmax.
 */
#include "kernels/cpu/loops/amx.h"
#include "kernels/cpu/loops/loops.h"

enum { FORWARD_ROWS = 32, BACKWARD_ROWS = 64 };

static const float log2_e = 1.44269504088896341f, ln_2 = 0.693147180559945309f;

static size_t round_to(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* ---- packing ---- */

/* Rows [first, first + 16) of x [n, *], 32 elements from column on, zero past n. */
ALWAYS_INLINE void load_rows(veci r[16], const uint16_t *x, size_t pitch, size_t first, size_t n, size_t column)
{
    for (size_t i = 0; i < 16; i++) {
        r[i] = (veci){0};
        if (first + i < n)
            memcpy(&r[i], x + (first + i) * pitch + column, sizeof(r[i]));
    }
}

ALWAYS_INLINE void store_rows(uint16_t *to, const veci r[16])
{
    for (size_t i = 0; i < 16; i++)
        memcpy(to + i * DEPTH, &r[i], sizeof(r[i]));
}

/* Right factor [d, n] of x [n, d]: tiles [d / 32][n / 16]. */
static void pack_turned(uint16_t *to, const uint16_t *x, size_t pitch, size_t n, size_t columns, size_t d)
{
    for (size_t k = 0; k < d; k += DEPTH)
        for (size_t j = 0; j < columns; j += ROWS, to += TILE) {
            veci r[16];
            load_rows(r, x, pitch, j, n, k);
            vec_transpose(r);
            store_rows(to, r);
        }
}

/* Tile of the right factor x [n, d]: rows [k, k + 32), columns [j, j + 16). */
ALWAYS_INLINE void pair_tile(veci r[16], const uint16_t *x, size_t pitch, size_t n, size_t k, size_t j)
{
    for (size_t i = 0; i < 16; i++) {
        size_t row = k + 2 * i;
        r[i] = pair_rows(row < n ? x + row * pitch + j : NULL, row + 1 < n ? x + (row + 1) * pitch + j : NULL);
    }
}

/* Right factor [n, d] of x [n, d]: tiles [n / 32][d / 16]. */
static void pack_pairs(uint16_t *to, const uint16_t *x, size_t pitch, size_t n, size_t rows, size_t d)
{
    for (size_t k = 0; k < rows; k += DEPTH)
        for (size_t j = 0; j < d; j += ROWS, to += TILE) {
            veci r[16];
            pair_tile(r, x, pitch, n, k, j);
            store_rows(to, r);
        }
}

/* Left factor [d, n] of x [n, d]: tiles [d / 16][n / 32], rows of 32. */
static void pack_left_turned(uint16_t *to, const uint16_t *x, size_t pitch, size_t n, size_t columns, size_t d)
{
    for (size_t j = 0; j < d; j += ROWS)
        for (size_t k = 0; k < columns; k += DEPTH, to += TILE) {
            veci r[16];
            pair_tile(r, x, pitch, n, k, j);
            vec_transpose(r);
            store_rows(to, r);
        }
}

/* ---- products ---- */

struct tiles {
    const uint16_t *at;
    size_t row;    // elements from one row of a tile to the next
    size_t next_m; // from a tile to the next one along m (left) or n (right)
    size_t next_k; // along k
};

/* c[32, 32] (+)= a b: two by two tiles, so that four products need four loads. */
ALWAYS_INLINE void square(float *c, size_t c_row, const uint16_t *a, const struct tiles *left, const uint16_t *b,
                          const struct tiles *right, size_t k, bool accumulate)
{
    size_t c_stride = c_row * sizeof(float), a_stride = left->row * sizeof(*a), b_stride = right->row * sizeof(*b);
    float *lower = c + 16 * c_row;
    if (accumulate) {
        _tile_loadd(0, c, c_stride);
        _tile_loadd(1, c + 16, c_stride);
        _tile_loadd(2, lower, c_stride);
        _tile_loadd(3, lower + 16, c_stride);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t i = 0; i < k; i++, a += left->next_k, b += right->next_k) {
        _tile_loadd(4, a, a_stride);
        _tile_loadd(6, b, b_stride);
        _tile_loadd(5, a + left->next_m, a_stride);
        _tile_loadd(7, b + right->next_m, b_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_stride);
    _tile_stored(1, c + 16, c_stride);
    _tile_stored(2, lower, c_stride);
    _tile_stored(3, lower + 16, c_stride);
}

/* c[16 m, 16 n] (+)= a[16 m, 32 k] b[32 k, 16 n], m and n even */
static void product(float *c, size_t c_row, const struct tiles *a, const struct tiles *b, size_t m, size_t n, size_t k,
                    bool accumulate)
{
    memory_barrier();
    for (size_t i = 0; i < m; i += 2)
        for (size_t j = 0; j < n; j += 2)
            square(c + 16 * i * c_row + 16 * j, c_row, a->at + i * a->next_m, a, b->at + j * b->next_m, b, k,
                   accumulate);
    memory_barrier();
}

/* A right factor of packed tiles [k][n]. */
static struct tiles right_tiles(const uint16_t *at, size_t n)
{
    return (struct tiles){at, DEPTH, TILE, n * TILE};
}

/* A left factor of rows. */
static struct tiles left_rows(const uint16_t *at, size_t pitch)
{
    return (struct tiles){at, pitch, ROWS * pitch, DEPTH};
}

/* ---- scratch ---- */

struct carver {
    char *at;
};

static void *carve(struct carver *c, size_t bytes)
{
    void *at = c->at;
    c->at += round_to(bytes, 64);
    return at;
}

struct forward_scratch {
    uint16_t *k, *v, *q, *p;
    float *s, *y;
};

static struct forward_scratch forward_scratch(struct carver *c, size_t T, size_t d)
{
    struct forward_scratch f;
    f.k = carve(c, T * d * 2);
    f.v = carve(c, T * d * 2);
    f.q = carve(c, FORWARD_ROWS * d * 2);
    f.p = carve(c, FORWARD_ROWS * T * 2);
    f.s = carve(c, FORWARD_ROWS * T * 4);
    f.y = carve(c, FORWARD_ROWS * d * 4);
    return f;
}

struct backward_scratch {
    uint16_t *k_turned, *v_turned, *k_pairs; // right factors [d, T], [d, T], [T, d]
    uint16_t *q, *dy, *q_turned, *dy_turned; // left factors of a block: [rows, d], [d, rows]
    uint16_t *ds, *ds_pairs, *p_pairs;       // of a block: left [rows, T], right [rows, T]
    float *s, *dp, *dq, *dk, *dv;            // [rows, T] twice, [rows, d], [d, T] twice
};

static struct backward_scratch backward_scratch(struct carver *c, size_t T, size_t d)
{
    struct backward_scratch b;
    b.k_turned = carve(c, T * d * 2);
    b.v_turned = carve(c, T * d * 2);
    b.k_pairs = carve(c, T * d * 2);
    b.q = carve(c, BACKWARD_ROWS * d * 2);
    b.dy = carve(c, BACKWARD_ROWS * d * 2);
    b.q_turned = carve(c, BACKWARD_ROWS * d * 2);
    b.dy_turned = carve(c, BACKWARD_ROWS * d * 2);
    b.ds = carve(c, BACKWARD_ROWS * T * 2);
    b.ds_pairs = carve(c, BACKWARD_ROWS * T * 2);
    b.p_pairs = carve(c, BACKWARD_ROWS * T * 2);
    b.s = carve(c, BACKWARD_ROWS * T * 4);
    b.dp = carve(c, BACKWARD_ROWS * T * 4);
    b.dq = carve(c, BACKWARD_ROWS * d * 4);
    b.dk = carve(c, T * d * 4);
    b.dv = carve(c, T * d * 4);
    return b;
}

static bool serves(enum dtype t, size_t d)
{
    return t == DTYPE_BF16 && d % DEPTH == 0;
}

static size_t scratch_floats(enum dtype t, size_t T, size_t d, bool backward)
{
    if (!serves(t, d))
        return LOOPS(attention_loops).scratch_floats(t, T, d, backward);
    struct carver c = {NULL};
    if (backward)
        backward_scratch(&c, round_to(T, DEPTH), d);
    else
        forward_scratch(&c, round_to(T, DEPTH), d);
    return (size_t)(c.at - (char *)NULL) / sizeof(float);
}

/* ---- forward ---- */

/* x [rows, d] of the block at `first`, zero past T. */
static void copy_block(uint16_t *to, const uint16_t *x, size_t pitch, size_t first, size_t rows, size_t T, size_t d)
{
    for (size_t i = 0; i < rows; i++)
        if (first + i < T)
            memcpy(to + i * d, x + (first + i) * pitch, d * sizeof(*to));
        else
            memset(to + i * d, 0, d * sizeof(*to));
}

/* p = 2^(factor (s - max)) of one row in bf16, zero from T to padded. */
static void softmax_row(uint16_t *p, const float *s, size_t T, size_t padded, float factor, float *ret_inverse,
                        float *lse)
{
    vec high = vec_set(-INFINITY), sum = {0};
    FOR_VECTORS(0, T, {
        vec x = vec_load(DTYPE_F32, s, i, VEC); // padding has scores too: of zeros
        if (w < VEC)
            x = (vec)_mm512_mask_mov_ps((__m512)vec_set(-INFINITY), (__mmask16)((1u << w) - 1), (__m512)x);
        high = vec_at_least(x, high);
    });
    float max = vec_highest(high);
    const vec offset = vec_set(-max * factor);
    FOR_VECTORS(0, T, {
        vec e = vec_exp2_short(vec_load(DTYPE_F32, s, i, VEC) * factor + offset);
        if (w < VEC)
            e = (vec)_mm512_maskz_mov_ps((__mmask16)((1u << w) - 1), (__m512)e);
        sum += e;
        vec_store(DTYPE_BF16, p, i, VEC, e);
    });
    size_t end = round_to(T, VEC);
    memset(p + end, 0, (padded - end) * sizeof(*p));
    float total = vec_sum(sum);
    *ret_inverse = 1.0f / total;
    if (lse)
        *lse = max * factor * ln_2 + logf(total);
}

/* to[d] = factor x */
ALWAYS_INLINE void store_scaled(uint16_t *to, const float *x, size_t d, float factor)
{
    for (size_t i = 0; i < d; i += VEC)
        vec_store(DTYPE_BF16, to, i, VEC, vec_load(DTYPE_F32, x, i, VEC) * factor);
}

static void forward_block(const struct attention_head *h, const struct forward_scratch *f, size_t first, size_t padded)
{
    size_t d = h->d, rows = h->T - first < FORWARD_ROWS ? h->T - first : FORWARD_ROWS;
    float factor = log2_e / sqrtf((float)d), inverse[FORWARD_ROWS];
    copy_block(f->q, h->q, h->pitch, first, FORWARD_ROWS, h->T, d);
    struct tiles q = left_rows(f->q, d), k = right_tiles(f->k, padded / ROWS);
    product(f->s, padded, &q, &k, FORWARD_ROWS / ROWS, padded / ROWS, d / DEPTH, false);
    for (size_t i = 0; i < rows; i++)
        softmax_row(f->p + i * padded, f->s + i * padded, h->T, padded, factor, &inverse[i],
                    h->lse ? h->lse + (first + i) * h->lse_pitch : NULL);
    struct tiles p = left_rows(f->p, padded), v = right_tiles(f->v, d / ROWS);
    product(f->y, d, &p, &v, FORWARD_ROWS / ROWS, d / ROWS, padded / DEPTH, false);
    for (size_t i = 0; i < rows; i++)
        store_scaled((uint16_t *)h->y + (first + i) * h->y_pitch, f->y + i * d, d, inverse[i]);
}

static void forward(const struct attention_head *h)
{
    if (!serves(h->dtype, h->d)) {
        LOOPS(attention_loops).forward(h);
        return;
    }
    size_t padded = round_to(h->T, DEPTH);
    struct forward_scratch f = forward_scratch(&(struct carver){(char *)h->scratch}, padded, h->d);
    memset(f.p, 0, FORWARD_ROWS * padded * sizeof(*f.p)); // rows past T of the last block
    tiles_begin();
    pack_turned(f.k, h->k, h->pitch, h->T, padded, h->d);
    pack_pairs(f.v, h->v, h->pitch, h->T, padded, h->d);
    for (size_t first = 0; first < h->T; first += FORWARD_ROWS)
        forward_block(h, &f, first, padded);
    tiles_end();
}

/* ---- backward ---- */

/* sum over d of y dy */
static float row_dot(const uint16_t *y, const uint16_t *dy, size_t d)
{
    vec sum = {0};
    for (size_t i = 0; i < d; i += VEC)
        sum += vec_load(DTYPE_BF16, y, i, VEC) * vec_load(DTYPE_BF16, dy, i, VEC);
    return vec_sum(sum);
}

/* p and ds = p (dp - delta) of one vector of one row. */
ALWAYS_INLINE void gradient_vector(const float *s, const float *dp, float factor, float offset, float delta,
                                   vech *ret_p, vech *ret_ds)
{
    vec p = vec_exp2_short(vec_load(DTYPE_F32, s, 0, VEC) * factor + offset);
    *ret_p = vec_to_bf16(p);
    *ret_ds = vec_to_bf16(p * (vec_load(DTYPE_F32, dp, 0, VEC) - delta));
}

/* Queries 2 i and 2 i + 1 of the block: rows of ds, and the pairs of p and ds for the right factors. offset, delta: of
 * the two rows. Rows past T have an offset that makes their p 0; columns past T are cleared. */
static void gradient_rows(const struct backward_scratch *b, size_t pair, size_t T, size_t padded, float factor,
                          const float *offset, const float *delta)
{
    size_t n = padded / ROWS, row = 2 * pair;
    uint16_t *p_pairs = b->p_pairs + row / DEPTH * n * TILE + pair % ROWS * DEPTH,
             *ds_pairs = b->ds_pairs + row / DEPTH * n * TILE + pair % ROWS * DEPTH;
    for (size_t j = 0; j < padded; j += VEC) {
        vech p[2], ds[2];
        for (size_t i = 0; i < 2; i++) {
            size_t at = (row + i) * padded + j;
            gradient_vector(b->s + at, b->dp + at, factor, offset[i], delta[i], &p[i], &ds[i]);
            for (size_t lane = T > j ? T - j : 0; lane < VEC; lane++)
                p[i][lane] = ds[i][lane] = 0;
            memcpy(b->ds + at, &ds[i], sizeof(ds[i]));
        }
        veci pp = pair_rows((uint16_t *)&p[0], (uint16_t *)&p[1]),
             dd = pair_rows((uint16_t *)&ds[0], (uint16_t *)&ds[1]);
        memcpy(p_pairs + j / ROWS * TILE, &pp, sizeof(pp));
        memcpy(ds_pairs + j / ROWS * TILE, &dd, sizeof(dd));
    }
}

static void block_gradient(const struct attention_head *h, const struct backward_scratch *b, size_t first,
                           size_t padded)
{
    float factor = log2_e / sqrtf((float)h->d);
    for (size_t pair = 0; pair < BACKWARD_ROWS / 2; pair++) {
        float offset[2], delta[2];
        for (size_t i = 0; i < 2; i++) {
            size_t row = first + 2 * pair + i;
            bool inside = row < h->T;
            offset[i] = inside ? -h->lse[row * h->lse_pitch] * log2_e : -1e4f;
            delta[i] = inside ? row_dot((const uint16_t *)h->y_in + row * h->y_pitch,
                                        (const uint16_t *)h->dy + row * h->dy_pitch, h->d)
                              : 0;
        }
        gradient_rows(b, pair, h->T, padded, factor, offset, delta);
    }
}

static void backward_block(const struct attention_head *h, const struct backward_scratch *b, size_t first,
                           size_t padded)
{
    size_t d = h->d, left = h->T - first, n = padded / ROWS, m = BACKWARD_ROWS / ROWS, rows = BACKWARD_ROWS / DEPTH;
    const uint16_t *q_at = (const uint16_t *)h->q + first * h->pitch,
                   *dy_at = (const uint16_t *)h->dy + first * h->dy_pitch;
    copy_block(b->q, h->q, h->pitch, first, BACKWARD_ROWS, h->T, d);
    copy_block(b->dy, h->dy, h->dy_pitch, first, BACKWARD_ROWS, h->T, d);
    pack_left_turned(b->q_turned, q_at, h->pitch, left, BACKWARD_ROWS, d);
    pack_left_turned(b->dy_turned, dy_at, h->dy_pitch, left, BACKWARD_ROWS, d);
    struct tiles q = left_rows(b->q, d), dy = left_rows(b->dy, d), k = right_tiles(b->k_turned, n),
                 v = right_tiles(b->v_turned, n);
    product(b->s, padded, &q, &k, m, n, d / DEPTH, false);
    product(b->dp, padded, &dy, &v, m, n, d / DEPTH, false);
    block_gradient(h, b, first, padded);
    struct tiles ds = left_rows(b->ds, padded), k_pairs = right_tiles(b->k_pairs, d / ROWS);
    product(b->dq, d, &ds, &k_pairs, m, d / ROWS, padded / DEPTH, false);
    struct tiles q_turned = {b->q_turned, DEPTH, rows * TILE, TILE},
                 dy_turned = {b->dy_turned, DEPTH, rows * TILE, TILE}, ds_pairs = right_tiles(b->ds_pairs, n),
                 p_pairs = right_tiles(b->p_pairs, n);
    product(b->dk, padded, &q_turned, &ds_pairs, d / ROWS, n, rows, first > 0);
    product(b->dv, padded, &dy_turned, &p_pairs, d / ROWS, n, rows, first > 0);
    for (size_t i = 0; i < BACKWARD_ROWS && i < left; i++)
        store_scaled((uint16_t *)h->dq + (first + i) * h->d_pitch, b->dq + i * d, d, 1.0f / sqrtf((float)d));
}

/* to[T, d] = factor x[d, T] */
static void store_turned(uint16_t *to, size_t pitch, const float *x, size_t T, size_t padded, size_t d, float factor)
{
    for (size_t t = 0; t < T; t += 16)
        for (size_t c = 0; c < d; c += 16) {
            veci r[16];
            for (size_t i = 0; i < 16; i++)
                memcpy(&r[i], x + (c + i) * padded + t, sizeof(r[i]));
            vec_transpose(r);
            for (size_t i = 0; i < 16 && t + i < T; i++)
                vec_store(DTYPE_BF16, to + (t + i) * pitch, c, VEC, (vec)r[i] * factor);
        }
}

static void backward(const struct attention_head *h)
{
    if (!serves(h->dtype, h->d)) {
        LOOPS(attention_loops).backward(h);
        return;
    }
    size_t padded = round_to(h->T, DEPTH);
    struct backward_scratch b = backward_scratch(&(struct carver){(char *)h->scratch}, padded, h->d);
    tiles_begin();
    pack_turned(b.k_turned, h->k, h->pitch, h->T, padded, h->d);
    pack_turned(b.v_turned, h->v, h->pitch, h->T, padded, h->d);
    pack_pairs(b.k_pairs, h->k, h->pitch, h->T, padded, h->d);
    for (size_t first = 0; first < h->T; first += BACKWARD_ROWS)
        backward_block(h, &b, first, padded);
    tiles_end();
    store_turned(h->dk, h->d_pitch, b.dk, h->T, padded, h->d, 1.0f / sqrtf((float)h->d));
    store_turned(h->dv, h->d_pitch, b.dv, h->T, padded, h->d, 1.0f);
}

const struct attention_loops LOOPS(attention_amx_loops) = {
    .scratch_floats = scratch_floats, .forward = forward, .backward = backward};
