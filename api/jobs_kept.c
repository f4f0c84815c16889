/* jobs_kept.c: what a finished job of type generate has kept, written once and read for each answer. */
#include "api/jobs_generate.h"

#include "model/file.h"
#include "training/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 16 << 20, NAME_BYTES = 64 };

/* result.json */
struct kept {
    char model[MODEL_NAME_BYTES], problem[NAME_BYTES], field[NAME_BYTES], detail[512];
    uint64_t seed;
    const json_t *classes; // names, one for each in the request's list
    int32_t n, images, frames, height, width, channels, nrow, scale;
    bool to_grayscale;
    double queue_ms, sample_ms;
};
#define KEPT(member, type) .name = #member, .kind = FIELD_##type, .offset = offsetof(struct kept, member)
static const struct json_field kept_fields[] = {
    {KEPT(model, STRING), .item_bytes = MODEL_NAME_BYTES},
    {KEPT(problem, STRING), .item_bytes = NAME_BYTES},
    {KEPT(field, STRING), .item_bytes = NAME_BYTES},
    {KEPT(detail, STRING), .item_bytes = 512},
    {KEPT(seed, UINT64)},
    {KEPT(classes, JSON)},
    {KEPT(n, INT32)},
    {KEPT(images, INT32)},
    {KEPT(frames, INT32)},
    {KEPT(height, INT32)},
    {KEPT(width, INT32)},
    {KEPT(channels, INT32)},
    {KEPT(nrow, INT32)},
    {KEPT(scale, INT32)},
    {KEPT(to_grayscale, BOOL)},
    {KEPT(queue_ms, DOUBLE)},
    {KEPT(sample_ms, DOUBLE)},
    {0},
};
#undef KEPT

/* ---- writing ---- */

static json_t *class_names(const struct recipe *r)
{
    json_t *names = json_array();
    for (int32_t i = 0; names && i < r->n_classes; i++)
        json_array_append_new(names, json_string(recipe_class_name(r->model, r->classes[i])));
    return names;
}

static void kept_fill(struct kept *k, const struct recipe *r)
{
    const struct data_config *d = &r->model->data;
    snprintf(k->model, sizeof(k->model), "%s", r->model->name);
    k->seed = r->fields.seed;
    k->n = r->fields.n;
    k->images = r->n_images;
    k->frames = r->n_frames;
    k->height = d->height;
    k->width = d->width;
    k->channels = d->channels;
    k->nrow = r->fields.nrow;
    k->scale = r->fields.scale;
    k->to_grayscale = r->fields.to_grayscale;
}

int kept_result_write(int folder_fd, const struct recipe *r, const struct timing *timing, const struct problem *p,
                      struct error *err)
{
    struct kept k = {0};
    json_t *classes = r ? class_names(r) : json_array();
    if (r)
        kept_fill(&k, r);
    if (timing)
        k.queue_ms = timing->queue_ms, k.sample_ms = timing->sample_ms;
    if (p) {
        snprintf(k.problem, sizeof(k.problem), "%s", problem_infos[p->kind].name);
        snprintf(k.field, sizeof(k.field), "%.60s", p->field);
        snprintf(k.detail, sizeof(k.detail), "%s", p->detail);
    }
    k.classes = classes;
    json_t *json = classes ? json_fields_write(kept_fields, &k) : NULL;
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    int rc = text ? file_write(folder_fd, "result.json", text, strlen(text), err)
                  : error_set(err, -ENOMEM, NULL, "out of memory");
    free(text);
    json_decref(json);
    json_decref(classes);
    return rc;
}

/* ---- reading ---- */

void kept_result_done(struct kept_result *k)
{
    result_done(&k->result);
    json_decref(k->json);
    free(k->recipe);
    free(k->model);
    free(k->images);
    *k = (struct kept_result){0};
}

static int read_json(int folder_fd, struct kept *ret, json_t **ret_json, struct error *err)
{
    char *text = NULL;
    size_t n = 0;
    int rc = file_read(folder_fd, "result.json", MAX_FILE_BYTES, &text, &n, err);
    if (rc)
        return rc;
    rc = json_parse(text, n, ret_json, err);
    if (rc == 0)
        rc = json_fields_read(*ret_json, "", kept_fields, ret, NULL, err);
    free(text);
    if (rc == 0 && !ret->problem[0] &&
        (ret->n < 1 || ret->frames < 1 || ret->images < 1 || ret->height < 1 ||
         json_array_size(ret->classes) * (size_t)ret->n != (size_t)ret->images))
        rc = error_set(err, -EIO, NULL, "the result's file is damaged");
    return rc == -EINVAL ? -EIO : rc;
}

static int read_images(int folder_fd, const struct kept *k, int32_t first, int32_t count, float **ret_images,
                       struct error *err)
{
    size_t image = (size_t)k->frames * (size_t)k->height * (size_t)k->width * (size_t)k->channels * sizeof(float);
    size_t bytes = (size_t)count * image;
    uint64_t size = 0;
    int fd = -1;
    float *images = malloc(bytes);
    int rc = images ? file_open(folder_fd, "images.npy", &fd, &size, err) : error_set(err, -ENOMEM, NULL, "no memory");
    if (rc == 0 && size < (uint64_t)k->images * image)
        rc = error_set(err, -EIO, NULL, "the file of images is too short");
    if (rc == 0) // the array is the end of the file
        rc = file_read_at(fd, images, bytes, size - (uint64_t)(k->images - first) * image, err);
    if (fd >= 0)
        close(fd);
    if (rc == 0)
        *ret_images = images;
    else
        free(images);
    return rc;
}

static int check_range(const struct kept *k, int32_t first, int32_t *count, const struct request_limits *limits,
                       struct error *err)
{
    int64_t image = (int64_t)k->frames * k->height * k->width * k->channels * 4;
    if (first >= k->images)
        return error_set(err, -EINVAL, "first", "first must be below %d, the number of images, not %d", k->images,
                         first);
    if (*count > k->images - first)
        return error_set(err, -EINVAL, "count", "from image %d on there are %d, not %d", first, k->images - first,
                         *count);
    if (*count == 0)
        *count = k->images - first;
    int64_t most = limits->max_result_bytes / image;
    if (*count > most || (int64_t)*count > limits->max_images)
        return error_set(err, -EINVAL, "count",
                         "%d images are more than one answer holds: ask for parts of at most %" PRId64
                         " with first and count",
                         *count, most < limits->max_images ? most : (int64_t)limits->max_images);
    return 0;
}

/* Borrows from k and ret. */
static int result_fill(const struct kept *k, int32_t first, int32_t count, struct kept_result *ret)
{
    size_t n = json_array_size(k->classes);
    ret->result = (struct result){.picture = {.images = ret->images,
                                              .n = count * k->frames,
                                              .height = k->height,
                                              .width = k->width,
                                              .channels = k->channels,
                                              .nrow = k->nrow,
                                              .scale = k->scale,
                                              .to_grayscale = k->to_grayscale},
                                  .n_frames = k->frames,
                                  .first = first,
                                  .n_each = k->n,
                                  .classes = calloc(n, sizeof(*ret->result.classes)),
                                  .model = ret->model,
                                  .recipe = count == k->images ? ret->recipe : NULL,
                                  .seed = k->seed,
                                  .timing = {k->queue_ms, k->sample_ms, 0}};
    for (size_t i = 0; ret->result.classes && i < n; i++)
        ret->result.classes[i] = json_string_value(json_array_get(k->classes, i));
    return ret->result.classes ? 0 : -ENOMEM;
}

int kept_result_read(int folder_fd, int32_t first, int32_t count, const struct request_limits *limits,
                     struct kept_result *ret_kept, struct error *err)
{
    struct kept k = {0};
    struct kept_result r = {0};
    size_t bytes = 0;
    int rc = read_json(folder_fd, &k, &r.json, err);
    if (rc == 0 && k.problem[0]) {
        problem_set(&r.problem, problem_find(k.problem), k.field, "%s", k.detail);
    } else if (rc == 0) {
        r.model = strdup(k.model);
        rc = check_range(&k, first, &count, limits, err);
        if (rc == 0)
            rc = file_read(folder_fd, "recipe.json", MAX_FILE_BYTES, &r.recipe, &bytes, err);
        if (rc == 0)
            rc = read_images(folder_fd, &k, first, count, &r.images, err);
        if (rc == 0)
            rc = r.model ? result_fill(&k, first, count, &r) : -ENOMEM;
    }
    if (rc)
        kept_result_done(&r);
    else
        *ret_kept = r;
    return rc;
}
