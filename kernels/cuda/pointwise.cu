/* pointwise.cu: operations whose result at an element needs that element, its 2x2 block or its channel alone: one
 * thread for V channels of a pixel, V as large as shapes and addresses allow.
 */
#include "gpu.cuh"

enum { THREADS = 256 };

/* ---- y = f(a, b) ---- */

struct identity {
    __device__ float operator()(float a, float) const
    {
        return a;
    }
};
struct silu {
    __device__ float operator()(float x, float) const
    {
        return x * sigmoid(x);
    }
};
struct silu_gradient {
    __device__ float operator()(float x, float dy) const
    {
        float s = sigmoid(x);
        return dy * s * (1.0f + x * (1.0f - s));
    }
};
struct sum {
    __device__ float operator()(float a, float b) const
    {
        return a + b;
    }
};

/* b may be NULL. */
template <class Y, class X, int V, class F>
__global__ void map_pixels(Y *y, size_t y_pitch, const X *a, size_t a_pitch, const X *b, size_t b_pitch, size_t n,
                           unsigned parts, F f)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * parts)
        return;
    size_t p = i / parts, c = i % parts * V;
    pack<X, V> va = load<X, V>(a + p * a_pitch + c), vb = va;
    if (b)
        vb = load<X, V>(b + p * b_pitch + c);
    pack<Y, V> vy;
    for (int k = 0; k < V; k++)
        narrow(&vy.at[k], f(widen(va.at[k]), widen(vb.at[k])));
    store<Y, V>(y + p * y_pitch + c, vy);
}

/* Whether packs of v elements lie at x's every pixel. */
static bool packs(const struct gpu_pixels &x, size_t c, size_t v)
{
    return !x.at || (c % v == 0 && x.pitch % v == 0 && (uintptr_t)x.at % (v * dtype_bytes(x.dtype)) == 0);
}

template <class Y, class X, class F>
static void map(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels a, struct gpu_pixels b, size_t n, size_t c, F f)
{
    enum { V = sizeof(Y) == 2 && sizeof(X) == 2 ? 8 : 4 };
    if (packs(y, c, V) && packs(a, c, V) && packs(b, c, V)) {
        LAUNCH((map_pixels<Y, X, V, F>), blocks_for(n * (c / V), THREADS), THREADS, 0, s, (Y *)y.at, y.pitch,
               (const X *)a.at, a.pitch, (const X *)b.at, b.pitch, n, (unsigned)(c / V), f);
    } else {
        LAUNCH((map_pixels<Y, X, 1, F>), blocks_for(n * c, THREADS), THREADS, 0, s, (Y *)y.at, y.pitch, (const X *)a.at,
               a.pitch, (const X *)b.at, b.pitch, n, (unsigned)c, f);
    }
}

struct rectifier {
    __device__ float operator()(float x, float) const
    {
        return x < 0.0f ? 0.0f : x; // NaN stays NaN
    }
};

static const struct gpu_pixels nothing = {DTYPE_F32, nullptr, 0};

cudaError_t gpu_copy(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t n, size_t c)
{
    if (x.pitch == c && y.pitch == c) { // one long row: packs fit whatever c is
        size_t v = n * c % 8 == 0 ? 8 : 1;
        n = n * c / v;
        c = x.pitch = y.pitch = v;
    }
    DISPATCH(y.dtype, Y, DISPATCH(x.dtype, X, (map<Y, X>(s, y, x, nothing, n, c, identity()))));
    return cudaGetLastError();
}

cudaError_t gpu_silu(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t n, size_t c)
{
    DISPATCH(y.dtype, T, (map<T, T>(s, y, x, nothing, n, c, silu())));
    return cudaGetLastError();
}

cudaError_t gpu_relu(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t n, size_t c)
{
    DISPATCH(y.dtype, T, (map<T, T>(s, y, x, nothing, n, c, rectifier())));
    return cudaGetLastError();
}

cudaError_t gpu_silu_backward(cudaStream_t s, struct gpu_pixels dx, struct gpu_pixels x, struct gpu_pixels dy, size_t n,
                              size_t c)
{
    DISPATCH(dx.dtype, T, (map<T, T>(s, dx, x, dy, n, c, silu_gradient())));
    return cudaGetLastError();
}

cudaError_t gpu_add(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels a, struct gpu_pixels b, size_t n, size_t c)
{
    DISPATCH(y.dtype, T, (map<T, T>(s, y, a, b, n, c, sum())));
    return cudaGetLastError();
}

/* ---- y = x + e[image] ---- */

template <class T, class E>
__global__ void add_to_channels(T *y, size_t y_pitch, const T *x, size_t x_pitch, const E *e, size_t e_pitch,
                                size_t pixels, size_t n, unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * c)
        return;
    size_t p = i / c, k = i % c;
    narrow(&y[p * y_pitch + k], widen(x[p * x_pitch + k]) + widen(e[p / pixels * e_pitch + k]));
}

cudaError_t gpu_add_channel(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, struct gpu_pixels e,
                            size_t images, size_t pixels, size_t c)
{
    size_t n = images * pixels;
    DISPATCH(y.dtype, T,
             DISPATCH(e.dtype, E,
                      LAUNCH((add_to_channels<T, E>), blocks_for(n * c, THREADS), THREADS, 0, s, (T *)y.at, y.pitch,
                             (const T *)x.at, x.pitch, (const E *)e.at, e.pitch, pixels, n, (unsigned)c)));
    return cudaGetLastError();
}

/* ---- y = x + bias + residual ---- */

template <class Y, class X, class B>
__global__ void finish(Y *y, size_t y_pitch, const X *x, size_t x_pitch, const B *bias, const B *residual,
                       size_t residual_pitch, size_t n, unsigned c)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * c)
        return;
    size_t p = i / c, k = i % c;
    float v = widen(x[p * x_pitch + k]);
    if (bias)
        v += widen(bias[k]);
    if (residual)
        v += widen(residual[p * residual_pitch + k]);
    narrow(&y[p * y_pitch + k], v);
}

cudaError_t gpu_finish_conv(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, struct gpu_pixels bias,
                            struct gpu_pixels residual, size_t n, size_t c)
{
    enum dtype b = bias.at ? bias.dtype : residual.dtype;
    DISPATCH(y.dtype, Y,
             DISPATCH(x.dtype, X,
                      DISPATCH(b, B,
                               LAUNCH((finish<Y, X, B>), blocks_for(n * c, THREADS), THREADS, 0, s, (Y *)y.at, y.pitch,
                                      (const X *)x.at, x.pitch, (const B *)bias.at, (const B *)residual.at,
                                      residual.pitch, n, (unsigned)c))));
    return cudaGetLastError();
}

/* ---- 2x2 blocks; one thread for V channels of a pixel of the small image ---- */

struct small_pixel {
    size_t small, large; // numbers of the pixel and of the top left one of its block
};

static __device__ __forceinline__ struct small_pixel small_pixel_of(size_t p, unsigned h, unsigned w)
{
    size_t image = p / ((size_t)h * w), row = p / w % h, column = p % w;
    return {p, (image * 2 * h + 2 * row) * 2 * w + 2 * column};
}

template <class T, int V>
__global__ void spread(T *y, size_t y_pitch, const T *x, size_t x_pitch, size_t n, unsigned h, unsigned w,
                       unsigned parts, float factor)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * parts)
        return;
    struct small_pixel at = small_pixel_of(i / parts, h, w);
    size_t c = i % parts * V;
    pack<T, V> v = load<T, V>(x + at.small * x_pitch + c);
    for (int k = 0; k < V; k++)
        narrow(&v.at[k], widen(v.at[k]) * factor);
    for (unsigned k = 0; k < 4; k++)
        store<T, V>(y + (at.large + k / 2 * 2 * w + k % 2) * y_pitch + c, v);
}

template <class T, int V>
__global__ void gather(T *x, size_t x_pitch, const T *y, size_t y_pitch, const T *more, size_t more_pitch, size_t n,
                       unsigned h, unsigned w, unsigned parts, float factor)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * parts)
        return;
    struct small_pixel at = small_pixel_of(i / parts, h, w);
    size_t c = i % parts * V;
    pack<T, V> v[4], result;
    for (unsigned k = 0; k < 4; k++)
        v[k] = load<T, V>(y + (at.large + k / 2 * 2 * w + k % 2) * y_pitch + c);
    if (more)
        result = load<T, V>(more + at.small * more_pitch + c);
    for (int k = 0; k < V; k++) {
        float top = widen(v[0].at[k]) + widen(v[1].at[k]), bottom = widen(v[2].at[k]) + widen(v[3].at[k]);
        float all = (top + bottom) * factor;
        narrow(&result.at[k], more ? all + widen(result.at[k]) : all);
    }
    store<T, V>(x + at.small * x_pitch + c, result);
}

cudaError_t gpu_spread2x(cudaStream_t s, struct gpu_pixels y, struct gpu_pixels x, size_t images, size_t h, size_t w,
                         size_t c, float factor)
{
    size_t n = images * h * w;
    bool wide = packs(x, c, 8) && packs(y, c, 8) && y.dtype == DTYPE_BF16;
    DISPATCH(
        y.dtype, T,
        if (wide) {
            LAUNCH((spread<T, 8>), blocks_for(n * (c / 8), THREADS), THREADS, 0, s, (T *)y.at, y.pitch, (const T *)x.at,
                   x.pitch, n, (unsigned)h, (unsigned)w, (unsigned)(c / 8), factor);
        } else {
            LAUNCH((spread<T, 1>), blocks_for(n * c, THREADS), THREADS, 0, s, (T *)y.at, y.pitch, (const T *)x.at,
                   x.pitch, n, (unsigned)h, (unsigned)w, (unsigned)c, factor);
        });
    return cudaGetLastError();
}

cudaError_t gpu_gather2x(cudaStream_t s, struct gpu_pixels x, struct gpu_pixels y, struct gpu_pixels more,
                         size_t images, size_t h, size_t w, size_t c, float factor)
{
    size_t n = images * h * w;
    bool wide = packs(x, c, 8) && packs(y, c, 8) && packs(more, c, 8) && y.dtype == DTYPE_BF16;
    DISPATCH(
        x.dtype, T,
        if (wide) {
            LAUNCH((gather<T, 8>), blocks_for(n * (c / 8), THREADS), THREADS, 0, s, (T *)x.at, x.pitch, (const T *)y.at,
                   y.pitch, (const T *)more.at, more.pitch, n, (unsigned)h, (unsigned)w, (unsigned)(c / 8), factor);
        } else {
            LAUNCH((gather<T, 1>), blocks_for(n * c, THREADS), THREADS, 0, s, (T *)x.at, x.pitch, (const T *)y.at,
                   y.pitch, (const T *)more.at, more.pitch, n, (unsigned)h, (unsigned)w, (unsigned)c, factor);
        });
    return cudaGetLastError();
}
