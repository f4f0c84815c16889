/* work.c: see work.h. */
#include "api/work.h"

#include "api/hangup.h"
#include "api/private.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void work_free(struct work *w)
{
    if (!w)
        return;
    generation_free(w->generation);
    recipe_done(&w->recipe);
    fields_done(&w->fields);
    model_release(w->model);
    text_done(&w->comment);
    text_done(&w->out);
    free(w->previews);
    free(w->preview_images);
    free(w);
}

/* ---- readiness ---- */

const char *api_unready(struct api *a)
{
    struct scheduler_stats stats;
    switch (atomic_load(&a->state)) {
    case API_STARTING:
        return "the default model is being loaded";
    case API_LEAVING:
    case API_DRAINING:
        return "the daemon is stopping";
    default:
        break;
    }
    scheduler_stats(a->options.scheduler, &stats);
    return stats.device_lost ? "the device failed" : NULL;
}

bool api_check_ready(struct exchange *x)
{
    struct problem p;
    int state = atomic_load(&x->api->state);
    if (state == API_READY || state == API_LEAVING)
        return true;
    problem_set(&p, state == API_STARTING ? PROBLEM_STARTING : PROBLEM_DRAINING, NULL, "%s",
                state == API_STARTING ? "the default model is being loaded" : "the daemon is stopping");
    p.retry_after_s = state == API_STARTING ? 1 : 5;
    exchange_problem(x, &p);
    return false;
}

/* ---- the model ---- */

/* On a helper thread. */
static void model_acquire(struct exchange *x)
{
    struct error err = {0};
    const char *name = x->work->fields.model;
    int rc = model_store_acquire(x->api->options.models, *name ? name : NULL, &x->aside.model, &err);
    if (rc)
        api_model_problem(name, rc, &err, &x->aside.problem);
}

static void resolve(struct exchange *x, void (*next)(struct exchange *x))
{
    struct work *w = x->work;
    struct problem p;
    if (recipe_resolve(&w->fields, w->model, &x->settings->now.limits, &w->recipe, &p))
        exchange_problem(x, &p);
    else
        next(x);
}

static void model_acquired(struct exchange *x)
{
    struct work *w = x->work;
    if (x->aside.problem.kind) {
        exchange_problem(x, &x->aside.problem);
        return;
    }
    w->model = x->aside.model;
    x->aside.model = NULL;
    resolve(x, w->finish);
}

static void no_such_model(struct exchange *x, const char *name)
{
    struct problem p;
    problem_set(&p, PROBLEM_NO_SUCH_MODEL, "model", "no model can have the name \"%s\"", name);
    exchange_problem(x, &p);
}

void work_begin(struct exchange *x, void (*next)(struct exchange *x))
{
    struct work *w = x->work;
    const char *name = w->fields.model;
    if (*name && !route_is_name(name)) {
        no_such_model(x, name);
        return;
    }
    if (!w->fields.has_seed && getrandom(&w->fields.seed, sizeof(w->fields.seed), 0) != sizeof(w->fields.seed)) {
        exchange_fail(x, PROBLEM_INTERNAL, "no random number for the seed");
        return;
    }
    if (!w->fields.has_seed)
        w->fields.seed >>= 11; // 53 bits: what JavaScript and jq keep exactly
    w->model = model_store_resident(x->api->options.models, *name ? name : NULL);
    w->finish = next;
    if (w->model)
        resolve(x, next);
    else
        exchange_aside(x, model_acquire, model_acquired);
}

/* ---- the scheduler ---- */

/* Worker thread. */
static void on_done(struct generation *g, void *context)
{
    struct exchange *x = context;
    pthread_mutex_lock(&x->lock);
    x->work->ended = true;
    x->ticket = 0;
    pthread_mutex_unlock(&x->lock);
    exchange_wake(x);
    exchange_release(x);
}

static struct generation *generation_of(const struct exchange *x, int32_t preview_every)
{
    struct generation *g = NULL;
    const struct fields *f = &x->work->recipe.fields;
    if (recipe_generation(&x->work->recipe, 0, x->work->recipe.n_images, &g))
        return NULL;
    g->client = exchange_client(x);
    g->max_client_row_steps = x->key ? x->key->max_row_steps : 0;
    g->preview_every = preview_every;
    g->context = (void *)x;
    g->on.done = on_done;
    if (f->timeout_ms)
        g->deadline_ns =
            scheduler_now_ns(x->api->options.scheduler) - (now_ns() - x->begun_ns) + (int64_t)f->timeout_ms * 1000000;
    if (preview_every) {
        g->on.progress = stream_progress;
        g->on.preview = stream_preview;
    }
    return g;
}

static void refusal(int rc, const struct scheduler_ticket *ticket, const struct error *err, struct problem *p)
{
    static const struct {
        int rc;
        enum problem_kind kind;
        const char *detail;
    } known[] = {
        {-EAGAIN, PROBLEM_QUEUE_FULL, "the queue has no room for this request now"},
        {-EDQUOT, PROBLEM_SHARE_EXCEEDED, "this client's requests fill its share of the queue"},
        {-ETIMEDOUT, PROBLEM_TIMEOUT, "timeout_ms cannot be met with the present queue"},
        {-ESHUTDOWN, PROBLEM_DRAINING, "the daemon is stopping, or the model was taken away"},
        {-EIO, PROBLEM_DEVICE_LOST, "the device failed"},
        {-ENOMEM, PROBLEM_OUT_OF_MEMORY, "no memory for this request"},
        {-E2BIG, PROBLEM_BAD_FIELD, "the request is larger than the whole queue"},
        {-EINVAL, PROBLEM_BAD_FIELD, "the request cannot be run"},
    };
    problem_set(p, PROBLEM_INTERNAL, NULL, "the request was not taken: %s", strerror(-rc));
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].rc == rc)
            problem_set(p, known[i].kind, err->field, "%s", err->message[0] ? err->message : known[i].detail);
    if (rc == -EAGAIN || rc == -EDQUOT) {
        int64_t s = (ticket->retry_after_ns + 999999999) / 1000000000;
        p->retry_after_s = s < 1 ? 1 : s > 86400 ? 86400 : (int)s;
    } else if (rc == -ESHUTDOWN) {
        p->retry_after_s = 5;
    }
}

void work_watch_client(struct exchange *x)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info)
        x->watch = hangup_watch(x->api->hangup, info->connect_fd, x);
}

static void on_ended(struct exchange *x)
{
    hangup_unwatch(x->api->hangup, x->watch);
    x->watch = WATCH_NONE;
    x->work->finish(x);
}

static int submit_failed(struct exchange *x, int rc, const struct scheduler_ticket *ticket, const struct error *err)
{
    struct problem p;
    exchange_release(x);
    refusal(rc, ticket, err, &p);
    exchange_problem(x, &p);
    if (!x->work->streaming)
        exchange_wake(x);
    return rc;
}

int work_submit(struct exchange *x, int32_t preview_every)
{
    struct work *w = x->work;
    struct scheduler_ticket ticket = {0};
    struct error err = {0};
    w->generation = generation_of(x, preview_every);
    if (!w->generation) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
        return -ENOMEM;
    }
    if (!w->streaming)
        exchange_wait(x, on_ended); // first, since it may end before scheduler_submit() returns
    exchange_retain(x);
    int rc = scheduler_submit(x->api->options.scheduler, w->generation, &ticket, &err);
    if (rc)
        return submit_failed(x, rc, &ticket, &err);
    pthread_mutex_lock(&x->lock);
    x->ticket = w->ended ? 0 : ticket.id;
    pthread_mutex_unlock(&x->lock);
    work_watch_client(x);
    return 0;
}

bool work_outcome(const struct work *w, struct problem *p)
{
    switch (w->generation->status) {
    case 0:
        return true;
    case -ECANCELED:
        problem_set(p, PROBLEM_CLIENT_GONE, NULL, "the connection was closed before the images were ready");
        break;
    case -ETIMEDOUT:
        problem_set(p, PROBLEM_TIMEOUT, "timeout_ms", "the images were not ready within %d ms", w->fields.timeout_ms);
        break;
    case -ERANGE:
        problem_set(p, PROBLEM_NOT_FINITE, NULL, "an image's state was no longer finite");
        break;
    case -EIO:
        problem_set(p, PROBLEM_DEVICE_LOST, NULL, "the device failed");
        break;
    case -ESHUTDOWN:
        problem_set(p, PROBLEM_DRAINING, NULL, "the daemon stopped before the images were ready");
        p->retry_after_s = 5;
        break;
    default:
        problem_set(p, PROBLEM_INTERNAL, NULL, "sampling failed: %s", strerror(-w->generation->status));
    }
    return false;
}

/* ---- what answers have in common ---- */

struct picture work_picture(const struct work *w)
{
    const struct data_config *d = &w->model->data;
    const struct fields *f = &w->recipe.fields;
    return (struct picture){.images = w->generation->images,
                            .n = w->recipe.n_images * w->recipe.n_frames,
                            .height = d->height,
                            .width = d->width,
                            .channels = d->channels,
                            .nrow = f->nrow,
                            .scale = f->scale,
                            .to_grayscale = f->to_grayscale};
}

struct timing work_timing(const struct work *w)
{
    const struct generation *g = w->generation;
    int64_t started = g->started_ns ? g->started_ns : g->finished_ns;
    return (struct timing){(double)(started - g->submitted_ns) / 1e6, (double)(g->finished_ns - started) / 1e6,
                           w->encode_ms};
}

int work_result(struct work *w, struct result *ret_result)
{
    const struct recipe *recipe = &w->recipe;
    struct result r = {.picture = work_picture(w),
                       .n_frames = recipe->n_frames,
                       .n_each = recipe->fields.n,
                       .classes = calloc((size_t)recipe->n_classes, sizeof(*r.classes)),
                       .model = w->model->name,
                       .recipe = text_string(&w->comment),
                       .seed = recipe->fields.seed,
                       .timing = work_timing(w)};
    if (!r.classes || !r.recipe) {
        result_done(&r);
        return -ENOMEM;
    }
    for (int32_t i = 0; i < recipe->n_classes; i++)
        r.classes[i] = recipe_class_name(w->model, recipe->classes[i]);
    *ret_result = r;
    return 0;
}

void work_count(struct exchange *x)
{
    atomic_fetch_add(&x->api->images, (uint64_t)x->work->recipe.n_images);
    atomic_fetch_add(&x->api->encode_ns, (uint64_t)(x->work->encode_ms * 1e6));
    atomic_fetch_add(&x->api->encodes, 1);
}

void work_headers(struct exchange *x)
{
    char value[160];
    const struct work *w = x->work;
    snprintf(value, sizeof(value), "%llu", (unsigned long long)w->recipe.fields.seed);
    exchange_header(x, "X-Seed", value);
    exchange_header(x, "X-Model", w->model->name);
    exchange_header(x, "Vary", "Accept");
    exchange_header(x, "Cache-Control", w->recipe.fields.has_seed ? "private, no-cache" : "no-store");
    if (w->etag[0])
        exchange_header(x, "ETag", w->etag);
    if (w->generation && w->ended) {
        struct timing ms = work_timing(w);
        snprintf(value, sizeof(value), "queue;dur=%.3f, sample;dur=%.3f, encode;dur=%.3f", ms.queue_ms, ms.sample_ms,
                 ms.encode_ms);
        exchange_header(x, "Server-Timing", value);
    }
}

void work_note(struct exchange *x)
{
    struct work *w = x->work;
    pthread_mutex_lock(&x->lock);
    bool ended = w->ended;
    pthread_mutex_unlock(&x->lock);
    if (!ended || !w->model)
        return;
    struct timing ms = work_timing(w);
    size_t n = strlen(x->note);
    snprintf(x->note + n, sizeof(x->note) - n,
             " model=%.40s images=%d steps=%d queue_ms=%.2f sample_ms=%.2f encode_ms=%.2f", w->model->name,
             w->recipe.n_images, w->recipe.fields.steps, ms.queue_ms, ms.sample_ms, ms.encode_ms);
}
