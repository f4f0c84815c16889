/* generate.c: GET and POST /generate: fields, entity tag, the scheduler, and the answer in the form that is wanted. */
#include "api/negotiate.h"
#include "api/private.h"
#include "api/work.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Indices in route->offers, for the route's table of media types. */
enum { OFFER_PNG, OFFER_JSON, OFFER_ZIP, OFFER_NPY, OFFER_EVENTS };

/* ---- entity tags ---- */

/* The recipe says model, build and device too; with the media type it fixes the bytes. A JSON answer holds times, so
 * its tag is a weak one. */
static void etag_make(struct work *w, const char *media_type, bool weak)
{
    uint64_t a = text_hash(TEXT_HASH_SEED, w->comment.data, w->comment.length);
    uint64_t b = text_hash(~TEXT_HASH_SEED, w->comment.data, w->comment.length);
    a = text_hash(a, media_type, strlen(media_type));
    b = text_hash(b, media_type, strlen(media_type));
    snprintf(w->etag, sizeof(w->etag), "%s\"%016llx%016llx\"", weak ? "W/" : "", (unsigned long long)a,
             (unsigned long long)b);
}

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

static void classes_write(const struct work *w, struct text *t)
{
    json_key(t, "classes");
    json_open(t, '[');
    for (int32_t i = 0; i < w->recipe.n_images; i++)
        json_text(t, recipe_class_name(w->model, recipe_class_of(&w->recipe, i)));
    json_close(t, ']');
}

static int images_write(const struct work *w, struct text *t)
{
    struct picture p = work_picture(w);
    struct text png = {0};
    int rc = 0;
    json_key(t, "images");
    json_open(t, '[');
    for (int32_t i = 0; i < p.n && rc == 0; i++) {
        png.length = 0;
        rc = encode_image(&p, i, &png);
        json_base64(t, png.data, png.length);
    }
    json_close(t, ']');
    text_done(&png);
    return rc;
}

static int grid_write(struct work *w, struct text *t)
{
    struct picture p = work_picture(w);
    struct text png = {0};
    int rc = encode_grid(&p, text_string(&w->comment), &png);
    json_key(t, "png");
    json_base64(t, png.data, png.length);
    text_done(&png);
    return rc;
}

int generate_write_json(struct work *w, bool with_grid, struct text *t)
{
    int64_t begun = now_ns();
    json_key(t, "seed"), json_uint(t, w->recipe.fields.seed);
    json_key(t, "model"), json_text(t, w->model->name);
    classes_write(w, t);
    int rc = images_write(w, t);
    if (w->recipe.n_frames > 1)
        json_key(t, "results_per_image"), json_int(t, w->recipe.n_frames);
    if (rc == 0 && with_grid)
        rc = grid_write(w, t);
    json_key(t, "parameters");
    json_raw(t, text_string(&w->comment) ? w->comment.data : "null");
    w->encode_ns = now_ns() - begun;
    work_write_timing(w, t);
    return rc ? rc : t->failed ? -ENOMEM : 0;
}

static int answer_json(struct work *w, struct text *t)
{
    json_open(t, '{');
    int rc = generate_write_json(w, false, t);
    json_close(t, '}');
    return rc;
}

static int answer_png(struct work *w, struct text *t)
{
    struct picture p = work_picture(w);
    return encode_grid(&p, text_string(&w->comment), t);
}

static int answer_npy(struct work *w, struct text *t)
{
    struct picture p = work_picture(w);
    return encode_npy(&p, t);
}

/* "0007-cat.png", with results of one image "0007-cat-02.png"; a class's name is kept as far as file names go. */
static void member_name(const struct work *w, int32_t i, char *name, size_t bytes)
{
    int32_t image = i / w->recipe.n_frames, frame = i % w->recipe.n_frames;
    char class_name[MODEL_CLASS_NAME_BYTES];
    snprintf(class_name, sizeof(class_name), "%s", recipe_class_name(w->model, recipe_class_of(&w->recipe, image)));
    for (char *c = class_name; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_')
            *c = '_';
    int n = snprintf(name, bytes, "%04d-%s", image, class_name);
    if (w->recipe.n_frames > 1)
        n += snprintf(name + n, bytes - (size_t)n, "-%02d", frame);
    snprintf(name + n, bytes - (size_t)n, ".png");
}

static int answer_zip(struct work *w, struct text *t)
{
    struct picture p = work_picture(w);
    struct text png = {0};
    struct zip z;
    int rc = 0;
    zip_begin(&z, t);
    for (int32_t i = 0; i < p.n && rc == 0; i++) {
        char name[MODEL_CLASS_NAME_BYTES + 32];
        member_name(w, i, name, sizeof(name));
        png.length = 0;
        rc = encode_image(&p, i, &png);
        if (rc == 0)
            rc = zip_add(&z, name, png.data, png.length);
    }
    text_done(&png);
    int finished = zip_finish(&z);
    return rc ? rc : finished;
}

static void generate_answer(struct exchange *x)
{
    static int (*const writers[])(struct work * w, struct text * t) = {
        [OFFER_PNG] = answer_png, [OFFER_JSON] = answer_json, [OFFER_ZIP] = answer_zip, [OFFER_NPY] = answer_npy};
    struct work *w = x->work;
    struct problem p;
    struct text body = {0};
    if (!work_outcome(w, &p)) {
        exchange_problem(x, &p);
        return;
    }
    int64_t begun = now_ns();
    int rc = writers[x->offer](w, &body);
    w->encode_ns = now_ns() - begun;
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
                               .client = exchange_client(x)};
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
    int32_t rows = w->recipe.table->n_rows;
    w->streaming = true;
    w->etag[0] = '\0';
    if (stream_prepare(w)) {
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for previews");
        return;
    }
    if (work_submit(x, rows < 10 ? 1 : rows / 10) == 0)
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
    etag_make(w, x->route->offers[x->offer], x->offer == OFFER_JSON);
    if (x->offer == OFFER_EVENTS) {
        generate_stream(x);
    } else if (!not_modified(x)) {
        w->finish = generate_answer;
        work_submit(x, 0);
    }
}

/* The table's order of media types and OFFER_* belong together; a dry run answers JSON whatever Accept says. */
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
