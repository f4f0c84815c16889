/* work.h: one generation on behalf of an exchange: from its fields to the scheduler and back.
 *
 * HTTP thread, but for what is marked: that is guarded by the exchange's lock.
 */
#ifndef DDIMD_API_WORK_H
#define DDIMD_API_WORK_H

#include "api/exchange.h"
#include "api/recipe.h"
#include "api/result.h"

/* A preview that waits to be sent; later ones of the same image replace it. */
struct preview {
    int32_t step; // 0: none waits
};

struct work {
    struct fields fields;
    struct resident_model *model; // a reference
    struct recipe recipe;
    struct generation *generation; // the scheduler's between submit and done()
    struct text comment;           // the recipe as a JSON object: the PNG's text
    char etag[ETAG_BYTES];
    void (*finish)(struct exchange *x); // answers, once the generation has ended
    double encode_ms;

    /* a stream of events (stream.c) */
    bool streaming, result_written;
    struct text out; // events that are written, from out_sent on not yet sent
    size_t out_sent;

    /* locked: what the worker hands over */
    bool ended;
    bool progress_waits;
    int64_t done_steps, total_steps;
    struct preview *previews; // [n_images], NULL: not wanted
    float *preview_images;    // [n_images, H, W, C]
};

void work_free(struct work *w); // NULL is fine; the generation has ended or was never submitted

/* Fields are read: gets the model, resolves, then calls next(x), or answers a problem. */
void work_begin(struct exchange *x, void (*next)(struct exchange *x));
/* Submits the resolved recipe. The exchange waits, and work->finish(x) runs when it has ended; with streaming it does
 * not wait. 0, or a problem was answered. */
int work_submit(struct exchange *x, int32_t preview_every);
/* Notices when the client of a suspended exchange hangs up (hangup.h). */
void work_watch_client(struct exchange *x);
/* The outcome, for finish(): true where the images are there, else the problem. */
bool work_outcome(const struct work *w, struct problem *ret_problem);
/* The finished images as encode.h wants them, and as result.h does. 0, -ENOMEM; result_done(). */
struct picture work_picture(const struct work *w);
int work_result(struct work *w, struct result *ret_result);
struct timing work_timing(const struct work *w);
/* Server-Timing, X-Seed, X-Model, ETag. */
void work_headers(struct exchange *x);
/* Adds the finished images to the metrics. */
void work_count(struct exchange *x);
/* Adds the work's sizes and times to the log line. */
void work_note(struct exchange *x);

/* Answers with a stream of events after a successful submit (stream.c), and what the worker tells it. */
void stream_answer(struct exchange *x);
void stream_progress(struct generation *g, int64_t done_steps, int64_t total_steps, void *context);
void stream_preview(struct generation *g, int32_t image, int32_t step, const float *x0, void *context);
int stream_prepare(struct work *w);

#endif
