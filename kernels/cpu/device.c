/* device.c: opening a CPU as a device: threads, memory, and which of our loops and of oneDNN's kernels it can run.
 *
 * Threads are OpenMP's team of the thread that calls (the device's worker). "COUNT@FIRST" pins them to processors
 * FIRST, FIRST + 1, ...; the first run does so, on the thread that runs.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One row per instruction set, best first: oneDNN's name for it, and what follows for us. */
static const struct isa {
    dnnl_cpu_isa_t isa;
    const char *name;
    enum dtype native;
    const struct loops *loops;
} isas[] = {
#if defined(__x86_64__)
    {dnnl_cpu_isa_avx512_core_amx, "AVX-512 BF16 AMX", DTYPE_BF16, &loops_amx},
    {dnnl_cpu_isa_avx512_core_bf16, "AVX-512 BF16", DTYPE_BF16, &loops_avx512bf16},
    {dnnl_cpu_isa_avx512_core_vnni, "AVX-512", DTYPE_F32, &loops_avx512},
    {dnnl_cpu_isa_avx512_core, "AVX-512", DTYPE_F32, &loops_avx512},
    {dnnl_cpu_isa_avx2_vnni, "AVX2", DTYPE_F32, &loops_avx2},
    {dnnl_cpu_isa_avx2, "AVX2", DTYPE_F32, &loops_avx2},
#endif
    {dnnl_cpu_isa_all, "baseline", DTYPE_F32, &loops_baseline},
};

/* Linux gives a process the tile registers on request (arch_prctl(2), ARCH_REQ_XCOMP_PERM). oneDNN asks too; ours must
 * not depend on when. */
static bool tiles_permitted(void)
{
#if defined(__x86_64__) && defined(SYS_arch_prctl)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
#else
    return false;
#endif
}

/* What oneDNN will use (ONEDNN_MAX_CPU_ISA lowers it), so that ours and oneDNN's go together. */
static const struct isa *isa_find(void)
{
    dnnl_cpu_isa_t effective = dnnl_get_effective_cpu_isa();
    const struct isa *i = isas;
    while (i->isa != effective && i->isa != dnnl_cpu_isa_all)
        i++;
    return i->isa == dnnl_cpu_isa_avx512_core_amx && !tiles_permitted() ? i + 1 : i;
}

static int processors(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set))
        return 1;
    return CPU_COUNT(&set);
}

/* "", "COUNT" or "COUNT@FIRST". */
static int parse_options(const char *options, int *ret_threads, int *ret_first, struct error *err)
{
    int threads = 0, first = -1, used = 0;
    if (*options) {
        int fields = sscanf(options, "%d%n@%d%n", &threads, &used, &first, &used);
        if (fields < 1 || options[used] || (fields == 2 && first < 0))
            return error_set(err, -EINVAL, "device", "CPU options are COUNT or COUNT@FIRST, not \"%s\"", options);
    }
    if (threads == 0)
        threads = processors();
    if (threads < 1 || threads > CPU_MAX_THREADS)
        return error_set(err, -EINVAL, "device", "%d threads: between 1 and %d are possible", threads,
                         (int)CPU_MAX_THREADS);
    if (first >= 0 && first + threads > sysconf(_SC_NPROCESSORS_CONF))
        return error_set(err, -EINVAL, "device", "processors %d to %d were asked for, the machine has %ld", first,
                         first + threads - 1, sysconf(_SC_NPROCESSORS_CONF));
    *ret_threads = threads;
    *ret_first = first;
    return 0;
}

static void device_close(struct device *d)
{
    if (!d)
        return;
    for (int i = 0; i < d->base.n_threads; i++)
        if (d->stream[i])
            dnnl_stream_destroy(d->stream[i]);
    if (d->engine)
        dnnl_engine_destroy(d->engine);
    cpu_free(d, d->noise, d->noise_floats * sizeof(float));
    free(d);
}

static int device_open(const char *options, struct device **ret_device, struct error *err)
{
    struct device *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, -ENOMEM, NULL, "no memory for a CPU device");
    int rc = parse_options(options ? options : "", &d->base.n_threads, &d->first_processor, err);
    if (!rc)
        rc = ONEDNN(dnnl_engine_create(&d->engine, dnnl_cpu, 0), err);
    for (int i = 0; !rc && i < d->base.n_threads; i++)
        rc = ONEDNN(dnnl_stream_create(&d->stream[i], d->engine, dnnl_stream_default_flags), err);
    if (rc) {
        if (!d->engine)
            d->base.n_threads = 0;
        device_close(d);
        return rc;
    }
    const struct isa *isa = isa_find();
    d->base.backend = &backend_cpu;
    d->base.native = isa->native;
    d->loops = isa->loops;
    snprintf(d->base.description, sizeof(d->base.description), "%d thread%s, %s", d->base.n_threads,
             d->base.n_threads == 1 ? "" : "s", isa->name);
    *ret_device = d;
    return 0;
}

int cpu_alloc(struct device *d, size_t bytes, void **ret_memory)
{
    void *memory = aligned_alloc(CPU_ALIGNMENT, cpu_align(bytes ? bytes : 1));
    if (!memory)
        return -ENOMEM;
    d->base.bytes_in_use += cpu_align(bytes);
    *ret_memory = memory;
    return 0;
}

void cpu_free(struct device *d, void *memory, size_t bytes)
{
    if (!memory)
        return;
    free(memory);
    d->base.bytes_in_use -= cpu_align(bytes);
}

static int always_available(struct error *err)
{
    return 0;
}

static int copy_bytes(struct device *d, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return 0;
}

/* ---- threads ---- */

size_t cpu_align(size_t bytes)
{
    return (bytes + CPU_ALIGNMENT - 1) / CPU_ALIGNMENT * CPU_ALIGNMENT;
}

void cpu_split(size_t n, size_t grain, size_t parts, size_t i, size_t *ret_begin, size_t *ret_end)
{
    size_t grains = (n + grain - 1) / grain;
    size_t begin = grains * i / parts * grain, end = grains * (i + 1) / parts * grain;
    *ret_begin = begin < n ? begin : n;
    *ret_end = end < n ? end : n;
}

void cpu_parallel(int n_threads, size_t count, void (*body)(void *context, size_t i), void *context)
{
    if (n_threads <= 1 || count <= 1) {
        for (size_t i = 0; i < count; i++)
            body(context, i);
        return;
    }
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (size_t i = 0; i < count; i++)
        body(context, i);
}

static void pin_threads(struct device *d)
{
    d->pinned = true;
#pragma omp parallel num_threads(d->base.n_threads)
    {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)(d->first_processor + omp_get_thread_num()), &set);
        sched_setaffinity(0, sizeof(set), &set); // a processor that went offline: the thread stays where it may be
    }
}

static int run_strands(struct device *d, int count, int (*body)(void *context, int strand), void *context)
{
    int first_failure = 0;
    if (d->first_processor >= 0 && !d->pinned)
        pin_threads(d);
    if (count == 1)
        return body(context, 0);
#pragma omp parallel for num_threads(d->base.n_threads) schedule(static, 1)
    for (int i = 0; i < count; i++) {
        int rc = body(context, i);
        if (rc) {
#pragma omp critical(ddimd_cpu_strands)
            first_failure = first_failure ? first_failure : rc;
        }
    }
    return first_failure;
}

static int run_plan(struct device *d, struct primitive *const *primitives, int32_t n, const struct frame *f,
                    int32_t n_bases, struct recording **recording)
{
    int rc = 0;
    for (int32_t i = 0; i < n && rc == 0; i++)
        rc = primitives[i]->run(primitives[i], f);
    return rc;
}

static void no_recording(struct recording *r)
{
}

const struct backend backend_cpu = {
    .abi = BACKEND_ABI,
    .name = "cpu",
    .available = always_available,
    .open = device_open,
    .close = device_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = copy_bytes,
    .download = copy_bytes,
    .copy = copy_bytes,
    .weights_create = cpu_weights_create,
    .weights_free = cpu_weights_free,
    .weights_seal = cpu_weights_seal,
    .weights_repack = cpu_weights_repack,
    .weights_master = cpu_weights_master,
    .weights_bytes = cpu_weights_bytes,
    .lower =
        {
            [OP_CAST] = lower_cast,
            [OP_CONV2D] = lower_conv2d,
            [OP_LINEAR] = lower_linear,
            [OP_GROUP_NORM] = lower_group_norm,
            [OP_SILU] = lower_silu,
            [OP_ADD] = lower_add,
            [OP_ADD_CHANNEL] = lower_add_channel,
            [OP_CONCAT] = lower_concat,
            [OP_UPSAMPLE2X] = lower_upsample2x,
            [OP_AVG_POOL2X] = lower_avg_pool2x,
            [OP_ATTENTION] = lower_attention,
            [OP_EMBEDDING] = lower_embedding,
            [OP_TIMESTEP_EMBEDDING] = lower_timestep_embedding,
            [OP_DROPOUT] = lower_dropout,
            [OP_MSE] = lower_mse,
            [OP_RELU] = lower_relu,
            [OP_POOL] = lower_pool,
            [OP_GLOBAL_MEAN] = lower_global_mean,
            [OP_CROSS_ENTROPY] = lower_cross_entropy,
            [OP_CONV2D_BACKWARD_DATA] = lower_conv2d_backward_data,
            [OP_CONV2D_BACKWARD_WEIGHTS] = lower_conv2d_backward_weights,
            [OP_LINEAR_BACKWARD_DATA] = lower_linear_backward_data,
            [OP_LINEAR_BACKWARD_WEIGHTS] = lower_linear_backward_weights,
            [OP_GROUP_NORM_BACKWARD] = lower_group_norm_backward,
            [OP_SILU_BACKWARD] = lower_silu_backward,
            [OP_ADD_CHANNEL_BACKWARD] = lower_add_channel_backward,
            [OP_SLICE] = lower_slice,
            [OP_UPSAMPLE2X_BACKWARD] = lower_upsample2x_backward,
            [OP_AVG_POOL2X_BACKWARD] = lower_avg_pool2x_backward,
            [OP_ATTENTION_BACKWARD] = lower_attention_backward,
            [OP_EMBEDDING_BACKWARD] = lower_embedding_backward,
            [OP_DROPOUT_BACKWARD] = lower_dropout,
            [OP_MSE_BACKWARD] = lower_mse_backward,
            [OP_GLOBAL_MEAN_BACKWARD] = lower_global_mean_backward,
            [OP_CROSS_ENTROPY_BACKWARD] = lower_cross_entropy_backward,
        },
    .run_plan = run_plan,
    .recording_free = no_recording,
    .run_strands = run_strands,
    .fill_noise = cpu_fill_noise,
    .gather_rows = cpu_gather_rows,
    .update_rows = cpu_update_rows,
    .sum_vectors = cpu_sum_vectors,
    .sum_of_squares = cpu_sum_of_squares,
    .adamw = cpu_adamw,
};

void backend_cpu_settle(char *const *argv)
{
    static const char spins[] = "20000"; // about 50 microseconds: longer than the gaps within a network, no more
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT") || setenv("GOMP_SPINCOUNT", spins, 0))
        return;
    execv("/proc/self/exe", argv); // where this fails, only speed is lost
}
