/* onednn.c: the only file that handles oneDNN's statuses: they become negative errno and a sentence.
 *
 * Primitives use user-mode scratchpads: with the library's own, a primitive run by two threads at once computes
 * garbage. Memory objects are made while lowering; a run sets addresses only.
 */
#include "kernels/cpu/cpu.h"

#include <errno.h>
#include <omp.h>

int onednn_status(dnnl_status_t status, const char *call, struct error *err)
{
    switch (status) {
    case dnnl_success:
        return 0;
    case dnnl_out_of_memory:
        return error_set(err, -ENOMEM, NULL, "oneDNN has no memory: %s", call);
    case dnnl_invalid_arguments:
        return error_set(err, -EINVAL, NULL, "oneDNN refuses the arguments: %s", call);
    case dnnl_unimplemented:
    case dnnl_iterator_ends:
        return error_set(err, -ENOTSUP, NULL, "oneDNN has no implementation: %s", call);
    default:
        return error_set(err, -EIO, NULL, "oneDNN failed with status %d: %s", (int)status, call);
    }
}

dnnl_data_type_t onednn_dtype(enum dtype t)
{
    return t == DTYPE_F32 ? dnnl_f32 : t == DTYPE_BF16 ? dnnl_bf16 : dnnl_s32;
}

int onednn_image(dnnl_memory_desc_t *ret_md, enum dtype t, int64_t n, int64_t h, int64_t w, int64_t c,
                 struct error *err)
{
    dnnl_dims_t dims = {n, c, h, w};
    return ONEDNN(dnnl_memory_desc_init_by_tag(ret_md, 4, dims, onednn_dtype(t), dnnl_nhwc), err);
}

int onednn_descriptor_create(struct device *d, const_dnnl_op_desc_t operation, const_dnnl_primitive_desc_t hint,
                             bool sum, int n_threads, dnnl_primitive_desc_t *ret_pd, struct error *err)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    int rc = ONEDNN(dnnl_primitive_attr_create(&attr), err);
    if (!rc)
        rc = ONEDNN(dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user), err);
    if (!rc && sum) {
        rc = ONEDNN(dnnl_post_ops_create(&post), err);
        if (!rc)
            rc = ONEDNN(dnnl_post_ops_append_sum(post, 1.0f), err);
        if (!rc)
            rc = ONEDNN(dnnl_primitive_attr_set_post_ops(attr, post), err);
    }
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(n_threads);
    if (!rc)
        rc = ONEDNN(dnnl_primitive_desc_create(ret_pd, operation, attr, d->engine, hint), err);
    omp_set_num_threads(threads_before);
    if (post)
        dnnl_post_ops_destroy(post);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return rc;
}

int onednn_call_create(struct device *d, const_dnnl_primitive_desc_t pd, int n_threads, struct onednn_call *ret_call,
                       struct error *err)
{
    struct onednn_call c = {.scratch_argument = -1};
    int threads_before = omp_get_max_threads();
    omp_set_num_threads(n_threads);
    int rc = ONEDNN(dnnl_primitive_create(&c.primitive, pd), err);
    omp_set_num_threads(threads_before);
    if (rc)
        return rc;
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    c.scratch_bytes = scratch ? dnnl_memory_desc_get_size(scratch) : 0;
    if (c.scratch_bytes) {
        rc = onednn_call_add(d, &c, pd, dnnl_query_scratchpad_md, 0, DNNL_ARG_SCRATCHPAD, NULL, err);
        if (rc) {
            onednn_call_done(&c);
            return rc;
        }
        c.scratch_argument = 0;
    }
    *ret_call = c;
    return 0;
}

int onednn_call_add(struct device *d, struct onednn_call *c, const_dnnl_primitive_desc_t pd, dnnl_query_t query,
                    int index, int argument, void *address, struct error *err)
{
    const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(pd, query, index);
    dnnl_memory_t memory;
    int rc = ONEDNN(dnnl_memory_create(&memory, md, d->engine, address ? address : DNNL_MEMORY_NONE), err);
    if (!rc)
        c->argument[c->n_arguments++] = (dnnl_exec_arg_t){argument, memory};
    return rc;
}

int onednn_call_set(struct onednn_call *c, int position, void *address)
{
    return dnnl_memory_set_data_handle(c->argument[position].memory, address) == dnnl_success ? 0 : -EIO;
}

int onednn_call_run(const struct device *d, struct onednn_call *c, int n_threads, void *scratch)
{
    if (c->scratch_argument >= 0 && onednn_call_set(c, c->scratch_argument, scratch))
        return -EIO;
    if (n_threads > 1 && omp_get_max_threads() != n_threads)
        omp_set_num_threads(n_threads);
    dnnl_stream_t stream = d->stream[omp_get_thread_num() % d->base.n_threads];
    return dnnl_primitive_execute(c->primitive, stream, c->n_arguments, c->argument) == dnnl_success ? 0 : -EIO;
}

void onednn_call_done(struct onednn_call *c)
{
    for (int i = 0; i < c->n_arguments; i++)
        dnnl_memory_destroy(c->argument[i].memory);
    if (c->primitive)
        dnnl_primitive_destroy(c->primitive);
    *c = (struct onednn_call){.scratch_argument = -1};
}
