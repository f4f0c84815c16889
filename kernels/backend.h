/* backend.h: what a kind of device can do, as one struct of functions with every slot filled.
 *
 * A backend lowers a graph's nodes to prepared primitives and owns memory and streams. Nothing above knows a vendor's
 * library. One thread at a time per device (its worker). Vendor statuses become negative errno plus a message in one
 * file of the backend.
 */
#ifndef DDIMD_BACKEND_H
#define DDIMD_BACKEND_H

#include "graph.h"

#define BACKEND_ABI 3 // of this header; a backend in a library of its own must have been built with the same

struct device;  // backend's own; starts with struct device_base
struct weights; // a parameter vector resident on a device: f32 masters (optional) and the copies that primitives packed
struct recording; // what a backend keeps to run a plan faster the next time (a CUDA graph); backend's own

/* First member of every backend's device. */
struct device_base {
    const struct backend *backend;
    int n_threads;         // compute threads of a CPU device, 1 elsewhere
    int32_t whole_images;  // a GPU's: most images that one plan takes, whole batches; 0: batches are split over threads
    enum dtype native;     // what `--precision auto` computes in
    size_t bytes_in_use;   // memory that this device allocated and not freed: weights, arenas, pools
    char description[128]; // "2 threads, AVX-512 BF16 AMX"
    char failure[192];     // the first call that failed while running, for a person; "" where none did
};

/* Where the tensors of one plan lie during a run: address = base[place.base] + place.offset. */
enum { BASE_ARENA, BASE_SCRATCH, BASE_GRADIENT, BASE_FIRST_IO }; // BASE_FIRST_IO + i: input i, then outputs
struct place {
    int32_t base;
    int32_t pitch; // elements from one pixel to the next (C, or more for a view)
    size_t offset; // bytes
};
struct frame {
    char *const *base;
};

/* A node, prepared: run() has everything but the addresses. */
struct primitive {
    int (*run)(struct primitive *p, const struct frame *f); // 0, -EIO (device lost)
    void (*free)(struct primitive *p);
    size_t scratch_bytes; // wanted at BASE_SCRATCH while it runs
};

/* Dropout's mask, the same on every backend: element e (in H, W, C order) of an image is kept where u >= rate, u =
 * philox_uniform of word (e / 16) mod 4 of the Philox block with key (key[0], key[1]) and counter (16 (e / 64) + e mod
 * 16, key[2], key[3], stream), key the image's row of the key input. */

/* What lower() is told. places[tensor] is final; parameters have no place, they come from weights_packed(). */
struct lowering {
    const struct graph *graph;
    const struct node *node;
    const struct place *places;
    struct weights *weights;
    int n_threads; // threads inside the primitive: 1 when images are split over threads, the device's number otherwise
};

/* One image's step of a sampler, generic: x' = a x + b e + c l + s z, and l' = (x - sigma e) / alpha clamped where clip
 * is set, where e = e_uncond + guidance (e_cond - e_uncond), l is the l' of the step before, z ~ N(0, 1) from Philox
 * (key, draw, image) as philox.h says. With clip, e is recomputed from the clamped l': e = (x - alpha l') / sigma. */
struct row_update {
    float alpha, sigma;
    float a, b, c, s;
    float guidance;
    int32_t row_cond, row_uncond; // rows of e in the batch; row_uncond = -1: no guidance
    int32_t slot;                 // of x and l in their pools
    bool clip;
    uint64_t seed, image;
    uint32_t draw;
};

struct adamw {
    float lr, beta1, beta2, eps, weight_decay;
    float scale;     // of the gradient (clipping)
    float ema_decay; // ema = ema_decay ema + (1 - ema_decay) w
    int64_t step;
};

struct backend {
    int abi;
    const char *name; // "cpu", "cuda"
    /* Whether open() has a chance on this machine, cheaply: 0, or -ENODEV and one sentence in err that says why not. */
    int (*available)(struct error *err);
    /* options: "" or backend's own ("2" threads from processor 0 on for the CPU: "COUNT" or "COUNT@FIRST"; a device
     * number for CUDA). */
    int (*open)(const char *options, struct device **ret_device, struct error *err);
    void (*close)(struct device *d); // NULL is fine

    int (*alloc)(struct device *d, size_t bytes, void **ret_memory); // 64-byte aligned, counted; 0, -ENOMEM
    void (*free)(struct device *d, void *memory, size_t bytes);
    int (*upload)(struct device *d, void *to, const void *from, size_t bytes);   // host to device
    int (*download)(struct device *d, void *to, const void *from, size_t bytes); // device to host; waits
    int (*copy)(struct device *d, void *to, const void *from, size_t bytes);     // within the device

    /* A parameter vector. values: param_floats f32 on the host, copied; keep_master: keep f32 for training (else they
     * are dropped once every plan packed what it wants: weights_seal). */
    int (*weights_create)(struct device *d, const struct graph *params_of, const float *values, bool keep_master,
                          struct weights **ret_weights, struct error *err);
    void (*weights_free)(struct weights *w);
    void (*weights_seal)(struct weights *w);          // no further packing will be asked for: drop the source
    int (*weights_repack)(struct weights *w);         // after the masters changed: refresh every packed copy
    float *(*weights_master)(struct weights *w);      // device address of the flat f32 vector, NULL after a seal
    size_t (*weights_bytes)(const struct weights *w); // masters and packed copies

    /* lower[op]: a prepared primitive for the node. -ENOTSUP: this backend has none for these shapes (err says which).
     */
    int (*lower[OP_COUNT])(struct device *d, const struct lowering *l, struct primitive **ret_primitive,
                           struct error *err);

    /* Runs primitives[0 .. n) in order. n_bases: addresses in f. *recording belongs to the plan and strand, NULL at
     * first: a backend may keep there what makes the next run with the same addresses cheaper. 0, -EIO (device lost).
     */
    int (*run_plan)(struct device *d, struct primitive *const *primitives, int32_t n, const struct frame *f,
                    int32_t n_bases, struct recording **recording);
    void (*recording_free)(struct recording *r); // NULL is fine

    /* Runs `count` plans' bodies side by side where the device is split into threads (CPU), one after the other
     * elsewhere. body returns 0 or negative errno; the first failure is returned. */
    int (*run_strands)(struct device *d, int count, int (*body)(void *context, int strand), void *context);

    /* Sampler. x, l: pools of slots, each `elements` f32; e: rows of `elements` f32. */
    int (*fill_noise)(struct device *d, float *x, size_t elements, int32_t slot, uint64_t seed,
                      uint64_t image); // draw 0
    int (*gather_rows)(struct device *d, const float *x, size_t elements, const int32_t *slots, int n, float *ret_rows);
    int (*update_rows)(struct device *d, float *x, float *l, const float *e, size_t elements,
                       const struct row_update *rows, int n,
                       uint8_t *ret_finite); // host array [n]: 0 where the new state has a NaN or infinity

    /* Training, over flat f32 vectors of n. sum_vectors: y = sum of the vectors (y may be the first). */
    int (*sum_vectors)(struct device *d, float *y, float *const *vectors, int count, size_t n);
    int (*sum_of_squares)(struct device *d, const float *x, size_t n,
                          double *ret_sum); // deterministic for a thread count
    /* AdamW (Loshchilov & Hutter 2019) as PyTorch computes it, with EMA in the same pass: g' = scale g; m, v, w, ema
     * updated. step counts from 1. ema may be NULL. */
    int (*adamw)(struct device *d, float *w, const float *g, float *m, float *v, float *ema, size_t n,
                 const struct adamw *o);
};

/* Called first in main(): OpenMP threads that wait for one another spin for milliseconds by default, which starves
 * whatever else runs on a busy machine, other ddimd processes included. Runs the program once again with a short spin
 * in its environment (libgomp reads it before main), unless the environment says something about it already. */
void backend_cpu_settle(char *const *argv);

extern const struct backend backend_cpu;

/* "auto", "cpu", "cuda": the backend, or NULL with err saying why in one plain sentence. "auto" is CUDA where that is
 * available(), else the CPU, and then err->message says why (err->code 0; "" where this build has no CUDA). CUDA's
 * library is looked for in the folder that the environment names in DDIMD_PLUGINS, in the build tree that the program
 * runs in, and where it is installed; it stays loaded. err must not be NULL. */
const struct backend *backend_find(const char *name, struct error *err);

#endif
