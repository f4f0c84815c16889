/* program.c: compiled plans and how a batch is cut into them, see program.h.
 *
 * A batch of n images on T threads is cut into passes. Wide passes run one plan with all threads inside its primitives;
 * split passes give each thread ("strand") the same number of whole images. n / T images per strand are taken in split
 * passes of strand_images and then of powers of two, the n mod T images that remain in wide passes of powers of two. So
 * a few plans serve every n. Each strand has one arena and one scratch, as large as its largest plan wants; strand 0's
 * serve wide passes too.
 *
 * A GPU takes whole batches: one strand, one pass for up to whole_images. Without training a batch is padded to the
 * next power of two, so that a few recorded plans serve every n. Recorded plans want the same addresses every time, so
 * inputs and outputs pass through memory of the program's own; rows that only pad hold what an earlier batch left
 * there.
 *
 * Without training all split passes of a strand run in one go, so that strands meet once. With training, every pass
 * ends in a sum over its strands' gradient vectors.
 */
#include "kernels/program.h"

#include "kernels/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Images per plan. Inference: convolutions on small images want several at once; the whole network takes as long with 4
 * as with 8 (docs/SPEED.md), and arenas grow in proportion. Training: every pass costs a sum over all parameters, every
 * image the memory of its activations. */
enum { DEFAULT_STRAND_IMAGES = 4, DEFAULT_STRAND_IMAGES_TRAINING = 16 };

/* One graph for `rows` images, lowered for each strand that runs it. */
struct compiled {
    int32_t rows, n_strands;
    bool wide;
    struct graph *graph;
    struct plan plan;
    struct primitive **primitives; // [n_strands][graph->n_nodes]
    struct recording **recordings; // [n_strands]
    size_t scratch_bytes;
    struct compiled *next;
};

struct memory {
    void *at;
    size_t bytes;
};

struct strand {
    struct memory arena, scratch, gradient;
    char **base; // [BASE_FIRST_IO + n_inputs + n_outputs]
};

/* A part of a batch: strand s takes rows [first_row + s row_step, + images), a wide pass [first_row, + images). rows:
 * of the plan, more than images where the plan is padded. */
struct pass {
    int32_t rows, images, first_row, row_step;
    bool wide;
};

struct program {
    struct device *device;
    const struct backend *backend;
    struct weights *weights;
    program_record record;
    void *context;
    struct program_options options;
    int32_t n_threads;
    struct compiled *compiled;
    struct strand *strands; // [n_threads]
    int32_t n_inputs, n_outputs;
    size_t *row_bytes; // [n_inputs + n_outputs]
    size_t param_floats;
    bool trains;
    bool whole;          // batches are not split over threads
    struct memory *io;   // [n_inputs + n_outputs] where whole
    struct memory total; // gradient over several passes
    float *gradient;     // of the last run: in total, or in strand 0's
    float **vectors;     // [n_threads + 1], for sums
};

/* ---- memory ---- */

/* Keeps the old memory until there is new, so that plans compiled before still run after a failure. */
static int memory_grow(struct program *p, struct memory *m, size_t bytes)
{
    void *at;
    if (bytes <= m->bytes)
        return 0;
    int rc = p->backend->alloc(p->device, bytes, &at);
    if (rc < 0)
        return rc;
    if (m->at)
        p->backend->free(p->device, m->at, m->bytes);
    *m = (struct memory){.at = at, .bytes = bytes};
    return 0;
}

static void memory_free(struct program *p, struct memory *m)
{
    if (m->at)
        p->backend->free(p->device, m->at, m->bytes);
    *m = (struct memory){0};
}

/* Grows m and fills it with zeros where it was smaller. */
static int memory_zeros(struct program *p, struct memory *m, size_t bytes)
{
    static const char zeros[4096];
    if (bytes <= m->bytes)
        return 0;
    int rc = memory_grow(p, m, bytes);
    for (size_t at = 0; rc == 0 && at < bytes; at += sizeof(zeros)) {
        size_t part = bytes - at < sizeof(zeros) ? bytes - at : sizeof(zeros);
        rc = p->backend->upload(p->device, (char *)m->at + at, zeros, part);
    }
    if (rc < 0)
        memory_free(p, m);
    return rc;
}

/* A parameter vector of zeros: no plan writes its padding or the parameters that the loss does not depend on. */
static int gradient_zeros(struct program *p, struct memory *m)
{
    return memory_zeros(p, m, p->param_floats * sizeof(float));
}

/* ---- compiling ---- */

static void compiled_free(const struct program *p, struct compiled *c)
{
    if (!c)
        return;
    for (int32_t s = 0; c->recordings && s < c->n_strands; s++)
        p->backend->recording_free(c->recordings[s]);
    free(c->recordings);
    size_t n = c->primitives ? (size_t)c->n_strands * (size_t)c->graph->n_nodes : 0;
    for (size_t i = 0; i < n; i++)
        if (c->primitives[i])
            c->primitives[i]->free(c->primitives[i]);
    free(c->primitives);
    plan_done(&c->plan);
    graph_free(c->graph);
    free(c);
}

/* Records the graph for `rows` images and runs the passes over it. *ret_graph is the caller's, also on failure. */
static int record_graph(struct program *p, int32_t rows, struct graph **ret_graph, bool *ret_trains, struct error *err)
{
    tensor_id loss = TENSOR_NONE, weight = TENSOR_NONE;
    struct graph *g = graph_create(rows, p->options.compute, p->options.training);
    if (!g)
        return error_set(err, -ENOMEM, NULL, "out of memory recording a graph");
    *ret_graph = g;
    int rc = p->record(p->context, g, &loss, &weight);
    if (graph_error(g, err) < 0)
        return g->error.code;
    if (rc < 0)
        return error_set(err, rc, NULL, "a network for %d images could not be recorded", rows);
    rc = p->options.no_fuse ? 0 : graph_fuse(g);
    if (rc == 0 && loss != TENSOR_NONE)
        rc = graph_gradient(g, loss, weight);
    if (rc == 0 && !p->options.no_fuse)
        rc = graph_place_views(g);
    *ret_trains = loss != TENSOR_NONE;
    if (rc < 0 && !graph_error(g, err))
        error_set(err, rc, NULL, "the passes over a graph for %d images failed", rows);
    return rc;
}

static int lower_nodes(struct program *p, struct compiled *c, struct error *err)
{
    const struct graph *g = c->graph;
    for (int32_t s = 0; s < c->n_strands; s++) {
        for (int32_t k = 0; k < g->n_nodes; k++) {
            const struct node *node = &g->nodes[k];
            struct lowering l = {.graph = g,
                                 .node = node,
                                 .places = c->plan.places,
                                 .weights = p->weights,
                                 .n_threads = c->wide ? p->n_threads : 1};
            struct primitive **primitive = &c->primitives[(size_t)s * (size_t)g->n_nodes + (size_t)k];
            if (!p->backend->lower[node->op])
                return error_set(err, -ENOTSUP, NULL, "the %s backend has no %s", p->backend->name, op_name(node->op));
            int rc = p->backend->lower[node->op](p->device, &l, primitive, err);
            if (rc < 0)
                return rc;
            if ((*primitive)->scratch_bytes > c->scratch_bytes)
                c->scratch_bytes = (*primitive)->scratch_bytes;
        }
    }
    return 0;
}

static int reserve_strands(struct program *p, const struct compiled *c)
{
    for (int32_t s = 0; s < c->n_strands; s++) {
        struct strand *strand = &p->strands[s];
        int rc = memory_grow(p, &strand->arena, c->plan.arena_bytes);
        if (rc == 0)
            rc = memory_grow(p, &strand->scratch, c->scratch_bytes);
        if (rc == 0 && p->trains)
            rc = gradient_zeros(p, &strand->gradient);
        if (rc < 0)
            return rc;
    }
    for (int32_t i = 0; p->whole && i < p->n_inputs + p->n_outputs; i++) {
        int rc = memory_zeros(p, &p->io[i], (size_t)c->rows * p->row_bytes[i]);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The first recording fixes inputs, outputs and parameters. */
static int set_signature(struct program *p, const struct graph *g, bool trains)
{
    size_t n = (size_t)g->n_inputs + (size_t)g->n_outputs;
    for (int32_t s = 0; s < p->n_threads; s++)
        if (!p->strands[s].base && !(p->strands[s].base = calloc(BASE_FIRST_IO + n, sizeof(char *))))
            return -ENOMEM;
    p->row_bytes = calloc(n + 1, sizeof(*p->row_bytes));
    p->io = calloc(n + 1, sizeof(*p->io));
    if (!p->row_bytes || !p->io)
        return -ENOMEM;
    for (tensor_id x = 0; x < g->n_tensors; x++) {
        const struct tensor *t = &g->tensors[x];
        size_t bytes = tensor_elements(t) / (size_t)g->batch * dtype_bytes(t->dtype);
        if (t->role == TENSOR_INPUT)
            p->row_bytes[t->index] = bytes;
        else if (t->role == TENSOR_OUTPUT)
            p->row_bytes[g->n_inputs + t->index] = bytes;
    }
    p->n_inputs = g->n_inputs;
    p->n_outputs = g->n_outputs;
    p->param_floats = g->param_floats;
    p->trains = trains;
    return 0;
}

static int check_signature(struct program *p, const struct graph *g, bool trains, struct error *err)
{
    if (!p->row_bytes)
        return set_signature(p, g, trains) < 0 ? error_set(err, -ENOMEM, NULL, "out of memory compiling a network") : 0;
    if (g->n_inputs == p->n_inputs && g->n_outputs == p->n_outputs && g->param_floats == p->param_floats &&
        trains == p->trains)
        return 0;
    return error_set(err, -EINVAL, NULL, "a network must record the same inputs and outputs for every batch size");
}

static int compile(struct program *p, int32_t rows, bool wide, struct error *err)
{
    struct compiled *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(err, -ENOMEM, NULL, "out of memory compiling a network");
    c->rows = rows;
    c->wide = wide;
    c->n_strands = wide ? 1 : p->n_threads;
    bool trains = false;
    int rc = record_graph(p, rows, &c->graph, &trains, err);
    if (rc < 0)
        goto out;
    rc = check_signature(p, c->graph, trains, err);
    if (rc < 0)
        goto out;
    c->primitives = calloc((size_t)c->n_strands * (size_t)c->graph->n_nodes + 1, sizeof(*c->primitives));
    c->recordings = calloc((size_t)c->n_strands, sizeof(*c->recordings));
    rc = c->primitives && c->recordings ? plan_init(&c->plan, c->graph) : -ENOMEM;
    if (rc == 0 && (rc = lower_nodes(p, c, err)) < 0)
        goto out;
    if (rc == 0)
        rc = reserve_strands(p, c);
    if (rc < 0) {
        error_set(err, rc, NULL, "out of memory compiling a network for %d images", rows);
        goto out;
    }
    c->next = p->compiled;
    p->compiled = c;
    return 0;
out:
    compiled_free(p, c);
    return rc;
}

static const struct compiled *find_compiled(const struct program *p, int32_t rows, bool wide)
{
    const struct compiled *c = p->compiled;
    while (c && (c->rows != rows || c->wide != wide))
        c = c->next;
    return c;
}

/* ---- cutting a batch ---- */

/* Rows of the plan for the next pass when `left` images remain: strand_images while it fits, then powers of two. A
 * whole device pads where that costs less than another pass does: a GPU takes as long for few images as for one. A
 * gradient is never padded. */
static int32_t next_rows(const struct program *p, int32_t left)
{
    enum { CHEAP_ROWS = 8, WASTE_PART = 8 };
    if (left >= p->options.strand_images || (p->whole && p->options.training))
        return left < p->options.strand_images ? left : p->options.strand_images;
    int32_t rows = 1;
    while (2 * rows <= left)
        rows *= 2;
    int32_t padded = rows == left ? rows : 2 * rows;
    if (p->whole && padded <= p->options.strand_images &&
        (padded <= CHEAP_ROWS || padded - left <= padded / WASTE_PART))
        return padded;
    return rows;
}

static struct pass pass_of(const struct program *p, int32_t left, int32_t row)
{
    int32_t rows = next_rows(p, left);
    return (struct pass){.rows = rows, .images = rows < left ? rows : left, .first_row = row};
}

/* Steps to the next pass of a batch of n images, all split passes before the wide ones; start from {0}. Returns false
 * after the last. */
static bool next_pass(const struct program *p, int32_t n, struct pass *pass)
{
    int32_t share = n / p->n_threads, row = pass->first_row + pass->images;
    if (!pass->wide && row < share) {
        *pass = pass_of(p, share - row, row);
        pass->row_step = share;
        return true;
    }
    if (!pass->wide)
        row = share * p->n_threads;
    if (row >= n)
        return false;
    *pass = pass_of(p, n - row, row);
    pass->wide = true;
    return true;
}

int program_prepare(struct program *p, int32_t n, struct error *err)
{
    int32_t n_passes = 0;
    if (n < 1)
        return error_set(err, -EINVAL, NULL, "a batch has at least one image");
    for (struct pass pass = {0}; next_pass(p, n, &pass); n_passes++) {
        int rc = find_compiled(p, pass.rows, pass.wide) ? 0 : compile(p, pass.rows, pass.wide, err);
        if (rc < 0)
            return rc;
    }
    if (p->trains && n_passes > 1 && gradient_zeros(p, &p->total) < 0)
        return error_set(err, -ENOMEM, NULL, "out of memory for the gradient");
    return 0;
}

/* ---- running ---- */

/* One program_run. */
struct batch {
    struct program *program;
    int32_t n;
    const void *const *inputs;
    void *const *outputs;
    struct pass pass; // the one to run; rows 0: all split passes
};

/* Where the strand's rows of input or output i lie for the caller. */
static char *caller_rows(const struct batch *b, const struct pass *pass, int32_t s, int32_t i)
{
    const struct program *p = b->program;
    size_t row = (size_t)pass->first_row + (size_t)s * (size_t)pass->row_step;
    const void *all = i < p->n_inputs ? b->inputs[i] : b->outputs[i - p->n_inputs];
    return (char *)all + row * p->row_bytes[i];
}

/* Copies a whole device's inputs [first, last) in, or its outputs out. */
static int copy_rows(const struct batch *b, const struct pass *pass, int32_t first, int32_t last, bool out)
{
    struct program *p = b->program;
    int rc = 0;
    for (int32_t i = first; p->whole && i < last && rc == 0; i++) {
        void *theirs = caller_rows(b, pass, 0, i), *ours = p->io[i].at;
        rc = p->backend->copy(p->device, out ? theirs : ours, out ? ours : theirs,
                              (size_t)pass->images * p->row_bytes[i]);
    }
    return rc;
}

static int run_pass(const struct batch *b, const struct pass *pass, int32_t s)
{
    struct program *p = b->program;
    const struct compiled *c = find_compiled(p, pass->rows, pass->wide);
    struct strand *strand = &p->strands[s];
    int32_t n_io = p->n_inputs + p->n_outputs;
    char **base = strand->base;
    base[BASE_ARENA] = strand->arena.at;
    base[BASE_SCRATCH] = strand->scratch.at;
    base[BASE_GRADIENT] = strand->gradient.at;
    for (int32_t i = 0; i < n_io; i++)
        base[BASE_FIRST_IO + i] = p->whole ? p->io[i].at : caller_rows(b, pass, s, i);

    const struct frame frame = {.base = base};
    struct primitive *const *primitives = c->primitives + (size_t)s * (size_t)c->graph->n_nodes;
    int rc = copy_rows(b, pass, 0, p->n_inputs, false);
    if (rc == 0)
        rc = p->backend->run_plan(p->device, primitives, c->graph->n_nodes, &frame, BASE_FIRST_IO + n_io,
                                  &c->recordings[s]);
    return rc < 0 ? rc : copy_rows(b, pass, p->n_inputs, n_io, true);
}

static int strand_body(void *context, int s)
{
    const struct batch *b = context;
    if (b->pass.rows)
        return run_pass(b, &b->pass, s);
    for (struct pass pass = {0}; next_pass(b->program, b->n, &pass) && !pass.wide;) {
        int rc = run_pass(b, &pass, s);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int run_split(struct batch *b)
{
    struct program *p = b->program;
    return p->backend->run_strands(p->device, p->n_threads, strand_body, b);
}

static int run_inference(struct batch *b)
{
    int rc = b->n >= b->program->n_threads ? run_split(b) : 0;
    for (struct pass pass = {0}; rc == 0 && next_pass(b->program, b->n, &pass);)
        if (pass.wide)
            rc = run_pass(b, &pass, 0);
    return rc;
}

/* Adds the gradients that a pass left in its strands to those of the passes before it. */
static int sum_gradients(struct program *p, const struct pass *pass, bool first, bool last)
{
    int32_t n_strands = pass->wide ? 1 : p->n_threads, count = 0;
    p->gradient = first && last ? p->strands[0].gradient.at : p->total.at;
    if (!first)
        p->vectors[count++] = p->total.at;
    for (int32_t s = 0; s < n_strands; s++)
        p->vectors[count++] = p->strands[s].gradient.at;
    if (count == 1 && p->vectors[0] == p->gradient)
        return 0;
    return p->backend->sum_vectors(p->device, p->gradient, p->vectors, count, p->param_floats);
}

static int run_training(struct batch *b)
{
    struct program *p = b->program;
    struct pass next = {0};
    bool more = next_pass(p, b->n, &next);
    for (bool first = true; more; first = false) {
        b->pass = next;
        more = next_pass(p, b->n, &next);
        int rc = b->pass.wide ? run_pass(b, &b->pass, 0) : run_split(b);
        if (rc == 0)
            rc = sum_gradients(p, &b->pass, first, !more);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int program_run(struct program *p, int32_t n, const void *const *inputs, void *const *outputs, struct error *err)
{
    int rc = program_prepare(p, n, err);
    if (rc < 0)
        return rc;
    struct batch b = {.program = p, .n = n, .inputs = inputs, .outputs = outputs};
    rc = p->trains ? run_training(&b) : run_inference(&b);
    if (rc == 0)
        return 0;
    const char *failure = ((const struct device_base *)p->device)->failure;
    return error_set(err, rc, NULL, "the %s device failed while it ran a network%s%s", p->backend->name,
                     *failure ? ": " : "", failure);
}

float *program_gradient(struct program *p)
{
    return p->gradient;
}

/* ---- the program ---- */

int program_create(struct device *d, struct weights *w, program_record record, void *context,
                   const struct program_options *o, struct program **ret_program, struct error *err)
{
    const struct device_base *base = (const struct device_base *)d;
    struct program *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    p->device = d;
    p->backend = base->backend;
    p->weights = w;
    p->record = record;
    p->context = context;
    p->options = *o;
    p->n_threads = base->n_threads;
    p->whole = base->whole_images > 0;
    if (p->options.strand_images <= 0 && p->whole)
        p->options.strand_images = base->whole_images;
    if (p->options.strand_images <= 0)
        p->options.strand_images = o->training ? DEFAULT_STRAND_IMAGES_TRAINING : DEFAULT_STRAND_IMAGES;
    p->strands = calloc((size_t)p->n_threads, sizeof(*p->strands));
    p->vectors = calloc((size_t)p->n_threads + 1, sizeof(*p->vectors));
    if (!p->strands || !p->vectors) {
        program_free(p);
        return error_set(err, -ENOMEM, NULL, "out of memory");
    }
    *ret_program = p;
    return 0;
}

void program_free(struct program *p)
{
    if (!p)
        return;
    for (struct compiled *c = p->compiled, *next; c; c = next) {
        next = c->next;
        compiled_free(p, c);
    }
    for (int32_t s = 0; p->strands && s < p->n_threads; s++) {
        memory_free(p, &p->strands[s].arena);
        memory_free(p, &p->strands[s].scratch);
        memory_free(p, &p->strands[s].gradient);
        free(p->strands[s].base);
    }
    for (int32_t i = 0; p->io && i < p->n_inputs + p->n_outputs; i++)
        memory_free(p, &p->io[i]);
    memory_free(p, &p->total);
    free(p->io);
    free(p->strands);
    free(p->vectors);
    free(p->row_bytes);
    free(p);
}

size_t program_arena_bytes(const struct program *p)
{
    size_t bytes = 0;
    for (int32_t s = 0; s < p->n_threads; s++)
        bytes += p->strands[s].arena.bytes + p->strands[s].scratch.bytes;
    return bytes;
}

int32_t program_n_nodes(const struct program *p)
{
    return p->compiled ? p->compiled->graph->n_nodes : 0;
}
