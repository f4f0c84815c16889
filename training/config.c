/* config.c: see config.h.
 */
#include "training/config.h"

#include "model/json.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 1 << 20 };

const char *const train_device_names[] = {"auto", "cpu", "cuda", NULL};
const char *const train_precision_names[] = {"auto", "f32", "bf16", NULL};
const char *const train_dtype_names[] = {"F32", "BF16", "F16", NULL};
static const char *const mode_names[] = {"L", "RGB", NULL};
static const char *const schedule_names[] = {"constant", "cosine", NULL};
static const char *const monitor_names[] = {"val_loss", "loss", NULL};
static const char *const monitor_mode_names[] = {"min", "max", NULL};

#define AT(member) offsetof(struct train_dataset, member)
const struct json_field train_dataset_fields[] = {
    {"kind", FIELD_ENUM, AT(kind), .required = true, .names = dataset_kind_names, .help = "format of the data set"},
    {"path", FIELD_STRING, AT(path), .required = true, .item_bytes = TRAIN_PATH_BYTES,
     .help = "its folder; of cifar10 and folder also an archive (.tar.gz, .tar.xz, .zip)"},
    {"download", FIELD_BOOL, AT(download), .help = "fetch what is missing of cifar10 or mnist into path"},
    {"train", FIELD_BOOL, AT(train), .help = "the training part, else the test part"},
    {"image_size", FIELD_INT32_LIST, AT(image_size), 1, 1024, .min_items = 2, .max_items = 2,
     .count_offset = AT(n_sides), .help = "height and width in pixels"},
    {"mode", FIELD_ENUM, AT(mode), .names = mode_names, .help = "grey or colour"},
    {"suffix", FIELD_STRING_LIST, AT(suffix), .item_bytes = DATASET_SUFFIX_BYTES, .max_items = DATASET_MAX_SUFFIXES,
     .count_offset = AT(n_suffixes), .help = "file name endings of kind folder; none: png, jpg, jpeg"},
    {"batch_size", FIELD_INT32, AT(batch_size), 1, 65536, .help = "images of one optimiser step"},
    {"shuffle", FIELD_BOOL, AT(shuffle), .help = "a new order in each epoch"},
    {"drop_last", FIELD_BOOL, AT(drop_last), .help = "leave out an epoch's last batch where it is not full"},
    {"pin_memory", FIELD_BOOL, AT(pin_memory), .help = "page-locked batches; without effect on the CPU"},
    {"num_workers", FIELD_INT32, AT(num_workers), 0, 64, .help = "threads that read images"},
    {"cache_mib", FIELD_INT32, AT(cache_mib), 0, 1 << 20, .help = "keep decoded images where all fit in this many MiB"},
    {"flip", FIELD_FLOAT, AT(flip), 0, 1, .help = "probability of a left-right flip"},
    {0},
};
#undef AT

#define AT(member) offsetof(struct train_optimizer, member)
const struct json_field train_optimizer_fields[] = {
    {"lr", FIELD_DOUBLE, AT(lr), 0, 1, .above_min = true, .help = "learning rate of AdamW"},
    {"lr_min", FIELD_DOUBLE, AT(lr_min), 0, 1, .help = "where the cosine ends"},
    {"weight_decay", FIELD_DOUBLE, AT(weight_decay), 0, 1, .help = "decoupled weight decay"},
    {"beta1", FIELD_DOUBLE, AT(beta1), 0, 0.999999, .help = "decay of the first moment"},
    {"beta2", FIELD_DOUBLE, AT(beta2), 0, 0.999999, .help = "decay of the second moment"},
    {"warmup_steps", FIELD_INT64, AT(warmup_steps), 0, 1e9, .help = "steps of linear warm-up"},
    {"schedule", FIELD_ENUM, AT(schedule), .names = schedule_names, .help = "after the warm-up"},
    {"grad_clip", FIELD_DOUBLE, AT(grad_clip), 0, DBL_MAX, .help = "largest norm of the gradient; 0: no limit"},
    {0},
};
#undef AT

const struct json_field train_ema_fields[] = {
    {"decay", FIELD_DOUBLE, offsetof(struct train_ema, decay), 0, 0.9999999, .help = "of the averaged weights"},
    {"ramp", FIELD_BOOL, offsetof(struct train_ema, ramp), .help = "min(decay, (1 + n) / (10 + n)) at step n"},
    {0},
};

#define AT(member) offsetof(struct train_checkpoint, member)
const struct json_field train_checkpoint_fields[] = {
    {"save_freq", FIELD_INT32, AT(save_freq), 1, 1e6, .help = "epochs between checkpoints"},
    {"monitor", FIELD_ENUM, AT(monitor), .names = monitor_names, .help = "metric that says which is best"},
    {"mode", FIELD_ENUM, AT(mode), .names = monitor_mode_names, .help = "whether less or more is better"},
    {"save_best_only", FIELD_BOOL, AT(save_best_only), .help = "keep no file per epoch"},
    {"keep_last", FIELD_INT32, AT(keep_last), 0, 1e6, .help = "files per epoch that are kept; 0: all"},
    {"dtype", FIELD_ENUM, AT(dtype), .names = train_dtype_names, .help = "of the weights in model files"},
    {0},
};
#undef AT

const struct json_field train_validation_fields[] = {
    {"images", FIELD_INT64, offsetof(struct train_validation, images), 0, 1e9, .help = "held-out images; 0: fraction"},
    {"fraction", FIELD_DOUBLE, offsetof(struct train_validation, fraction), 0, 0.9, .help = "of the images held out"},
    {0},
};

static const struct json_field early_stopping_fields[] = {
    {"patience", FIELD_INT32, offsetof(struct train_early_stopping, patience), 0, 1e6,
     .help = "epochs without a better metric; 0: off"},
    {"min_delta", FIELD_DOUBLE, offsetof(struct train_early_stopping, min_delta), 0, DBL_MAX,
     .help = "less than this is not better"},
    {0},
};

#define AT(member) offsetof(struct train_sample, member)
static const struct json_field sample_fields[] = {
    {"n", FIELD_INT32, AT(n), 1, 1024, .help = "images in a grid, class by class"},
    {"steps", FIELD_INT32, AT(steps), 1, MODEL_MAX_STEPS, .help = "sampling steps (DDIM, quadratic)"},
    {"every", FIELD_INT32, AT(every), 0, 1e6, .help = "epochs between grids; 0: none"},
    {"guidance", FIELD_FLOAT, AT(guidance), 0, 20, .help = "classifier-free guidance scale"},
    {"seed", FIELD_UINT64, AT(seed), .help = "of the starting noise, the same for each grid"},
    {0},
};
#undef AT

static const struct json_field distill_fields[] = {
    {"teacher", FIELD_STRING, offsetof(struct train_distill, teacher), .nullable = true, .item_bytes = TRAIN_PATH_BYTES,
     .help = "model file whose guided prediction is to be learned"},
    {"guidance", FIELD_FLOAT, offsetof(struct train_distill, guidance), 0, 20, .help = "of the teacher"},
    {0},
};

static int read_model(const json_t *json, const char *path, void *member, struct error *err)
{
    return model_config_parse(json, path, member, err);
}

static int read_diffusion(const json_t *json, const char *path, void *member, struct error *err)
{
    return diffusion_config_parse(json, path, member, err);
}

static json_t *write_model(const void *member)
{
    return model_config_json(member);
}

static json_t *write_diffusion(const void *member)
{
    return diffusion_config_json(member);
}

#define AT(member) offsetof(struct train_config, member)
static const struct json_field train_fields[] = {
    {"model", FIELD_CUSTOM, AT(model), .required = true, .read = read_model, .write = write_model,
     .schema = model_config_schema, .help = "network"},
    {"diffusion", FIELD_CUSTOM, AT(diffusion), .read = read_diffusion, .write = write_diffusion,
     .schema = diffusion_config_schema, .help = "noise schedule"},
    {"dataset", FIELD_OBJECT, AT(dataset), .required = true, .fields = train_dataset_fields, .help = "images"},
    {"optimizer", FIELD_OBJECT, AT(optimizer), .fields = train_optimizer_fields, .help = "AdamW"},
    {"ema", FIELD_OBJECT, AT(ema), .fields = train_ema_fields, .help = "exponential moving average of the weights"},
    {"checkpoint", FIELD_OBJECT, AT(checkpoint), .fields = train_checkpoint_fields, .help = "what is kept"},
    {"validation", FIELD_OBJECT, AT(validation), .fields = train_validation_fields, .help = "held-out images"},
    {"early_stopping", FIELD_OBJECT, AT(early_stopping), .nullable = true, .fields = early_stopping_fields,
     .help = "end where nothing improves"},
    {"sample", FIELD_OBJECT, AT(sample), .fields = sample_fields, .help = "grids of generated images"},
    {"distill", FIELD_OBJECT, AT(distill), .fields = distill_fields, .help = "learn what a model does with guidance"},
    {"epochs", FIELD_INT32, AT(epochs), 1, 1e6, .help = "passes over the training images"},
    {"log_steps", FIELD_INT32, AT(log_steps), 1, 1e6, .help = "steps between lines of metrics.jsonl"},
    {"micro_batch", FIELD_INT32, AT(micro_batch), 0, 65536,
     .help = "images at once, gradients are added; 0: the batch"},
    {"label_dropout", FIELD_FLOAT, AT(label_dropout), 0, 1, .help = "probability of the null class, for guidance"},
    {"min_snr_gamma", FIELD_DOUBLE, AT(min_snr_gamma), 0, 1e6, .help = "loss weight min(SNR, gamma) / SNR; 0: 1"},
    {"antithetic", FIELD_BOOL, AT(antithetic), .help = "draw timesteps in pairs t, T - 1 - t"},
    {"seed", FIELD_UINT64, AT(seed), .help = "of everything random"},
    {"resume", FIELD_STRING, AT(resume), .nullable = true, .item_bytes = TRAIN_PATH_BYTES, .help = "state file"},
    {"device", FIELD_ENUM, AT(device), .names = train_device_names, .help = "where to train"},
    {"precision", FIELD_ENUM, AT(precision), .names = train_precision_names, .help = "what is computed in"},
    {0},
};
#undef AT

const struct train_config train_config_default = {
    .dataset = {.train = true,
                .n_sides = 2,
                .image_size = {32, 32},
                .mode = -1, // as the model's channels
                .batch_size = 64,
                .shuffle = true,
                .drop_last = true,
                .pin_memory = true,
                .num_workers = 4,
                .cache_mib = 2048,
                .flip = 0.0f},
    .optimizer = {.lr = 2e-4, .weight_decay = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .grad_clip = 1.0},
    .ema = {.decay = 0.9999, .ramp = true},
    .checkpoint = {.save_freq = 1},
    .validation = {.fraction = 0.02},
    .sample = {.n = 40, .steps = 50, .every = 1, .guidance = 1.0f},
    .epochs = 100,
    .log_steps = 10,
    .label_dropout = 0.1f,
    .distill = {.guidance = 1.5f},
};

/* ---- checks that take more than one key ---- */

static int check_data(struct train_config *c, struct error *err)
{
    struct data_config data;
    if (c->dataset.mode < 0)
        c->dataset.mode = c->model.in_channels == 1 ? 0 : 1;
    json_t *json = json_pack("{s[ii] ss}", "image_size", c->dataset.image_size[0], c->dataset.image_size[1], "mode",
                             mode_names[c->dataset.mode]);
    if (!json)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int r = data_config_parse(json, "dataset", &c->model, &data, err);
    json_decref(json);
    if (r < 0)
        return r;
    data_config_done(&data);
    if (c->dataset.download && c->dataset.kind == DATASET_FOLDER)
        return error_set(err, -EINVAL, "dataset.download", "only cifar10 and mnist can be fetched");
    return 0;
}

static int check(struct train_config *c, struct error *err)
{
    int r = check_data(c, err);
    if (r < 0)
        return r;
    bool validates = c->validation.images > 0 || c->validation.fraction > 0;
    if (c->checkpoint.monitor == MONITOR_VAL_LOSS && !validates)
        return error_set(err, -EINVAL, "checkpoint.monitor", "val_loss needs held-out images (validation)");
    if (c->micro_batch > c->dataset.batch_size)
        return error_set(err, -EINVAL, "micro_batch", "%d is more than dataset.batch_size (%d)", c->micro_batch,
                         c->dataset.batch_size);
    if (c->sample.steps > c->diffusion.T)
        return error_set(err, -EINVAL, "sample.steps", "%d is more than diffusion.T (%d)", c->sample.steps,
                         c->diffusion.T);
    if (c->optimizer.lr_min > c->optimizer.lr)
        return error_set(err, -EINVAL, "optimizer.lr_min", "is above lr");
    return 0;
}

int train_config_parse(const json_t *json, struct train_config *ret_config, struct error *err)
{
    struct train_config c = train_config_default;
    c.diffusion = diffusion_config_default;
    int r = json_fields_read(json, "", train_fields, &c, NULL, err);
    if (r == 0)
        r = check(&c, err);
    if (r < 0)
        return r;
    *ret_config = c;
    return 0;
}

json_t *train_config_json(const struct train_config *c)
{
    return json_fields_write(train_fields, c);
}

json_t *train_config_schema(void)
{
    struct train_config defaults = train_config_default;
    defaults.dataset.mode = 0; // it has no fixed default: as the model's channels
    json_t *schema = json_fields_schema(train_fields, &defaults);
    json_t *dataset = json_object_get(json_object_get(schema, "properties"), "dataset");
    json_object_del(json_object_get(json_object_get(dataset, "properties"), "mode"), "default");
    return schema;
}

/* ---- files and assignments ---- */

static int read_text(const char *path, char **ret_text, size_t *ret_bytes, struct error *err)
{
    FILE *file = fopen(path, "re");
    char *text = malloc(MAX_CONFIG_BYTES + 1);
    int r = !text ? -ENOMEM : !file ? -errno : 0;
    size_t n = r == 0 ? fread(text, 1, MAX_CONFIG_BYTES + 1, file) : 0;
    if (r == 0 && ferror(file))
        r = errno ? -errno : -EIO;
    if (file)
        fclose(file);
    if (r == 0 && n > MAX_CONFIG_BYTES)
        r = -EFBIG;
    if (r < 0) {
        free(text);
        return error_set(err, r, NULL, "%s: %s", path, strerror(-r));
    }
    *ret_text = text;
    *ret_bytes = n;
    return 0;
}

static json_t *value_of(const char *text)
{
    struct error ignored;
    json_t *value;
    return json_parse(text, strlen(text), &value, &ignored) == 0 ? value : json_string(text);
}

/* "a.b=v": root.a.b = v, objects made on the way. */
static int assign(json_t *root, const char *set, struct error *err)
{
    char key[128];
    const char *equals = strchr(set, '=');
    json_t *at = root;
    if (!equals || equals == set || set[0] == '.' || equals[-1] == '.')
        return error_set(err, -EINVAL, NULL, "--set %s: must be key.path=value", set);
    for (const char *p = set;; p++) {
        size_t n = strcspn(p, ".=");
        if (n == 0 || n >= sizeof key)
            return error_set(err, -EINVAL, NULL, "--set %s: must be key.path=value", set);
        memcpy(key, p, n);
        key[n] = 0;
        p += n;
        if (*p == '=')
            break;
        json_t *next = json_object_get(at, key);
        if (!json_is_object(next)) {
            next = json_object();
            if (json_object_set_new(at, key, next) < 0)
                return error_set(err, -ENOMEM, NULL, "out of memory");
        }
        at = next;
    }
    if (json_object_set_new(at, key, value_of(equals + 1)) < 0)
        return error_set(err, -EINVAL, NULL, "--set %s: not UTF-8, or out of memory", set);
    return 0;
}

int train_config_read(const char *path, const char *const *sets, int32_t n_sets, json_t **ret_json, struct error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    json_t *json;
    int r = read_text(path, &text, &bytes, err);
    if (r < 0)
        return r;
    r = json_parse(text, bytes, &json, err);
    free(text);
    if (r < 0)
        return r;
    for (int32_t i = 0; r == 0 && i < n_sets; i++)
        r = json_is_object(json) ? assign(json, sets[i], err) : 0;
    if (r < 0)
        json_decref(json);
    else
        *ret_json = json;
    return r;
}

int train_config_load(const char *path, const char *const *sets, int32_t n_sets, struct train_config *ret_config,
                      struct error *err)
{
    json_t *json;
    int r = train_config_read(path, sets, n_sets, &json, err);
    if (r < 0)
        return r;
    r = train_config_parse(json, ret_config, err);
    json_decref(json);
    return r;
}

/* ---- going on with a run ---- */

/* Keys that must not change under a run; a NULL second part means the whole object or value. Those of the optimizer and
 * min_snr_gamma may: they change the steps to come, as a person who sets them means. */
static const char *const fixed_keys[][2] = {
    {"model", NULL},           {"diffusion", NULL},       {"dataset", "kind"},
    {"dataset", "train"},      {"dataset", "image_size"}, {"dataset", "mode"},
    {"dataset", "batch_size"}, {"dataset", "shuffle"},    {"dataset", "drop_last"},
    {"dataset", "flip"},       {"validation", NULL},      {"micro_batch", NULL},
    {"label_dropout", NULL},   {"antithetic", NULL},      {"seed", NULL},
    {"distill", NULL},         {"precision", NULL},
};

int train_config_compatible(const struct train_config *then, const struct train_config *now, struct error *err)
{
    json_t *a = train_config_json(then), *b = train_config_json(now);
    int r = a && b ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    for (size_t i = 0; r == 0 && i < sizeof fixed_keys / sizeof fixed_keys[0]; i++) {
        const char *const *key = fixed_keys[i];
        json_t *x = json_object_get(a, key[0]), *y = json_object_get(b, key[0]);
        char path[64];
        snprintf(path, sizeof path, "%s%s%s", key[0], key[1] ? "." : "", key[1] ? key[1] : "");
        if (key[1]) {
            x = json_object_get(x, key[1]);
            y = json_object_get(y, key[1]);
        }
        if (!json_equal(x, y))
            r = error_set(err, -EINVAL, path, "differs from the run that is to go on");
    }
    json_decref(a);
    json_decref(b);
    return r;
}

double train_config_lr(const struct train_optimizer *o, int64_t step, int64_t total)
{
    if (step < o->warmup_steps)
        return o->lr * (double)(step + 1) / (double)o->warmup_steps;
    if (o->schedule == LR_CONSTANT || total <= o->warmup_steps)
        return o->lr;
    double done = (double)(step - o->warmup_steps) / (double)(total - o->warmup_steps);
    return o->lr_min + (o->lr - o->lr_min) * 0.5 * (1.0 + cos(M_PI * fmin(done, 1.0)));
}
