/* evaluation.c: see evaluation.h.
 */
#include "training/evaluation.h"

#include "model/file.h"
#include "model/image.h"
#include "training/folder.h"
#include "training/generator.h"
#include "training/progress.h"
#include "training/real_images.h"
#include "training/report.h"
#include "training/runs.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PADDING = 2, PER_ROW = 10, MAX_REPORT_BYTES = 64 << 20 };

struct evaluation {
    const struct evaluate_config *c;
    const struct run_options *o;
    struct run_folder folder;
    struct progress progress;
    struct device *device;
    const struct backend *backend;
    struct extractor *extractor;
    struct generator generator; // with a model
    struct real_images real;
    struct measured reference;
    struct evaluate_point points[EVALUATE_MAX_POINTS];
    int32_t n_points;
    json_t *report, *results; // results is the report's
    int64_t step, steps;      // measurements
    /* the point that is generated */
    struct measured measured;
    uint8_t *kept; // [n_kept, H, W, C]: its first images
    int32_t n_kept;
    bool generated; // at least one point in this run
    double start;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int no_memory(struct error *err)
{
    return error_set(err, -ENOMEM, NULL, "out of memory");
}

static struct measures_wanted wanted(const struct evaluation *e)
{
    return (struct measures_wanted){.kid = e->c->kid, .precision_recall = e->c->precision_recall};
}

static bool keeps(const struct evaluation *e)
{
    return e->c->kid || e->c->precision_recall || e->c->cache[0];
}

/* ---- what a run needs ---- */

static int open_devices(struct evaluation *e, struct error *err)
{
    const struct evaluate_config *c = e->c;
    int rc = run_device_open(c->device, e->o->threads, &e->device, err);
    if (rc < 0)
        return rc;
    e->backend = ((struct device_base *)e->device)->backend;
    rc = extractor_open(e->device, AT_FDCWD, c->extractor, c->resize, &e->extractor, err);
    if (rc < 0) {
        if (!err->field[0])
            snprintf(err->field, sizeof err->field, "extractor");
        return rc;
    }
    if (c->model[0])
        rc = generator_open(e->device, c->model, run_precision(c->precision, e->device), c->batch, &e->generator, err);
    return rc;
}

/* Real images have the sizes of the model's, and its classes. */
static int open_real(struct evaluation *e, struct error *err)
{
    struct evaluate_data reference = e->c->reference;
    int32_t channels = e->c->reference.set.mode == 0 ? 1 : 3;
    bool cached = false;
    if (e->c->model[0]) {
        const struct data_config *d = &e->generator.model.data;
        reference.set.image_size[0] = d->height;
        reference.set.image_size[1] = d->width;
        channels = d->channels;
        int rc = extractor_accepts(e->extractor, d->height, d->width, channels, err);
        if (rc < 0)
            return rc;
    } else if (e->c->reference.set.mode < 0 && extractor_info(e->extractor)->channels) {
        channels = extractor_info(e->extractor)->channels;
    }
    int rc = real_images_open(&reference, channels, "reference", e->o, &e->progress, &e->real, err);
    if (rc == 0)
        rc = real_images_measure_cached(&e->real, e->extractor, keeps(e), e->c->cache, resize_names[e->c->resize],
                                        &e->reference, &cached, err);
    if (rc == 0)
        progress_line(&e->progress, "reference: %lld images, %s; extractor: %s%s", (long long)e->real.n,
                      evaluate_part_names[reference.part], extractor_info(e->extractor)->kind,
                      cached ? "; features from the cache" : "");
    return rc;
}

/* ---- the report ---- */

static void add_reason(json_t *reasons, bool holds, const char *reason)
{
    if (!holds)
        json_array_append_new(reasons, json_string(reason));
}

/* What published numbers agree on: FID of 50,000 generated images against CIFAR-10's training images as published, in
 * the public Inception's features. */
static json_t *reasons(const struct evaluation *e)
{
    const struct extractor_info *info = extractor_info(e->extractor);
    json_t *list = json_array();
    add_reason(list, info->resizes, "the extractor is not FID's Inception");
    add_reason(list, info->resizes == info->published, "its weights are not the public ones of 2015-12-05");
    add_reason(list, e->c->reference.set.kind == DATASET_CIFAR10,
               "the reference is not CIFAR-10 in its published binary files");
    add_reason(list, e->c->reference.part == PART_ALL && e->c->reference.set.train,
               "the reference is not the whole training set");
    add_reason(list, e->c->model[0] && e->c->n == 50000, "the generated images are not 50,000");
    return list;
}

static json_t *class_names(const struct evaluation *e)
{
    const struct data_config *d = extractor_info(e->extractor)->data;
    json_t *list = json_array();
    for (int32_t i = 0; d && i < d->n_classes; i++)
        json_array_append_new(list, json_string(d->classes[i]));
    return list;
}

static const char *file_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int begin_report(struct evaluation *e, struct error *err)
{
    const struct extractor_info *info = extractor_info(e->extractor);
    json_t *because = reasons(e);
    json_t *model = e->c->model[0]
                        ? json_pack("{ss ss}", "file", file_of(e->c->model), "digest", e->generator.model.digest)
                        : json_null();
    e->report =
        json_pack("{ss so s{ss ss ss ss} s{sI ss ss ss} so ss ss sb so s[] s[]}", "program",
                  "ddimd-train " DDIMD_VERSION, "model", model, "extractor", "file", file_of(e->c->extractor), "kind",
                  info->kind, "digest", info->digest, "resize", info->resizes ? resize_names[e->c->resize] : "none",
                  "reference", "n", (json_int_t)e->real.n, "kind", dataset_kind_names[e->c->reference.set.kind], "part",
                  evaluate_part_names[e->c->reference.part], "digest", e->real.digest, "classes", class_names(e),
                  "precision", run_precision(e->c->precision, e->device) == DTYPE_BF16 ? "bf16" : "f32", "device",
                  ((struct device_base *)e->device)->description, "published_comparable", json_array_size(because) == 0,
                  "because", because, "results", "points");
    e->results = json_object_get(e->report, "results");
    return e->report ? 0 : no_memory(err);
}

/* Results of an interrupted run with the same model, extractor and reference. */
static void take_up_results(struct evaluation *e)
{
    static const char *const same[] = {"model", "extractor", "reference", "precision"};
    char *text = NULL;
    size_t n = 0, i;
    json_t *old = NULL, *result;
    if (file_read(e->folder.dir_fd, REPORT_JSON_NAME, MAX_REPORT_BYTES, &text, &n, NULL) == 0)
        old = json_loadb(text, n, 0, NULL);
    free(text);
    bool fits = old != NULL;
    for (size_t k = 0; fits && k < sizeof same / sizeof same[0]; k++)
        fits = json_equal(json_object_get(old, same[k]), json_object_get(e->report, same[k]));
    if (fits) {
        json_array_foreach(json_object_get(old, "results"), i, result) json_array_append(e->results, result);
        if (json_object_get(old, "nearest"))
            json_object_set(e->report, "nearest", json_object_get(old, "nearest"));
    }
    json_decref(old);
}

static int write_report(struct evaluation *e, struct error *err)
{
    json_object_set_new(e->report, "points", report_points(e->results));
    return report_write(e->folder.dir_fd, e->report, err);
}

/* The place that a job goes on from: what the report holds. */
static int write_place(struct evaluation *e, struct error *err)
{
    char text[160];
    int n = snprintf(text, sizeof text, "{\"state\": {\"step\": %lld, \"epoch\": 0, \"metrics_bytes\": %lld}}\n",
                     (long long)e->step, (long long)e->folder.metrics_bytes);
    return file_write(e->folder.checkpoints_fd, "state.json", text, (size_t)n, err);
}

static int record(struct evaluation *e, json_t *result, struct error *err)
{
    json_t *line =
        json_pack("{ss sI sI}", "event", "step", "step", (json_int_t)++e->step, "steps", (json_int_t)e->steps);
    if (line)
        json_object_update(line, result);
    /* "steps" is the run's; the sampler's are "sampling_steps" */
    if (line && json_object_get(result, "steps")) {
        json_object_set(line, "sampling_steps", json_object_get(result, "steps"));
        json_object_set_new(line, "steps", json_integer(e->steps));
    }
    json_object_del(line, "class_accuracy");
    int rc = run_folder_metrics(&e->folder, line, err);
    if (rc == 0)
        rc = write_report(e, err);
    return rc == 0 ? write_place(e, err) : rc;
}

/* ---- real images ---- */

static int measure_held_out(struct evaluation *e, struct error *err)
{
    const struct real_images *r = &e->real;
    const struct measures_wanted w = wanted(e);
    struct measured held_out;
    struct measures m;
    if (r->n_held_out < 2 || e->c->reference.part != PART_TRAIN)
        return 0;
    int rc = real_images_measure(r, r->held_out, r->n_held_out, e->extractor, keeps(e), &held_out, err);
    if (rc < 0)
        return rc;
    rc = measures_take(&held_out, &e->reference, &w, &m, err);
    if (rc == 0) {
        json_object_set_new(e->report, "real", report_result(NULL, 0, &m, &held_out, 0));
        progress_line(&e->progress, "real images, held out: n %lld  FD %.3f  accuracy %.2f %%", (long long)m.n,
                      m.frechet, 100 * m.accuracy);
    }
    measured_done(&held_out);
    return rc;
}

/* The images of a folder or of a data set in the place of a model's. */
static int measure_images(struct evaluation *e, struct error *err)
{
    struct real_images images;
    struct measured measured;
    struct measures m;
    const struct measures_wanted w = wanted(e);
    struct evaluate_data d = e->c->images;
    double start = now();
    memcpy(d.set.image_size, (int32_t[2]){e->real.dataset->height, e->real.dataset->width}, sizeof d.set.image_size);
    int rc = real_images_open(&d, e->real.dataset->channels, "images", e->o, &e->progress, &images, err);
    if (rc < 0)
        return rc;
    rc = real_images_measure(&images, images.indices, images.n, e->extractor, keeps(e), &measured, err);
    if (rc == 0) {
        rc = measures_take(&measured, &e->reference, &w, &m, err);
        if (rc == 0) {
            json_t *result = report_result(NULL, 0, &m, &measured, now() - start);
            json_object_set_new(e->report, "images", result);
            progress_line(&e->progress, "images: n %lld  FD %.3f", (long long)m.n, m.frechet);
            rc = record(e, result, err);
        }
        measured_done(&measured);
    }
    real_images_close(&images);
    return rc;
}

/* ---- generated images ---- */

static int take_batch(void *context, int64_t first, int32_t n, const uint8_t *pixels, const int32_t *classes,
                      struct error *err)
{
    struct evaluation *e = context;
    const struct data_config *d = &e->generator.model.data;
    size_t bytes = (size_t)d->height * (size_t)d->width * (size_t)d->channels;
    for (int32_t i = 0; i < n && first + i < e->n_kept; i++)
        memcpy(e->kept + (size_t)(first + i) * bytes, pixels + (size_t)i * bytes, bytes);
    double seconds = now() - e->start;
    const struct progress_view v = {.epoch = e->step + 1,
                                    .epochs = e->steps,
                                    .batch = first + n,
                                    .batches = e->c->n,
                                    .step = first + n,
                                    .steps = e->c->n,
                                    .loss = NAN,
                                    .images_per_s = (double)(first + n) / fmax(seconds, 1e-9),
                                    .seconds_left = seconds / (double)(first + n) * (double)(e->c->n - first - n)};
    progress_show(&e->progress, &v);
    return measured_add(&e->measured, pixels, n, d->height, d->width, d->channels, classes, err);
}

static int write_grid(struct evaluation *e, const uint8_t *pixels, int32_t n, int32_t per_row, const char *name,
                      struct error *err)
{
    const struct data_config *d = &e->generator.model.data;
    struct image8 grid = {0};
    uint8_t *png = NULL;
    size_t bytes = 0;
    int rc = image_grid(pixels, n, d->height, d->width, d->channels, per_row, PADDING, &grid);
    if (rc == 0)
        rc = image_png_encode(&grid, NULL, NULL, &png, &bytes);
    rc = rc < 0 ? no_memory(err) : file_write(e->folder.samples_fd, name, png, bytes, err);
    free(png);
    image8_done(&grid);
    return rc;
}

static int measure_point(struct evaluation *e, int32_t number, uint64_t seed, struct error *err)
{
    const struct evaluate_point *p = &e->points[number];
    const struct measures_wanted w = wanted(e);
    struct measures m;
    char name[64];
    int rc = measured_init(&e->measured, e->extractor, e->c->n, keeps(e), err);
    const struct generation g = {.recipe = p->recipe,
                                 .guidance = p->guidance,
                                 .clip = e->c->sampling.clip,
                                 .n = e->c->n,
                                 .seed = seed,
                                 .stop = e->o->stop,
                                 .take = take_batch,
                                 .context = e};
    e->start = now();
    e->generated = true;
    if (rc == 0)
        rc = generator_run(&e->generator, &g, err);
    if (rc == 0)
        rc = measures_take(&e->measured, &e->reference, &w, &m, err);
    if (rc == 0) {
        json_t *result = report_result(p, seed, &m, &e->measured, now() - e->start);
        json_array_append_new(e->results, result);
        progress_line(&e->progress,
                      "%s %s, %d steps, eta %g, guidance %g, seed %llu: FD %.3f  IS %.3f  accuracy %.2f %%  %.0f s",
                      sampler_names[p->recipe.sampler], step_method_names[p->recipe.method], p->recipe.steps,
                      p->recipe.eta, p->guidance, (unsigned long long)seed, m.frechet, m.inception_score.mean,
                      100 * m.accuracy, now() - e->start);
        rc = record(e, result, err);
    }
    snprintf(name, sizeof name, "epoch-%04d.png", number + 1); // as a job's samples are asked for
    int32_t shown = e->c->grid < e->n_kept ? e->c->grid : e->n_kept;
    if (rc == 0 && shown > 0 && seed == e->c->seed)
        rc = write_grid(e, e->kept, shown, PER_ROW, name, err);
    measured_done(&e->measured);
    return rc;
}

static bool is_done(const struct evaluation *e, const struct evaluate_point *p, uint64_t seed)
{
    size_t i;
    json_t *r;
    json_array_foreach(e->results, i, r) if (report_result_is(r, p, seed, e->c->n)) return true;
    return false;
}

static int measure_points(struct evaluation *e, struct error *err)
{
    int rc = 0;
    for (int32_t s = 0; rc == 0 && s < e->c->seeds; s++)
        for (int32_t i = 0; rc == 0 && i < e->n_points; i++) {
            uint64_t seed = e->c->seed + (uint64_t)s;
            if (is_done(e, &e->points[i], seed))
                e->step++;
            else
                rc = measure_point(e, i, seed, err);
        }
    return rc;
}

/* ---- memorisation ---- */

static void summary(const double *distance, int64_t n, double *ret_smallest, double *ret_mean)
{
    *ret_smallest = INFINITY;
    *ret_mean = 0;
    for (int64_t i = 0; i < n; i++) {
        *ret_smallest = fmin(*ret_smallest, distance[i]);
        *ret_mean += distance[i] / (double)n;
    }
}

/* Rows of up to PER_ROW generated images, and under each its nearest real one. */
static int write_neighbours(struct evaluation *e, int32_t n, const int64_t *index, struct error *err)
{
    const struct real_images *r = &e->real;
    int32_t per_row = n < PER_ROW ? n : PER_ROW, n_rows = (n + per_row - 1) / per_row, label = 0;
    uint8_t *pixels = calloc((size_t)(2 * n_rows * per_row), r->bytes);
    int rc = pixels ? 0 : no_memory(err);
    for (int32_t i = 0; rc == 0 && i < n; i++) {
        size_t at = (size_t)(i / per_row * 2 * per_row + i % per_row);
        memcpy(pixels + at * r->bytes, e->kept + (size_t)i * r->bytes, r->bytes);
        rc = real_images_read(r, &r->indices[index[i]], 1, pixels + (at + (size_t)per_row) * r->bytes, &label, err);
    }
    if (rc == 0)
        rc = write_grid(e, pixels, 2 * n_rows * per_row, per_row, "nearest.png", err);
    free(pixels);
    return rc;
}

static int compare_held_out(struct evaluation *e, int64_t n, json_t *json, struct error *err)
{
    const struct real_images *r = &e->real;
    double smallest, mean;
    n = n < r->n_held_out ? n : r->n_held_out;
    if (n == 0 || e->c->reference.part != PART_TRAIN)
        return 0;
    uint8_t *pixels = malloc((size_t)n * r->bytes);
    int32_t *labels = malloc((size_t)n * sizeof *labels);
    int64_t *index = malloc((size_t)n * sizeof *index);
    double *distance = malloc((size_t)n * sizeof *distance);
    int rc = pixels && labels && index && distance ? 0 : no_memory(err);
    if (rc == 0)
        rc = real_images_read(r, r->held_out, n, pixels, labels, err);
    if (rc == 0)
        rc = real_images_nearest(r, pixels, n, index, distance, err);
    if (rc == 0) {
        summary(distance, n, &smallest, &mean);
        json_object_set_new(json, "held_out_smallest", json_real(smallest));
        json_object_set_new(json, "held_out_mean", json_real(mean));
    }
    free(pixels);
    free(labels);
    free(index);
    free(distance);
    return rc;
}

/* Of the first images of the last point that was generated. */
static int find_neighbours(struct evaluation *e, struct error *err)
{
    int32_t n = e->c->nearest < e->n_kept ? e->c->nearest : e->n_kept;
    double smallest, mean;
    if (n == 0 || !e->generated)
        return 0;
    int64_t *index = malloc((size_t)n * sizeof *index);
    double *distance = malloc((size_t)n * sizeof *distance);
    int rc = index && distance ? real_images_nearest(&e->real, e->kept, n, index, distance, err) : no_memory(err);
    if (rc == 0)
        rc = write_neighbours(e, n, index, err);
    if (rc == 0) {
        summary(distance, n, &smallest, &mean);
        json_t *json = json_pack("{si sf sf}", "n", n, "smallest", smallest, "mean", mean);
        rc = compare_held_out(e, n, json, err);
        json_object_set_new(e->report, "nearest", json);
    }
    free(index);
    free(distance);
    return rc;
}

/* ---- there and back ---- */

static int measure_inversion(struct evaluation *e, struct error *err)
{
    const struct real_images *r = &e->real;
    const struct evaluate_inversion *c = &e->c->inversion;
    int32_t n = c->images < r->n ? c->images : (int32_t)r->n;
    if (n == 0)
        return 0;
    float *x = malloc((size_t)n * r->bytes * sizeof *x);
    int32_t *y = malloc((size_t)n * sizeof *y);
    json_t *list = json_array();
    int rc = x && y && list ? run_dataset_read(r->dataset, r->indices, n, x, y, err) : no_memory(err);
    for (int32_t i = 0; rc == 0 && i < c->n_steps && !*e->o->stop; i++) {
        double error;
        rc = generator_invert(&e->generator, c->steps[i], STEP_METHOD_LINEAR, x, y, n, &error, err);
        if (rc < 0)
            break;
        json_array_append_new(list, json_pack("{si sf si}", "steps", c->steps[i], "error", error, "n", n));
        progress_line(&e->progress, "there and back in %d steps: mean squared error %.6f of [0, 1]", c->steps[i],
                      error);
    }
    free(x);
    free(y);
    json_object_set_new(e->report, "inversion", list);
    return rc;
}

/* ---- the run ---- */

static int prepare(struct evaluation *e, struct error *err)
{
    int rc = run_folder_open(e->o->out, &e->folder, err);
    if (rc == 0 && faccessat(e->folder.dir_fd, REPORT_JSON_NAME, F_OK, 0) == 0 && !e->o->resume)
        rc = error_set(err, -EEXIST, NULL,
                       "%s holds an evaluation already: go on with --resume, or choose another folder", e->o->out);
    if (rc == 0)
        rc = run_folder_start_metrics(&e->folder, 0, err);
    if (rc == 0)
        rc = run_folder_write_config(&e->folder, evaluate_config_json(e->c), err);
    if (rc == 0)
        rc = open_devices(e, err);
    if (rc == 0)
        rc = open_real(e, err);
    if (rc == 0)
        rc = begin_report(e, err);
    if (rc < 0)
        return rc;
    if (e->o->resume)
        take_up_results(e);
    e->n_points = e->c->model[0] ? evaluate_config_points(e->c, e->points) : 0;
    e->steps = e->c->model[0] ? (int64_t)e->n_points * e->c->seeds : 1;
    int64_t kept = e->c->grid > e->c->nearest ? e->c->grid : e->c->nearest;
    e->n_kept = e->c->model[0] ? (int32_t)(kept < e->c->n ? kept : e->c->n) : 0;
    e->kept = e->n_kept ? calloc((size_t)e->n_kept, e->real.bytes) : NULL;
    return e->n_kept && !e->kept ? no_memory(err) : 0;
}

static int measure_all(struct evaluation *e, struct error *err)
{
    int rc = measure_held_out(e, err);
    if (rc == 0 && e->c->model[0])
        rc = measure_points(e, err);
    if (rc == 0 && e->c->has_images)
        rc = measure_images(e, err);
    if (rc == 0)
        rc = find_neighbours(e, err);
    if (rc == 0 && e->c->model[0])
        rc = measure_inversion(e, err);
    return rc;
}

static void tear_down(struct evaluation *e)
{
    run_folder_close(&e->folder);
    measured_done(&e->reference);
    real_images_close(&e->real);
    generator_close(&e->generator);
    extractor_close(e->extractor);
    if (e->device)
        e->backend->close(e->device);
    json_decref(e->report);
    free(e->kept);
    free(e);
}

int evaluation_run(const struct evaluate_config *c, const struct run_options *o, bool *ret_stopped, struct error *err)
{
    struct evaluation *e = calloc(1, sizeof *e);
    if (!e)
        return no_memory(err);
    e->c = c;
    e->o = o;
    progress_init(&e->progress, o->log);
    int rc = prepare(e, err);
    if (rc == 0)
        rc = measure_all(e, err);
    bool stopped = rc == -ECANCELED;
    if (rc == 0 || stopped)
        rc = write_report(e, err);
    if (rc == 0) {
        json_t *line = json_pack("{ss ss sI sI}", "event", "end", "end", stopped ? "stopped" : "finished", "step",
                                 (json_int_t)e->step, "steps", (json_int_t)e->steps);
        rc = run_folder_metrics(&e->folder, line, err);
    }
    tear_down(e);
    if (rc == 0)
        *ret_stopped = stopped;
    return rc;
}
