/* canary.c: see canary.h. The candidate lies in the folder of models under a name that sorts behind all others, so that
 * it is never taken for the default.
 */
#include "api/canary.h"

#include "api/encode.h"
#include "api/private.h"
#include "model/file.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CLASSES = 32, STEPS = 20, CLIENT = 0x63616E61 };
static const double most_spread = 4; // root mean square of states that images may have: theirs are below 1

struct canary {
    struct resident_model *model;
    struct generation *generation;
    pthread_mutex_t lock;
    pthread_cond_t ended_cond;
    bool ended;
};

/* Worker thread. */
static void on_done(struct generation *g, void *context)
{
    struct canary *c = context;
    (void)g;
    pthread_mutex_lock(&c->lock);
    c->ended = true;
    pthread_cond_signal(&c->ended_cond);
    pthread_mutex_unlock(&c->lock);
}

static int prepare(struct canary *c, struct error *err)
{
    const struct resident_model *m = c->model;
    int32_t n = m->data.n_classes < MAX_CLASSES ? m->data.n_classes : MAX_CLASSES;
    const struct sampling_recipe recipe = {.steps = m->diffusion.T < STEPS ? m->diffusion.T : STEPS,
                                           .method = STEP_METHOD_QUADRATIC,
                                           .sampler = SAMPLER_DDIM};
    struct generation *g = c->generation = calloc(1, sizeof(*g));
    if (!g)
        return error_set(err, -ENOMEM, NULL, "no memory for the canary");
    *g = (struct generation){.model = m->lane,
                             .n_images = n,
                             .class_index = malloc((size_t)n * sizeof(int32_t)),
                             .guidance = 1,
                             .priority = PRIORITY_NORMAL,
                             .client = CLIENT,
                             .on = {.done = on_done},
                             .context = c};
    if (!g->class_index)
        return error_set(err, -ENOMEM, NULL, "no memory for the canary");
    for (int32_t i = 0; i < n; i++)
        g->class_index[i] = i;
    return schedule_table(&m->diffusion, &recipe, &g->table, err);
}

static int run(struct api *a, struct canary *c, struct error *err)
{
    int rc = scheduler_submit(a->options.scheduler, c->generation, NULL, err);
    if (rc)
        return err->message[0] ? rc : error_set(err, rc, NULL, "no canary images: %s", strerror(-rc));
    pthread_mutex_lock(&c->lock);
    while (!c->ended)
        pthread_cond_wait(&c->ended_cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
    rc = c->generation->status;
    return rc ? error_set(err, rc, NULL, rc == -ERANGE ? "its canary images are not finite" : "no canary images: %s",
                          strerror(-rc))
              : 0;
}

/* Whether the states look like images at all: a network that predicts no noise leaves a hundredfold of it. */
static int judge(const struct canary *c, struct error *err)
{
    const struct generation *g = c->generation;
    const struct data_config *d = &c->model->data;
    size_t n = (size_t)g->n_images * d->height * d->width * d->channels;
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)g->images[i] * g->images[i];
    double spread = sqrt(squares / (double)n);
    if (spread <= most_spread)
        return 0;
    return error_set(err, -EINVAL, NULL, "its canary images are noise: pixels of %.3g where images have up to 1",
                     spread);
}

static int draw(const struct canary *c, struct text *ret_png, struct error *err)
{
    const struct data_config *d = &c->model->data;
    const struct picture p = {.images = c->generation->images,
                              .n = c->generation->n_images,
                              .height = d->height,
                              .width = d->width,
                              .channels = d->channels,
                              .nrow = 8,
                              .scale = 1};
    int rc = encode_grid(&p, NULL, ret_png);
    return rc ? error_set(err, rc, NULL, "no memory for the canary") : 0;
}

static int copy_candidate(int models_fd, const char *file, int from, struct error *err)
{
    struct file_writer w = {0};
    int rc = file_writer_open(models_fd, file, &w, err);
    if (rc == 0)
        rc = file_writer_copy(&w, from, err);
    if (rc == 0)
        return file_writer_commit(&w, err);
    file_writer_abort(&w);
    return rc;
}

static int try_model(struct api *a, const char *name, struct text *ret_png, struct error *err)
{
    struct canary c = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended_cond = PTHREAD_COND_INITIALIZER};
    int rc = model_store_load(a->options.models, name, &c.model, err);
    if (rc)
        return rc;
    rc = prepare(&c, err);
    if (rc == 0)
        rc = run(a, &c, err);
    if (rc == 0)
        rc = judge(&c, err);
    if (rc == 0)
        rc = draw(&c, ret_png, err);
    generation_free(c.generation);
    model_release(c.model);
    return rc;
}

int canary_grid(struct api *a, int models_fd, int64_t job, int checkpoint_fd, struct text *ret_png,
                struct problem *ret_problem)
{
    char name[MODEL_NAME_BYTES], file[MODEL_NAME_BYTES + 16];
    struct error err = {0}, ignored = {0};
    snprintf(name, sizeof(name), "zz-canary-%" PRId64, job);
    snprintf(file, sizeof(file), "%s.safetensors", name);
    int rc = copy_candidate(models_fd, file, checkpoint_fd, &err);
    if (rc == 0)
        rc = try_model(a, name, ret_png, &err);
    unlinkat(models_fd, file, 0);
    model_store_unload(a->options.models, name, &ignored);
    if (rc == 0)
        return 0;
    enum problem_kind kind = rc == -ENOMEM      ? PROBLEM_OUT_OF_MEMORY
                             : rc == -EAGAIN    ? PROBLEM_QUEUE_FULL
                             : rc == -ESHUTDOWN ? PROBLEM_DRAINING
                             : rc == -ENOSPC    ? PROBLEM_JOBS_STORE
                                                : PROBLEM_BAD_MODEL;
    problem_from_error(ret_problem, kind, &err);
    return -EINVAL;
}
