/* fake.c: see fake.h. */
#include "fake.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t fake_now(void *clock)
{
    return atomic_load(&((struct fake_clock *)clock)->now_ns);
}

/* 24 bits, so that a float holds them exactly. */
static uint32_t mix(uint32_t h, uint64_t v)
{
    uint64_t z = h + v * 0x9E3779B97F4A7C15u + 0x632BE59BD9B4E019u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) & 0xFFFFFF);
}

static float start_value(uint64_t seed, uint64_t image, int32_t element)
{
    return (float)mix(mix(mix(1, seed), image), (uint64_t)element);
}

static float step_value(float x, const struct lane_step *l)
{
    uint32_t h = mix((uint32_t)x, (uint64_t)l->row->t);
    h = mix(h, (uint64_t)(int64_t)l->class_index);
    h = mix(h, (uint64_t)(l->guidance * 1024));
    h = mix(h, l->clip);
    h = mix(mix(h, l->seed), l->image);
    return (float)mix(h, l->draw);
}

static float x0_of(float x)
{
    return x + 0.5f;
}

/* All calls come from one thread, in a test with threads. */
static void check_thread(struct fake_device *d)
{
    if (!d->thread_known) {
        d->thread = pthread_self();
        d->thread_known = true;
    }
    d->violations += !d->any_thread && !pthread_equal(d->thread, pthread_self());
}

static int fake_start(void *self, int32_t slot, uint64_t seed, uint64_t image)
{
    struct fake_device *d = self;
    check_thread(d);
    if (slot < 0 || slot >= d->stepper.capacity)
        return d->violations++, -EINVAL;
    d->lanes[slot] = (struct fake_lane){.running = true, .seed = seed, .image = image};
    for (int32_t e = 0; e < FAKE_ELEMENTS; e++)
        d->lanes[slot].x[e] = start_value(seed, image, e);
    atomic_fetch_add(&d->clock->now_ns, d->start_ns);
    return 0;
}

static void step_lane(struct fake_device *d, const struct lane_step *l, uint8_t *ret_finite)
{
    struct fake_lane *lane = &d->lanes[l->slot];
    d->violations += !lane->running || lane->seed != l->seed || lane->image != l->image || lane->draw + 1 != l->draw;
    lane->draw = l->draw;
    lane->class_index = (uint32_t)l->class_index;
    for (int32_t e = 0; e < FAKE_ELEMENTS; e++)
        lane->x[e] = step_value(lane->x[e], l);
    *ret_finite = !(l->class_index == FAKE_POISON_CLASS && l->draw == 3);
}

static int fake_step(void *self, const struct lane_step *lanes, int32_t n, uint8_t *ret_finite)
{
    struct fake_device *d = self;
    int32_t rows = 0;
    check_thread(d);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t j = 0; j < i; j++)
            d->violations += lanes[i].slot == lanes[j].slot;
        rows += lanes[i].guidance == 1 ? 1 : 2;
    }
    d->violations += n < 1 || rows > d->stepper.max_rows;
    if (++d->steps == d->fail_at_step)
        return d->fail_with;
    for (int32_t i = 0; i < n; i++)
        step_lane(d, &lanes[i], &ret_finite[i]);
    d->row_steps += rows;
    d->last_rows = rows;
    atomic_fetch_add(&d->clock->now_ns, fake_step_ns(d, rows));
    return 0;
}

static int fake_read(void *self, int32_t slot, bool x0, float *ret_image)
{
    struct fake_device *d = self;
    check_thread(d);
    d->violations += !d->lanes[slot].running;
    if (d->lanes[slot].class_index == FAKE_READ_ERROR_CLASS)
        return -ENOMEM;
    for (int32_t e = 0; e < FAKE_ELEMENTS; e++)
        ret_image[e] = x0 ? x0_of(d->lanes[slot].x[e]) : d->lanes[slot].x[e];
    return 0;
}

int64_t fake_step_ns(const struct fake_device *d, int32_t rows)
{
    return d->fixed_ns + rows * d->row_ns;
}

void fake_device_init(struct fake_device *d, struct fake_clock *clock, int32_t capacity, int32_t max_rows,
                      int64_t fixed_ns, int64_t row_ns, bool measured)
{
    *d = (struct fake_device){.clock = clock, .fixed_ns = fixed_ns, .row_ns = row_ns};
    d->lanes = calloc((size_t)capacity, sizeof(*d->lanes));
    d->measured_rows[0] = 1;
    d->measured_rows[1] = max_rows;
    for (int i = 0; i < 2; i++)
        d->measured_seconds[i] = (double)fake_step_ns(d, d->measured_rows[i]) * 1e-9;
    d->stepper = (struct stepper){
        .self = d,
        .capacity = capacity,
        .max_rows = max_rows,
        .image_elements = FAKE_ELEMENTS,
        .n_measured = measured ? 2 : 0,
        .measured_rows = d->measured_rows,
        .measured_seconds = d->measured_seconds,
        .start = fake_start,
        .step = fake_step,
        .read = fake_read,
    };
}

void fake_device_done(struct fake_device *d)
{
    free(d->lanes);
}

void fake_expected(const struct generation *g, int32_t image, int32_t steps_done, float ret_x[FAKE_ELEMENTS])
{
    for (int32_t e = 0; e < FAKE_ELEMENTS; e++)
        ret_x[e] = start_value(g->seed, (uint64_t)image, e);
    for (int32_t k = 0; k < steps_done; k++) {
        struct lane_step l = {.class_index = g->class_index[image],
                              .guidance = g->guidance,
                              .clip = g->clip,
                              .row = &g->table->rows[k],
                              .seed = g->seed,
                              .image = (uint64_t)image,
                              .draw = (uint32_t)k + 1};
        for (int32_t e = 0; e < FAKE_ELEMENTS; e++)
            ret_x[e] = step_value(ret_x[e], &l);
    }
}

/* The steps after which frames are taken, said otherwise than the code under test says it. */
bool fake_images_right(const struct generation *g)
{
    int32_t frame = 0;
    for (int32_t i = 0; i < g->n_images; i++)
        for (int32_t done = 0; done <= g->table->n_rows; done++) {
            bool kept = done == g->table->n_rows || (g->interval > 0 && done % g->interval == 0);
            float want[FAKE_ELEMENTS];
            if (!kept)
                continue;
            fake_expected(g, i, done, want);
            if (frame >= g->n_images * g->n_frames ||
                memcmp(want, g->images + (size_t)frame * FAKE_ELEMENTS, sizeof(want)))
                return false;
            frame++;
        }
    return frame == g->n_images * g->n_frames;
}

static void on_done(struct generation *g, void *context)
{
    struct outcome *o = context;
    bool right = g->status == 0 && fake_images_right(g);
    pthread_mutex_t *lock = o->lock;
    if (lock)
        pthread_mutex_lock(lock);
    o->done++;
    o->status = g->status;
    o->right = right;
    o->submitted_ns = g->submitted_ns;
    o->started_ns = g->started_ns;
    o->finished_ns = g->finished_ns;
    o->order = o->counter ? (*o->counter)++ : 0;
    if (o->ended)
        pthread_cond_broadcast(o->ended);
    if (lock)
        pthread_mutex_unlock(lock);
    generation_free(g);
}

static void on_progress(struct generation *g, int64_t done, int64_t total, void *context)
{
    struct outcome *o = context;
    if (o->lock) // several devices tell at once
        pthread_mutex_lock(o->lock);
    o->progress_calls++;
    o->last_progress = done > o->last_progress ? done : o->last_progress;
    o->total_progress = total;
    if (o->lock)
        pthread_mutex_unlock(o->lock);
}

static void on_preview(struct generation *g, int32_t image, int32_t step, const float *x0, void *context)
{
    struct outcome *o = context;
    float want[FAKE_ELEMENTS];
    fake_expected(g, image, step, want);
    o->previews_right = o->previews_right && step % g->preview_every == 0 && step < g->table->n_rows;
    for (int32_t e = 0; e < FAKE_ELEMENTS; e++)
        o->previews_right = o->previews_right && x0[e] == x0_of(want[e]);
    o->previews++;
}

struct generation *fake_generation(const struct spec *spec, struct outcome *o)
{
    struct generation *g = calloc(1, sizeof(*g));
    int32_t images = spec->images ? spec->images : 1, steps = spec->steps ? spec->steps : 4;
    g->model = spec->model;
    g->n_images = images;
    g->class_index = calloc((size_t)images, sizeof(*g->class_index));
    for (int32_t i = 0; i < images; i++)
        g->class_index[i] = spec->class_index >= FAKE_POISON_CLASS ? spec->class_index : (spec->class_index + i) % 10;
    g->table = calloc(1, sizeof(*g->table) + (size_t)steps * sizeof(g->table->rows[0]));
    g->table->n_rows = steps;
    for (int32_t k = 0; k < steps; k++)
        g->table->rows[k].t = 7 * (steps - k) + 1;
    g->seed = spec->seed;
    g->guidance = spec->guidance ? spec->guidance : 1;
    g->clip = spec->clip;
    g->interval = spec->interval;
    g->preview_every = spec->preview_every;
    g->priority = (enum priority)(PRIORITY_NORMAL + spec->rank);
    g->client = spec->client;
    g->deadline_ns = spec->deadline_ns;
    struct outcome kept = *o;
    *o = (struct outcome){.previews_right = true, .counter = kept.counter, .lock = kept.lock, .ended = kept.ended};
    g->on.done = on_done;
    g->on.progress = on_progress;
    g->on.preview = spec->preview_every ? on_preview : NULL;
    g->context = o;
    return g;
}

int fake_submit(struct scheduler *s, const struct spec *spec, struct outcome *o, struct scheduler_ticket *ret_ticket)
{
    struct generation *g = fake_generation(spec, o);
    int rc = scheduler_submit(s, g, ret_ticket, NULL);
    if (rc)
        generation_free(g);
    return rc;
}
