/* norm.cu: group normalisation with what is fused to it: an embedding added before or after, SiLU.
 *
 * A block takes one image and a chunk of whole groups, at least 32 channels wide where there are as many, so that
 * neighbouring threads read neighbouring bytes of NHWC pixels. A thread holds V channels (16 bytes, or one) of every
 * rows-th pixel, in registers where they fit (KEEP packs): then x is read once. Sums are taken around the channel's
 * first pixel, so that a large mean costs no digits, and merged channel by channel. Nothing depends on the number of
 * images.
 *
 * With h = (x + pre - mean) rstd, z = gamma h + beta + post and dz = dy act'(z), the gradient is
 *   dbeta = dpost = sum dz, dgamma = sum dz h, and with a = the group's mean of gamma dz, b = that of gamma dz h,
 *   dx = rstd (gamma dz - a - h b) [+ more], dpre = the sum of dx over the pixels before more is added.
 */
#include "gpu.cuh"

enum { CHUNK = 32, THREADS = 256, KEEP_MOST = 16 };

/* The same for every block of a launch. */
struct norm {
    struct gpu_norm g;
    unsigned width;       // channels of a group
    unsigned chunk;       // channels of a block
    unsigned lanes, rows; // threads: lanes of V channels, rows (a power of two) of pixels
};

/* Where a thread stands. */
struct seat {
    size_t image;
    unsigned first;     // channel of the chunk
    unsigned channels;  // of this chunk: the last one may be narrower
    unsigned lane, row; // lane: channel in the chunk
    bool works;         // its channels exist
};

template <int V> static __device__ __forceinline__ struct seat take_seat(const struct norm &n)
{
    struct seat s;
    s.image = blockIdx.y;
    s.first = blockIdx.x * n.chunk;
    unsigned left = (unsigned)n.g.channels - s.first;
    s.channels = left < n.chunk ? left : n.chunk;
    s.lane = threadIdx.x % n.lanes * V;
    s.row = threadIdx.x / n.lanes;
    s.works = s.lane < s.channels;
    return s;
}

static __device__ __forceinline__ float vector_at(const struct gpu_pixels &v, size_t image, unsigned c)
{
    if (!v.at)
        return 0.0f;
    size_t i = image * v.pitch + c;
    return v.dtype == DTYPE_F32 ? ((const float *)v.at)[i] : widen(((const bf16 *)v.at)[i]);
}

static __device__ __forceinline__ void put_vector(const struct gpu_pixels &v, size_t image, unsigned c, float x)
{
    size_t i = image * v.pitch + c;
    if (v.at && v.dtype == DTYPE_F32)
        ((float *)v.at)[i] = x;
    else if (v.at)
        narrow(&((bf16 *)v.at)[i], x);
}

template <class T>
static __device__ __forceinline__ T *pixel_of(const struct gpu_pixels &x, const struct norm &n, const struct seat &s,
                                              size_t p)
{
    return (T *)x.at + (s.image * n.g.pixels + p) * x.pitch + s.first + s.lane;
}

/* sums[0 .. chunk) += the rows below, for `count` arrays of [rows][chunk] side by side. Ends with a barrier. */
static __device__ __forceinline__ void add_rows(float *sums, const struct norm &n, unsigned count)
{
    size_t array = (size_t)n.rows * n.chunk;
    __syncthreads();
    for (unsigned half = n.rows / 2; half; half /= 2) {
        for (unsigned i = threadIdx.x; i < half * n.chunk; i += blockDim.x)
            for (unsigned k = 0; k < count; k++)
                sums[k * array + i] += sums[k * array + i + half * n.chunk];
        __syncthreads();
    }
}

/* ---- forward ---- */

/* Mean and 1 / std of the chunk's group number i, from its channels' means and sums of squared deviations. */
static __device__ void merge_group(const struct norm &n, const struct seat &s, unsigned i, const float *mean,
                                   const float *m2, float *ret_mean, float *ret_rstd)
{
    unsigned c = i * n.width;
    float average = 0, squares = 0;
    for (unsigned k = 0; k < n.width; k++)
        average += mean[c + k];
    average /= (float)n.width;
    for (unsigned k = 0; k < n.width; k++) {
        float d = mean[c + k] - average;
        squares += m2[c + k] + (float)n.g.pixels * d * d;
    }
    float variance = squares / (float)(n.width * n.g.pixels);
    variance = variance < 0 ? 0 : variance; // NaN stays NaN
    *ret_mean = average;
    *ret_rstd = 1.0f / sqrtf(variance + n.g.eps);
    size_t group = s.image * n.g.groups + s.first / n.width + i;
    if (n.g.mean)
        n.g.mean[group] = *ret_mean;
    if (n.g.rstd)
        n.g.rstd[group] = *ret_rstd;
}

/* sums: sums of deviations from the first pixel and of their squares -> the groups' means and 1 / std, at [0] and [1]
 * of 2 per group behind the channels. */
template <class T>
static __device__ void finish_statistics(const struct norm &n, const struct seat &s, float *sums, float *groups)
{
    size_t array = (size_t)n.rows * n.chunk;
    float count = (float)n.g.pixels;
    const T *x = (const T *)n.g.x.at + s.image * n.g.pixels * n.g.x.pitch + s.first;
    for (unsigned c = threadIdx.x; c < s.channels; c += blockDim.x) {
        float sum = sums[c];
        sums[c] = widen(x[c]) + sum / count + vector_at(n.g.pre, s.image, s.first + c);
        sums[array + c] -= sum * (sum / count);
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < s.channels / n.width; i += blockDim.x)
        merge_group(n, s, i, sums, sums + array, &groups[2 * i], &groups[2 * i + 1]);
    __syncthreads();
}

template <class T, int V> struct activation {
    float center[V], scale[V], shift[V];

    __device__ __forceinline__ activation(const struct norm &n, const struct seat &s, const float *groups)
    {
        for (int k = 0; k < V; k++) {
            unsigned c = s.lane + k, channel = s.first + c, i = c / n.width;
            center[k] = groups[2 * i] - vector_at(n.g.pre, s.image, channel);
            scale[k] = vector_at(n.g.gamma, 0, channel) * groups[2 * i + 1];
            shift[k] = vector_at(n.g.beta, 0, channel) + vector_at(n.g.post, s.image, channel);
        }
    }
    __device__ __forceinline__ pack<T, V> operator()(pack<T, V> x, bool silu) const
    {
        for (int k = 0; k < V; k++) {
            float z = (widen(x.at[k]) - center[k]) * scale[k] + shift[k];
            narrow(&x.at[k], silu ? z * sigmoid(z) : z);
        }
        return x;
    }
};

template <class T, int V, int KEEP>
__global__ void __launch_bounds__(THREADS) normalize(const __grid_constant__ struct norm n)
{
    SHARED(float, sums);
    const struct seat s = take_seat<V>(n);
    size_t array = (size_t)n.rows * n.chunk;
    float *groups = sums + 2 * array;
    pack<T, V> kept[KEEP ? KEEP : 1];
    if (s.works) {
        float origin[V], sum[V] = {}, squares[V] = {};
        pack<T, V> first = load<T, V>(pixel_of<const T>(n.g.x, n, s, 0));
        for (int k = 0; k < V; k++)
            origin[k] = widen(first.at[k]);
        size_t rounds = KEEP ? KEEP : (n.g.pixels + n.rows - 1) / n.rows;
#pragma unroll KEEP ? KEEP : 4
        for (size_t j = 0; j < rounds; j++) {
            size_t p = s.row + j * n.rows;
            if (p >= n.g.pixels)
                continue;
            pack<T, V> x = load<T, V>(pixel_of<const T>(n.g.x, n, s, p));
            if (KEEP)
                kept[j] = x;
            for (int k = 0; k < V; k++) {
                float d = widen(x.at[k]) - origin[k];
                sum[k] += d;
                squares[k] += d * d;
            }
        }
        for (int k = 0; k < V; k++) {
            sums[s.row * n.chunk + s.lane + k] = sum[k];
            sums[array + s.row * n.chunk + s.lane + k] = squares[k];
        }
    }
    add_rows(sums, n, 2);
    finish_statistics<T>(n, s, sums, groups);
    if (!s.works)
        return;
    const activation<T, V> act(n, s, groups);
    size_t rounds = KEEP ? KEEP : (n.g.pixels + n.rows - 1) / n.rows;
#pragma unroll KEEP ? KEEP : 4
    for (size_t j = 0; j < rounds; j++) {
        size_t p = s.row + j * n.rows;
        if (p >= n.g.pixels)
            continue;
        pack<T, V> x = KEEP ? kept[j] : load<T, V>(pixel_of<const T>(n.g.x, n, s, p));
        store<T, V>(pixel_of<T>(n.g.y, n, s, p), act(x, n.g.silu));
    }
}

/* ---- backward ---- */

template <class T, int V> struct slope {
    float offset[V], rstd[V], gamma[V], bias[V];

    __device__ __forceinline__ slope(const struct norm &n, const struct seat &s)
    {
        for (int k = 0; k < V; k++) {
            unsigned channel = s.first + s.lane + k;
            size_t group = s.image * n.g.groups + channel / n.width;
            rstd[k] = n.g.rstd[group];
            offset[k] = vector_at(n.g.pre, s.image, channel) - n.g.mean[group];
            gamma[k] = vector_at(n.g.gamma, 0, channel);
            bias[k] = vector_at(n.g.beta, 0, channel) + vector_at(n.g.post, s.image, channel);
        }
    }
    __device__ __forceinline__ void at(int k, float x, float dy, bool silu, float *ret_h, float *ret_dz) const
    {
        float h = (x + offset[k]) * rstd[k];
        *ret_h = h;
        *ret_dz = dy;
        if (silu) {
            float z = gamma[k] * h + bias[k], g = sigmoid(z);
            *ret_dz = dy * g * (1.0f + z * (1.0f - g));
        }
    }
};

/* Of the chunk's group i: the means a and b, in place of its channels' sums; the channels' own gradients. */
static __device__ void finish_group(const struct norm &n, const struct seat &s, unsigned i, float *dz, float *dzh,
                                    const float *h)
{
    unsigned first = i * n.width;
    float a = 0, b = 0, count = (float)(n.width * n.g.pixels);
    float rstd = n.g.rstd[s.image * n.g.groups + s.first / n.width + i];
    for (unsigned c = first; c < first + n.width; c++) {
        float gamma = vector_at(n.g.gamma, 0, s.first + c);
        a += gamma * dz[c];
        b += gamma * dzh[c];
    }
    a /= count;
    b /= count;
    float *partial = n.g.scratch + s.image * 2 * n.g.channels;
    for (unsigned c = first; c < first + n.width; c++) {
        unsigned channel = s.first + c;
        float gamma = vector_at(n.g.gamma, 0, channel);
        partial[channel] = dzh[c];
        partial[n.g.channels + channel] = dz[c];
        put_vector(n.g.dpost, s.image, channel, dz[c]);
        put_vector(n.g.dpre, s.image, channel, rstd * (gamma * dz[c] - (float)n.g.pixels * a - b * h[c]));
        dz[c] = a;
        dzh[c] = b;
    }
}

template <class T, int V>
__global__ void __launch_bounds__(THREADS) normalize_gradient(const __grid_constant__ struct norm n)
{
    SHARED(float, sums);
    const struct seat s = take_seat<V>(n);
    size_t array = (size_t)n.rows * n.chunk;
    if (s.works) {
        const slope<T, V> f(n, s);
        float sum_dz[V] = {}, sum_dzh[V] = {}, sum_h[V] = {};
        for (size_t p = s.row; p < n.g.pixels; p += n.rows) {
            pack<T, V> x = load<T, V>(pixel_of<const T>(n.g.x, n, s, p)),
                       dy = load<T, V>(pixel_of<const T>(n.g.dy, n, s, p));
            for (int k = 0; k < V; k++) {
                float h, dz;
                f.at(k, widen(x.at[k]), widen(dy.at[k]), n.g.silu, &h, &dz);
                sum_dz[k] += dz;
                sum_dzh[k] += dz * h;
                sum_h[k] += h;
            }
        }
        for (int k = 0; k < V; k++) {
            size_t at = (size_t)s.row * n.chunk + s.lane + k;
            sums[at] = sum_dz[k];
            sums[array + at] = sum_dzh[k];
            sums[2 * array + at] = sum_h[k];
        }
    }
    add_rows(sums, n, 3);
    for (unsigned i = threadIdx.x; i < s.channels / n.width; i += blockDim.x)
        finish_group(n, s, i, sums, sums + array, sums + 2 * array);
    __syncthreads();
    if (!s.works)
        return;
    const slope<T, V> f(n, s);
    float a[V], b[V];
    for (int k = 0; k < V; k++) {
        a[k] = sums[s.lane + k];
        b[k] = sums[array + s.lane + k];
    }
    for (size_t p = s.row; p < n.g.pixels; p += n.rows) {
        pack<T, V> x = load<T, V>(pixel_of<const T>(n.g.x, n, s, p)),
                   dy = load<T, V>(pixel_of<const T>(n.g.dy, n, s, p)), more = dy;
        if (n.g.more.at)
            more = load<T, V>(pixel_of<const T>(n.g.more, n, s, p));
        for (int k = 0; k < V; k++) {
            float h, dz;
            f.at(k, widen(x.at[k]), widen(dy.at[k]), n.g.silu, &h, &dz);
            float dx = f.rstd[k] * (f.gamma[k] * dz - a[k] - h * b[k]);
            narrow(&x.at[k], n.g.more.at ? dx + widen(more.at[k]) : dx);
        }
        store<T, V>(pixel_of<T>(n.g.dx, n, s, p), x);
    }
}

/* ---- launching ---- */

static bool packs(const struct gpu_pixels &x, unsigned v)
{
    return !x.at || (x.pitch % v == 0 && (uintptr_t)x.at % (v * dtype_bytes(x.dtype)) == 0);
}

/* Channels per thread that shapes and addresses allow: 16 bytes of them, or one. */
static unsigned pack_width(const struct gpu_norm *g, unsigned chunk, bool backward)
{
    unsigned v = g->x.dtype == DTYPE_BF16 ? 8 : 4;
    bool fits = chunk % v == 0 && g->channels % v == 0 && packs(g->x, v);
    fits = fits && (backward ? packs(g->dy, v) && packs(g->more, v) && packs(g->dx, v) : packs(g->y, v));
    return fits ? v : 1;
}

/* Channels of a block: whole groups, at least CHUNK, and whole packs where that does not take many more. */
static unsigned chunk_of(const struct gpu_norm *g, unsigned width)
{
    unsigned chunk = width * ((CHUNK + width - 1) / width);
    while (chunk % 8 && chunk < 3 * CHUNK)
        chunk += width;
    return chunk > g->channels ? (unsigned)g->channels : chunk;
}

static struct norm arrange(const struct gpu_norm *g, bool backward, unsigned *ret_v)
{
    struct norm n = {*g, 0, 0, 0, 0};
    n.width = (unsigned)(g->channels / g->groups);
    n.chunk = chunk_of(g, n.width);
    *ret_v = pack_width(g, n.chunk, backward);
    n.lanes = n.chunk / *ret_v;
    n.rows = 1;
    while (2 * n.rows * n.lanes <= THREADS && n.rows < g->pixels)
        n.rows *= 2;
    return n;
}

static dim3 blocks_of(const struct norm &n)
{
    return dim3(blocks_for(n.g.channels, n.chunk), (unsigned)n.g.images);
}

template <class T, int V> static void launch_forward(cudaStream_t s, const struct norm &n)
{
    size_t rounds = (n.g.pixels + n.rows - 1) / n.rows, floats = 2 * (size_t)n.rows * n.chunk + 2 * (n.chunk / n.width);
    if (rounds <= KEEP_MOST)
        LAUNCH((normalize<T, V, KEEP_MOST>), blocks_of(n), n.rows * n.lanes, floats * sizeof(float), s, n);
    else
        LAUNCH((normalize<T, V, 0>), blocks_of(n), n.rows * n.lanes, floats * sizeof(float), s, n);
}

template <class T, int V> static void launch_backward(cudaStream_t s, const struct norm &n)
{
    size_t floats = 3 * (size_t)n.rows * n.chunk;
    LAUNCH((normalize_gradient<T, V>), blocks_of(n), n.rows * n.lanes, floats * sizeof(float), s, n);
}

cudaError_t gpu_group_norm(cudaStream_t s, const struct gpu_norm *g)
{
    unsigned v;
    struct norm n = arrange(g, false, &v);
    if (n.lanes > THREADS)
        return cudaErrorInvalidConfiguration;
    DISPATCH(g->x.dtype, T, {
        if (v > 1)
            launch_forward<T, 16 / sizeof(T)>(s, n);
        else
            launch_forward<T, 1>(s, n);
    });
    return cudaGetLastError();
}

size_t gpu_norm_scratch(const struct gpu_norm *g)
{
    return 2 * g->images * g->channels + gpu_sum_pixels_scratch(g->images, g->channels);
}

cudaError_t gpu_group_norm_backward(cudaStream_t s, const struct gpu_norm *g)
{
    unsigned v;
    struct norm n = arrange(g, true, &v);
    if (n.lanes > THREADS)
        return cudaErrorInvalidConfiguration;
    DISPATCH(g->x.dtype, T, {
        if (v > 1)
            launch_backward<T, 16 / sizeof(T)>(s, n);
        else
            launch_backward<T, 1>(s, n);
    });
    float *rest = g->scratch + 2 * g->images * g->channels, *sums[2] = {g->dgamma, g->dbeta};
    for (size_t i = 0; i < 2; i++)
        if (sums[i]) {
            struct gpu_pixels from = {DTYPE_F32, g->scratch + i * g->channels, 2 * g->channels};
            struct gpu_pixels to = {DTYPE_F32, sums[i], g->channels};
            cudaError_t e = gpu_sum_pixels(s, to, from, 1, g->images, g->channels, rest);
            if (e)
                return e;
        }
    return cudaGetLastError();
}
