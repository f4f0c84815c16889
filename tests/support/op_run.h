/* op_run.h: one operation of the table in tests/kernels/ops_cases.h, prepared and run through a backend's lower table,
 * without program.c: every tensor in device memory of its own between guard bytes, densely or as a view of wider pixels.
 *
 * For tests and benchmarks. Values are f32 here and converted to what the operation computes in.
 */
#ifndef DDIMD_TESTS_OP_RUN_H
#define DDIMD_TESTS_OP_RUN_H

#include "kernels/backend.h"
#include "tests/kernels/ops_cases.h"

enum { OP_MAX_IN = 64, OP_MAX_OUT = 64 };

/* What a tensor of a case is; its dtype follows. */
enum op_kind {
    OP_KIND_NONE,     // TENSOR_NONE
    OP_KIND_VALUE,    // compute dtype
    OP_KIND_F32,      // statistics, losses, times
    OP_KIND_I32,      // class indices, keys
    OP_KIND_PARAM,    // f32 in the weights
    OP_KIND_GRADIENT, // f32
};

struct op_tensor {
    enum op_kind kind;
    int32_t dim[4];
    enum dtype dtype;
    bool per_image; // dim[0] is the batch
};

/* The case's tensors for a batch of n. */
struct op_shape {
    int n_in, n_out;
    struct op_tensor in[OP_MAX_IN], out[OP_MAX_OUT];
    struct node_attr attr;
};
void op_case_shape(const struct op_case *c, int32_t n, enum dtype compute, struct op_shape *ret_shape);
size_t op_tensor_elements(const struct op_tensor *t);

struct op_run;

struct op_run_options {
    int32_t n;
    enum dtype compute;
    bool views;    // activations as views of wider pixels
    bool in_place; // output 0 in the place of the input that graph.h allows for it, where there is one
    int n_threads;
};

/* NULL where the backend has no such primitive (err). */
struct op_run *op_run_create(struct device *d, const struct op_case *c, const struct op_run_options *o,
                             struct error *err);
void op_run_free(struct op_run *r);
const struct op_shape *op_run_shape(const struct op_run *r);
/* values: f32 (or i32) of input i; a parameter's are set before the primitive is made: op_run_lower. */
void op_run_set(struct op_run *r, int i, const void *values);
int op_run_lower(struct op_run *r, struct error *err); // once, after all inputs are set
int op_run_execute(struct op_run *r);
/* Output i as f32. */
void op_run_get(const struct op_run *r, int i, float *ret_values);
/* The raw bytes of output i, image by image, dense. Returns their number. */
size_t op_run_bytes(const struct op_run *r, int i, void *ret_bytes);
/* Number of guard bytes that changed. */
size_t op_run_damage(const struct op_run *r);
/* Deterministic values for input i that bf16 holds exactly: in [-1, 1), positive where the operation wants that. */
void op_case_values(const struct op_case *c, const struct op_shape *s, int i, int32_t first_image, void *ret_values);

#endif
