/* attention.cu: softmax attention row by row in f32: the reference path, for every shape that cuDNN's fused one does
 * not take and for f32. One block for one token of one head of one image.
 *
 * Gradient (Dao et al. 2022, appendix B): P_ij = exp(scale q_i k_j - lse_i), delta_i = dy_i y_i,
 * dS_ij = P_ij (dy_i v_j - delta_i), dq_i = scale sum_j dS_ij k_j, dk_j = scale sum_i dS_ij q_i, dv_j = sum_i P_ij
 * dy_i.
 */
#include "gpu.cuh"

enum { THREADS = 128 };

struct seat {
    size_t image, head, token;
};

/* Rows of one head of one image. */
template <class T> struct rows {
    T *at;
    size_t pitch;
    __device__ __forceinline__ T *operator[](size_t token) const
    {
        return at + token * pitch;
    }
};

static __device__ __forceinline__ struct seat seat_of(const struct gpu_attention &a)
{
    size_t i = blockIdx.x;
    return {i / (a.heads * a.tokens), i / a.tokens % a.heads, i % a.tokens};
}

/* part: 0 q, 1 k, 2 v of a tensor that interleaves them */
template <class T>
static __device__ __forceinline__ struct rows<T> rows_of(const struct gpu_attention &a, const struct seat &p,
                                                         const struct gpu_pixels &qkv, unsigned part) {
    return {(T *)qkv.at + p.image * a.tokens * qkv.pitch + (3 * p.head + part) * a.size, qkv.pitch};
}

template <class T>
static __device__ __forceinline__ struct rows<T> result_rows(const struct gpu_attention &a, const struct seat &p,
                                                             const struct gpu_pixels &y) {
    return {(T *)y.at + p.image * a.tokens * y.pitch + p.head * a.size, y.pitch};
}

template <class T>
static __device__ __forceinline__ float dot(const float *a, const T *b, size_t n)
{
    float sum = 0;
    for (size_t e = 0; e < n; e++)
        sum = fmaf(a[e], widen(b[e]), sum);
    return sum;
}

template <class T> static __device__ __forceinline__ void fetch(float *to, const T *from, size_t n, float factor)
{
    for (size_t e = threadIdx.x; e < n; e += THREADS)
        to[e] = widen(from[e]) * factor;
}

/* to[e] = factor sum over tokens of weight[token] from[token][e] */
template <class T>
static __device__ __forceinline__ void mix(T *to, const float *weight, const struct rows<T> &from, size_t tokens,
                                           size_t n, float factor)
{
    for (size_t e = threadIdx.x; e < n; e += THREADS) {
        float sum = 0;
        for (size_t j = 0; j < tokens; j++)
            sum = fmaf(weight[j], widen(from[j][e]), sum);
        narrow(&to[e], sum * factor);
    }
}

template <class T> __global__ void __launch_bounds__(THREADS) attend(const __grid_constant__ struct gpu_attention a)
{
    __shared__ float part[THREADS];
    SHARED(float, score); // [tokens], then q [size]
    float *q = score + a.tokens;
    const struct seat p = seat_of(a);
    fetch(q, rows_of<T>(a, p, a.qkv, 0)[p.token], a.size, 1.0f / sqrtf((float)a.size));
    __syncthreads();
    struct rows<T> k = rows_of<T>(a, p, a.qkv, 1);
    float most = -INFINITY, total = 0;
    for (size_t j = threadIdx.x; j < a.tokens; j += THREADS) {
        score[j] = dot(q, k[j], a.size);
        most = fmaxf(most, score[j]);
    }
    most = block_max(most, part);
    for (size_t j = threadIdx.x; j < a.tokens; j += THREADS) {
        score[j] = expf(score[j] - most);
        total += score[j];
    }
    total = block_sum(total, part);
    T *y = result_rows<T>(a, p, a.to)[p.token];
    mix(y, score, rows_of<T>(a, p, a.qkv, 2), a.tokens, a.size, 1.0f / total);
    if (a.lse && threadIdx.x == 0)
        a.lse[(p.image * a.tokens + p.token) * a.heads + p.head] = most + logf(total);
}

/* P_ij and dS_ij from q_i scaled, dy_i and delta_i, k_j and v_j; which of them are in f32 is the caller's choice. */
static __device__ __forceinline__ void weights(float score, float lse, float dp, float delta, float *ret_p,
                                               float *ret_ds)
{
    float p = expf(score - lse);
    *ret_p = p;
    *ret_ds = p * (dp - delta);
}

template <class T>
__global__ void __launch_bounds__(THREADS) gradient_of_query(const __grid_constant__ struct gpu_attention a)
{
    __shared__ float part[THREADS];
    SHARED(float, ds); // [tokens], then q [size], dy [size]
    float *q = ds + a.tokens, *dy = q + a.size, scale = 1.0f / sqrtf((float)a.size);
    const struct seat p = seat_of(a);
    struct rows<T> k = rows_of<T>(a, p, a.qkv, 1), v = rows_of<T>(a, p, a.qkv, 2);
    const T *y = result_rows<T>(a, p, a.y)[p.token];
    fetch(q, rows_of<T>(a, p, a.qkv, 0)[p.token], a.size, scale);
    fetch(dy, result_rows<T>(a, p, a.dy)[p.token], a.size, 1.0f);
    __syncthreads();
    float delta = 0, lse = a.lse[(p.image * a.tokens + p.token) * a.heads + p.head];
    for (size_t e = threadIdx.x; e < a.size; e += THREADS)
        delta += dy[e] * widen(y[e]);
    delta = block_sum(delta, part);
    for (size_t j = threadIdx.x; j < a.tokens; j += THREADS) {
        float ignored;
        weights(dot(q, k[j], a.size), lse, dot(dy, v[j], a.size), delta, &ignored, &ds[j]);
    }
    __syncthreads();
    T *dq = rows_of<T>(a, p, a.to, 0)[p.token];
    mix(dq, ds, k, a.tokens, a.size, scale);
}

template <class T>
__global__ void __launch_bounds__(THREADS) gradient_of_key(const __grid_constant__ struct gpu_attention a)
{
    SHARED(float, ds); // [tokens], then P [tokens], k [size], v [size]
    float *prob = ds + a.tokens, *k = prob + a.tokens, *v = k + a.size, scale = 1.0f / sqrtf((float)a.size);
    const struct seat p = seat_of(a);
    struct rows<T> q = rows_of<T>(a, p, a.qkv, 0), y = result_rows<T>(a, p, a.y), dy = result_rows<T>(a, p, a.dy);
    fetch(k, rows_of<T>(a, p, a.qkv, 1)[p.token], a.size, scale);
    fetch(v, rows_of<T>(a, p, a.qkv, 2)[p.token], a.size, 1.0f);
    __syncthreads();
    for (size_t i = threadIdx.x; i < a.tokens; i += THREADS) {
        float delta = 0, lse = a.lse[(p.image * a.tokens + i) * a.heads + p.head];
        for (size_t e = 0; e < a.size; e++)
            delta += widen(dy[i][e]) * widen(y[i][e]);
        weights(dot(k, q[i], a.size), lse, dot(v, dy[i], a.size), delta, &prob[i], &ds[i]);
    }
    __syncthreads();
    T *to = rows_of<T>(a, p, a.to, 1)[p.token];
    mix(to, ds, q, a.tokens, a.size, scale);
    mix(to + a.size, prob, dy, a.tokens, a.size, 1.0f);
}

static unsigned blocks_of(const struct gpu_attention *a)
{
    return (unsigned)(a->images * a->heads * a->tokens);
}

cudaError_t gpu_attention(cudaStream_t s, const struct gpu_attention *a)
{
    size_t shared = (a->tokens + a->size) * sizeof(float);
    DISPATCH(a->dtype, T, LAUNCH((attend<T>), blocks_of(a), THREADS, shared, s, *a));
    return cudaGetLastError();
}

cudaError_t gpu_attention_backward(cudaStream_t s, const struct gpu_attention *a)
{
    size_t query = (a->tokens + 2 * a->size) * sizeof(float), key = 2 * query - 2 * a->size * sizeof(float);
    DISPATCH(a->dtype, T, LAUNCH((gradient_of_query<T>), blocks_of(a), THREADS, query, s, *a));
    cudaError_t e = cudaGetLastError();
    if (e)
        return e;
    DISPATCH(a->dtype, T, LAUNCH((gradient_of_key<T>), blocks_of(a), THREADS, key, s, *a));
    return cudaGetLastError();
}
