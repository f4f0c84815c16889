/* evaluate_config.c: see evaluate_config.h.
 */
#include "training/evaluate_config.h"

#include "model/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *const evaluate_part_names[] = {"all", "train", "held_out", NULL};

/* A data set's keys and two more beside them. */
static int read_data(const json_t *json, const char *path, void *member, struct error *err)
{
    static const struct json_field more[] = {
        {"held_out", FIELD_INT64, offsetof(struct evaluate_data, held_out), 0, 1e9,
         .help = "images that training held out"},
        {"part", FIELD_ENUM, offsetof(struct evaluate_data, part), .names = evaluate_part_names,
         .help = "which of them"},
        {0},
    };
    static const char *const names[] = {"held_out", "part", NULL};
    struct evaluate_data *d = member;
    json_t *set = json_is_object(json) ? json_copy((json_t *)json) : json_incref((json_t *)json), *rest = json_object();
    int rc = set && rest ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    for (int i = 0; rc == 0 && names[i] && json_is_object(set); i++)
        if (json_object_get(set, names[i])) {
            json_object_set(rest, names[i], json_object_get(set, names[i]));
            json_object_del(set, names[i]);
        }
    if (rc == 0)
        rc = json_fields_read(rest, path, more, d, NULL, err);
    if (rc == 0)
        rc = json_fields_read(set, path, train_dataset_fields, &d->set, NULL, err);
    json_decref(set);
    json_decref(rest);
    char field[JSON_PATH_BYTES];
    if (rc == 0 && d->part != PART_ALL && d->held_out == 0)
        rc = error_set(err, -EINVAL, json_path(field, path, "held_out"),
                       "is 0: \"%s\" wants the number of held-out images", evaluate_part_names[d->part]);
    if (rc == 0 && d->set.download)
        rc = error_set(err, -EINVAL, json_path(field, path, "download"), "is not for evaluations");
    return rc;
}

static json_t *write_data(const void *member)
{
    const struct evaluate_data *d = member;
    json_t *json = json_fields_write(train_dataset_fields, &d->set);
    if (json && (json_object_set_new(json, "held_out", json_integer(d->held_out)) ||
                 json_object_set_new(json, "part", json_string(evaluate_part_names[d->part])))) {
        json_decref(json);
        return NULL;
    }
    return json;
}

static int read_images(const json_t *json, const char *path, void *member, struct error *err)
{
    struct evaluate_config *c = (struct evaluate_config *)((char *)member - offsetof(struct evaluate_config, images));
    c->has_images = true;
    return read_data(json, path, member, err);
}

static json_t *write_images(const void *member)
{
    const struct evaluate_config *c =
        (const struct evaluate_config *)((const char *)member - offsetof(struct evaluate_config, images));
    return c->has_images ? write_data(member) : json_null();
}

#define AT(member) offsetof(struct evaluate_sampling, member)
static const struct json_field sampling_fields[] = {
    {"steps", FIELD_INT32_LIST, AT(steps), 1, MODEL_MAX_STEPS, .min_items = 1, .max_items = EVALUATE_MAX_LIST,
     .count_offset = AT(n_steps), .help = "numbers of sampling steps"},
    {"sampler", FIELD_STRING_LIST, AT(samplers), .item_bytes = EVALUATE_NAME_BYTES, .min_items = 1,
     .max_items = EVALUATE_MAX_LIST, .count_offset = AT(n_samplers), .help = "ddim, ddpm, dpmpp_2m"},
    {"method", FIELD_STRING_LIST, AT(methods), .item_bytes = EVALUATE_NAME_BYTES, .min_items = 1,
     .max_items = EVALUATE_MAX_LIST, .count_offset = AT(n_methods), .help = "linear, quadratic, trailing"},
    {"eta", FIELD_DOUBLE_LIST, AT(eta), 0, 1, .min_items = 1, .max_items = EVALUATE_MAX_LIST, .count_offset = AT(n_eta),
     .help = "of ddim"},
    {"guidance", FIELD_DOUBLE_LIST, AT(guidance), 0, 20, .min_items = 1, .max_items = EVALUATE_MAX_LIST,
     .count_offset = AT(n_guidance), .help = "classifier-free guidance scales; 1: none"},
    {"clip", FIELD_BOOL, AT(clip), .help = "clip the prediction of x0 to [-1, 1] at each step"},
    {0},
};
#undef AT

#define AT(member) offsetof(struct evaluate_inversion, member)
static const struct json_field inversion_fields[] = {
    {"steps", FIELD_INT32_LIST, AT(steps), 1, MODEL_MAX_STEPS, .min_items = 1, .max_items = EVALUATE_MAX_LIST,
     .count_offset = AT(n_steps), .help = "numbers of steps there and back"},
    {"images", FIELD_INT32, AT(images), 0, 100000, .help = "reference images that go there and back; 0: none"},
    {0},
};
#undef AT

#define AT(member) offsetof(struct evaluate_config, member)
static const struct json_field evaluate_fields[] = {
    {"model", FIELD_STRING, AT(model), .nullable = true, .item_bytes = TRAIN_PATH_BYTES, .help = "model file"},
    {"images", FIELD_CUSTOM, AT(images), .nullable = true, .read = read_images, .write = write_images,
     .help = "images to evaluate instead of a model's"},
    {"reference", FIELD_CUSTOM, AT(reference), .required = true, .read = read_data, .write = write_data,
     .help = "real images"},
    {"extractor", FIELD_STRING, AT(extractor), .required = true, .item_bytes = TRAIN_PATH_BYTES,
     .help = "file of a classifier or of Inception"},
    {"resize", FIELD_ENUM, AT(resize), .names = resize_names, .help = "how Inception's input is made"},
    {"n", FIELD_INT64, AT(n), 2, 1e6, .help = "generated images of a point"},
    {"seeds", FIELD_INT32, AT(seeds), 1, 100, .help = "how often, each time with the next seed"},
    {"seed", FIELD_UINT64, AT(seed), .help = "the first seed"},
    {"sampling", FIELD_OBJECT, AT(sampling), .fields = sampling_fields, .help = "every combination is a point"},
    {"kid", FIELD_BOOL, AT(kid), .help = "kernel distance, of 100 subsets of 1000 images"},
    {"precision_recall", FIELD_BOOL, AT(precision_recall), .help = "improved precision and recall, 3 neighbours"},
    {"grid", FIELD_INT32, AT(grid), 0, 1024, .help = "images of a sample grid per point; 0: none"},
    {"nearest", FIELD_INT32, AT(nearest), 0, 100, .help = "generated images beside their nearest real ones; 0: none"},
    {"inversion", FIELD_OBJECT, AT(inversion), .fields = inversion_fields, .help = "x0 to noise and back by DDIM"},
    {"batch", FIELD_INT32, AT(batch), 2, 4096, .help = "images at once"},
    {"cache", FIELD_STRING, AT(cache), .nullable = true, .item_bytes = TRAIN_PATH_BYTES,
     .help = "folder that keeps the features of reference images"},
    {"device", FIELD_ENUM, AT(device), .names = train_device_names, .help = "where to compute"},
    {"precision", FIELD_ENUM, AT(precision), .names = train_precision_names, .help = "of the model; features are f32"},
    {0},
};
#undef AT

static struct evaluate_config defaults(void)
{
    const struct train_dataset set = train_config_default.dataset;
    return (struct evaluate_config){
        .images = {.set = set},
        .reference = {.set = set},
        .n = 10000,
        .seeds = 1,
        .sampling = {.n_steps = 1,
                     .steps = {50},
                     .n_samplers = 1,
                     .samplers = {"ddim"},
                     .n_methods = 1,
                     .methods = {"quadratic"},
                     .n_eta = 1,
                     .n_guidance = 1,
                     .guidance = {1}},
        .precision_recall = true,
        .kid = true,
        .grid = 60,
        .inversion = {.n_steps = 4, .steps = {10, 20, 50, 100}},
        .batch = 64,
    };
}

/* ---- points ---- */

static int find(const char *name, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

static int check_names(const char (*given)[EVALUATE_NAME_BYTES], int32_t n, const char *key, const char *const *names,
                       struct error *err)
{
    char field[JSON_PATH_BYTES];
    for (int32_t i = 0; i < n; i++)
        if (find(given[i], names) < 0)
            return json_error_choice(err, json_path_item(field, key, (size_t)i), given[i], names);
    return 0;
}

/* Axes that a sampler does not have: ddpm has neither steps nor method nor eta, dpmpp_2m no eta. */
int32_t evaluate_config_points(const struct evaluate_config *c, struct evaluate_point *ret_points)
{
    const struct evaluate_sampling *s = &c->sampling;
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_samplers; i++) {
        enum sampler sampler = (enum sampler)find(s->samplers[i], sampler_names);
        int32_t n_methods = sampler == SAMPLER_DDPM ? 1 : s->n_methods, n_eta = sampler == SAMPLER_DDIM ? s->n_eta : 1,
                n_steps = sampler == SAMPLER_DDPM ? 1 : s->n_steps;
        for (int32_t k = 0; k < n_methods * s->n_guidance * n_eta * n_steps && n < EVALUATE_MAX_POINTS; k++) {
            int32_t step = k % n_steps, eta = k / n_steps % n_eta, guidance = k / n_steps / n_eta % s->n_guidance,
                    method = k / n_steps / n_eta / s->n_guidance;
            ret_points[n++] = (struct evaluate_point){
                .recipe = {.steps = s->steps[step],
                           .method = (enum step_method)find(s->methods[method], step_method_names),
                           .sampler = sampler,
                           .eta = sampler == SAMPLER_DDIM ? s->eta[eta] : 0},
                .guidance = s->guidance[guidance]};
        }
    }
    return n;
}

static int check(const struct evaluate_config *c, struct error *err)
{
    const struct evaluate_sampling *s = &c->sampling;
    int64_t points = (int64_t)s->n_samplers * s->n_methods * s->n_guidance * s->n_eta * s->n_steps;
    if (c->has_images == (c->model[0] != 0))
        return error_set(err, -EINVAL, "model", "wanted are either \"model\" or \"images\"");
    if (points > EVALUATE_MAX_POINTS)
        return error_set(err, -EINVAL, "sampling", "%lld combinations are more than %d", (long long)points,
                         EVALUATE_MAX_POINTS);
    int rc = check_names(s->samplers, s->n_samplers, "sampling.sampler", sampler_names, err);
    return rc ? rc : check_names(s->methods, s->n_methods, "sampling.method", step_method_names, err);
}

int evaluate_config_parse(const json_t *json, struct evaluate_config *ret_config, struct error *err)
{
    struct evaluate_config c = defaults();
    int rc = json_fields_read(json, "", evaluate_fields, &c, NULL, err);
    if (rc == 0)
        rc = check(&c, err);
    if (rc == 0)
        *ret_config = c;
    return rc;
}

json_t *evaluate_config_json(const struct evaluate_config *c)
{
    return json_fields_write(evaluate_fields, c);
}

json_t *evaluate_config_schema(void)
{
    struct evaluate_config c = defaults();
    return json_fields_schema(evaluate_fields, &c);
}
