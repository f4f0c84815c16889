/* stream.c: a generation as server-sent events: progress, previews, and the result or a problem as the last one.
 *
 * The worker leaves the newest state under the exchange's lock and wakes the connection. Events are written, and
 * previews encoded, in the HTTP thread, when the client takes them: a slow client gets fewer events, not a longer
 * queue.
 */
#include "api/private.h"
#include "api/work.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static size_t image_elements(const struct work *w)
{
    const struct data_config *d = &w->model->data;
    return (size_t)d->height * d->width * d->channels;
}

int stream_prepare(struct work *w)
{
    size_t n = (size_t)w->recipe.n_images;
    w->previews = calloc(n, sizeof(*w->previews));
    w->preview_images = malloc(n * image_elements(w) * sizeof(float));
    return w->previews && w->preview_images ? 0 : -ENOMEM;
}

/* ---- worker thread ---- */

void stream_progress(struct generation *g, int64_t done_steps, int64_t total_steps, void *context)
{
    struct exchange *x = context;
    pthread_mutex_lock(&x->lock);
    x->work->progress_waits = true;
    if (done_steps > x->work->done_steps) // devices may tell out of order
        x->work->done_steps = done_steps;
    x->work->total_steps = total_steps;
    pthread_mutex_unlock(&x->lock);
    exchange_wake(x);
}

void stream_preview(struct generation *g, int32_t image, int32_t step, const float *x0, void *context)
{
    struct exchange *x = context;
    struct work *w = x->work;
    size_t n = image_elements(w);
    pthread_mutex_lock(&x->lock);
    memcpy(w->preview_images + (size_t)image * n, x0, n * sizeof(float));
    w->previews[image].step = step;
    pthread_mutex_unlock(&x->lock);
}

/* ---- HTTP thread ---- */

static void event_begin(struct work *w, const char *name)
{
    text_printf(&w->out, "event: %s\ndata: {", name);
}

static void event_end(struct work *w)
{
    json_close(&w->out, '}');
    text_puts(&w->out, "\n\n");
}

static void write_progress(struct work *w, int64_t done_steps, int64_t total_steps)
{
    event_begin(w, "progress");
    json_key(&w->out, "done"), json_int(&w->out, done_steps);
    json_key(&w->out, "total"), json_int(&w->out, total_steps);
    event_end(w);
}

static void write_preview(struct work *w, int32_t image, int32_t step, const float *x0)
{
    struct picture p = work_picture(w);
    struct text png = {0};
    p.images = x0;
    p.n = 1;
    if (encode_image(&p, 0, &png) == 0) {
        event_begin(w, "preview");
        json_key(&w->out, "image"), json_int(&w->out, image);
        json_key(&w->out, "step"), json_int(&w->out, step);
        json_key(&w->out, "png"), json_base64(&w->out, png.data, png.length);
        event_end(w);
    }
    text_done(&png);
}

static void write_result(struct exchange *x)
{
    struct work *w = x->work;
    struct problem p;
    w->result_written = true;
    if (work_outcome(w, &p)) {
        struct result r;
        event_begin(w, "result");
        int rc = work_result(w, &r);
        if (rc == 0) {
            rc = result_write_members(&r, true, &w->out);
            w->encode_ms = r.timing.encode_ms;
            result_done(&r);
        }
        if (rc == 0) {
            event_end(w);
            work_count(x);
            return;
        }
        w->out.length = w->out_sent; // nothing of it was sent yet
        problem_set(&p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the result");
        w->out.failed = false;
    }
    text_puts(&w->out, "event: error\ndata: ");
    struct text json = {0};
    problem_write(&p, x->request_id, &json);
    text_append(&w->out, json.data, json.length);
    text_done(&json);
    text_puts(&w->out, "\n\n");
}

/* Copies a preview that waits into to, and returns its image; -1: none waits. Locked. */
static int32_t preview_take(struct work *w, int32_t *ret_step, float *to)
{
    for (int32_t i = 0; i < w->recipe.n_images; i++) {
        if (w->previews[i].step) {
            *ret_step = w->previews[i].step;
            w->previews[i].step = 0;
            memcpy(to, w->preview_images + (size_t)i * image_elements(w), image_elements(w) * sizeof(float));
            return i;
        }
    }
    return -1;
}

/* Writes the events that are due to work->out. false: nothing is, and the connection was suspended. */
static bool events_write(struct exchange *x)
{
    struct work *w = x->work;
    float *x0 = malloc(image_elements(w) * sizeof(float));
    int32_t image = -1, step = 0;
    pthread_mutex_lock(&x->lock);
    bool progress = w->progress_waits, ended = w->ended;
    int64_t done_steps = w->done_steps, total_steps = w->total_steps;
    w->progress_waits = false;
    if (x0 && !ended)
        image = preview_take(w, &step, x0);
    if (!progress && image < 0 && !ended) {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    if (progress)
        write_progress(w, done_steps, total_steps);
    if (image >= 0)
        write_preview(w, image, step, x0);
    if (ended)
        write_result(x);
    free(x0);
    return progress || image >= 0 || ended;
}

static ssize_t on_read(void *context, uint64_t pos, char *buffer, size_t room)
{
    struct exchange *x = context;
    struct work *w = x->work;
    if (w->out_sent == w->out.length) {
        w->out.length = w->out_sent = 0;
        if (w->result_written)
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (!events_write(x))
            return 0;
    }
    if (w->out.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    size_t n = w->out.length - w->out_sent;
    if (n > room)
        n = room;
    memcpy(buffer, w->out.data + w->out_sent, n);
    w->out_sent += n;
    return (ssize_t)n;
}

static void on_free(void *context)
{
    exchange_release(context);
}

void stream_answer(struct exchange *x)
{
    enum { BLOCK_BYTES = 16384 };
    exchange_retain(x);
    x->response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, on_read, x, on_free);
    if (!x->response) {
        exchange_release(x);
        return;
    }
    x->status = 200;
    exchange_header(x, "Content-Type", "text/event-stream");
    exchange_header(x, "X-Request-Id", x->request_id);
    exchange_header(x, "X-Content-Type-Options", "nosniff");
    work_headers(x);
}
