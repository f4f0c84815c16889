/* classify.c: see classify.h. */
#include "training/classify.h"

#include "kernels/philox.h"
#include "model/json.h"
#include "model/loader.h"
#include "training/classify_learner.h"
#include "training/folder.h"
#include "training/progress.h"
#include "training/runs.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PREFETCH = 4, MAX_SHIFT = 16, SHIFT_KEY = 0x73686966 };

/* ---- configuration ---- */

static int read_classifier(const json_t *json, const char *path, void *member, struct error *err)
{
    return classifier_config_parse(json, path, member, err);
}

static json_t *write_classifier(const void *member)
{
    return classifier_config_json(member);
}

#define AT(member) offsetof(struct classify_config, member)
static const struct json_field classify_fields[] = {
    {"classifier", FIELD_CUSTOM, AT(classifier), .required = true, .read = read_classifier, .write = write_classifier,
     .help = "network"},
    {"shift", FIELD_INT32, AT(shift), 0, MAX_SHIFT, .help = "images are moved by up to this many pixels each way"},
    {"dataset", FIELD_OBJECT, AT(train.dataset), .required = true, .fields = train_dataset_fields, .help = "images"},
    {"optimizer", FIELD_OBJECT, AT(train.optimizer), .fields = train_optimizer_fields, .help = "AdamW"},
    {"ema", FIELD_OBJECT, AT(train.ema), .fields = train_ema_fields, .help = "average of the weights"},
    {"checkpoint", FIELD_OBJECT, AT(train.checkpoint), .fields = train_checkpoint_fields, .help = "dtype of the file"},
    {"validation", FIELD_OBJECT, AT(train.validation), .fields = train_validation_fields, .help = "held-out images"},
    {"epochs", FIELD_INT32, AT(train.epochs), 1, 1e6, .help = "passes over the training images"},
    {"log_steps", FIELD_INT32, AT(train.log_steps), 1, 1e6, .help = "steps between lines of metrics.jsonl"},
    {"seed", FIELD_UINT64, AT(train.seed), .help = "of everything random"},
    {"device", FIELD_ENUM, AT(train.device), .names = train_device_names, .help = "where to train"},
    {"precision", FIELD_ENUM, AT(train.precision), .names = train_precision_names, .help = "what is computed in"},
    {0},
};
#undef AT

static int check_data(struct classify_config *c, struct error *err)
{
    struct data_config data;
    const struct train_dataset *d = &c->train.dataset;
    json_t *json = json_pack("{s[ii]}", "image_size", d->image_size[0], d->image_size[1]);
    if (!json)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = classifier_data_parse(json, "dataset", &c->classifier, &data, err);
    json_decref(json);
    if (rc == 0)
        data_config_done(&data);
    if (rc == 0 && d->mode >= 0 && (d->mode == 0) != (c->classifier.in_channels == 1))
        rc = error_set(err, -EINVAL, "dataset.mode", "does not fit classifier.in_channels (%d)",
                       c->classifier.in_channels);
    c->train.dataset.mode = c->classifier.in_channels == 1 ? 0 : 1;
    return rc;
}

int classify_config_parse(const json_t *json, struct classify_config *ret_config, struct error *err)
{
    struct classify_config c = {.classifier = classifier_config_default, .train = train_config_default};
    c.train.epochs = 10;
    c.train.ema.decay = 0.99;
    int rc = json_fields_read(json, "", classify_fields, &c, NULL, err);
    if (rc == 0)
        rc = check_data(&c, err);
    if (rc == 0)
        *ret_config = c;
    return rc;
}

json_t *classify_config_json(const struct classify_config *c)
{
    return json_fields_write(classify_fields, c);
}

/* ---- the run ---- */

struct run {
    const struct classify_config *c;
    const struct run_options *o;
    struct run_folder folder;
    struct progress progress;
    struct dataset *dataset;
    int64_t *train, *held_out;
    int64_t n_train, n_held_out;
    struct loader *loader;
    const struct backend *backend;
    struct device *device;
    struct classify_learner *learner;
    size_t elements;
    float *x;   // [batch_size, H, W, C]
    int32_t *y; // [batch_size]
    int64_t step, batches;
    double mark, loss_sum;
    int64_t loss_n;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void note(void *context, const char *message)
{
    struct run *r = context;
    progress_line(&r->progress, "data: %s", message);
}

static int open_data(struct run *r, struct error *err)
{
    const struct train_dataset *d = &r->c->train.dataset;
    int rc = run_dataset_open(d, r->c->classifier.in_channels, r->o, note, r, &r->dataset, err);
    if (rc == 0 && r->dataset->n_classes != r->c->classifier.num_classes)
        rc = error_set(err, -EINVAL, "classifier.num_classes", "is %d, but the data set has %d classes",
                       r->c->classifier.num_classes, r->dataset->n_classes);
    if (rc == 0)
        rc = run_dataset_split(&r->c->train.validation, r->dataset->n, &r->train, &r->n_train, &r->held_out,
                               &r->n_held_out, err);
    if (rc < 0)
        return rc;
    progress_line(&r->progress, "data: %lld training images, %lld held out, %d classes", (long long)r->n_train,
                  (long long)r->n_held_out, r->dataset->n_classes);
    const struct loader_options o = {.dataset = r->dataset,
                                     .indices = r->train,
                                     .n = r->n_train,
                                     .batch_size = d->batch_size,
                                     .shuffle = d->shuffle,
                                     .drop_last = d->drop_last,
                                     .flip = d->flip,
                                     .seed = r->c->train.seed,
                                     .num_workers = d->num_workers,
                                     .prefetch = PREFETCH};
    rc = loader_create(&o, &r->loader, err);
    if (rc == 0)
        r->batches = loader_batches_per_epoch(r->loader);
    return rc;
}

static int open_learner(struct run *r, struct error *err)
{
    const struct train_config *c = &r->c->train;
    int rc = run_device_open(c->device, r->o->threads, &r->device, err);
    if (rc < 0)
        return rc;
    r->backend = ((struct device_base *)r->device)->backend;
    const struct classify_learner_options o = {.device = r->device,
                                               .classifier = r->c->classifier,
                                               .height = c->dataset.image_size[0],
                                               .width = c->dataset.image_size[1],
                                               .precision = run_precision(c->precision, r->device),
                                               .batch_size = c->dataset.batch_size,
                                               .seed = c->seed};
    rc = classify_learner_create(&o, &r->learner, err);
    if (rc < 0)
        return rc;
    r->elements = (size_t)o.height * (size_t)o.width * (size_t)o.classifier.in_channels;
    r->x = malloc((size_t)o.batch_size * r->elements * sizeof *r->x);
    r->y = malloc((size_t)o.batch_size * sizeof *r->y);
    return r->x && r->y ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
}

static int32_t clamp(int32_t v, int32_t limit)
{
    return v < 0 ? 0 : v >= limit ? limit - 1 : v;
}

/* to[i, j] = from[i + dy, j + dx], edges repeated. */
static void shift_image(const struct run *r, const float *from, int32_t dy, int32_t dx, float *to)
{
    int32_t h = r->dataset->height, w = r->dataset->width, c = r->dataset->channels;
    for (int32_t i = 0; i < h; i++)
        for (int32_t j = 0; j < w; j++)
            memcpy(to + ((size_t)i * w + j) * c, from + ((size_t)clamp(i + dy, h) * w + clamp(j + dx, w)) * c,
                   (size_t)c * sizeof *to);
}

static int32_t offset(uint32_t word, int32_t shift)
{
    return (int32_t)((uint64_t)word * (uint32_t)(2 * shift + 1) >> 32) - shift;
}

static void shift_batch(struct run *r, const struct loader_batch *b)
{
    for (int32_t i = 0; i < b->n; i++) {
        struct philox_block p = philox4x32_10(r->c->train.seed, (uint32_t)i, (uint32_t)r->step, 0, SHIFT_KEY);
        shift_image(r, b->x + (size_t)i * r->elements, offset(p.v[0], r->c->shift), offset(p.v[1], r->c->shift),
                    r->x + (size_t)i * r->elements);
        r->y[i] = b->y[i];
    }
}

static int write_interval(struct run *r, double lr, struct error *err)
{
    int64_t batch = r->c->train.dataset.batch_size;
    double at = now(), rate = (double)(r->c->train.log_steps * batch) / fmax(at - r->mark, 1e-9);
    json_t *line =
        json_pack("{ss sI sI sI sf sf sf}", "event", "step", "step", (json_int_t)r->step, "steps",
                  (json_int_t)(r->batches * r->c->train.epochs), "epoch", (json_int_t)((r->step - 1) / r->batches + 1),
                  "loss", r->loss_sum / (double)r->loss_n, "lr", lr, "images_per_s", rate);
    r->mark = at;
    r->loss_sum = 0;
    r->loss_n = 0;
    return run_folder_metrics(&r->folder, line, err);
}

static int step(struct run *r, struct error *err)
{
    const struct train_config *c = &r->c->train;
    const struct loader_batch *b;
    double lr = train_config_lr(&c->optimizer, r->step, r->batches * c->epochs), loss = 0;
    int rc = loader_next(r->loader, &b);
    if (rc < 0)
        return error_set(err, rc, "dataset.path", "images can no longer be read");
    int32_t n = b->n;
    shift_batch(r, b);
    loader_release(r->loader);
    const struct adamw o = run_adamw(&c->optimizer, &c->ema, lr, r->step + 1);
    rc = classify_learner_step(r->learner, n, r->x, r->y, (uint32_t)r->step, c->optimizer.grad_clip, &o, &loss, err);
    if (rc < 0)
        return rc;
    r->step++;
    r->loss_sum += loss;
    r->loss_n++;
    return r->step % c->log_steps == 0 ? write_interval(r, lr, err) : 0;
}

/* Loss and accuracy of the held-out images. */
static int test(struct run *r, struct classify_outcome *o, struct error *err)
{
    int32_t batch = r->c->train.dataset.batch_size;
    int64_t right = 0;
    double loss = 0;
    for (int64_t first = 0; first < r->n_held_out; first += batch) {
        int32_t n = r->n_held_out - first < batch ? (int32_t)(r->n_held_out - first) : batch, more = 0;
        double sum = 0;
        int rc = run_dataset_read(r->dataset, r->held_out + first, n, r->x, r->y, err);
        if (rc == 0)
            rc = classify_learner_test(r->learner, n, r->x, r->y, &sum, &more, err);
        if (rc < 0)
            return rc;
        loss += sum;
        right += more;
    }
    o->loss = r->n_held_out ? loss / (double)r->n_held_out : NAN;
    o->accuracy = r->n_held_out ? (double)right / (double)r->n_held_out : NAN;
    return 0;
}

static json_t *real_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static int write_model(struct run *r, const struct classify_outcome *o, struct error *err)
{
    char path[RUN_PATH_BYTES];
    const struct train_config *c = &r->c->train;
    const struct graph *g = classify_learner_graph(r->learner);
    struct classifier_file f = {.classifier = r->c->classifier,
                                .data = {.height = r->dataset->height,
                                         .width = r->dataset->width,
                                         .channels = r->dataset->channels,
                                         .classes = r->dataset->classes,
                                         .n_classes = r->dataset->n_classes}};
    json_t *config = classify_config_json(r->c);
    json_object_del(config, "classifier");
    json_object_del(json_object_get(config, "dataset"), "path");
    f.training = json_pack("{ss ss sI sI so so so}", "program", "ddimd-train " DDIMD_VERSION, "weights", "ema", "steps",
                           (json_int_t)r->step, "training_images", (json_int_t)r->n_train, "val_loss",
                           real_or_null(o->loss), "val_accuracy", real_or_null(o->accuracy), "config", config);
    float *values = malloc(g->param_floats * sizeof *values);
    int rc = f.training && values ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    if (rc == 0 && (rc = classify_learner_get(r->learner, values)) < 0)
        error_set(err, rc, NULL, "the device is lost");
    run_folder_checkpoint_path(&r->folder, RUN_LAST_NAME, path);
    if (rc == 0)
        rc = classifier_write(path, &f, g, values, train_dtype_names[c->checkpoint.dtype], err);
    json_decref(f.training);
    free(values);
    return rc;
}

static int end_epoch(struct run *r, struct classify_outcome *o, struct error *err)
{
    int64_t epoch = r->step / r->batches;
    int rc = test(r, o, err);
    if (rc < 0)
        return rc;
    progress_line(&r->progress, "epoch %lld/%d  val_loss %.4f  accuracy %.2f %%", (long long)epoch, r->c->train.epochs,
                  o->loss, 100 * o->accuracy);
    json_t *line =
        json_pack("{ss sI sI so so}", "event", "epoch", "step", (json_int_t)r->step, "epoch", (json_int_t)epoch,
                  "val_loss", real_or_null(o->loss), "val_accuracy", real_or_null(o->accuracy));
    rc = run_folder_metrics(&r->folder, line, err);
    return rc == 0 ? write_model(r, o, err) : rc;
}

static int loop(struct run *r, struct classify_outcome *o, struct error *err)
{
    r->mark = now();
    while (r->step < r->batches * r->c->train.epochs && !*r->o->stop) {
        int rc = step(r, err);
        if (rc == 0 && r->step % r->batches == 0)
            rc = end_epoch(r, o, err);
        if (rc < 0)
            return rc;
    }
    o->steps = r->step;
    o->stopped = r->step < r->batches * r->c->train.epochs;
    json_t *line = json_pack("{ss ss sI sI}", "event", "end", "end", o->stopped ? "stopped" : "finished", "step",
                             (json_int_t)r->step, "steps", (json_int_t)(r->batches * r->c->train.epochs));
    return run_folder_metrics(&r->folder, line, err);
}

int classify_run(const struct classify_config *c, const struct run_options *o, struct classify_outcome *ret_outcome,
                 struct error *err)
{
    struct run r = {.c = c, .o = o};
    struct classify_outcome outcome = {.accuracy = NAN, .loss = NAN};
    progress_init(&r.progress, o->log);
    int rc = run_folder_open(o->out, &r.folder, err);
    if (rc == 0 && run_folder_has(&r.folder, RUN_LAST_NAME) && !o->resume)
        rc = error_set(err, -EEXIST, NULL,
                       "%s holds a run already: begin again with --resume, or choose another folder", o->out);
    if (rc == 0)
        rc = run_folder_start_metrics(&r.folder, 0, err);
    if (rc == 0)
        rc = run_folder_write_config(&r.folder, classify_config_json(c), err);
    if (rc == 0)
        rc = open_data(&r, err);
    if (rc == 0)
        rc = open_learner(&r, err);
    if (rc == 0)
        rc = loop(&r, &outcome, err);
    run_folder_close(&r.folder);
    loader_free(r.loader);
    classify_learner_free(r.learner);
    if (r.device)
        r.backend->close(r.device);
    dataset_close(r.dataset);
    free(r.train);
    free(r.held_out);
    free(r.x);
    free(r.y);
    if (rc == 0)
        *ret_outcome = outcome;
    return rc;
}
