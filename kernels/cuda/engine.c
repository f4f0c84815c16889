/* engine.c: see engine.h.
 *
 * cuDNN's heuristics list engine configurations for a graph of ANCHOR_IMAGES, best first. A configuration is read as
 * numbers (engine, knobs and their values), from which the same one can be made for another number of images. The first
 * that cuDNN accepts for one image, for the anchor and for the number asked is the shape's choice.
 */
#include "kernels/cuda/engine_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t workspace_most = (size_t)1 << 30;

/* ---- reading configurations ---- */

static void destroy(dnn_descriptor *d, int n)
{
    for (int i = 0; i < n; i++)
        if (d[i])
            cudnnBackendDestroyDescriptor(d[i]);
}

/* Fills array with up to `most` descriptors of an attribute; returns their number. The caller destroys all `most`. */
static int read_descriptors(dnn_descriptor from, cudnnBackendAttributeName_t name, cudnnBackendDescriptorType_t type,
                            dnn_descriptor *array, int most)
{
    int64_t count = 0;
    memset(array, 0, (size_t)most * sizeof(*array));
    for (int i = 0; i < most; i++)
        if (cudnnBackendCreateDescriptor(type, &array[i]))
            return 0;
    if (cudnnBackendGetAttribute(from, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count, array))
        return 0;
    return (int)(count < most ? count : most);
}

static bool note_forbids(const struct dnn_shape *s, cudnnBackendNumericalNote_t note)
{
    switch (note) {
    case CUDNN_NUMERICAL_NOTE_TENSOR_CORE: // with f32: TF32
        return s->in == DTYPE_F32;
    case CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS:
    case CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION:
    case CUDNN_NUMERICAL_NOTE_FFT:
    case CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6:
    case CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13:
        return true;
    default:
        return false;
    }
}

static bool notes_allow(const struct dnn_shape *s, dnn_descriptor engine)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;
    if (cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                 CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes))
        return false;
    for (int64_t i = 0; i < n; i++)
        if (note_forbids(s, notes[i]))
            return false;
    return true;
}

/* Knobs that cut one sum into parts, by numbers above 1 (or at all). */
static bool knob_splits(int type, int64_t value)
{
    enum { SPLIT_K = 0, SPLIT_H = 9, SPLIT_RS = 20 }; // names that cuDNN has deprecated
    switch (type) {
    case SPLIT_K:
    case SPLIT_H:
    case SPLIT_RS:
    case CUDNN_KNOB_TYPE_SPLIT_K_SLC:
    case CUDNN_KNOB_TYPE_SPLIT_P_SLC:
        return value > 1;
    case CUDNN_KNOB_TYPE_STREAM_K:
        return value > 0;
    default:
        return false;
    }
}

static bool read_knobs(dnn_descriptor config, bool invariant, struct configuration *ret_c)
{
    dnn_descriptor knobs[MAX_KNOBS];
    int n = read_descriptors(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, knobs,
                             MAX_KNOBS);
    bool good = true;
    for (int i = 0; i < n && good; i++) {
        int64_t got;
        good = !cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &got,
                                         &ret_c->knob[i]) &&
               !cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &got,
                                         &ret_c->value[i]) &&
               !(invariant && knob_splits((int)ret_c->knob[i], ret_c->value[i]));
    }
    ret_c->n_knobs = n;
    destroy(knobs, MAX_KNOBS);
    return good;
}

/* False where the configuration is of no use to us. */
static bool read_configuration(const struct dnn_shape *s, dnn_descriptor config, bool invariant,
                               struct configuration *ret_c)
{
    dnn_descriptor engine;
    int64_t got;
    int n = read_descriptors(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine, 1);
    bool good =
        n == 1 &&
        !cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &got, &ret_c->engine) &&
        notes_allow(s, engine) && read_knobs(config, invariant, ret_c);
    destroy(&engine, 1);
    return good;
}

static void ask_heuristic(struct engines *e, struct choice *c, struct dnn *g, cudnnBackendHeurMode_t mode,
                          bool invariant)
{
    dnn_descriptor heuristic = dnn_make(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR), found[MAX_CONFIGURATIONS];
    dnn_set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->graph);
    dnn_set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (e->properties)
        dnn_set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &e->properties);
    if (g->status || cudnnBackendFinalize(heuristic)) {
        cudnnGetLastErrorString(c->refusal, sizeof(c->refusal));
        return;
    }
    int n = read_descriptors(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, found,
                             MAX_CONFIGURATIONS);
    for (int i = 0; i < n && c->n < MAX_CONFIGURATIONS; i++)
        c->n += read_configuration(&c->shape, found[i], invariant, &c->offered[c->n]);
    destroy(found, MAX_CONFIGURATIONS);
}

/* ---- making plans ---- */

static dnn_descriptor make_engine(struct dnn *g, const struct configuration *c)
{
    dnn_descriptor engine = dnn_make(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    dnn_set(g, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->graph);
    dnn_set(g, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &c->engine);
    if (g->properties)
        dnn_set(g, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->properties);
    dnn_finalize(g, engine);
    return engine;
}

static dnn_descriptor make_configuration(struct dnn *g, const struct configuration *c)
{
    dnn_descriptor engine = make_engine(g, c), knobs[MAX_KNOBS];
    for (int i = 0; i < c->n_knobs; i++) {
        knobs[i] = dnn_make(g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        dnn_set(g, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &c->knob[i]);
        dnn_set(g, knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &c->value[i]);
        dnn_finalize(g, knobs[i]);
    }
    dnn_descriptor d = dnn_make(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    dnn_set(g, d, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &engine);
    if (c->n_knobs)
        dnn_set(g, d, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, c->n_knobs, knobs);
    dnn_finalize(g, d);
    return d;
}

cudnnStatus_t engines_make_plan(struct engines *e, const struct dnn_shape *s, int64_t n, const struct configuration *c,
                                struct dnn_plan *p)
{
    struct dnn *g = &p->graph;
    int64_t workspace = 0, got = 0;
    dnn_write(g, e->handle, e->properties, s, n);
    dnn_descriptor configuration = make_configuration(g, c);
    p->plan = dnn_make(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (e->handle)
        dnn_set(g, p->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &e->handle);
    else
        dnn_set(g, p->plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &e->properties);
    dnn_set(g, p->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &configuration);
    dnn_finalize(g, p->plan);
    if (g->status)
        return g->status;
    cudnnStatus_t status = cudnnBackendGetAttribute(p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                                    1, &got, &workspace);
    if (!status && (size_t)workspace > workspace_most)
        status = CUDNN_STATUS_NOT_SUPPORTED;
    p->workspace_bytes = (size_t)workspace;
    p->engine = c->engine;
    return status;
}

static struct made *find_made(const struct engines *e, const struct dnn_shape *s, int64_t n)
{
    struct made *m = e->made;
    while (m && (m->images != n || memcmp(&m->shape, s, sizeof(*s))))
        m = m->next;
    return m;
}

/* Makes the plan for n images by choice c where there is none yet. 0, -ENOTSUP, -ENOMEM. */
static int try_plan(struct engines *e, struct choice *c, int64_t n)
{
    if (find_made(e, &c->shape, n))
        return 0;
    struct made *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    if (engines_make_plan(e, &c->shape, n, &c->offered[c->chosen], &m->plan)) {
        if (m->plan.graph.message[0])
            memcpy(c->refusal, m->plan.graph.message, sizeof(c->refusal));
        dnn_done(&m->plan.graph);
        free(m);
        return -ENOTSUP;
    }
    m->plan.n_offered = c->n;
    m->shape = c->shape;
    m->images = n;
    m->next = e->made;
    e->made = m;
    return 0;
}

/* Takes back plans of a configuration that did not hold. */
static void forget_plans(struct engines *e, const struct dnn_shape *s)
{
    for (struct made **m = &e->made; *m;) {
        struct made *gone = *m;
        if (memcmp(&gone->shape, s, sizeof(*s))) {
            m = &gone->next;
            continue;
        }
        *m = gone->next;
        dnn_done(&gone->plan.graph);
        free(gone);
    }
}

/* ---- choosing ---- */

static int choice_create(struct engines *e, const struct dnn_shape *s, int64_t images, struct choice **ret_choice)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    struct choice *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->offered = calloc(MAX_CONFIGURATIONS, sizeof(*c->offered));
    if (!c->offered) {
        free(c);
        return -ENOMEM;
    }
    c->shape = *s;
    c->images = images;
    bool remembered = engine_cache_find(e, c);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]) && !remembered; i++) {
        struct dnn g;
        if (dnn_write(&g, e->handle, e->properties, s, images ? images : ANCHOR_IMAGES))
            memcpy(c->refusal, g.message, sizeof(c->refusal));
        else
            ask_heuristic(e, c, &g, modes[i], images == 0);
        dnn_done(&g);
    }
    if (*e->cache && !remembered)
        engines_tune(e, c, images ? images : ANCHOR_IMAGES);
    c->next = e->choices;
    e->choices = c;
    *ret_choice = c;
    return 0;
}

/* The first configuration that serves 1, ANCHOR_IMAGES and n images, or n alone where the choice is for n. */
static int settle(struct engines *e, struct choice *c, int64_t n)
{
    const int64_t wanted[] = {n, 1, ANCHOR_IMAGES};
    size_t count = c->images ? 1 : 3;
    for (; c->chosen < c->n; c->chosen++) {
        size_t held = 0;
        int rc = 0;
        while (held < count && (rc = try_plan(e, c, wanted[held])) == 0)
            held++;
        c->settled = held == count;
        if (c->settled && *e->cache)
            engine_cache_add(e, c);
        if (c->settled || rc == -ENOMEM)
            return rc;
        if (held)
            forget_plans(e, &c->shape); // none was given away
    }
    return -ENOTSUP;
}

int engines_plan(struct engines *e, const struct dnn_shape *s, int64_t n, const struct dnn_plan **ret_plan,
                 struct error *err)
{
    int64_t images = s->kind == DNN_CONV_WEIGHTS || s->kind == DNN_ATTENTION_BACKWARD ? n : 0;
    struct choice *c = e->choices;
    while (c && (c->images != images || memcmp(&c->shape, s, sizeof(*s))))
        c = c->next;
    int rc = c ? 0 : choice_create(e, s, images, &c);
    if (rc == 0)
        rc = c->settled ? try_plan(e, c, n) : settle(e, c, n);
    if (rc == -ENOTSUP)
        return error_set(err, rc, NULL, "cuDNN has no engine for a layer: %s",
                         c->refusal[0] ? c->refusal : "none offered");
    if (rc)
        return error_set(err, rc, NULL, "no memory for a cuDNN plan");
    *ret_plan = &find_made(e, s, n)->plan;
    return 0;
}

/* ---- all of them ---- */

/* DDIMD_CUDA_TUNE names a folder: engines are measured, and what was chosen is remembered there. */
static void name_cache(struct engines *e, const char *device)
{
    const char *folder = getenv("DDIMD_CUDA_TUNE");
    if (!folder || !*folder)
        return;
    int n = snprintf(e->cache, sizeof(e->cache), "%s/%s.engines", folder, device);
    if (n < 0 || (size_t)n >= sizeof(e->cache)) {
        e->cache[0] = '\0';
        return;
    }
    for (char *c = e->cache + strlen(folder) + 1; *c; c++)
        if (*c == ' ' || *c == '/' || *c == ',')
            *c = '-';
}

int engines_create(cudnnHandle_t handle, cudaStream_t stream, const char *device, struct engines **ret_engines,
                   struct error *err)
{
    struct engines *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(err, -ENOMEM, NULL, "no memory for a list of engines");
    e->handle = handle;
    e->stream = stream;
    name_cache(e, device);
    *ret_engines = e;
    return 0;
}

int engines_create_described(dnn_descriptor properties, struct engines **ret_engines, struct error *err)
{
    struct engines *e = calloc(1, sizeof(*e));
    if (!e)
        return error_set(err, -ENOMEM, NULL, "no memory for a list of engines");
    e->properties = properties;
    *ret_engines = e;
    return 0;
}

void engines_tell(const struct engines *e, void (*plan)(const struct dnn_shape *s, int64_t n, const struct dnn_plan *p),
                  void (*refusal)(const struct dnn_shape *s, const char *why))
{
    for (const struct made *m = e->made; m; m = m->next)
        plan(&m->shape, m->images, &m->plan);
    for (const struct choice *c = e->choices; c; c = c->next)
        if (c->chosen == c->n)
            refusal(&c->shape, c->refusal);
}

void engines_free(struct engines *e)
{
    if (!e)
        return;
    for (struct made *m = e->made, *next; m; m = next) {
        next = m->next;
        dnn_done(&m->plan.graph);
        free(m);
    }
    for (struct choice *c = e->choices, *next; c; c = next) {
        next = c->next;
        free(c->offered);
        free(c);
    }
    free(e);
}
