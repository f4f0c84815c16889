/* replay.c: POST /replay: a PNG of ours says in its text chunk how it was made; make it again and compare.
 *
 * The new picture gets the old text, so that the files are equal exactly where the pixels are.
 */
#include "api/private.h"
#include "api/work.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void differs_write(const struct exchange *x, struct text *t)
{
    const struct work *w = x->work;
    const struct fields *f = &w->fields;
    json_key(t, "differs");
    json_open(t, '[');
    if (*f->digest && strcmp(f->digest, w->model->digest) != 0)
        json_text(t, "model");
    if (*f->build && strcmp(f->build, DDIMD_VERSION) != 0)
        json_text(t, "build");
    if (*f->device && strcmp(f->device, x->api->options.device) != 0)
        json_text(t, "device");
    json_close(t, ']');
}

static void versions_write(struct text *t, const char *key, const char *digest, const char *build, const char *device)
{
    json_key(t, key);
    json_open(t, '{');
    json_key(t, "digest"), json_text(t, *digest ? digest : NULL);
    json_key(t, "build"), json_text(t, *build ? build : NULL);
    json_key(t, "device"), json_text(t, *device ? device : NULL);
    json_close(t, '}');
}

static void replay_answer(struct exchange *x)
{
    struct work *w = x->work;
    struct problem p;
    struct text png = {0}, t = {0};
    if (!work_outcome(w, &p)) {
        exchange_problem(x, &p);
        return;
    }
    int64_t begun = now_ns();
    struct picture picture = work_picture(w);
    if (encode_grid(&picture, text_string(&w->comment), &png)) {
        text_done(&png);
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the picture");
        return;
    }
    w->encode_ms = (double)(now_ns() - begun) / 1e6;
    bool identical = png.length == x->body.length && memcmp(png.data, x->body.data, png.length) == 0;
    text_done(&png);
    json_open(&t, '{');
    json_key(&t, "identical"), json_bool(&t, identical);
    differs_write(x, &t);
    versions_write(&t, "then", w->fields.digest, w->fields.build, w->fields.device);
    versions_write(&t, "now", w->model->digest, DDIMD_VERSION, x->api->options.device);
    json_key(&t, "parameters");
    json_raw(&t, text_string(&w->comment) ? w->comment.data : "null");
    struct timing timing = work_timing(w);
    timing_write(&timing, &t);
    json_close(&t, '}');
    exchange_answer(x, 200, "application/json", &t);
    work_headers(x);
}

static void replay_resolved(struct exchange *x)
{
    x->work->finish = replay_answer;
    work_submit(x, 0);
}

/* The text of the chunk becomes work->comment, its values work->fields. false: a problem was answered. */
static bool recipe_read(struct exchange *x)
{
    struct error err = {0};
    struct problem p;
    char *text = NULL;
    int rc = image_png_text((const uint8_t *)x->body.data, x->body.length, "ddimd", &text, &err);
    if (rc) {
        exchange_fail(x, PROBLEM_BAD_BODY, "%s",
                      rc == -ENOENT    ? "the PNG file was not made here: it has no text chunk \"ddimd\""
                      : err.message[0] ? err.message
                                       : "the body is not a PNG file");
        return false;
    }
    text_puts(&x->work->comment, text);
    struct field_source source = {.body = text, .body_bytes = strlen(text), .body_is_json = true};
    rc = fields_read(replay_fields, &source, &x->work->fields, &p);
    if (rc == 0 && !x->work->fields.has_seed) {
        fields_done(&x->work->fields);
        rc = problem_set(&p, PROBLEM_BAD_FIELD, "seed", "the text chunk says no seed");
    }
    free(text);
    if (rc)
        exchange_problem(x, &p);
    return rc == 0;
}

void handle_replay(struct exchange *x)
{
    if (!api_check_ready(x))
        return;
    x->work = calloc(1, sizeof(*x->work));
    if (!x->work)
        exchange_fail(x, PROBLEM_OUT_OF_MEMORY, "no memory for the request");
    else if (x->body.length == 0)
        exchange_fail(x, PROBLEM_BAD_BODY, "the body must be a PNG file that was made here");
    else if (recipe_read(x))
        work_begin(x, replay_resolved);
}
