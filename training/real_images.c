/* real_images.c: see real_images.h.
 */
#include "training/real_images.h"

#include "model/safetensors.h"
#include "training/runs.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { CHUNK = 1024 };
static const int64_t cache_bytes_max = (int64_t)2 << 30;

static int no_memory(struct error *err)
{
    return error_set(err, -ENOMEM, NULL, "out of memory for images");
}

static void note(void *context, const char *message)
{
    progress_line(context, "data: %s", message);
}

int real_images_read(const struct real_images *r, const int64_t *indices, int64_t n, uint8_t *ret_pixels,
                     int32_t *ret_labels, struct error *err)
{
    for (int64_t i = 0; i < n; i++) {
        int rc = dataset_read(r->dataset, indices[i], ret_pixels + (size_t)i * r->bytes, &ret_labels[i]);
        if (rc < 0)
            return error_set(err, rc, "reference.path", rc == -ENOMEM ? "out of memory" : "images cannot be read");
    }
    return 0;
}

/* Calls visit with chunks of the images of a list. */
static int for_chunks(const struct real_images *r, const int64_t *indices, int64_t n,
                      int (*visit)(void *context, int64_t first, int32_t count, const uint8_t *pixels,
                                   const int32_t *labels, struct error *err),
                      void *context, struct error *err)
{
    uint8_t *pixels = malloc(CHUNK * r->bytes);
    int32_t *labels = malloc(CHUNK * sizeof *labels);
    int rc = pixels && labels ? 0 : no_memory(err);
    for (int64_t first = 0; rc == 0 && first < n; first += CHUNK) {
        int32_t count = n - first < CHUNK ? (int32_t)(n - first) : CHUNK;
        rc = real_images_read(r, indices + first, count, pixels, labels, err);
        if (rc == 0)
            rc = visit(context, first, count, pixels, labels, err);
    }
    free(pixels);
    free(labels);
    return rc;
}

/* ---- opening ---- */

struct digesting {
    struct sha256_ctx sha;
    size_t bytes;
};

static int digest_chunk(void *context, int64_t first, int32_t count, const uint8_t *pixels, const int32_t *labels,
                        struct error *err)
{
    struct digesting *d = context;
    sha256_update(&d->sha, (size_t)count * sizeof *labels, (const uint8_t *)labels);
    sha256_update(&d->sha, (size_t)count * d->bytes, pixels);
    return 0;
}

static int digest_images(struct real_images *r, struct error *err)
{
    const int32_t sizes[3] = {r->dataset->height, r->dataset->width, r->dataset->channels};
    struct digesting d = {.bytes = r->bytes};
    uint8_t sum[SHA256_DIGEST_SIZE];
    sha256_init(&d.sha);
    sha256_update(&d.sha, sizeof sizes, (const uint8_t *)sizes);
    int rc = for_chunks(r, r->indices, r->n, digest_chunk, &d, err);
    sha256_digest(&d.sha, sizeof sum, sum);
    for (size_t i = 0; i < sizeof sum; i++)
        snprintf(r->digest + 2 * i, 3, "%02x", sum[i]);
    return rc;
}

static int choose_part(struct real_images *r, const struct evaluate_data *d, struct error *err)
{
    const struct train_validation v = {.images = d->held_out};
    int64_t n_train = 0, n_held_out = 0;
    int rc = run_dataset_split(&v, r->dataset->n, &r->all[0], &n_train, &r->all[1], &n_held_out, err);
    if (rc < 0)
        return rc;
    bool held_out = d->part == PART_HELD_OUT;
    r->held_out = r->all[1];
    r->n_held_out = n_held_out;
    r->indices = held_out ? r->all[1] : r->all[0];
    r->n = held_out ? n_held_out : n_train;
    if (d->part != PART_ALL || n_held_out == 0)
        return 0;
    for (int64_t i = 0; i < r->dataset->n; i++) // all: dataset_split() allocated one array of this length
        r->all[0][i] = i;
    r->n = r->dataset->n;
    return 0;
}

int real_images_open(const struct evaluate_data *d, int32_t channels, const char *field, const struct run_options *o,
                     struct progress *progress, struct real_images *ret_images, struct error *err)
{
    struct real_images r = {0};
    int rc = run_dataset_open(&d->set, channels, o, note, progress, &r.dataset, err);
    if (rc < 0)
        return rc;
    r.bytes = (size_t)r.dataset->height * (size_t)r.dataset->width * (size_t)r.dataset->channels;
    rc = choose_part(&r, d, err);
    if (rc == 0)
        rc = digest_images(&r, err);
    if (rc < 0)
        real_images_close(&r);
    else
        *ret_images = r;
    return rc;
}

void real_images_close(struct real_images *r)
{
    dataset_close(r->dataset);
    free(r->all[0]);
    free(r->all[1]);
    *r = (struct real_images){0};
}

/* ---- features ---- */

struct measuring {
    const struct real_images *r;
    struct measured *m;
};

static int measure_chunk(void *context, int64_t first, int32_t count, const uint8_t *pixels, const int32_t *labels,
                         struct error *err)
{
    const struct measuring *w = context;
    const struct dataset *d = w->r->dataset;
    return measured_add(w->m, pixels, count, d->height, d->width, d->channels, labels, err);
}

int real_images_measure(const struct real_images *r, const int64_t *indices, int64_t n, struct extractor *e, bool keep,
                        struct measured *ret_measured, struct error *err)
{
    struct measured m;
    int rc = extractor_accepts(e, r->dataset->height, r->dataset->width, r->dataset->channels, err);
    if (rc == 0)
        rc = measured_init(&m, e, n, keep, err);
    if (rc < 0)
        return rc;
    rc = for_chunks(r, indices, n, measure_chunk, &(struct measuring){r, &m}, err);
    if (rc < 0)
        measured_done(&m);
    else
        *ret_measured = m;
    return rc;
}

/* ---- the cache ---- */

/* Labels are not kept: they come with the images. */
static int load_cached(const struct real_images *r, const char *path, struct extractor *e, bool keep,
                       struct measured *ret_measured, struct error *err)
{
    const struct extractor_info *info = extractor_info(e);
    struct safetensors *s = NULL;
    struct measured m = {0};
    int rc = safetensors_open(AT_FDCWD, path, &s, NULL);
    if (rc == 0)
        rc = safetensors_load(s, NULL);
    const struct safetensor *f = rc == 0 ? safetensors_find(s, "features") : NULL;
    const struct safetensor *l = rc == 0 ? safetensors_find(s, "logits") : NULL;
    if (!f || !l || safetensor_elements(f) != r->n * info->n_features ||
        safetensor_elements(l) != r->n * info->n_logits)
        rc = -ENOENT;
    if (rc == 0)
        rc = measured_init(&m, e, r->n, keep, err);
    float *features = malloc(CHUNK * (size_t)info->n_features * sizeof(float));
    float *logits = malloc(CHUNK * (size_t)info->n_logits * sizeof(float));
    if (rc == 0 && !(features && logits))
        rc = no_memory(err);
    for (int64_t first = 0; rc == 0 && first < r->n; first += CHUNK) {
        size_t n = r->n - first < CHUNK ? (size_t)(r->n - first) : CHUNK;
        int32_t labels[CHUNK];
        for (size_t i = 0; i < n; i++)
            labels[i] = r->dataset->labels[r->indices[first + (int64_t)i]];
        size_t d = (size_t)info->n_features, k = (size_t)info->n_logits;
        rc = safetensor_to_f32(f, (size_t)first * d, n * d, features);
        if (rc == 0)
            rc = safetensor_to_f32(l, (size_t)first * k, n * k, logits);
        if (rc == 0)
            measured_add_features(&m, features, logits, (int32_t)n, labels);
    }
    free(features);
    free(logits);
    safetensors_close(s);
    if (rc < 0)
        measured_done(&m);
    else
        *ret_measured = m;
    return rc;
}

/* Where it cannot be written, the next run measures again. */
static void store_cached(const struct measured *m, const char *folder, const char *path)
{
    const struct extractor_info *info = extractor_info(m->extractor);
    const struct safetensor tensors[] = {
        {.name = "features", .dtype = SAFETENSORS_F32, .rank = 2, .dim = {m->n, info->n_features}, .data = m->features},
        {.name = "logits", .dtype = SAFETENSORS_F32, .rank = 2, .dim = {m->n, info->n_logits}, .data = m->logits},
    };
    if (!m->features || m->n * (info->n_features + info->n_logits) * 4 > cache_bytes_max)
        return;
    if (mkdir(folder, 0777) == 0 || errno == EEXIST)
        safetensors_write(AT_FDCWD, path, tensors, 2, NULL, 0, NULL);
}

int real_images_measure_cached(const struct real_images *r, struct extractor *e, bool keep, const char *cache,
                               const char *resize, struct measured *ret_measured, bool *ret_cached, struct error *err)
{
    const struct extractor_info *info = extractor_info(e);
    char path[TRAIN_PATH_BYTES + 160];
    int rc = extractor_accepts(e, r->dataset->height, r->dataset->width, r->dataset->channels, err);
    if (rc < 0)
        return rc;
    snprintf(path, sizeof path, "%s/%.32s-%.32s-%s.safetensors", cache, r->digest, info->digest,
             info->resizes ? resize : "as-is");
    *ret_cached = cache[0] && load_cached(r, path, e, keep, ret_measured, err) == 0;
    if (*ret_cached)
        return 0;
    rc = real_images_measure(r, r->indices, r->n, e, keep, ret_measured, err);
    if (rc == 0 && cache[0])
        store_cached(ret_measured, cache, path);
    return rc;
}

/* ---- nearest ---- */

struct neighbours {
    const struct real_images *r;
    const float *rows;
    int64_t n;
    float *chunk;     // [CHUNK, bytes]
    int64_t *index;   // [n]
    double *distance; // [n]
    int64_t *found;   // [n] work space
    double *found_at; // [n]
};

static void widen(const uint8_t *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = from[i];
}

static int compare_chunk(void *context, int64_t first, int32_t count, const uint8_t *pixels, const int32_t *labels,
                         struct error *err)
{
    struct neighbours *w = context;
    widen(pixels, (size_t)count * w->r->bytes, w->chunk);
    int rc = metric_nearest(w->rows, w->n, w->chunk, count, (int32_t)w->r->bytes, w->found, w->found_at);
    if (rc < 0)
        return no_memory(err);
    for (int64_t i = 0; i < w->n; i++)
        if (w->found_at[i] < w->distance[i]) {
            w->distance[i] = w->found_at[i];
            w->index[i] = first + w->found[i];
        }
    return 0;
}

int real_images_nearest(const struct real_images *r, const uint8_t *pixels, int64_t n, int64_t *ret_index,
                        double *ret_distance, struct error *err)
{
    float *rows = malloc((size_t)n * r->bytes * sizeof *rows);
    struct neighbours w = {.r = r, .rows = rows, .n = n, .index = ret_index, .distance = ret_distance};
    w.chunk = malloc(CHUNK * r->bytes * sizeof *w.chunk);
    w.found = malloc((size_t)n * sizeof *w.found);
    w.found_at = malloc((size_t)n * sizeof *w.found_at);
    int rc = rows && w.chunk && w.found && w.found_at ? 0 : no_memory(err);
    if (rc == 0)
        widen(pixels, (size_t)n * r->bytes, rows);
    for (int64_t i = 0; i < n; i++)
        ret_distance[i] = INFINITY;
    if (rc == 0)
        rc = for_chunks(r, r->indices, r->n, compare_chunk, &w, err);
    for (int64_t i = 0; i < n; i++)
        ret_distance[i] /= sqrt((double)r->bytes);
    free(rows);
    free(w.chunk);
    free(w.found);
    free(w.found_at);
    return rc;
}
