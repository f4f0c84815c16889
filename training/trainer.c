/* trainer.c: the loop: batch, gradient, update; at the end of an epoch validate, sample, keep.
 *
 * What a step does depends on the state, the configuration and the data alone; the clock only decides what is shown. A
 * checkpoint is complete when its state file is: model files are written before it, and a run that was killed between
 * writes them again with the same bytes.
 */
#include "training/trainer.h"

#include "model/checkpoint.h"
#include "model/loader.h"
#include "training/evaluate.h"
#include "training/progress.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PREFETCH = 4, FORWARD_BATCH = 32 };

struct trainer {
    const struct train_config *c;
    const struct run_options *o;
    struct device *device;
    const struct backend *backend;
    struct learner *learner;
    struct dataset *dataset;
    int64_t *train, *held_out; // indices
    int64_t n_train, n_held_out;
    struct data_config data; // of the model files; classes are borrowed from the dataset
    struct loader *loader;
    struct diffuser diffuser;
    struct noised_batch batch;
    struct evaluator evaluator;
    struct teacher *teacher; // NULL: none
    float *losses;           // [batch_size]
    float *values;           // a flat vector on its way to a file
    struct run_folder folder;
    struct progress progress;
    struct train_state state;
    int64_t batches, total_steps;    // of an epoch, of the run
    double start, mark;              // monotonic seconds: of this process's training, of the last metrics line
    int64_t first_step, mark_images; // step that this process began with
    double mark_wait;
    double rate;                      // images/s of the last interval
    double step_seconds, end_seconds; // spent on steps by this process; on the end of its last epoch, -1: none yet
    int32_t at_once;                  // images that pass through the network at once
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static json_t *real_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* ---- what a run needs ---- */

static void note(void *context, const char *message)
{
    struct trainer *t = context;
    progress_line(&t->progress, "data: %s", message);
}

static int open_dataset(struct trainer *t, struct error *err)
{
    int r = run_dataset_open(&t->c->dataset, t->c->model.in_channels, t->o, note, t, &t->dataset, err);
    if (r < 0)
        return r;
    if (t->dataset->n_classes != t->c->model.num_classes)
        return error_set(err, -EINVAL, "model.num_classes", "is %d, but the data set has %d classes",
                         t->c->model.num_classes, t->dataset->n_classes);
    t->data = (struct data_config){.height = t->dataset->height,
                                   .width = t->dataset->width,
                                   .channels = t->dataset->channels,
                                   .classes = t->dataset->classes,
                                   .n_classes = t->dataset->n_classes};
    return 0;
}

static int split_dataset(struct trainer *t, struct error *err)
{
    int r =
        run_dataset_split(&t->c->validation, t->dataset->n, &t->train, &t->n_train, &t->held_out, &t->n_held_out, err);
    if (r < 0)
        return r;
    progress_line(&t->progress, "data: %lld training images, %lld held out, %lld unreadable, %d classes",
                  (long long)t->n_train, (long long)t->n_held_out, (long long)t->dataset->n_skipped,
                  t->dataset->n_classes);
    return evaluator_init(&t->evaluator, t->dataset, t->held_out, t->n_held_out, err);
}

static int open_loader(struct trainer *t, struct error *err)
{
    const struct train_dataset *c = &t->c->dataset;
    const struct loader_options o = {.dataset = t->dataset,
                                     .indices = t->train,
                                     .n = t->n_train,
                                     .batch_size = c->batch_size,
                                     .shuffle = c->shuffle,
                                     .drop_last = c->drop_last,
                                     .flip = c->flip,
                                     .seed = t->c->seed,
                                     .num_workers = c->num_workers,
                                     .prefetch = PREFETCH};
    int r = loader_create(&o, &t->loader, err);
    if (r < 0)
        return r;
    t->batches = loader_batches_per_epoch(t->loader);
    t->total_steps = t->batches * t->c->epochs;
    if (t->total_steps >= UINT32_MAX)
        return error_set(err, -EINVAL, "epochs", "more than 2^32 steps");
    return 0;
}

static int open_device(struct trainer *t, struct error *err)
{
    int r = run_device_open(t->c->device, t->o->threads, &t->device, err);
    if (r == 0)
        t->backend = ((struct device_base *)t->device)->backend;
    return r;
}

static int open_teacher(struct trainer *t, struct error *err)
{
    const struct train_config *c = t->c;
    if (!c->distill.teacher[0])
        return 0;
    return teacher_open(&(struct teacher_options){.device = t->device,
                                                  .path = c->distill.teacher,
                                                  .guidance = c->distill.guidance,
                                                  .model = c->model,
                                                  .diffusion = c->diffusion,
                                                  .height = c->dataset.image_size[0],
                                                  .width = c->dataset.image_size[1],
                                                  .precision = run_precision(t->c->precision, t->device)},
                        &t->teacher, err);
}

static int create_learner(struct trainer *t, struct error *err)
{
    const struct device_base *base = (const struct device_base *)t->device;
    enum dtype precision = run_precision(t->c->precision, t->device);
    const struct learner_options o = {.device = t->device,
                                      .model = t->c->model,
                                      .height = t->c->dataset.image_size[0],
                                      .width = t->c->dataset.image_size[1],
                                      .precision = precision,
                                      .batch_size = t->c->dataset.batch_size,
                                      .micro_batch = t->c->micro_batch,
                                      .forward_batch = FORWARD_BATCH,
                                      .values = t->teacher ? teacher_values(t->teacher) : NULL,
                                      .seed = t->c->seed};
    int r = learner_create(&o, &t->learner, err);
    if (r < 0)
        return r;
    progress_line(&t->progress, "network: %.2f M parameters, %.2f GFLOP per image and pass; %s, %s, %.0f MiB",
                  (double)model_config_parameters(&o.model) * 1e-6,
                  (double)model_config_flop(&o.model, o.height, o.width) * 1e-9, base->description,
                  precision == DTYPE_BF16 ? "bf16" : "f32", (double)learner_bytes(t->learner) / 1048576.0);
    return 0;
}

static int allocate(struct trainer *t, struct error *err)
{
    const struct train_config *c = t->c;
    size_t elements = (size_t)c->dataset.image_size[0] * c->dataset.image_size[1] * c->model.in_channels;
    int r = diffuser_init(&t->diffuser, &c->diffusion, c->model.num_classes, c->label_dropout, c->min_snr_gamma,
                          c->antithetic, c->seed);
    if (r == 0)
        r = noised_batch_init(&t->batch, c->dataset.batch_size, elements);
    t->losses = malloc((size_t)c->dataset.batch_size * sizeof *t->losses);
    t->values = malloc(learner_graph(t->learner)->param_floats * sizeof *t->values);
    if (r == 0 && t->losses && t->values)
        return 0;
    return error_set(err, -ENOMEM, NULL, "out of memory");
}

/* ---- files ---- */

/* Where the model came from; no clocks and no paths, so that the bytes are a function of the run. */
static json_t *describe(const struct trainer *t, double metric)
{
    const struct train_state *s = &t->state;
    json_t *config = train_config_json(t->c);
    if (!config)
        return NULL;
    json_t *dataset = json_object_get(config, "dataset");
    json_object_del(dataset, "path");
    json_object_del(config, "resume");
    if (t->teacher)
        json_object_set_new(json_object_get(config, "distill"), "teacher", json_string(teacher_digest(t->teacher)));
    else
        json_object_del(config, "distill");
    json_object_del(config, "model");
    json_object_del(config, "diffusion");
    json_object_del(config, "sample");
    json_object_del(config, "log_steps");
    json_t *out =
        json_pack("{ss ss sI sI sI sI sI so so so}", "program", "ddimd-train " DDIMD_VERSION, "weights", "ema", "epoch",
                  (json_int_t)s->epoch, "steps", (json_int_t)s->step, "updates", (json_int_t)s->updates, "images_seen",
                  (json_int_t)s->images, "training_images", (json_int_t)t->n_train, "train_loss",
                  real_or_null(s->train_loss), "val_loss", real_or_null(metric), "config", config);
    return out;
}

/* The averaged weights as a model file, read again to see that it is whole. */
static int write_model(struct trainer *t, const char *name, struct error *err)
{
    char path[RUN_PATH_BYTES];
    json_t *training = describe(t, t->state.val_loss);
    int r = training ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    if (r == 0 && (r = learner_get(t->learner, LEARNER_EMA, t->values)) < 0)
        error_set(err, r, NULL, "the device is lost");
    run_folder_checkpoint_path(&t->folder, name, path);
    if (r == 0)
        r = checkpoint_write(path, &t->c->model, &t->c->diffusion, &t->data, training, learner_graph(t->learner),
                             t->values, train_dtype_names[t->c->checkpoint.dtype], err);
    json_decref(training);
    struct checkpoint written;
    if (r == 0 && (r = checkpoint_open(t->folder.checkpoints_fd, name, &written, err)) == 0)
        checkpoint_close(&written);
    return r;
}

/* The model under several names: written once, linked where the file system can. */
static int write_names(struct trainer *t, const char *const *names, struct error *err)
{
    int r = names[0] ? write_model(t, names[0], err) : 0;
    for (int i = 1; r == 0 && names[i - 1] && names[i]; i++) {
        r = run_folder_link(&t->folder, names[0], names[i], err);
        if (r == -ENOTSUP)
            r = write_model(t, names[i], err);
    }
    return r;
}

static int write_state(struct trainer *t, struct error *err)
{
    double at = now();
    t->state.seconds += at - t->start;
    t->start = at;
    t->state.metrics_bytes = t->folder.metrics_bytes;
    t->state.micro_batch = learner_micro_batch(t->learner);
    return train_state_save(t->folder.checkpoints_fd, RUN_STATE_NAME, &t->state, t->c, t->learner, err);
}

/* ---- metrics ---- */

static void sums_add(struct loss_sums *s, float loss, int32_t timestep, int32_t T)
{
    int32_t band = (int32_t)((int64_t)timestep * TRAIN_BANDS / T);
    s->sum += loss;
    s->n++;
    s->band_sum[band] += loss;
    s->band_n[band]++;
}

static double sums_mean(const struct loss_sums *s)
{
    return s->n ? s->sum / (double)s->n : NAN;
}

static json_t *sums_bands(const struct loss_sums *s)
{
    json_t *bands = json_array();
    for (int i = 0; bands && i < TRAIN_BANDS; i++)
        json_array_append_new(bands, real_or_null(s->band_n[i] ? s->band_sum[i] / (double)s->band_n[i] : NAN));
    return bands;
}

/* Forward passes of an epoch's end: validation and the grid. */
static double passes_at_end(const struct trainer *t)
{
    const struct train_sample *s = &t->c->sample;
    double rows = s->guidance == 1.0f ? 1 : 2;
    return (double)t->n_held_out + (s->every ? rows * s->n * s->steps / s->every : 0);
}

/* To the end of the run, at the pace so far; -1: not known yet. The end of an epoch is foretold by its passes (a step
 * takes about three for each image) until there was one. */
static double seconds_left(const struct trainer *t)
{
    const struct train_state *s = &t->state;
    int64_t done = s->step - t->first_step;
    if (done <= 0)
        return -1;
    double step = t->step_seconds / (double)done;
    double end = t->end_seconds >= 0 ? t->end_seconds : step / 3 / t->c->dataset.batch_size * passes_at_end(t);
    return step * (double)(t->total_steps - s->step) + end * (double)(t->c->epochs - s->epoch);
}

static int write_interval(struct trainer *t, double lr, double norm, struct error *err)
{
    struct train_state *s = &t->state;
    double at = now(), wait = loader_wait_seconds(t->loader), seconds = fmax(at - t->mark, 1e-9);
    t->rate = (double)(s->images - t->mark_images) / seconds;
    json_t *line =
        json_pack("{ss sI sI sI so so so sf sf sf sI so}", "event", "step", "step", (json_int_t)s->step, "steps",
                  (json_int_t)t->total_steps, "epoch", (json_int_t)s->epoch + 1, "loss",
                  real_or_null(sums_mean(&s->interval)), "lr", real_or_null(lr), "grad_norm", real_or_null(norm),
                  "images_per_s", t->rate, "wait_share", (wait - t->mark_wait) / seconds, "seconds_left",
                  seconds_left(t), "skipped", (json_int_t)s->skipped, "loss_by_timestep", sums_bands(&s->interval));
    t->mark = at;
    t->mark_wait = wait;
    t->mark_images = s->images;
    s->interval = (struct loss_sums){0};
    return run_folder_metrics(&t->folder, line, err);
}

static int write_epoch(struct trainer *t, bool best, struct error *err)
{
    const struct train_state *s = &t->state;
    json_t *line =
        json_pack("{ss sI sI so so sb sI so}", "event", "epoch", "step", (json_int_t)s->step, "epoch",
                  (json_int_t)s->epoch, "loss", real_or_null(s->train_loss), "val_loss", real_or_null(s->val_loss),
                  "best", best, "images", (json_int_t)s->images, "loss_by_timestep", sums_bands(&s->epoch_losses));
    return run_folder_metrics(&t->folder, line, err);
}

/* The last line: how the run ended, for who was not its parent. After the state, so that a resumed run cuts it off.
 * All that matters is on the disk by now: where there is no room for the line, the run has not failed. */
static void write_end(struct trainer *t, enum trainer_end end)
{
    static const char *const names[] = {
        [TRAINER_FINISHED] = "finished", [TRAINER_EARLY] = "early", [TRAINER_STOPPED] = "stopped"};
    json_t *line = json_pack("{ss ss sI sI sI}", "event", "end", "end", names[end], "step", (json_int_t)t->state.step,
                             "steps", (json_int_t)t->total_steps, "epoch", (json_int_t)t->state.epoch);
    run_folder_metrics(&t->folder, line, NULL);
}

static void show(struct trainer *t)
{
    const struct train_state *s = &t->state;
    struct progress_view v = {.epoch = s->epoch + 1,
                              .epochs = t->c->epochs,
                              .batch = s->batch,
                              .batches = t->batches,
                              .step = s->step,
                              .steps = t->total_steps,
                              .loss = sums_mean(&s->epoch_losses),
                              .images_per_s = t->rate,
                              .seconds_left = seconds_left(t)};
    progress_show(&t->progress, &v);
}

/* ---- one step ---- */

static bool all_finite(const float *losses, int32_t n, double norm)
{
    bool finite = isfinite(norm);
    for (int32_t i = 0; i < n; i++)
        finite = finite && isfinite(losses[i]);
    return finite;
}

static int update(struct trainer *t, double lr, double norm, struct error *err)
{
    double clip = t->c->optimizer.grad_clip;
    struct adamw o = run_adamw(&t->c->optimizer, &t->c->ema, lr, ++t->state.updates);
    if (clip > 0)
        o.scale = (float)fmin(1.0, clip / (norm + 1e-6));
    int r = learner_update(t->learner, &o);
    return r < 0 ? error_set(err, r, NULL, "the device is lost") : 0;
}

static int skip(struct trainer *t, struct error *err)
{
    struct train_state *s = &t->state;
    s->skipped++;
    s->skipped_in_row++;
    progress_line(&t->progress, "step %lld: the loss or its gradient is not finite, step left out (%d in a row)",
                  (long long)s->step, s->skipped_in_row);
    if (s->skipped_in_row < TRAINER_MAX_SKIPPED)
        return 0;
    return error_set(
        err, -ERANGE, "optimizer.lr",
        "the loss was not finite in %d steps in a row; a lower learning rate, a longer warm-up or precision "
        "f32 may help",
        s->skipped_in_row);
}

/* Says when memory lacked. */
static void note_micro_batch(struct trainer *t)
{
    int32_t now_at_once = learner_micro_batch(t->learner);
    if (t->at_once != now_at_once)
        progress_line(&t->progress, "not enough memory for %d images at once: %d, and the same batch", t->at_once,
                      now_at_once);
    t->at_once = now_at_once;
}

static int step(struct trainer *t, struct error *err)
{
    struct train_state *s = &t->state;
    const struct loader_batch *b;
    double norm = NAN, lr = train_config_lr(&t->c->optimizer, s->step, t->total_steps);
    int r = loader_next(t->loader, &b);
    if (r < 0)
        return error_set(err, r, "dataset.path", "images can no longer be read");
    diffuser_draw(&t->diffuser, b->x, b->y, b->n, (uint32_t)s->step, &t->batch);
    loader_release(t->loader);
    if (t->teacher && (r = teacher_eps(t->teacher, &t->batch, err)) < 0)
        return r;
    if ((r = learner_gradient(t->learner, &t->batch, t->losses, &norm, err)) < 0)
        return r;
    note_micro_batch(t);
    s->step++;
    s->batch++;
    s->images += t->batch.n;
    if (!all_finite(t->losses, t->batch.n, norm)) {
        r = skip(t, err);
    } else {
        s->skipped_in_row = 0;
        r = update(t, lr, norm, err);
        for (int32_t i = 0; i < t->batch.n; i++) {
            sums_add(&s->interval, t->losses[i], (int32_t)t->batch.t[i], t->diffuser.T);
            sums_add(&s->epoch_losses, t->losses[i], (int32_t)t->batch.t[i], t->diffuser.T);
        }
    }
    if (r == 0 && s->step % t->c->log_steps == 0)
        r = write_interval(t, lr, norm, err);
    return r;
}

/* ---- the end of an epoch ---- */

static bool is_better(const struct train_config *c, double metric, double best)
{
    if (!isfinite(metric))
        return false;
    if (isnan(best))
        return true;
    return c->checkpoint.mode == MONITOR_MIN ? metric < best - c->early_stopping.min_delta
                                             : metric > best + c->early_stopping.min_delta;
}

static bool judge(struct trainer *t)
{
    struct train_state *s = &t->state;
    double metric = t->c->checkpoint.monitor == MONITOR_VAL_LOSS ? s->val_loss : s->train_loss;
    bool better = is_better(t->c, metric, s->best);
    if (better) {
        s->best = metric;
        s->best_epoch = s->epoch;
    }
    s->epochs_without_best = better ? 0 : s->epochs_without_best + 1;
    return better;
}

static bool exhausted(const struct trainer *t)
{
    int32_t patience = t->c->early_stopping.patience;
    return patience > 0 && t->state.epochs_without_best >= patience;
}

static int keep_epoch(struct trainer *t, bool best, bool last_one, struct error *err)
{
    const struct train_checkpoint *c = &t->c->checkpoint;
    bool due = t->state.epoch % c->save_freq == 0 || last_one;
    char epoch[64];
    snprintf(epoch, sizeof epoch, "epoch-%04lld.safetensors", (long long)t->state.epoch);
    const char *names[4] = {0};
    int n = 0;
    if (due && !c->save_best_only)
        names[n++] = epoch;
    if (due)
        names[n++] = RUN_LAST_NAME;
    if (best)
        names[n++] = RUN_BEST_NAME;
    int r = write_names(t, names, err);
    if (r == 0 && due)
        r = write_state(t, err);
    if (r == 0 && due && c->keep_last > 0)
        run_folder_prune(&t->folder, c->keep_last);
    return r;
}

static int write_sample(struct trainer *t, struct error *err)
{
    char name[64];
    snprintf(name, sizeof name, "epoch-%04lld.png", (long long)t->state.epoch);
    return evaluate_grid(t->c, t->learner, t->folder.samples_fd, name, err);
}

static int end_epoch(struct trainer *t, struct error *err)
{
    struct train_state *s = &t->state;
    char spent[32];
    int r = 0;
    s->epoch++;
    s->batch = 0;
    s->train_loss = sums_mean(&s->epoch_losses);
    if (t->n_held_out &&
        (r = evaluator_loss(&t->evaluator, &t->diffuser, t->teacher, t->learner, &s->val_loss, err)) < 0)
        return r;
    bool best = judge(t), last_one = s->epoch == t->c->epochs || exhausted(t);
    progress_line(&t->progress, "epoch %lld/%d  loss %.5f  val_loss %.5f%s  %.1f images/s  %s", (long long)s->epoch,
                  t->c->epochs, s->train_loss, s->val_loss, best ? " (best)" : "", t->rate,
                  progress_duration(s->seconds + now() - t->start, spent, sizeof spent));
    r = write_epoch(t, best, err);
    s->epoch_losses = (struct loss_sums){0};
    if (r == 0 && t->c->sample.every > 0 && (s->epoch % t->c->sample.every == 0 || last_one))
        r = write_sample(t, err);
    return r == 0 ? keep_epoch(t, best, last_one, err) : r;
}

/* ---- the run ---- */

static int set_up(struct trainer *t, struct error *err)
{
    int r = run_folder_open(t->o->out, &t->folder, err);
    if (r == 0 && run_folder_has(&t->folder, RUN_STATE_NAME) && !t->o->resume)
        r = error_set(err, -EEXIST, NULL, "%s holds a run already: go on with --resume, or choose another folder",
                      t->o->out);
    if (r == 0)
        r = open_dataset(t, err);
    if (r == 0)
        r = split_dataset(t, err);
    if (r == 0)
        r = open_loader(t, err);
    if (r == 0)
        r = open_device(t, err);
    if (r == 0)
        r = open_teacher(t, err);
    if (r == 0)
        r = create_learner(t, err);
    return r == 0 ? allocate(t, err) : r;
}

static int take_up(struct trainer *t, struct error *err)
{
    int r = 0;
    t->state = train_state_initial();
    if (run_folder_has(&t->folder, RUN_STATE_NAME))
        r = train_state_load(t->folder.checkpoints_fd, RUN_STATE_NAME, t->c, t->learner, &t->state, err);
    else if (t->c->resume[0]) {
        r = train_state_load(AT_FDCWD, t->c->resume, t->c, t->learner, &t->state, err);
        t->state.metrics_bytes = 0;
    }
    if (r < 0)
        return r;
    if (t->state.batch >= t->batches)
        return error_set(err, -EINVAL, "dataset", "has fewer images than when the state was written");
    if (t->state.step)
        progress_line(&t->progress, "going on at epoch %lld, batch %lld (step %lld)", (long long)t->state.epoch + 1,
                      (long long)t->state.batch + 1, (long long)t->state.step);
    else if (t->o->resume)
        progress_line(&t->progress, "no state to go on from: starting at the beginning");
    t->at_once = t->c->micro_batch ? t->c->micro_batch : t->c->dataset.batch_size;
    note_micro_batch(t);
    loader_seek(t->loader, t->state.epoch, t->state.batch);
    r = run_folder_start_metrics(&t->folder, t->state.metrics_bytes, err);
    return r == 0 ? run_folder_write_config(&t->folder, train_config_json(t->c), err) : r;
}

static int loop(struct trainer *t, enum trainer_end *ret_end, struct error *err)
{
    struct train_state *s = &t->state;
    t->start = t->mark = now();
    t->first_step = s->step;
    t->end_seconds = -1;
    t->mark_images = s->images;
    while (s->epoch < t->c->epochs && !exhausted(t)) {
        double began = now();
        int r = step(t, err);
        double stepped = now();
        t->step_seconds += stepped - began;
        if (r == 0)
            show(t);
        if (r == 0 && s->batch == t->batches && (r = end_epoch(t, err)) == 0)
            t->end_seconds = now() - stepped;
        if (r < 0)
            return r;
        if (*t->o->stop && s->epoch < t->c->epochs) {
            const char *const names[] = {RUN_LAST_NAME, NULL};
            *ret_end = TRAINER_STOPPED;
            r = write_names(t, names, err);
            return r == 0 ? write_state(t, err) : r;
        }
    }
    *ret_end = exhausted(t) && s->epoch < t->c->epochs ? TRAINER_EARLY : TRAINER_FINISHED;
    return 0;
}

static void tear_down(struct trainer *t)
{
    run_folder_close(&t->folder);
    loader_free(t->loader);
    evaluator_done(&t->evaluator);
    noised_batch_done(&t->batch);
    diffuser_done(&t->diffuser);
    learner_free(t->learner);
    teacher_close(t->teacher);
    if (t->device)
        t->backend->close(t->device);
    dataset_close(t->dataset);
    free(t->train);
    free(t->held_out);
    free(t->losses);
    free(t->values);
}

int trainer_run(const struct train_config *c, const struct run_options *o, struct trainer_outcome *ret_outcome,
                struct error *err)
{
    struct trainer t = {.c = c, .o = o};
    struct trainer_outcome outcome = {0};
    progress_init(&t.progress, o->log);
    int r = set_up(&t, err);
    if (r == 0)
        r = take_up(&t, err);
    if (r == 0)
        r = loop(&t, &outcome.end, err);
    if (r == 0) {
        write_end(&t, outcome.end);
        outcome.state = t.state;
        run_folder_checkpoint_path(&t.folder, run_folder_has(&t.folder, RUN_BEST_NAME) ? RUN_BEST_NAME : RUN_LAST_NAME,
                                   outcome.model);
        *ret_outcome = outcome;
    }
    tear_down(&t);
    return r;
}
