/* standin_cudnn.cpp: cuDNN's backend API on the host; see standin.h.
 *
 * Descriptors are bags of attributes; executing a plan interprets its graph's operations in f32, in plain loops. Each
 * graph is offered three engine configurations, as the real one offers many: one that is not deterministic, one that
 * splits its sums, and a good one; the first two compute nonsense, so that a wrong choice shows.
 */
#include "standin.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <cudnn.h>

struct cudnnContext {
    cudaStream_t stream;
};

struct descriptor {
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<int, std::vector<char>> attributes;
    std::vector<std::shared_ptr<descriptor>> held; // what it names lives as long as it does
};
typedef std::shared_ptr<descriptor> reference;

static std::map<void *, reference> descriptors; // what the caller holds
static std::string message;

enum { NONDETERMINISTIC_ENGINE = 1, SPLITTING_ENGINE = 2, GOOD_ENGINE = 3, WORKSPACE = 512 };

static cudnnStatus_t refuse(cudnnStatus_t s, const char *why)
{
    message = why;
    return s;
}

/* ---- attributes ---- */

static size_t element_bytes(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_BACKEND_DESCRIPTOR:
        return 8;
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
        return 1;
    default:
        return 4;
    }
}

template <class T> static std::vector<T> all(const descriptor *d, int name)
{
    std::vector<T> v;
    auto found = d->attributes.find(name);
    if (found != d->attributes.end()) {
        v.resize(found->second.size() / sizeof(T));
        memcpy((void *)v.data(), found->second.data(), v.size() * sizeof(T));
    }
    return v;
}

template <class T> static T one(const descriptor *d, int name, T otherwise = T())
{
    std::vector<char> raw = all<char>(d, name);
    if (raw.size() >= sizeof(T))
        memcpy(&otherwise, raw.data(), sizeof(T));
    return otherwise;
}

static descriptor *named(const descriptor *d, int name)
{
    return (descriptor *)one<void *>(d, name);
}

template <class T> static void put(descriptor *d, int name, T value)
{
    d->attributes[name].assign((const char *)&value, (const char *)&value + sizeof(value));
}

/* ---- a graph that runs ---- */

struct operand {
    std::vector<int64_t> dim, stride;
    bool bf16;
    char *at;
    std::vector<float> own; // a virtual tensor's

    int64_t offset(const int64_t *i) const
    {
        int64_t o = 0;
        for (size_t k = 0; k < dim.size(); k++)
            o += dim[k] == 1 ? 0 : i[k] * stride[k];
        return o;
    }
    float get(const int64_t *i) const
    {
        if (!bf16)
            return ((const float *)at)[offset(i)];
        uint32_t bits = (uint32_t)((const uint16_t *)at)[offset(i)] << 16;
        float f;
        memcpy(&f, &bits, sizeof(f));
        return f;
    }
    void set(const int64_t *i, float x)
    {
        if (!bf16) {
            ((float *)at)[offset(i)] = x;
            return;
        }
        uint32_t bits;
        memcpy(&bits, &x, sizeof(bits));
        ((uint16_t *)at)[offset(i)] = x != x ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
};

static size_t extent(const std::vector<int64_t> &dim, const std::vector<int64_t> &stride)
{
    int64_t last = 0;
    for (size_t k = 0; k < dim.size(); k++)
        last += (dim[k] - 1) * stride[k];
    return (size_t)last + 1;
}

struct execution {
    std::map<const descriptor *, operand> operands;
    std::map<int64_t, void *> bound;
    float nonsense; // added to results of engines that must not be chosen

    operand &of(const descriptor *d)
    {
        auto found = operands.find(d);
        if (found != operands.end())
            return found->second;
        operand &o = operands[d];
        o.dim = all<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS);
        o.stride = all<int64_t>(d, CUDNN_ATTR_TENSOR_STRIDES);
        o.bf16 = one<cudnnDataType_t>(d, CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_BFLOAT16;
        if (one<bool>(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL)) {
            o.bf16 = false;
            o.own.assign(extent(o.dim, o.stride), NAN);
            o.at = (char *)o.own.data();
        } else {
            o.at = (char *)bound.at(one<int64_t>(d, CUDNN_ATTR_TENSOR_UNIQUE_ID));
        }
        return o;
    }
};

template <class F> static void each(const std::vector<int64_t> &dim, F f)
{
    std::vector<int64_t> i(dim.size(), 0);
    for (;;) {
        f(i.data());
        size_t k = dim.size();
        while (k && ++i[k - 1] == dim[k - 1])
            i[--k] = 0;
        if (!k)
            return;
    }
}

/* Dense f32 copies in NHWC order, so that the loops below are quick. */
static std::vector<float> packed(const operand &o, bool read)
{
    std::vector<float> v((size_t)(o.dim[0] * o.dim[1] * o.dim[2] * o.dim[3]), 0.0f);
    size_t at = 0;
    if (read)
        each({o.dim[0], o.dim[2], o.dim[3], o.dim[1]}, [&](const int64_t *i) {
            const int64_t j[] = {i[0], i[3], i[1], i[2]};
            v[at++] = o.get(j);
        });
    return v;
}

static void unpack(operand &o, const std::vector<float> &v, float add)
{
    size_t at = 0;
    each({o.dim[0], o.dim[2], o.dim[3], o.dim[1]}, [&](const int64_t *i) {
        const int64_t j[] = {i[0], i[3], i[1], i[2]};
        o.set(j, v[at++] + add);
    });
}

enum direction { FORWARD, DATA, WEIGHTS };

/* Visits every product of a convolution: pixels of y, taps of the filter. */
static void convolve(execution &e, const operand &x, const operand &w, const operand &y, operand &result,
                     enum direction direction, const descriptor *kind)
{
    int64_t stride = all<int64_t>(kind, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES)[0],
            padding = all<int64_t>(kind, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)[0],
            across = all<int64_t>(kind, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)[1];
    std::vector<float> vx = packed(x, direction != DATA), vw = packed(w, direction != WEIGHTS),
                       vy = packed(y, direction != FORWARD);
    int64_t C = x.dim[1], H = x.dim[2], W = x.dim[3], K = w.dim[0], R = w.dim[2], S = w.dim[3], P = y.dim[2],
            Q = y.dim[3];
    each({x.dim[0], P, Q, R, S}, [&](const int64_t *i) {
        int64_t h = i[1] * stride - padding + i[3], column = i[2] * stride - across + i[4];
        if (h < 0 || h >= H || column < 0 || column >= W)
            return;
        float *px = &vx[(size_t)(((i[0] * H + h) * W + column) * C)],
              *py = &vy[(size_t)(((i[0] * P + i[1]) * Q + i[2]) * K)];
        for (int64_t k = 0; k < K; k++) {
            float *pw = &vw[(size_t)(((k * R + i[3]) * S + i[4]) * C)], sum = 0;
            for (int64_t c = 0; c < C; c++) {
                if (direction == FORWARD)
                    sum += px[c] * pw[c];
                else if (direction == DATA)
                    px[c] += py[k] * pw[c];
                else
                    pw[c] += py[k] * px[c];
            }
            if (direction == FORWARD)
                py[k] += sum;
        }
    });
    unpack(result, direction == FORWARD ? vy : direction == DATA ? vx : vw, e.nonsense);
}

static float apply(cudnnPointwiseMode_t mode, float a, float b)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return a + b;
    case CUDNN_POINTWISE_SUB:
        return a - b;
    case CUDNN_POINTWISE_MUL:
        return a * b;
    case CUDNN_POINTWISE_EXP:
        return expf(a);
    case CUDNN_POINTWISE_IDENTITY:
        return a;
    default:
        return NAN;
    }
}

static void pointwise(execution &e, const descriptor *op)
{
    auto mode =
        one<cudnnPointwiseMode_t>(named(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), CUDNN_ATTR_POINTWISE_MODE);
    const descriptor *second = named(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    operand &x = e.of(named(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC)),
            &y = e.of(named(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC)), *b = second ? &e.of(second) : nullptr;
    each(y.dim, [&](const int64_t *i) { y.set(i, apply(mode, x.get(i), b ? b->get(i) : 0)); });
}

static void matmul(execution &e, const descriptor *op)
{
    operand &a = e.of(named(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC)),
            &b = e.of(named(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC)),
            &c = e.of(named(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC));
    each(c.dim, [&](const int64_t *i) {
        float sum = 0;
        for (int64_t k = 0; k < a.dim[3]; k++) {
            const int64_t ia[] = {i[0], i[1], i[2], k}, ib[] = {i[0], i[1], k, i[3]};
            sum += a.get(ia) * b.get(ib);
        }
        c.set(i, sum);
    });
}

static void reduce(execution &e, const descriptor *op)
{
    operand &x = e.of(named(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC)),
            &y = e.of(named(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC));
    each(y.dim, [&](const int64_t *i) { y.set(i, 0); });
    each(x.dim, [&](const int64_t *i) { y.set(i, y.get(i) + x.get(i)); });
}

static void transpose(execution &e, const descriptor *op)
{
    operand &x = e.of(named(op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC)),
            &y = e.of(named(op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC));
    each(y.dim, [&](const int64_t *i) {
        const int64_t j[] = {i[0], i[1], i[3], i[2]};
        y.set(i, x.get(j));
    });
}

static void attend(execution &e, const descriptor *op)
{
    operand &q = e.of(named(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC)),
            &k = e.of(named(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC)),
            &v = e.of(named(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC)),
            &o = e.of(named(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC));
    const descriptor *stats = named(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC);
    const int64_t zero[4] = {};
    float scale = e.of(named(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC)).get(zero);
    std::vector<float> p((size_t)k.dim[2]);
    each({q.dim[0], q.dim[1], q.dim[2]}, [&](const int64_t *i) {
        float most = -INFINITY, total = 0;
        for (int64_t j = 0; j < k.dim[2]; j++) {
            float s = 0;
            for (int64_t c = 0; c < q.dim[3]; c++) {
                const int64_t iq[] = {i[0], i[1], i[2], c}, ik[] = {i[0], i[1], j, c};
                s += q.get(iq) * k.get(ik);
            }
            p[(size_t)j] = s * scale;
            most = fmaxf(most, p[(size_t)j]);
        }
        for (float &x : p)
            total += x = expf(x - most);
        for (int64_t c = 0; c < v.dim[3]; c++) {
            float s = 0;
            for (int64_t j = 0; j < k.dim[2]; j++) {
                const int64_t iv[] = {i[0], i[1], j, c};
                s += p[(size_t)j] * v.get(iv);
            }
            const int64_t io[] = {i[0], i[1], i[2], c};
            o.set(io, s / total + e.nonsense);
        }
        const int64_t is[] = {i[0], i[1], i[2], 0};
        if (stats)
            e.of(stats).set(is, most + logf(total));
    });
}

static void run_operation(execution &e, const descriptor *op)
{
    switch ((int)op->type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR: {
        operand &x = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X)),
                &w = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W)),
                &y = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y));
        convolve(e, x, w, y, y, FORWARD, named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC));
        break;
    }
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR: {
        operand &x = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX)),
                &w = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W)),
                &y = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY));
        convolve(e, x, w, y, x, DATA, named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC));
        break;
    }
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR: {
        operand &x = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X)),
                &w = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW)),
                &y = e.of(named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY));
        convolve(e, x, w, y, w, WEIGHTS, named(op, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC));
        break;
    }
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR:
        return pointwise(e, op);
    case CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR:
        return matmul(e, op);
    case CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR:
        return reduce(e, op);
    case CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR:
        return transpose(e, op);
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR:
        return attend(e, op);
    }
}

/* Whether every tensor that the operations name is bound to memory that holds it. */
static const char *misbound(const std::vector<descriptor *> &operations, const std::map<int64_t, void *> &bound)
{
    for (descriptor *op : operations)
        for (reference &t : op->held) {
            if (t->type != CUDNN_BACKEND_TENSOR_DESCRIPTOR || one<bool>(t.get(), CUDNN_ATTR_TENSOR_IS_VIRTUAL))
                continue;
            auto found = bound.find(one<int64_t>(t.get(), CUDNN_ATTR_TENSOR_UNIQUE_ID));
            if (found == bound.end())
                return "a tensor is not bound";
            if (one<bool>(t.get(), CUDNN_ATTR_TENSOR_IS_BY_VALUE))
                continue;
            bool wide = one<cudnnDataType_t>(t.get(), CUDNN_ATTR_TENSOR_DATA_TYPE) == CUDNN_DATA_FLOAT;
            size_t bytes = extent(all<int64_t>(t.get(), CUDNN_ATTR_TENSOR_DIMENSIONS),
                                  all<int64_t>(t.get(), CUDNN_ATTR_TENSOR_STRIDES)) *
                           (wide ? 4 : 2);
            if (!standin_on_device(found->second, bytes))
                return "a tensor reaches out of its memory";
            if ((uintptr_t)found->second % (uintptr_t)one<int64_t>(t.get(), CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT))
                return "a tensor is not aligned as it says";
        }
    return nullptr;
}

/* Gradients of weights sum over images, and nothing depends on how. */
static bool may_split(const descriptor *first)
{
    switch ((int)first->type) {
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
    case CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR:
        return false;
    default:
        return true;
    }
}

/* ---- the API ---- */

extern "C" {

size_t cudnnGetVersion(void)
{
    return CUDNN_VERSION;
}
const char *cudnnGetErrorString(cudnnStatus_t s)
{
    return s == CUDNN_STATUS_SUCCESS         ? "CUDNN_STATUS_SUCCESS"
           : s == CUDNN_STATUS_NOT_SUPPORTED ? "CUDNN_STATUS_NOT_SUPPORTED"
                                             : "CUDNN_STATUS_STAND_IN";
}
void cudnnGetLastErrorString(char *text, size_t bytes)
{
    snprintf(text, bytes, "%s", message.c_str());
}
cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    *handle = new cudnnContext();
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t s)
{
    handle->stream = s;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *d)
{
    reference r = std::make_shared<descriptor>();
    r->type = type;
    descriptors[r.get()] = r;
    *d = r.get();
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    return descriptors.erase(d) ? CUDNN_STATUS_SUCCESS : refuse(CUDNN_STATUS_BAD_PARAM, "no descriptor is destroyed");
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t count, const void *values)
{
    descriptor *d = (descriptor *)p;
    if (!descriptors.count(p) || d->finalized)
        return refuse(CUDNN_STATUS_BAD_PARAM, "an attribute of nothing, or of what is finalized");
    for (int64_t i = 0; type == CUDNN_TYPE_BACKEND_DESCRIPTOR && i < count; i++) {
        auto found = descriptors.find(((void *const *)values)[i]);
        if (found == descriptors.end() || !found->second->finalized)
            return refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "an attribute that is not finalized");
        d->held.push_back(found->second);
    }
    d->attributes[name].assign((const char *)values, (const char *)values + (size_t)count * element_bytes(type));
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t p)
{
    descriptor *d = (descriptor *)p;
    if (!descriptors.count(p))
        return refuse(CUDNN_STATUS_BAD_PARAM, "nothing is finalized");
    if (d->type == CUDNN_BACKEND_TENSOR_DESCRIPTOR && all<int64_t>(d, CUDNN_ATTR_TENSOR_DIMENSIONS).size() != 4)
        return refuse(CUDNN_STATUS_BAD_PARAM, "a tensor that has not four dimensions");
    if (d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR && standin_fails("plan"))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "as the stand-in was told");
    d->finalized = true;
    return CUDNN_STATUS_SUCCESS;
}

/* The three configurations, each as an engine and one knob. */
static void offer(descriptor *heuristic, descriptor *configuration, int64_t engine)
{
    reference e = std::make_shared<descriptor>(), knob = std::make_shared<descriptor>();
    e->type = CUDNN_BACKEND_ENGINE_DESCRIPTOR;
    put(e.get(), CUDNN_ATTR_ENGINE_GLOBAL_INDEX, engine);
    put(knob.get(), CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE,
        engine == SPLITTING_ENGINE ? CUDNN_KNOB_TYPE_SPLIT_K_SLC : CUDNN_KNOB_TYPE_TILE_SIZE);
    put(knob.get(), CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, (int64_t)4);
    put(configuration, CUDNN_ATTR_ENGINECFG_ENGINE, (void *)e.get());
    put(configuration, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, (void *)knob.get());
    configuration->held = {e, knob};
    configuration->finalized = true;
}

cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t p, cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, int64_t most, int64_t *count, void *values)
{
    descriptor *d = (descriptor *)p;
    if (!descriptors.count(p) && name != CUDNN_ATTR_ENGINE_GLOBAL_INDEX)
        return refuse(CUDNN_STATUS_BAD_PARAM, "nothing is asked");
    switch ((int)name) {
    case CUDNN_ATTR_ENGINEHEUR_RESULTS:
        *count = 3;
        for (int64_t i = 0; i < 3 && i < most; i++)
            offer(d, (descriptor *)((void **)values)[i], NONDETERMINISTIC_ENGINE + i);
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_ENGINECFG_ENGINE:
    case CUDNN_ATTR_ENGINECFG_KNOB_CHOICES: {
        *count = 1; // read into the caller's own descriptor
        descriptor *mine = named(d, name), *theirs = (descriptor *)*(void **)values;
        theirs->attributes = mine->attributes;
        theirs->finalized = true;
        return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_ATTR_ENGINE_NUMERICAL_NOTE:
        *count = one<int64_t>(d, CUDNN_ATTR_ENGINE_GLOBAL_INDEX) == NONDETERMINISTIC_ENGINE;
        *(cudnnBackendNumericalNote_t *)values = CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE:
        *count = 1;
        *(int64_t *)values = WORKSPACE;
        return CUDNN_STATUS_SUCCESS;
    default: {
        std::vector<char> raw = all<char>(d, name);
        if (raw.empty())
            return refuse(CUDNN_STATUS_NOT_SUPPORTED, "an attribute that the stand-in lacks");
        *count = 1;
        memcpy(values, raw.data(), raw.size());
        return CUDNN_STATUS_SUCCESS;
    }
    }
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    if (standin_fails("cudnnBackendExecute"))
        return refuse(CUDNN_STATUS_EXECUTION_FAILED, "as the stand-in was told");
    if (!descriptors.count(plan) || !descriptors.count(pack))
        return refuse(CUDNN_STATUS_BAD_PARAM, "nothing is executed");
    descriptor *engine =
        named(named((descriptor *)plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG), CUDNN_ATTR_ENGINECFG_ENGINE);
    auto operations =
        all<descriptor *>(named(engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH), CUDNN_ATTR_OPERATIONGRAPH_OPS);
    auto uids = all<int64_t>((descriptor *)pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    auto addresses = all<void *>((descriptor *)pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    std::map<int64_t, void *> bound;
    for (size_t i = 0; i < uids.size(); i++)
        bound[uids[i]] = addresses[i];
    const char *why = misbound(operations, bound);
    if (!why && !standin_on_device(one<void *>((descriptor *)pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE), WORKSPACE))
        why = "the workspace is too small";
    if (why)
        return refuse(CUDNN_STATUS_BAD_PARAM, why);
    std::vector<std::shared_ptr<float>> scalars; // values on the host are taken now
    for (descriptor *op : operations)
        for (reference &t : op->held)
            if (one<bool>(t.get(), CUDNN_ATTR_TENSOR_IS_BY_VALUE)) {
                void *&at = bound[one<int64_t>(t.get(), CUDNN_ATTR_TENSOR_UNIQUE_ID)];
                scalars.push_back(std::make_shared<float>(*(float *)at));
                at = scalars.back().get();
            }
    int64_t number = one<int64_t>(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
    bool good = number == GOOD_ENGINE || (number == SPLITTING_ENGINE && may_split(operations[0]));
    float nonsense = good ? 0.0f : 1.0f;
    reference keep = descriptors[plan];
    standin_submit(handle->stream, [operations, bound, nonsense, keep, scalars] {
        execution e;
        e.bound = bound;
        e.nonsense = nonsense;
        for (const descriptor *op : operations)
            run_operation(e, op);
    });
    return CUDNN_STATUS_SUCCESS;
}

} // extern "C"
