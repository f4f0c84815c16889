/* models.c: GET /models and what is done with one of them, and GET /schedule, which reads a model's noise schedule.
 *
 * The store reads files and loads models, so all of that runs aside (aside.h).
 */
#include "api/negotiate.h"
#include "api/private.h"
#include "api/work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void api_model_problem(const char *name, int rc, const struct error *err, struct problem *ret_problem)
{
    enum problem_kind kind = rc == -ENOENT      ? PROBLEM_NO_SUCH_MODEL
                             : rc == -ENOMEM    ? PROBLEM_OUT_OF_MEMORY
                             : rc == -EIO       ? PROBLEM_DEVICE_LOST
                             : rc == -ESHUTDOWN ? PROBLEM_DRAINING
                                                : PROBLEM_BAD_MODEL;
    problem_from_error(ret_problem, kind, err);
    snprintf(ret_problem->field, sizeof(ret_problem->field), "model");
    if (!err->message[0])
        snprintf(ret_problem->detail, sizeof(ret_problem->detail), "model %s: %s", *name ? name : "(default)",
                 strerror(-rc));
}

static void store_problem(struct exchange *x, int rc, const struct error *err)
{
    api_model_problem(x->name, rc, err, &x->aside.problem);
}

/* Takes the value over; NULL: there was no memory for it. */
static void json_keep(struct exchange *x, json_t *value)
{
    char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
    if (text)
        text_puts(&x->aside.text, text);
    else
        problem_set(&x->aside.problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the list of models");
    free(text);
    json_decref(value);
}

static void aside_answer(struct exchange *x)
{
    if (x->aside.problem.kind) {
        exchange_problem(x, &x->aside.problem);
        return;
    }
    exchange_answer(x, 200, "application/json", &x->aside.text);
    exchange_header(x, "Cache-Control", "no-store");
}

/* ---- helper threads ---- */

static void list_aside(struct exchange *x)
{
    json_t *list = model_store_list(x->api->options.models);
    json_keep(x, list ? json_pack("{so}", "models", list) : NULL);
}

static void describe_aside(struct exchange *x)
{
    struct error err = {0};
    json_t *model = model_store_describe(x->api->options.models, x->name, &err);
    if (model)
        json_keep(x, model);
    else
        store_problem(x, err.code ? err.code : -ENOMEM, &err);
}

static void load_aside(struct exchange *x)
{
    struct error err = {0};
    int rc = model_store_acquire(x->api->options.models, x->name, &x->aside.model, &err);
    if (rc)
        store_problem(x, rc, &err);
    else
        describe_aside(x);
}

static void unload_aside(struct exchange *x)
{
    struct error err = {0};
    int rc = model_store_unload(x->api->options.models, x->name, &err);
    if (rc)
        store_problem(x, rc, &err);
    else
        describe_aside(x);
}

/* The default is loaded first, so that the next request does not wait for it. */
static void default_aside(struct exchange *x)
{
    struct error err = {0};
    struct model_store *m = x->api->options.models;
    int rc = model_store_acquire(x->api->options.models, x->name, &x->aside.model, &err);
    if (rc == 0)
        rc = model_store_set_default(m, x->name, &err);
    if (rc)
        store_problem(x, rc, &err);
    else
        describe_aside(x);
}

/* ---- handlers ---- */

void handle_models(struct exchange *x)
{
    exchange_aside(x, list_aside, aside_answer);
}

void handle_model(struct exchange *x)
{
    exchange_aside(x, describe_aside, aside_answer);
}

void handle_model_load(struct exchange *x)
{
    if (api_check_ready(x))
        exchange_aside(x, load_aside, aside_answer);
}

void handle_model_unload(struct exchange *x)
{
    if (api_check_ready(x))
        exchange_aside(x, unload_aside, aside_answer);
}

void handle_model_default(struct exchange *x)
{
    if (api_check_ready(x))
        exchange_aside(x, default_aside, aside_answer);
}

/* ---- GET /schedule ---- */

static void row_write(const struct step_row *row, struct text *t)
{
    json_open(t, '{');
    json_key(t, "t"), json_int(t, row->t);
    json_key(t, "alpha"), json_float(t, row->alpha);
    json_key(t, "sigma"), json_float(t, row->sigma);
    json_key(t, "a"), json_float(t, row->a);
    json_key(t, "b"), json_float(t, row->b);
    json_key(t, "c"), json_float(t, row->c);
    json_key(t, "s"), json_float(t, row->s);
    json_close(t, '}');
}

static void schedule_resolved(struct exchange *x)
{
    const struct recipe *r = &x->work->recipe;
    const struct fields *f = &r->fields;
    struct text t = {0};
    json_open(&t, '{');
    json_key(&t, "model"), json_text(&t, r->model->name);
    json_key(&t, "T"), json_int(&t, r->model->diffusion.T);
    json_key(&t, "steps"), json_int(&t, f->steps);
    json_key(&t, "method"), json_text(&t, step_method_names[f->method]);
    json_key(&t, "eta"), json_double(&t, f->eta);
    json_key(&t, "sampler"), json_text(&t, sampler_names[f->sampler]);
    json_key(&t, "rows");
    json_open(&t, '[');
    for (int32_t i = 0; i < r->table->n_rows; i++)
        row_write(&r->table->rows[i], &t);
    json_close(&t, ']');
    json_close(&t, '}');
    exchange_answer(x, 200, "application/json", &t);
}

void handle_schedule(struct exchange *x)
{
    struct problem p;
    struct field_source source = {.query = x->query, .query_bytes = strlen(x->query)};
    if (!api_check_ready(x))
        return;
    x->work = calloc(1, sizeof(*x->work));
    if (!x->work) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
        return;
    }
    if (fields_read(schedule_fields, &source, &x->work->fields, &p)) {
        exchange_problem(x, &p);
        return;
    }
    if (fields_set_class(&x->work->fields, "none")) // one image: its class does not matter here
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
    else
        work_begin(x, schedule_resolved);
}
