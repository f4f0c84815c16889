/* result.c: see result.h. */
#include "api/result.h"

#include "model/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

void result_done(struct result *r)
{
    free(r->classes);
    r->classes = NULL;
}

static const char *class_of(const struct result *r, int32_t image)
{
    return r->classes[(r->first + image) / r->n_each];
}

void result_etag(const char *recipe, const char *media_type, bool weak, char ret_etag[ETAG_BYTES])
{
    size_t n = recipe ? strlen(recipe) : 0, n_type = strlen(media_type);
    uint64_t a = text_hash(TEXT_HASH_SEED, recipe, n), b = text_hash(~TEXT_HASH_SEED, recipe, n);
    a = text_hash(a, media_type, n_type);
    b = text_hash(b, media_type, n_type);
    ret_etag[0] = '\0';
    if (recipe)
        snprintf(ret_etag, ETAG_BYTES, "%s\"%016llx%016llx\"", weak ? "W/" : "", (unsigned long long)a,
                 (unsigned long long)b);
}

/* ---- JSON ---- */

void timing_write(const struct timing *ms, struct text *t)
{
    json_key(t, "timing");
    text_printf(t, "{\"queue_ms\":%.3f,\"sample_ms\":%.3f,\"encode_ms\":%.3f}", ms->queue_ms, ms->sample_ms,
                ms->encode_ms);
}

static void classes_write(const struct result *r, struct text *t)
{
    json_key(t, "classes");
    json_open(t, '[');
    for (int32_t i = 0; i < r->picture.n / r->n_frames; i++)
        json_text(t, class_of(r, i));
    json_close(t, ']');
}

static int images_write(const struct result *r, struct text *t)
{
    struct text png = {0};
    int rc = 0;
    json_key(t, "images");
    json_open(t, '[');
    for (int32_t i = 0; i < r->picture.n && rc == 0; i++) {
        png.length = 0;
        rc = encode_image(&r->picture, i, &png);
        json_base64(t, png.data, png.length);
    }
    json_close(t, ']');
    text_done(&png);
    return rc;
}

static int grid_write(const struct result *r, struct text *t)
{
    struct text png = {0};
    int rc = encode_grid(&r->picture, r->recipe, &png);
    json_key(t, "png");
    json_base64(t, png.data, png.length);
    text_done(&png);
    return rc;
}

int result_write_members(struct result *r, bool with_grid, struct text *t)
{
    double begun = now_ms();
    json_key(t, "seed"), json_uint(t, r->seed);
    json_key(t, "model"), json_text(t, r->model);
    classes_write(r, t);
    int rc = images_write(r, t);
    if (r->n_frames > 1)
        json_key(t, "results_per_image"), json_int(t, r->n_frames);
    if (rc == 0 && with_grid)
        rc = grid_write(r, t);
    json_key(t, "parameters"), json_raw(t, r->recipe ? r->recipe : "null");
    r->timing.encode_ms = now_ms() - begun;
    timing_write(&r->timing, t);
    return rc ? rc : t->failed ? -ENOMEM : 0;
}

/* ---- ZIP ---- */

/* "0007-cat.png", with results of one image "0007-cat-02.png"; a class's name is kept as far as file names go. */
static void member_name(const struct result *r, int32_t i, char *name, size_t bytes)
{
    int32_t image = i / r->n_frames, frame = i % r->n_frames;
    char class_name[MODEL_CLASS_NAME_BYTES];
    snprintf(class_name, sizeof(class_name), "%s", class_of(r, image));
    for (char *c = class_name; *c; c++)
        if (!isalnum((unsigned char)*c) && *c != '-' && *c != '_')
            *c = '_';
    int n = snprintf(name, bytes, "%04d-%s", r->first + image, class_name);
    if (r->n_frames > 1)
        n += snprintf(name + n, bytes - (size_t)n, "-%02d", frame);
    snprintf(name + n, bytes - (size_t)n, ".png");
}

static int zip_write(const struct result *r, struct text *t)
{
    struct text png = {0};
    struct zip z;
    int rc = 0;
    zip_begin(&z, t);
    for (int32_t i = 0; i < r->picture.n && rc == 0; i++) {
        char name[MODEL_CLASS_NAME_BYTES + 32];
        member_name(r, i, name, sizeof(name));
        png.length = 0;
        rc = encode_image(&r->picture, i, &png);
        if (rc == 0)
            rc = zip_add(&z, name, png.data, png.length);
    }
    text_done(&png);
    int finished = zip_finish(&z);
    return rc ? rc : finished;
}

/* ---- all of them ---- */

int result_write(struct result *r, enum result_form form, struct text *t)
{
    double begun = now_ms();
    int rc = 0;
    switch (form) {
    case RESULT_PNG:
        rc = encode_grid(&r->picture, r->recipe, t);
        break;
    case RESULT_JSON:
        json_open(t, '{');
        rc = result_write_members(r, false, t);
        json_close(t, '}');
        break;
    case RESULT_ZIP:
        rc = zip_write(r, t);
        break;
    case RESULT_NPY:
        rc = encode_npy(&r->picture, t);
        break;
    }
    r->timing.encode_ms = now_ms() - begun;
    return rc;
}
