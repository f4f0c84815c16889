/* generate.c: GET and POST /generate: fields, entity tag, the scheduler, and the answer in the form that is wanted. */
#include "api/detached.h"
#include "api/negotiate.h"
#include "api/private.h"
#include "api/work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Index in route->offers, behind those of enum result_form. */
enum { OFFER_EVENTS = RESULT_NPY + 1 };

/* ---- entity tags ---- */

static bool not_modified(struct exchange *x)
{
    struct work *w = x->work;
    if (!w->fields.has_seed || !negotiate_etag(exchange_request_header(x, "If-None-Match"), w->etag))
        return false;
    struct text empty = {0};
    exchange_answer(x, 304, NULL, &empty);
    work_headers(x);
    return true;
}

/* ---- answers ---- */

static void generate_answer(struct exchange *x)
{
    struct work *w = x->work;
    struct problem p;
    struct result r;
    struct text body = {0};
    if (!work_outcome(w, &p)) {
        exchange_problem(x, &p);
        return;
    }
    int rc = work_result(w, &r);
    if (rc == 0) {
        rc = result_write(&r, (enum result_form)x->offer, &body);
        w->encode_ms = r.timing.encode_ms;
        result_done(&r);
    }
    if (rc) {
        text_done(&body);
        exchange_fail(x, rc == -ENOMEM ? PROBLEM_OUT_OF_MEMORY : PROBLEM_INTERNAL, "the images cannot be encoded: %s",
                      strerror(-rc));
        return;
    }
    work_count(x);
    exchange_answer(x, 200, x->route->offers[x->offer], &body);
    work_headers(x);
}

/* ---- dry runs ---- */

static struct generation probe(const struct exchange *x)
{
    const struct recipe *r = &x->work->recipe;
    return (struct generation){.model = r->model->lane,
                               .n_images = r->n_images,
                               .table = r->table,
                               .guidance = (float)r->fields.guidance,
                               .priority = r->fields.priority,
                               .client = exchange_client(x),
                               .max_client_row_steps = x->key ? x->key->max_row_steps : 0};
}

static void answer_dry_run(struct exchange *x)
{
    struct work *w = x->work;
    struct text t = {0};
    struct generation g = probe(x);
    int64_t expected_ns = scheduler_expected_ns(x->api->options.scheduler, &g);
    json_open(&t, '{');
    json_key(&t, "parameters");
    json_raw(&t, text_string(&w->comment) ? w->comment.data : "null");
    json_key(&t, "timesteps");
    json_open(&t, '[');
    for (int32_t i = 0; i < w->recipe.table->n_rows; i++)
        json_int(&t, w->recipe.table->rows[i].t);
    json_close(&t, ']');
    json_key(&t, "images"), json_int(&t, w->recipe.n_images);
    json_key(&t, "lane_steps"), json_int(&t, (int64_t)w->recipe.n_images * w->recipe.table->n_rows);
    json_key(&t, "row_steps"), json_int(&t, recipe_row_steps(&w->recipe));
    json_key(&t, "expected_ms"), json_double(&t, (double)(expected_ns / 1000) / 1e3);
    json_close(&t, '}');
    exchange_answer(x, 200, "application/json", &t);
    exchange_header(x, "Cache-Control", "no-store");
}

/* ---- the way there ---- */

static void generate_stream(struct exchange *x)
{
    struct work *w = x->work;
    int32_t rows = w->recipe.table->n_rows, every = w->fields.interval ? w->fields.interval : rows < 10 ? 1 : rows / 10;
    w->streaming = true;
    w->etag[0] = '\0';
    if (stream_prepare(w)) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for previews");
        return;
    }
    if (work_submit(x, every) == 0)
        stream_answer(x);
}

static void generate_resolved(struct exchange *x)
{
    struct work *w = x->work;
    json_open(&w->comment, '{');
    recipe_write(&w->recipe, DDIMD_VERSION, x->api->options.device, &w->comment);
    json_close(&w->comment, '}');
    if (w->fields.dry_run) {
        answer_dry_run(x);
        return;
    }
    result_etag(text_string(&w->comment), x->route->offers[x->offer], x->offer == RESULT_JSON, w->etag);
    if (x->offer != OFFER_EVENTS && not_modified(x))
        return;
    if (detach(x))
        return;
    if (x->offer == OFFER_EVENTS) {
        generate_stream(x);
    } else {
        w->finish = generate_answer;
        work_submit(x, 0);
    }
}

/* A dry run answers JSON whatever Accept says. */
void handle_generate(struct exchange *x)
{
    struct problem p;
    struct field_source source = {.query = x->query, .query_bytes = strlen(x->query)};
    if (!api_check_ready(x))
        return;
    if (route_method(x->method) == METHOD_POST) {
        source.body = x->body.data;
        source.body_bytes = x->body.length;
        source.body_is_json = negotiate_content_type(exchange_request_header(x, "Content-Type"), "application/json");
    }
    x->work = calloc(1, sizeof(*x->work));
    if (!x->work) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
        return;
    }
    if (fields_read(x->route->fields, &source, &x->work->fields, &p))
        exchange_problem(x, &p);
    else
        work_begin(x, generate_resolved);
}
