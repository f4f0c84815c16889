/* operate.c: what an operator asks: health, readiness, version, capabilities; and what a problem's type means. */
#include "api/private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void answer_json(struct exchange *x, int status, struct text *t)
{
    exchange_answer(x, status, "application/json", t);
    exchange_header(x, "Cache-Control", "no-store");
}

void handle_healthz(struct exchange *x)
{
    struct text t = {0};
    text_puts(&t, "{\"status\":\"ok\"}");
    answer_json(x, 200, &t);
}

/* ---- readiness ---- */

enum { SHOWN_S = 30 }; // within which a real step must have shown that the device is well

/* What of the device speaks against it, NULL: nothing. */
static const char *device_unwell(struct api *a, const struct scheduler_stats *stats)
{
    const int64_t limit_ns = INT64_C(1000000000) * SHOWN_S;
    if (now_ns() - atomic_load(&a->alive_ns) > limit_ns)
        return "the device's worker does not turn";
    if (stats->models == 0)
        return "no model is resident";
    if (scheduler_now_ns(a->options.scheduler) - stats->shown_ns > limit_ns)
        return "the device has shown no good step lately";
    return NULL;
}

static void check_write(struct text *t, const char *name, bool ok, const char *detail)
{
    json_open(t, '{');
    json_key(t, "name"), json_text(t, name);
    json_key(t, "ok"), json_bool(t, ok);
    json_key(t, "detail"), json_text(t, detail);
    json_close(t, '}');
}

static void checks_write(struct api *a, const struct scheduler_stats *stats, struct text *t)
{
    char detail[128];
    int state = atomic_load(&a->state);
    double shown = (double)(scheduler_now_ns(a->options.scheduler) - stats->shown_ns) / 1e9;
    double alive = (double)(now_ns() - atomic_load(&a->alive_ns)) / 1e9;
    json_key(t, "checks");
    json_open(t, '[');
    snprintf(detail, sizeof(detail), "%lld resident", (long long)stats->models);
    check_write(t, "model", stats->models > 0 && state != API_STARTING,
                state == API_STARTING ? "being loaded" : detail);
    check_write(t, "draining", state < API_LEAVING, state >= API_LEAVING ? "the daemon is stopping" : "no");
    check_write(t, "device", !stats->device_lost, stats->device_lost ? "lost" : a->options.device);
    snprintf(detail, sizeof(detail), "the last good step was %.1f s ago", shown > 0 ? shown : 0);
    check_write(t, "step", stats->shown_ns && shown < SHOWN_S, detail);
    snprintf(detail, sizeof(detail), "the device's worker turned %.1f s ago", alive > 0 ? alive : 0);
    check_write(t, "worker", alive < SHOWN_S, detail);
    json_close(t, ']');
}

/* ?verbose, ?verbose=true: lists the checks. */
void handle_readyz(struct exchange *x)
{
    static const char *const yes[] = {"verbose", "verbose=true", "verbose=1", NULL};
    static const char *const no[] = {"", "verbose=false", "verbose=0", NULL};
    struct scheduler_stats stats;
    bool verbose = false, known = false;
    for (int i = 0; yes[i]; i++)
        verbose = verbose || strcmp(x->query, yes[i]) == 0;
    for (int i = 0; no[i]; i++)
        known = known || strcmp(x->query, no[i]) == 0;
    if (!verbose && !known) {
        exchange_fail(x, PROBLEM_BAD_FIELD, "the only field here is verbose, without a value or true or false");
        return;
    }
    struct text t = {0};
    const char *reason = api_unready(x->api);
    scheduler_stats(x->api->options.scheduler, &stats);
    if (!reason)
        reason = device_unwell(x->api, &stats);
    json_open(&t, '{');
    json_key(&t, "ready"), json_bool(&t, !reason);
    if (reason)
        json_key(&t, "reason"), json_text(&t, reason);
    if (verbose)
        checks_write(x->api, &stats, &t);
    json_close(&t, '}');
    answer_json(x, reason ? 503 : 200, &t);
    if (reason)
        exchange_header(x, "Retry-After", "1");
}

void handle_version(struct exchange *x)
{
    struct text t = {0};
    json_open(&t, '{');
    json_key(&t, "name"), json_text(&t, "ddimd");
    json_key(&t, "version"), json_text(&t, DDIMD_VERSION);
    json_key(&t, "device"), json_text(&t, x->api->options.device);
    json_close(&t, '}');
    answer_json(x, 200, &t);
}

/* ---- capabilities ---- */

static void names_write(struct text *t, const char *key, const char *const *names)
{
    json_key(t, key);
    json_open(t, '[');
    for (; *names; names++)
        json_text(t, *names);
    json_close(t, ']');
}

static void limits_write(const struct exchange *x, struct text *t)
{
    const struct api_options *o = &x->api->options;
    const struct api_settings *s = &x->settings->now;
    json_key(t, "limits");
    json_open(t, '{');
    json_key(t, "images"), json_int(t, s->limits.max_images);
    json_key(t, "row_steps"), json_int(t, s->limits.max_row_steps);
    json_key(t, "result_bytes"), json_int(t, s->limits.max_result_bytes);
    json_key(t, "picture_bytes"), json_int(t, s->limits.max_picture_bytes);
    json_key(t, "body_bytes"), json_uint(t, s->max_body_bytes);
    json_key(t, "address_bytes"), json_uint(t, o->max_uri_bytes);
    json_key(t, "header_bytes"), json_uint(t, o->max_header_bytes);
    json_close(t, '}');
}

/* Helper thread: the store reads files. */
static void capabilities_aside(struct exchange *x)
{
    struct text *t = &x->aside.text;
    const struct api_options *o = &x->api->options;
    json_t *models = model_store_list(o->models);
    char *list = models ? json_dumps(models, JSON_COMPACT) : NULL;
    json_open(t, '{');
    json_key(t, "version"), json_text(t, DDIMD_VERSION);
    json_key(t, "device"), json_text(t, o->device);
    json_key(t, "devices"), json_int(t, scheduler_n_devices(o->scheduler));
    limits_write(x, t);
    names_write(t, "methods", step_method_names);
    names_write(t, "samplers", sampler_names);
    names_write(t, "priorities", priority_names);
    const struct route *generate = route_find("/generate", (char[MODEL_NAME_BYTES]){0});
    names_write(t, "media_types", generate->offers);
    json_key(t, "models"), json_raw(t, list ? list : "[]");
    json_close(t, '}');
    free(list);
    json_decref(models);
}

static void capabilities_answer(struct exchange *x)
{
    if (x->aside.problem.kind)
        exchange_problem(x, &x->aside.problem);
    else
        answer_json(x, 200, &x->aside.text);
}

void handle_capabilities(struct exchange *x)
{
    exchange_aside(x, capabilities_aside, capabilities_answer);
}

/* ---- problems ---- */

void handle_problem(struct exchange *x)
{
    enum problem_kind kind = problem_find(x->name);
    struct text t = {0};
    if (!kind) {
        exchange_fail(x, PROBLEM_NOT_FOUND, "there is no problem type \"%s\"", x->name);
        return;
    }
    text_printf(&t, "%s (%d)\n\n%s\n", problem_infos[kind].title, problem_infos[kind].status, problem_infos[kind].help);
    exchange_answer(x, 200, "text/plain; charset=utf-8", &t);
}
