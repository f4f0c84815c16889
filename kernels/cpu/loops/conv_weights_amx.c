/* conv_weights_amx.c: gradient of a convolution's filters in bf16 on AMX tiles: for each tap (r, s) a matrix product
 *
 *   dw[k][r][s][c] = sum over pixels p of dy[p][k] x[p + (r, s)][c]
 *
 * whose depth is pixels. The left factor is dy with its pixels along the rows of tiles. The right one wants pairs of
 * neighbouring pixels; so x is packed once for each s, moved by it, in which all r are the same rows further on:
 *
 *   x: [s][C / 16][(R - 1) W / 2 + whole tiles of H W / 2][16][2]    dy: [K / 16][tiles of 32 pixels][16][32]
 *
 * with zeros around the image. Pixels past the last are zeros in dy, and finite in x. Two by two tiles of results stay
 * in registers over all pixels of a group of images.
 */
#include "kernels/cpu/loops/amx.h"
#include "kernels/cpu/loops/loops.h"

static size_t depth_tiles(const struct conv_weights_group *g)
{
    return (g->h * g->w + DEPTH - 1) / DEPTH;
}

/* Pairs of one s and 16 channels. */
static size_t x_pairs(const struct conv_weights_group *g)
{
    return (g->r - 1) * g->w / 2 + depth_tiles(g) * ROWS;
}

static size_t x_elements(const struct conv_weights_group *g)
{
    return g->r * g->c * 2 * x_pairs(g);
}

static size_t dy_elements(const struct conv_weights_group *g)
{
    return g->k / ROWS * depth_tiles(g) * TILE;
}

/* 16 channels of pixel x of a row of the enlarged image, in the low halves of 32 bits; zeros outside. */
ALWAYS_INLINE vecu load_pixel(const struct conv_weights_group *g, const uint16_t *row, size_t pitch, size_t x)
{
    vech h = {0};
    if (x < g->w)
        memcpy(&h, row + (x >> g->halvings) * pitch, sizeof(h));
    return (vecu)_mm512_cvtepu16_epi32((__m256i)h);
}

ALWAYS_INLINE void store_pair(uint16_t *to, size_t pair, vecu even, vecu odd)
{
    vecu both = even | odd << 16;
    memcpy(to + pair * 2 * ROWS, &both, sizeof(both));
}

/* One row of 16 channels for every s, `step` elements apart: the pair of s and x is the pixels x + s - R / 2 and the
 * next one. */
ALWAYS_INLINE void pack_row(const struct conv_weights_group *g, uint16_t *to, size_t step, const uint16_t *row,
                            size_t pitch, bool three)
{
    vecu before = {0}, here = load_pixel(g, row, pitch, 0);
    for (size_t x = 0; x < g->w; x += 2) {
        vecu next = load_pixel(g, row, pitch, x + 1), after = load_pixel(g, row, pitch, x + 2);
        if (three) {
            store_pair(to, x / 2, before, here);
            store_pair(to + step, x / 2, here, next);
            store_pair(to + 2 * step, x / 2, next, after);
        } else {
            store_pair(to, x / 2, here, next);
        }
        before = next;
        here = after;
    }
}

static void pack_x(const struct conv_weights_group *g, uint16_t *to, struct pixels image)
{
    size_t rows = g->h + g->r - 1, row_elements = g->w * ROWS, step = g->c / ROWS * x_pairs(g) * 2 * ROWS;
    size_t tail = x_pairs(g) * 2 * ROWS - rows * row_elements, small_w = g->w >> g->halvings;
    for (size_t c = 0; c < g->c; c += ROWS) {
        for (size_t y = 0; y < rows; y++, to += row_elements) {
            size_t from = y - g->r / 2; // wraps around below 0
            const uint16_t *row = (const uint16_t *)image.at + (from >> g->halvings) * small_w * image.pitch + c;
            for (size_t s = 0; from >= g->h && s < g->r; s++)
                memset(to + s * step, 0, row_elements * sizeof(*to));
            if (from >= g->h)
                continue;
            if (g->r == 3)
                pack_row(g, to, step, row, image.pitch, true);
            else
                pack_row(g, to, step, row, image.pitch, false);
        }
        for (size_t s = 0; s < g->r; s++)
            memset(to + s * step, 0, tail * sizeof(*to));
        to += tail;
    }
}

static void pack_dy(const struct conv_weights_group *g, uint16_t *to, struct pixels dy)
{
    size_t n = g->h * g->w;
    const uint16_t *at = dy.at;
    for (size_t k = 0; k < g->k; k += ROWS)
        for (size_t first = 0; first < n; first += DEPTH, to += TILE) {
            veci r[16];
            for (size_t i = 0; i < 16; i++) {
                size_t p = first + 2 * i;
                r[i] = pair_rows(p < n ? at + p * dy.pitch + k : NULL, p + 1 < n ? at + (p + 1) * dy.pitch + k : NULL);
            }
            vec_transpose(r);
            memcpy(to, r, sizeof(r));
        }
}

/* Left and right factors of one result of 2 x 2 tiles. */
struct factors {
    const uint16_t *dy, *x;          // of the first image
    size_t dy_half, x_half;          // elements from the first 16 channels to the next
    size_t dy_image, x_image, depth; // from one image to the next; tiles
};

ALWAYS_INLINE void multiply_images(const struct factors *f, size_t images)
{
    for (size_t i = 0; i < images; i++) {
        const uint16_t *a = f->dy + i * f->dy_image, *b = f->x + i * f->x_image;
        for (size_t d = 0; d < f->depth; d++, a += TILE, b += TILE) {
            _tile_loadd(4, a, 64);
            _tile_loadd(6, b, 64);
            _tile_loadd(7, b + f->x_half, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, a + f->dy_half, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* dw: first element of 32 k x 32 c, rows `row` floats apart. */
static void multiply_block(const struct factors *f, size_t images, float *dw, size_t row, bool accumulate)
{
    float *low = dw + ROWS * row;
    memory_barrier();
    if (accumulate) {
        _tile_loadd(0, dw, row * sizeof(float));
        _tile_loadd(1, dw + ROWS, row * sizeof(float));
        _tile_loadd(2, low, row * sizeof(float));
        _tile_loadd(3, low + ROWS, row * sizeof(float));
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    multiply_images(f, images);
    _tile_stored(0, dw, row * sizeof(float));
    _tile_stored(1, dw + ROWS, row * sizeof(float));
    _tile_stored(2, low, row * sizeof(float));
    _tile_stored(3, low + ROWS, row * sizeof(float));
    memory_barrier();
}

/* db[k] += or = the sum of dy over pixels, k of 16 channels: dy times a tile of ones. */
static void sum_dy(const struct conv_weights_group *g, const uint16_t *dy, float *db)
{
    uint16_t ones[TILE];
    float sums[ROWS][ROWS];
    for (size_t i = 0; i < TILE; i++)
        ones[i] = 0x3f80;
    memory_barrier();
    _tile_zero(0);
    _tile_loadd(6, ones, 64);
    for (size_t i = 0; i < g->images; i++)
        for (size_t d = 0; d < depth_tiles(g); d++) {
            _tile_loadd(4, dy + i * dy_elements(g) + d * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
        }
    _tile_stored(0, sums, 64);
    memory_barrier();
    for (size_t k = 0; k < ROWS; k++)
        db[k] = (g->accumulate ? db[k] : 0) + sums[k][0];
}

static void multiply(const struct conv_weights_group *g, size_t k)
{
    size_t pairs = x_pairs(g), row = g->r * g->r * g->c;
    struct factors f = {
        .dy_half = depth_tiles(g) * TILE,
        .x_half = pairs * 2 * ROWS,
        .dy_image = dy_elements(g),
        .x_image = x_elements(g),
        .depth = depth_tiles(g),
    };
    f.dy = g->dy + k / ROWS * f.dy_half;
    tiles_begin();
    for (size_t c = 0; c < g->c; c += 2 * ROWS)
        for (size_t s = 0; s < g->r; s++)
            for (size_t r = 0; r < g->r; r++) {
                f.x = g->x + (s * g->c / ROWS + c / ROWS) * f.x_half + r * g->w / 2 * 2 * ROWS;
                multiply_block(&f, g->images, g->dw + k * row + (r * g->r + s) * g->c + c, row, g->accumulate);
            }
    if (g->db)
        for (size_t half = 0; half < 2 * ROWS; half += ROWS)
            sum_dy(g, f.dy + half / ROWS * f.dy_half, g->db + k + half);
    tiles_end();
}

const struct conv_weights_loops LOOPS(conv_weights_loops) = {
    .x_elements = x_elements,
    .dy_elements = dy_elements,
    .pack_x = pack_x,
    .pack_dy = pack_dy,
    .multiply = multiply,
};
