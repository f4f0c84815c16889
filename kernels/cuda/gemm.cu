/* gemm.cu: products of the few rows of embeddings with the matrices of linear layers, all terms of a node in one
 * launch.
 *
 * Not cuBLAS: there is little to compute (half a percent of a UNet's work), twenty small launches would cost more than
 * that, and here every element is one chain of multiply-adds over k, whatever the number of rows is.
 */
#include "gpu.cuh"

enum { TILE_M = 32, TILE_N = 64, TILE_K = 32, THREADS = 256, PER_M = 2, PER_N = 4 };

struct tiles {
    float a[TILE_K][TILE_M + 1];
    float b[TILE_K][TILE_N + 1];
};

/* to[k][i] = from[(i0 + i) stride_i + (k0 + k) stride_k], 0 outside [0, n) x [0, k_end). Neighbouring threads take
 * neighbouring addresses. */
template <class T, int SIZE>
static __device__ __forceinline__ void load_tile(float (*to)[SIZE + 1], const T *from, int i0, int n, int64_t stride_i,
                                                 int k0, int k_end, int64_t stride_k)
{
    for (int e = (int)threadIdx.x; e < SIZE * TILE_K; e += THREADS) {
        int i = stride_k == 1 ? e / TILE_K : e % SIZE, k = stride_k == 1 ? e % TILE_K : e / SIZE;
        bool inside = i0 + i < n && k0 + k < k_end;
        to[k][i] = inside ? widen(from[(i0 + i) * stride_i + (k0 + k) * stride_k]) : 0.0f;
    }
}

template <class T>
static __device__ void add_term(struct tiles &t, float (*sum)[PER_N], const struct gpu_matrix_term &term, int m0, int m,
                                int n0)
{
    int row = (int)threadIdx.x / (TILE_N / PER_N) * PER_M, column = (int)threadIdx.x % (TILE_N / PER_N) * PER_N;
    for (int k0 = 0; k0 < term.k; k0 += TILE_K) {
        load_tile<T, TILE_M>(t.a, (const T *)term.a, m0, m, term.a_row, k0, term.k, term.a_column);
        load_tile<T, TILE_N>(t.b, (const T *)term.b, n0, term.n, term.b_column, k0, term.k, term.b_row);
        __syncthreads();
        for (int k = 0; k < TILE_K; k++)
            for (int i = 0; i < PER_M; i++)
                for (int j = 0; j < PER_N; j++)
                    sum[i][j] = fmaf(t.a[k][row + i], t.b[k][column + j], sum[i][j]);
        __syncthreads();
    }
}

/* What becomes of a sum: the bias and what else is added. */
template <class T, class C>
static __device__ void put(float (*sum)[PER_N], const struct gpu_matrix_term &term, int m0, int m, int n0)
{
    int row = m0 + (int)threadIdx.x / (TILE_N / PER_N) * PER_M,
        column = n0 + (int)threadIdx.x % (TILE_N / PER_N) * PER_N;
    for (int i = 0; i < PER_M && row + i < m; i++)
        for (int j = 0; j < PER_N && column + j < term.n; j++) {
            float v = sum[i][j];
            if (term.bias)
                v += widen(((const T *)term.bias)[column + j]);
            if (term.more)
                v += widen(((const T *)term.more)[(int64_t)(row + i) * term.more_row + column + j]);
            narrow(&((C *)term.c)[(int64_t)(row + i) * term.c_row + column + j], v);
        }
}

static __host__ __device__ inline int column_tiles(const struct gpu_matrix_term &t)
{
    return (t.n + TILE_N - 1) / TILE_N;
}

template <class T, class C>
__global__ void __launch_bounds__(THREADS) product(const __grid_constant__ struct gpu_product p)
{
    __shared__ struct tiles t;
    float sum[PER_M][PER_N] = {};
    int m0 = (int)blockIdx.y * TILE_M, tile = (int)blockIdx.x, i = 0;
    if (p.summed) {
        for (i = 0; i < p.n_terms; i++)
            add_term<T>(t, sum, p.term[i], m0, p.m, tile * TILE_N);
        i = 0;
    } else {
        for (; tile >= column_tiles(p.term[i]); i++)
            tile -= column_tiles(p.term[i]);
        add_term<T>(t, sum, p.term[i], m0, p.m, tile * TILE_N);
    }
    put<T, C>(sum, p.term[i], m0, p.m, tile * TILE_N);
}

cudaError_t gpu_product(cudaStream_t s, const struct gpu_product *p)
{
    int tiles = column_tiles(p->term[0]);
    for (int i = 1; i < p->n_terms && !p->summed; i++)
        tiles += column_tiles(p->term[i]);
    dim3 grid((unsigned)tiles, blocks_for((size_t)p->m, TILE_M));
    DISPATCH(p->in, T, DISPATCH(p->out, C, LAUNCH((product<T, C>), grid, THREADS, 0, s, *p)));
    return cudaGetLastError();
}
