/* weights.c: one parameter vector on the device: the flat f32 source in [K, R, S, C], and copies packed as primitives
 * want them, shared by every primitive that wants the same.
 *
 * We pack ourselves rather than by oneDNN's reorders: one pass can turn, transpose or sum filters on the way, and
 * training repacks every filter after every step. A layout of oneDNN is blocks of o x i filter taps, each stored in an
 * order that a small table gives (struct layout_map); a block is gathered from the source, then shuffled by the table.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- oneDNN's blocked layouts ---- */

struct layout_map {
    enum dtype dtype;
    size_t O, I, R, S;         // logical filter
    size_t block_o, block_i;   // taps of a block
    size_t blocks_o, blocks_i; // blocks, the last ones padded with zeros
    size_t stride[4];          // elements from one block of o, of i, one r, one s to the next
    size_t offset;
    size_t bytes;
    bool o_fastest;   // a block is [block_i][block_o], both multiples of 16
    bool pairs;       // a block is [16][block_o][2] of bf16, block_o a multiple of 16
    uint16_t table[]; // [block_o * block_i]: place in the block -> o * block_i + i
};

enum { MAX_BLOCK = 64 * 64 };

/* Place p of a block as (o, i), from the innermost factor outwards. */
static uint16_t place_in_block(const dnnl_blocking_desc_t *b, size_t block_i, size_t p)
{
    size_t at[2] = {0, 0}, unit[2] = {1, 1};
    for (int k = b->inner_nblks - 1; k >= 0; k--) {
        size_t factor = (size_t)b->inner_blks[k], axis = (size_t)b->inner_idxs[k];
        at[axis] += p % factor * unit[axis];
        unit[axis] *= factor;
        p /= factor;
    }
    return (uint16_t)(at[0] * block_i + at[1]);
}

int layout_map_create(const dnnl_memory_desc_t *layout, struct layout_map **ret_map, struct error *err)
{
    const dnnl_blocking_desc_t *b = &layout->format_desc.blocking;
    size_t block[2] = {1, 1};
    bool known = layout->format_kind == dnnl_blocked && layout->ndims == 4;
    for (int k = 0; known && k < b->inner_nblks; k++) {
        known = b->inner_idxs[k] < 2;
        if (known)
            block[b->inner_idxs[k]] *= (size_t)b->inner_blks[k];
    }
    if (!known || block[0] * block[1] > MAX_BLOCK)
        return error_set(err, -ENOTSUP, NULL, "oneDNN asks for a filter layout that is not blocked by channels");
    struct layout_map *m = malloc(sizeof(*m) + block[0] * block[1] * sizeof(m->table[0]));
    if (!m)
        return error_set(err, -ENOMEM, NULL, "no memory for a filter layout");
    *m = (struct layout_map){
        .dtype = layout->data_type == dnnl_f32 ? DTYPE_F32 : DTYPE_BF16,
        .O = (size_t)layout->dims[0],
        .I = (size_t)layout->dims[1],
        .R = (size_t)layout->dims[2],
        .S = (size_t)layout->dims[3],
        .block_o = block[0],
        .block_i = block[1],
        .blocks_o = (size_t)layout->padded_dims[0] / block[0],
        .blocks_i = (size_t)layout->padded_dims[1] / block[1],
        .offset = (size_t)layout->offset0,
        .bytes = dnnl_memory_desc_get_size(layout),
    };
    for (int k = 0; k < 4; k++)
        m->stride[k] = (size_t)b->strides[k];
    for (size_t p = 0; p < block[0] * block[1]; p++)
        m->table[p] = place_in_block(b, block[1], p);
    m->o_fastest = block[0] % 16 == 0 && block[1] % 16 == 0;
    for (size_t p = 0; p < block[0] * block[1]; p++)
        m->o_fastest = m->o_fastest && m->table[p] == p % block[0] * block[1] + p / block[0];
    m->pairs = m->dtype == DTYPE_BF16 && block[0] % 16 == 0 && block[1] == 32;
    for (size_t p = 0; m->pairs && p < block[0] * block[1]; p++)
        m->pairs = m->table[p] == p / 2 % block[0] * block[1] + p / (2 * block[0]) * 2 + p % 2;
    *ret_map = m;
    return 0;
}

void layout_map_free(struct layout_map *m)
{
    free(m);
}

size_t layout_map_bytes(const struct layout_map *m)
{
    return m->bytes;
}

static size_t block_offset(const struct layout_map *m, size_t o, size_t i, size_t r, size_t s)
{
    return m->offset + o * m->stride[0] + i * m->stride[1] + r * m->stride[2] + s * m->stride[3];
}

struct unpacking {
    const struct loops *loops;
    const struct layout_map *map;
    const float *from;
    float *to;
};

/* By the table, leaving out padding. */
static void unpack_block(const struct layout_map *m, float *to, size_t to_row, const float *from, size_t rows,
                         size_t width)
{
    float tile[MAX_BLOCK];
    for (size_t p = 0; p < m->block_o * m->block_i; p++)
        tile[m->table[p]] = from[p];
    for (size_t j = 0; j < rows; j++)
        memcpy(to + j * to_row, tile + j * m->block_i, width * sizeof(float));
}

static void unpack_blocks(void *context, size_t o)
{
    const struct unpacking *u = context;
    const struct layout_map *m = u->map;
    size_t to_row = m->R * m->S * m->I, o_left = m->O - o * m->block_o;
    size_t rows = o_left < m->block_o ? o_left : m->block_o;
    for (size_t i = 0; i < m->blocks_i; i++)
        for (size_t r = 0; r < m->R; r++)
            for (size_t s = 0; s < m->S; s++) {
                const float *from = u->from + block_offset(m, o, i, r, s);
                float *to = u->to + ((o * m->block_o * m->R + r) * m->S + s) * m->I + i * m->block_i;
                size_t left = m->I - i * m->block_i, width = left < m->block_i ? left : m->block_i;
                if (m->o_fastest && rows == m->block_o && width == m->block_i)
                    u->loops->matrix->turn_block(to, to_row, from, m->block_o, m->block_i);
                else
                    unpack_block(m, to, to_row, from, rows, width);
            }
}

void layout_map_unpack(const struct device *d, const struct layout_map *m, const float *from, float *to, int n_threads)
{
    struct unpacking u = {d->loops, m, from, to};
    cpu_parallel(n_threads, m->blocks_o, unpack_blocks, &u);
}

/* ---- packed copies ---- */

struct packed {
    struct pack_request request;
    struct layout_map *map; // filters
    void *memory;
    size_t bytes;
};

struct weights {
    struct device *device;
    struct param *params;
    int32_t n_params;
    float *source; // NULL after a seal
    size_t source_bytes;
    bool keep_master;
    struct packed **packed;
    int32_t n_packed, cap_packed;
    size_t packed_bytes;
};

/* tile[block_o][block_i] of the filter that is packed, zero outside. */
static void gather_forward(const struct layout_map *m, const float *w, size_t o0, size_t i0, size_t r, size_t s,
                           float *tile)
{
    for (size_t j = 0; j < m->block_o; j++) {
        size_t o = o0 + j, n = o < m->O && i0 < m->I ? m->I - i0 : 0;
        n = n < m->block_i ? n : m->block_i;
        memcpy(tile + j * m->block_i, w + ((o * m->R + r) * m->S + s) * m->I + i0, n * sizeof(float));
        memset(tile + j * m->block_i + n, 0, (m->block_i - n) * sizeof(float));
    }
}

/* The packed filter is [O, I] of a source [I, R, S, O], taps in reverse. */
static void gather_flipped(const struct layout_map *m, const float *w, size_t o0, size_t i0, size_t r, size_t s,
                           float *tile)
{
    memset(tile, 0, m->block_o * m->block_i * sizeof(float));
    size_t n = m->O - o0 < m->block_o ? m->O - o0 : m->block_o;
    for (size_t j = 0; j < m->block_i && i0 + j < m->I; j++) {
        const float *from = w + (((i0 + j) * m->R + (m->R - 1 - r)) * m->S + (m->S - 1 - s)) * m->O + o0;
        for (size_t k = 0; k < n; k++)
            tile[k * m->block_i + j] = from[k];
    }
}

/* Tap r of 2 of the phase with this parity sums taps [first, last] of 3: output row 2 i + parity reads rows i - 1 + r
 * (parity 0) or i + r (parity 1) of the small image. */
static void phase_taps(int parity, size_t r, size_t *ret_first, size_t *ret_last)
{
    static const size_t taps[2][2][2] = {{{0, 0}, {1, 2}}, {{0, 1}, {2, 2}}};
    *ret_first = taps[parity][r][0];
    *ret_last = taps[parity][r][1];
}

static void gather_upsample(const struct layout_map *m, const float *w, int phase, size_t o0, size_t i0, size_t r,
                            size_t s, float *tile)
{
    size_t r0, r1, s0, s1;
    phase_taps(phase / 2, r, &r0, &r1);
    phase_taps(phase % 2, s, &s0, &s1);
    memset(tile, 0, m->block_o * m->block_i * sizeof(float));
    for (size_t j = 0; j < m->block_o && o0 + j < m->O; j++)
        for (size_t y = r0; y <= r1; y++)
            for (size_t x = s0; x <= s1; x++) {
                const float *from = w + (((o0 + j) * 3 + y) * 3 + x) * m->I + i0;
                for (size_t i = 0; i < m->block_i && i0 + i < m->I; i++)
                    tile[j * m->block_i + i] += from[i];
            }
}

struct packing {
    const struct weights *weights;
    const struct packed *packed;
};

/* A whole block of pairs straight from the source, the usual case where training repacks. Returns whether it was one.
 */
static bool pack_block_pairs(const struct packing *p, size_t o0, size_t i0, size_t r, size_t s, void *to)
{
    const struct layout_map *m = p->packed->map;
    const struct matrix_loops *loops = p->weights->device->loops->matrix;
    const struct pack_request *q = &p->packed->request;
    const float *w = p->weights->source + p->weights->params[q->param].offset;
    if (!m->pairs || o0 + m->block_o > m->O || i0 + m->block_i > m->I || q->kind == PACK_UPSAMPLE)
        return false;
    if (q->kind == PACK_FORWARD)
        loops->pack_pairs(to, m->block_o, w + ((o0 * m->R + r) * m->S + s) * m->I + i0, m->R * m->S * m->I);
    else
        loops->pack_pairs_turned(to, m->block_o, w + ((i0 * m->R + m->R - 1 - r) * m->S + m->S - 1 - s) * m->O + o0,
                                 m->R * m->S * m->O);
    return true;
}

static void pack_block(const struct packing *p, size_t o0, size_t i0, size_t r, size_t s, void *to)
{
    const struct layout_map *m = p->packed->map;
    const struct pack_request *q = &p->packed->request;
    const float *w = p->weights->source + p->weights->params[q->param].offset;
    float tile[MAX_BLOCK];
    if (pack_block_pairs(p, o0, i0, r, s, to))
        return;
    if (q->kind == PACK_FORWARD)
        gather_forward(m, w, o0, i0, r, s, tile);
    else if (q->kind == PACK_FLIPPED)
        gather_flipped(m, w, o0, i0, r, s, tile);
    else
        gather_upsample(m, w, q->phase, o0, i0, r, s, tile);
    p->weights->device->loops->matrix->shuffle(m->dtype, to, tile, m->table, m->block_o * m->block_i);
}

/* All blocks of one block row of o. */
static void pack_filter_row(void *context, size_t o)
{
    const struct packing *p = context;
    const struct layout_map *m = p->packed->map;
    for (size_t i = 0; i < m->blocks_i; i++)
        for (size_t r = 0; r < m->R; r++)
            for (size_t s = 0; s < m->S; s++)
                pack_block(p, o * m->block_o, i * m->block_i, r, s,
                           (char *)p->packed->memory + block_offset(m, o, i, r, s) * dtype_bytes(m->dtype));
}

static void pack(const struct weights *w, const struct packed *p, int n_threads)
{
    const struct param *param = &w->params[p->request.param];
    const float *from = w->source + param->offset;
    if (p->map)
        cpu_parallel(n_threads, p->map->blocks_o, pack_filter_row, &(struct packing){w, p});
    else if (p->request.kind == PACK_STRIPS)
        w->device->loops->matrix->pack_strips(p->request.dtype, p->memory, from, (size_t)param->dim[0],
                                              (size_t)param->dim[3]);
    else if (p->request.kind == PACK_WINOGRAD)
        w->device->loops->winograd->filters(p->memory, from, (size_t)param->dim[0], (size_t)param->dim[3]);
    else if (p->request.kind == PACK_WINOGRAD_FLIPPED)
        w->device->loops->winograd->filters_turned(p->memory, from, (size_t)param->dim[3], (size_t)param->dim[0]);
    else
        memcpy(p->memory, from, p->bytes);
}

/* Kinds whose layout is ours, not oneDNN's. */
static bool own_layout(enum pack_kind kind)
{
    return kind >= PACK_STRIPS;
}

static bool same_request(const struct pack_request *a, const struct pack_request *b)
{
    if (a->kind != b->kind || a->param != b->param || a->phase != b->phase || a->dtype != b->dtype)
        return false;
    return own_layout(a->kind) || dnnl_memory_desc_equal(&a->layout, &b->layout);
}

static size_t plain_bytes(const struct param *p, const struct pack_request *r)
{
    size_t rows = (size_t)p->dim[0], columns = (size_t)p->dim[1] * (size_t)p->dim[2] * (size_t)p->dim[3];
    if (r->kind == PACK_WINOGRAD || r->kind == PACK_WINOGRAD_FLIPPED)
        return 16 * rows * (size_t)p->dim[3] * sizeof(float);
    if (r->kind == PACK_STRIPS)
        return (rows + GEMM_STRIP - 1) / GEMM_STRIP * GEMM_STRIP * columns * dtype_bytes(r->dtype);
    return rows * columns * sizeof(float);
}

static void packed_free(struct weights *w, struct packed *p)
{
    if (!p)
        return;
    layout_map_free(p->map);
    cpu_free(w->device, p->memory, p->bytes);
    free(p);
}

static int packed_create(struct weights *w, const struct pack_request *request, struct packed **ret_packed,
                         struct error *err)
{
    struct packed *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, -ENOMEM, NULL, "no memory for packed weights");
    p->request = *request;
    int rc = 0;
    if (!own_layout(request->kind))
        rc = layout_map_create(&request->layout, &p->map, err);
    if (!rc) {
        p->bytes = p->map ? p->map->bytes : plain_bytes(&w->params[request->param], request);
        rc = cpu_alloc(w->device, p->bytes, &p->memory);
        if (rc)
            error_set(err, rc, NULL, "no memory for %zu bytes of packed weights", p->bytes);
    }
    if (rc) {
        packed_free(w, p);
        return rc;
    }
    if (p->map)
        memset(p->memory, 0, p->bytes);
    pack(w, p, 1);
    *ret_packed = p;
    return 0;
}

static int remember(struct weights *w, struct packed *p)
{
    if (w->n_packed == w->cap_packed) {
        int32_t cap = w->cap_packed ? 2 * w->cap_packed : 64;
        struct packed **grown = realloc(w->packed, (size_t)cap * sizeof(struct packed *));
        if (!grown)
            return -ENOMEM;
        w->packed = grown;
        w->cap_packed = cap;
    }
    w->packed[w->n_packed++] = p;
    w->packed_bytes += p->bytes;
    return 0;
}

int weights_packed(struct weights *w, const struct pack_request *request, const void **ret_address, struct error *err)
{
    for (int32_t i = 0; i < w->n_packed; i++)
        if (same_request(&w->packed[i]->request, request)) {
            *ret_address = w->packed[i]->memory;
            return 0;
        }
    if (!w->source)
        return error_set(err, -EINVAL, NULL, "the weights are sealed: \"%s\" cannot be packed once more",
                         w->params[request->param].name);
    struct packed *p = NULL;
    int rc = packed_create(w, request, &p, err);
    if (rc)
        return rc;
    rc = remember(w, p);
    if (rc) {
        packed_free(w, p);
        return error_set(err, rc, NULL, "no memory for the list of packed weights");
    }
    *ret_address = p->memory;
    return 0;
}

int weights_vector(const struct lowering *l, tensor_id id, const float **ret_vector, struct error *err)
{
    const struct tensor *t = id == TENSOR_NONE ? NULL : &l->graph->tensors[id];
    if (!t || t->role != TENSOR_PARAM) {
        *ret_vector = NULL;
        return 0;
    }
    if (l->weights->keep_master) {
        *ret_vector = l->weights->source + l->weights->params[t->index].offset;
        return 0;
    }
    const void *address;
    int rc = weights_packed(l->weights, &(struct pack_request){.kind = PACK_VECTOR, .param = t->index}, &address, err);
    if (!rc)
        *ret_vector = address;
    return rc;
}

/* ---- the backend's functions ---- */

int cpu_weights_create(struct device *d, const struct graph *params_of, const float *values, bool keep_master,
                       struct weights **ret_weights, struct error *err)
{
    struct weights *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, -ENOMEM, NULL, "no memory for weights");
    w->device = d;
    w->keep_master = keep_master;
    w->n_params = params_of->n_params;
    w->source_bytes = params_of->param_floats * sizeof(float);
    w->params = malloc(((size_t)w->n_params + 1) * sizeof(*w->params));
    int rc = w->params ? cpu_alloc(d, w->source_bytes, (void **)&w->source) : -ENOMEM;
    if (rc) {
        free(w->params);
        free(w);
        return error_set(err, rc, NULL, "no memory for %zu bytes of weights", params_of->param_floats * sizeof(float));
    }
    if (w->n_params)
        memcpy(w->params, params_of->params, (size_t)w->n_params * sizeof(*w->params));
    memcpy(w->source, values, w->source_bytes);
    *ret_weights = w;
    return 0;
}

void cpu_weights_free(struct weights *w)
{
    if (!w)
        return;
    for (int32_t i = 0; i < w->n_packed; i++)
        packed_free(w, w->packed[i]);
    free(w->packed);
    cpu_free(w->device, w->source, w->source_bytes);
    free(w->params);
    free(w);
}

void cpu_weights_seal(struct weights *w)
{
    if (w->keep_master)
        return;
    cpu_free(w->device, w->source, w->source_bytes);
    w->source = NULL;
}

static void repack_one(void *context, size_t i)
{
    const struct weights *w = context;
    pack(w, w->packed[i], 1);
}

int cpu_weights_repack(struct weights *w)
{
    if (!w->source)
        return -EINVAL;
    cpu_parallel(w->device->base.n_threads, (size_t)w->n_packed, repack_one, w);
    return 0;
}

float *cpu_weights_master(struct weights *w)
{
    return w->source;
}

size_t cpu_weights_bytes(const struct weights *w)
{
    return w->packed_bytes + (w->source ? w->source_bytes : 0);
}
