/* resident.c: one model on the device.
 *
 * How many rows a step carries is measured, not guessed: 1, 2, 4, ... rows, each step timed on the device that will run
 * them, and the smallest size kept whose time per row is within 5 % of the best: a larger one would make every step,
 * and so every request's wait, longer for nothing. The device is asked in short calls, so that other models' lanes
 * advance between them. Of several devices, which are of one kind, the first is measured and all are tried.
 */
#include "sampling/resident.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { POOL_BYTES = 16 << 20, POOL_MAX = 1024 };
enum { CANARY_STEPS = 2, MIN_ROUNDS = 4 };
#define MEASURE_ENOUGH_S 0.4 // more rounds than MIN_ROUNDS up to here
#define MEASURE_MOST_S 4.0   // and fewer where they take longer

struct resident_private {
    struct scheduler_post post; // first: to free it on the workers, one after the other
    int32_t to_free;            // whose turn it is
    struct resident_model *model;
    atomic_int references;
    struct scheduler *scheduler;
    int32_t n_devices;
    struct network *network[SCHEDULER_MAX_DEVICES];
    struct lane_pool *pool[SCHEDULER_MAX_DEVICES];
};

static int stepper_start(void *self, int32_t slot, uint64_t seed, uint64_t image)
{
    return lane_pool_start(self, slot, seed, image);
}

static int stepper_step(void *self, const struct lane_step *lanes, int32_t n, uint8_t *ret_finite)
{
    return lane_pool_step(self, lanes, n, ret_finite);
}

static int stepper_read(void *self, int32_t slot, bool x0, float *ret_image)
{
    return lane_pool_read(self, slot, x0, ret_image);
}

/* ---- the end ---- */

/* What is on one device, on its worker; the last one frees the rest. */
static void free_on_worker(struct scheduler_post *post)
{
    struct resident_private *p = (struct resident_private *)post;
    struct resident_model *r = p->model;
    int32_t device = p->to_free++;
    if (device == 0)
        scheduler_detach(p->scheduler, r->lane);
    lane_pool_free(p->pool[device]);
    network_free(p->network[device]);
    if (p->to_free < p->n_devices) {
        scheduler_post(p->scheduler, p->to_free, post);
        return;
    }
    data_config_done(&r->data);
    free(p);
    free(r);
}

void model_retain(struct resident_model *r)
{
    atomic_fetch_add_explicit(&r->priv->references, 1, memory_order_relaxed);
}

void model_release(struct resident_model *r)
{
    if (r && atomic_fetch_sub_explicit(&r->priv->references, 1, memory_order_acq_rel) == 1)
        scheduler_post(r->priv->scheduler, 0, &r->priv->post);
}

int resident_references(const struct resident_model *r)
{
    return atomic_load_explicit(&r->priv->references, memory_order_acquire);
}

/* ---- measuring ---- */

int32_t resident_knee(const int32_t *rows, const double *seconds, int32_t n)
{
    double best = seconds[0] / rows[0];
    for (int32_t i = 1; i < n; i++)
        if (seconds[i] / rows[i] < best)
            best = seconds[i] / rows[i];
    for (int32_t i = 0; i < n; i++)
        if (seconds[i] / rows[i] <= 1.05 * best)
            return rows[i];
    return rows[n - 1];
}

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One size, or the canary, on the worker. */
struct trial {
    struct resident_model *model;
    const struct step_table *table;
    struct lane_step *lanes;
    uint8_t *finite;
    int32_t rows, device;
    double seconds; // of one step; 0 before the first of a size
};

static int trial_step(struct trial *t, int32_t step)
{
    for (int32_t i = 0; i < t->rows; i++)
        t->lanes[i] = (struct lane_step){.slot = i,
                                         .class_index = i % (t->model->model.num_classes + 1),
                                         .guidance = 1,
                                         .row = &t->table->rows[step],
                                         .image = (uint64_t)i,
                                         .draw = (uint32_t)step + 1};
    return lane_pool_step(t->model->priv->pool[t->device], t->lanes, t->rows, t->finite);
}

static int trial_start(struct trial *t)
{
    int rc = 0;
    for (int32_t i = 0; i < t->rows && rc == 0; i++)
        rc = lane_pool_start(t->model->priv->pool[t->device], i, 0, (uint64_t)i);
    return rc;
}

/* A whole short recipe of one image ends finite. Also warms the first size up. */
static int canary(void *context)
{
    struct trial *t = context;
    int rc = trial_start(t);
    for (int32_t step = 0; step < t->table->n_rows && rc == 0; step++) {
        rc = trial_step(t, step);
        if (rc == 0 && !t->finite[0])
            rc = -ERANGE;
    }
    return rc;
}

/* One timed step; the first of a size warms it up and is not timed. */
static int time_step(void *context)
{
    struct trial *t = context;
    int rc = trial_start(t);
    if (rc == 0 && t->seconds == 0)
        rc = trial_step(t, 0);
    double from = now_seconds();
    if (rc == 0)
        rc = trial_step(t, 0);
    t->seconds = now_seconds() - from;
    return rc;
}

/* Sizes 1, 2, 4, ... and limit itself, once each; two at least, then as time allows. */
static int measure_sizes(struct resident_model *r, struct trial *t, int32_t limit, double end)
{
    for (int32_t rows = 1; r->n_measured < MODEL_MEASURED_SIZES; rows = 2 * rows < limit ? 2 * rows : limit) {
        t->rows = rows;
        t->seconds = 0;
        int rc = scheduler_call(r->priv->scheduler, 0, time_step, t);
        if (rc)
            return rc;
        r->measured_rows[r->n_measured] = rows;
        r->measured_seconds[r->n_measured++] = t->seconds;
        if (rows == limit || (r->n_measured >= 2 && now_seconds() > end))
            break;
    }
    return 0;
}

/* The same sizes again, round by round, and the best of each counts: what else runs on the machine only ever makes a
 * step slower, and hardly ever all rounds of one size. */
static int measure_again(struct resident_model *r, struct trial *t, double enough, double end)
{
    for (int round = 0; now_seconds() < (round < MIN_ROUNDS ? end : enough); round++) {
        for (int32_t i = 0; i < r->n_measured; i++) {
            t->rows = r->measured_rows[i];
            t->seconds = r->measured_seconds[i];
            int rc = scheduler_call(r->priv->scheduler, 0, time_step, t);
            if (rc)
                return rc;
            if (t->seconds < r->measured_seconds[i])
                r->measured_seconds[i] = t->seconds;
        }
    }
    return 0;
}

static int measure(struct resident_model *r, int32_t limit, struct error *err)
{
    double begun = now_seconds();
    struct step_table *table = NULL;
    struct trial t = {.model = r, .rows = 1};
    struct sampling_recipe recipe = {.steps = r->diffusion.T < CANARY_STEPS ? r->diffusion.T : CANARY_STEPS};
    int rc = schedule_table(&r->diffusion, &recipe, &table, err);
    if (rc)
        return rc;
    t.table = table;
    t.lanes = calloc((size_t)limit, sizeof(*t.lanes));
    t.finite = calloc((size_t)limit, sizeof(*t.finite));
    rc = t.lanes && t.finite ? 0 : -ENOMEM;
    for (t.device = r->priv->n_devices; rc == 0 && t.device > 0;) // the first, which is measured, comes last
        rc = scheduler_call(r->priv->scheduler, --t.device, canary, &t);
    if (rc == -ERANGE)
        error_set(err, rc, NULL, "the model's first steps give values that are not finite");
    else if (rc == 0)
        rc = measure_sizes(r, &t, limit, begun + MEASURE_MOST_S);
    if (rc == 0)
        rc = measure_again(r, &t, begun + MEASURE_ENOUGH_S, begun + MEASURE_MOST_S);
    free(table);
    free(t.lanes);
    free(t.finite);
    return rc;
}

/* ---- loading ---- */

struct upload {
    const struct resident_options *o;
    const struct checkpoint *c;
    struct resident_model *model;
    int32_t limit, device;
    struct error *err;
};

static int32_t default_capacity(size_t lane_bytes, int32_t max_rows)
{
    size_t fit = POOL_BYTES / lane_bytes;
    int32_t capacity = fit < POOL_MAX ? (int32_t)fit : POOL_MAX;
    return capacity > 2 * max_rows ? capacity : 2 * max_rows;
}

static int upload(void *context)
{
    struct upload *u = context;
    struct resident_model *r = u->model;
    struct resident_private *p = r->priv;
    size_t lane_bytes = (size_t)r->data.height * (size_t)r->data.width * (size_t)r->data.channels * 2 * sizeof(float);
    r->capacity = u->o->capacity ? u->o->capacity : default_capacity(lane_bytes, u->limit);
    if (r->capacity < u->limit)
        r->capacity = u->limit;
    struct network **network = &p->network[u->device];
    struct lane_pool **pool = &p->pool[u->device];
    int rc = network_create(u->o->devices[u->device], u->c, r->precision, u->limit, network, u->err);
    if (rc == 0)
        rc = lane_pool_create(*network, r->capacity, pool, u->err);
    if (rc == 0)
        r->bytes += network_bytes(*network) + lane_pool_bytes(*pool);
    return rc;
}

/* How far measuring goes: beyond a few images per core a CPU gains nothing, a GPU does for longer. */
static int32_t rows_limit(const struct resident_options *o)
{
    const struct device_base *base = (const struct device_base *)o->devices[0];
    if (o->max_rows)
        return o->max_rows;
    if (base->whole_images > 0)
        return base->whole_images < 256 ? base->whole_images : 256;
    int32_t limit = 2 * base->n_threads;
    return limit < 8 ? 8 : limit > 64 ? 64 : limit;
}

static int attach(struct resident_model *r)
{
    struct stepper steppers[SCHEDULER_MAX_DEVICES];
    const struct stepper of_all = {
        .capacity = r->capacity,
        .max_rows = r->max_rows,
        .image_elements = (size_t)r->data.height * (size_t)r->data.width * (size_t)r->data.channels,
        .n_measured = r->n_measured,
        .measured_rows = r->measured_rows,
        .measured_seconds = r->measured_seconds,
        .start = stepper_start,
        .step = stepper_step,
        .read = stepper_read,
    };
    for (int32_t d = 0; d < r->priv->n_devices; d++) {
        steppers[d] = of_all;
        steppers[d].self = r->priv->pool[d];
    }
    return scheduler_attach(r->priv->scheduler, steppers, &r->lane);
}

/* The configuration's parts that outlive the checkpoint. 0, -ENOMEM. */
static int copy_description(struct resident_model *r, const struct checkpoint *c)
{
    size_t n = c->data.n_classes > 0 ? (size_t)c->data.n_classes : 1;
    r->model = c->model;
    r->diffusion = c->diffusion;
    r->data = c->data;
    r->data.classes = calloc(n, sizeof(*r->data.classes));
    if (!r->data.classes)
        return -ENOMEM;
    memcpy(r->data.classes, c->data.classes, (size_t)c->data.n_classes * sizeof(*r->data.classes));
    memcpy(r->digest, c->digest, sizeof(r->digest));
    r->parameters = model_config_parameters(&r->model);
    return 0;
}

static struct resident_model *resident_create(const struct resident_options *o, const char *name,
                                              const struct checkpoint *c)
{
    struct resident_model *r = calloc(1, sizeof(*r));
    struct resident_private *p = calloc(1, sizeof(*p));
    if (!r || !p || copy_description(r, c)) {
        free(r);
        free(p);
        return NULL;
    }
    *p = (struct resident_private){
        .post = {free_on_worker, NULL}, .model = r, .scheduler = o->scheduler, .n_devices = o->n_devices};
    atomic_init(&p->references, 1);
    snprintf(r->name, sizeof(r->name), "%s", name);
    r->priv = p;
    r->precision = o->precision >= 0 ? (enum dtype)o->precision : ((const struct device_base *)o->devices[0])->native;
    return r;
}

int resident_load(const struct resident_options *o, const char *name, const struct checkpoint *c,
                  struct resident_model **ret_model, struct error *err)
{
    struct resident_model *r = resident_create(o, name, c);
    if (!r)
        return error_set(err, -ENOMEM, NULL, "no memory for the model");
    struct upload u = {.o = o, .c = c, .model = r, .limit = rows_limit(o), .err = err};
    int rc = 0;
    for (; u.device < o->n_devices && rc == 0; u.device++)
        rc = scheduler_call(o->scheduler, u.device, upload, &u);
    if (rc == 0)
        rc = measure(r, u.limit, err);
    if (rc == 0) {
        r->max_rows = o->max_rows ? o->max_rows : resident_knee(r->measured_rows, r->measured_seconds, r->n_measured);
        if (r->max_rows < 2 && u.limit >= 2)
            r->max_rows = 2; // guidance takes two
        rc = attach(r);
    }
    if (rc == 0)
        *ret_model = r;
    else
        model_release(r);
    if (rc == -EIO)
        error_set(err, rc, NULL, "the device failed");
    if (rc == -ESHUTDOWN)
        error_set(err, rc, NULL, "the daemon is stopping");
    if (rc == -ENOMEM && err && err->code != rc)
        error_set(err, rc, NULL, "no memory for the model on the device");
    return rc;
}
