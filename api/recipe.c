/* recipe.c: see recipe.h. */
#include "api/recipe.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- classes ---- */

const char *recipe_class_name(const struct resident_model *model, int32_t class_index)
{
    return class_index < model->data.n_classes ? model->data.classes[class_index] : "none";
}

static int no_such_class(const struct resident_model *model, const char *item, struct problem *p)
{
    int32_t n = model->data.n_classes;
    const char **names = calloc((size_t)n + 3, sizeof(*names));
    problem_set(p, PROBLEM_BAD_FIELD, "class", "class: model %s has no class \"%s\"; indices are 0 to %d", model->name,
                item, n - 1);
    if (!names)
        return -EINVAL;
    for (int32_t i = 0; i < n; i++)
        names[i] = model->data.classes[i];
    names[n] = "all";
    names[n + 1] = "none";
    problem_allow_names(p, names);
    const char *nearest = error_nearest_name(item, names);
    snprintf(p->nearest, sizeof(p->nearest), "%s", nearest ? nearest : "");
    free(names);
    return -EINVAL;
}

/* An index where it is one, else a name. -1: neither. */
static int32_t class_find(const struct resident_model *model, const char *item)
{
    if (strcmp(item, "none") == 0)
        return model->model.num_classes;
    size_t digits = strspn(item, "0123456789");
    if (item[digits] == '\0' && digits < 7) {
        long index = strtol(item, NULL, 10);
        if (index < model->data.n_classes)
            return (int32_t)index;
    }
    for (int32_t i = 0; i < model->data.n_classes; i++)
        if (strcmp(model->data.classes[i], item) == 0)
            return i;
    return -1;
}

static int too_many_images(int64_t n_images, const struct request_limits *limits, struct problem *p)
{
    problem_set(p, PROBLEM_BAD_FIELD, "n", "n times the classes is %lld images; one request may ask for at most %d",
                (long long)n_images, limits->max_images);
    problem_allow_range(p, 1, limits->max_images);
    return -EINVAL;
}

static int64_t class_count(const struct class_list *l, const struct resident_model *model)
{
    int64_t n = l->n ? 0 : model->data.n_classes;
    for (int32_t i = 0; i < l->n; i++)
        n += strcmp(l->items[i], "all") == 0 ? model->data.n_classes : 1;
    return n;
}

static int classes_resolve(const struct class_list *l, struct recipe *r, struct problem *p)
{
    const char *item = "all";
    for (int32_t i = 0, n = l->n ? l->n : 1; i < n; i++) {
        if (l->n)
            item = l->items[i];
        bool all = strcmp(item, "all") == 0;
        int32_t first = all ? 0 : class_find(r->model, item);
        int32_t last = all ? r->model->data.n_classes - 1 : first;
        if (first < 0)
            return no_such_class(r->model, item, p);
        for (int32_t c = first; c <= last; c++)
            r->classes[r->n_classes++] = c;
    }
    return 0;
}

static int images_resolve(const struct fields *f, const struct request_limits *limits, struct recipe *r,
                          struct problem *p)
{
    int64_t n_classes = class_count(&f->classes, r->model);
    if (n_classes * f->n > limits->max_images)
        return too_many_images(n_classes * f->n, limits, p);
    r->classes = calloc((size_t)n_classes, sizeof(*r->classes));
    if (!r->classes)
        return problem_set(p, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the classes");
    int rc = classes_resolve(&f->classes, r, p);
    r->n_images = r->n_classes * f->n;
    return rc;
}

/* ---- steps ---- */

static int steps_resolve(struct recipe *r, struct problem *p)
{
    struct fields *f = &r->fields;
    struct error err = {0};
    int32_t T = r->model->diffusion.T;
    if (f->sampler == SAMPLER_DDPM) { // so that requests with equal bytes have equal recipes
        f->steps = T;
        f->method = STEP_METHOD_LINEAR;
        f->eta = 1;
    } else if (f->sampler == SAMPLER_DPMPP_2M) {
        f->eta = 0;
    }
    if (f->steps > T) {
        problem_set(p, PROBLEM_BAD_FIELD, "steps", "steps must be at most %d, the T of model %s, not %d", T,
                    r->model->name, f->steps);
        problem_allow_range(p, 1, T);
        return -EINVAL;
    }
    struct sampling_recipe s = {f->steps, f->method, f->sampler, f->eta};
    if (schedule_table(&r->model->diffusion, &s, &r->table, &err))
        return problem_from_error(p, err.code == -ENOMEM ? PROBLEM_OUT_OF_MEMORY : PROBLEM_BAD_FIELD, &err);
    return 0;
}

static int frames_resolve(struct recipe *r, struct problem *p)
{
    struct fields *f = &r->fields;
    int32_t n_rows = r->table->n_rows;
    if (f->interval > n_rows) {
        problem_set(p, PROBLEM_BAD_FIELD, "interval", "interval must be at most steps, which is %d, not %d", n_rows,
                    f->interval);
        problem_allow_range(p, 1, n_rows);
        return -EINVAL;
    }
    if (f->interval == 0)
        f->interval = n_rows < 50 ? n_rows : 50;
    r->n_frames = f->result_only ? 1 : generation_frames(n_rows, f->interval);
    return 0;
}

/* ---- limits ---- */

static void grid_resolve(struct recipe *r)
{
    struct fields *f = &r->fields;
    if (f->nrow)
        return;
    if (!f->result_only)
        f->nrow = r->n_frames;
    else if (r->n_classes > 1)
        f->nrow = f->n;
    else
        f->nrow = (int32_t)ceil(sqrt(r->n_images));
}

static int picture_check(const struct recipe *r, const struct request_limits *limits, struct problem *p)
{
    const struct data_config *d = &r->model->data;
    int64_t n = (int64_t)r->n_images * r->n_frames, nrow = r->fields.nrow < n ? r->fields.nrow : n;
    int64_t width = (nrow * (d->width + PICTURE_PADDING) + PICTURE_PADDING) * r->fields.scale;
    int64_t height = ((n + nrow - 1) / nrow * (d->height + PICTURE_PADDING) + PICTURE_PADDING) * r->fields.scale;
    const char *field = r->fields.scale > 1 ? "scale" : r->fields.result_only ? "nrow" : "interval";
    if (width > PICTURE_MAX_SIDE || height > PICTURE_MAX_SIDE)
        return problem_set(p, PROBLEM_BAD_FIELD, field,
                           "the picture would be %lld x %lld pixels; the limit is %d on a side", (long long)width,
                           (long long)height, PICTURE_MAX_SIDE);
    if (3 * width * height > limits->max_picture_bytes)
        return problem_set(
            p, PROBLEM_BAD_FIELD, field, "the picture would be %lld x %lld pixels, %lld bytes; the limit is %lld bytes",
            (long long)width, (long long)height, (long long)(3 * width * height), (long long)limits->max_picture_bytes);
    return 0;
}

static int limits_check(const struct recipe *r, const struct request_limits *limits, struct problem *p)
{
    const struct data_config *d = &r->model->data;
    int64_t floats = (int64_t)r->n_images * r->n_frames * d->height * d->width * d->channels;
    if (floats * 4 > limits->max_result_bytes)
        return problem_set(p, PROBLEM_BAD_FIELD, r->fields.result_only ? "n" : "interval",
                           "%d images of %d results each are %lld bytes; the limit is %lld", r->n_images, r->n_frames,
                           (long long)floats * 4, (long long)limits->max_result_bytes);
    if (recipe_row_steps(r) > limits->max_row_steps)
        return problem_set(p, PROBLEM_BAD_FIELD, "steps",
                           "images times steps (twice that with guidance) is %lld; the limit of one request is %lld",
                           (long long)recipe_row_steps(r), (long long)limits->max_row_steps);
    return limits->max_picture_bytes ? picture_check(r, limits, p) : 0;
}

int recipe_resolve(const struct fields *f, const struct resident_model *model, const struct request_limits *limits,
                   struct recipe *ret_recipe, struct problem *ret_problem)
{
    struct recipe r = {.model = model, .fields = *f};
    r.fields.classes = (struct class_list){0};
    snprintf(r.fields.model, sizeof(r.fields.model), "%s", model->name);
    int rc = images_resolve(f, limits, &r, ret_problem);
    if (rc == 0)
        rc = steps_resolve(&r, ret_problem);
    if (rc == 0)
        rc = frames_resolve(&r, ret_problem);
    if (rc == 0) {
        grid_resolve(&r);
        rc = limits_check(&r, limits, ret_problem);
    }
    if (rc) {
        recipe_done(&r);
        return rc;
    }
    *ret_recipe = r;
    return 0;
}

void recipe_done(struct recipe *r)
{
    free(r->classes);
    free(r->table);
    *r = (struct recipe){0};
}

int64_t recipe_row_steps(const struct recipe *r)
{
    return (int64_t)r->n_images * r->table->n_rows * (r->fields.guidance == 1 ? 1 : 2);
}

int32_t recipe_class_of(const struct recipe *r, int32_t image)
{
    return r->classes[image / r->fields.n];
}

int recipe_generation(const struct recipe *r, int32_t first, int32_t n, struct generation **ret_generation)
{
    const struct fields *f = &r->fields;
    size_t table_bytes = sizeof(*r->table) + (size_t)r->table->n_rows * sizeof(r->table->rows[0]);
    struct generation *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    *g = (struct generation){.model = r->model->lane,
                             .n_images = n,
                             .class_index = malloc((size_t)n * sizeof(*g->class_index)),
                             .table = malloc(table_bytes),
                             .seed = f->seed,
                             .first_image = (uint64_t)first,
                             .guidance = (float)f->guidance,
                             .clip = f->clip,
                             .interval = f->result_only ? 0 : f->interval,
                             .priority = f->priority};
    if (!g->class_index || !g->table) {
        generation_free(g);
        return -ENOMEM;
    }
    for (int32_t i = 0; i < n; i++)
        g->class_index[i] = recipe_class_of(r, first + i);
    memcpy(g->table, r->table, table_bytes);
    *ret_generation = g;
    return 0;
}

static void classes_write(const struct recipe *r, struct text *t)
{
    json_key(t, "class");
    json_open(t, '[');
    for (int32_t i = 0; i < r->n_classes; i++) {
        if (r->classes[i] == r->model->model.num_classes)
            json_text(t, "none");
        else
            json_int(t, r->classes[i]);
    }
    json_close(t, ']');
}

void recipe_write(const struct recipe *r, const char *build, const char *device, struct text *t)
{
    const struct fields *f = &r->fields;
    json_key(t, "model"), json_text(t, r->model->name);
    json_key(t, "digest"), json_text(t, r->model->digest);
    classes_write(r, t);
    json_key(t, "n"), json_int(t, f->n);
    json_key(t, "steps"), json_int(t, f->steps);
    json_key(t, "method"), json_text(t, step_method_names[f->method]);
    json_key(t, "eta"), json_double(t, f->eta);
    json_key(t, "sampler"), json_text(t, sampler_names[f->sampler]);
    json_key(t, "guidance"), json_double(t, f->guidance);
    json_key(t, "seed"), json_uint(t, f->seed);
    json_key(t, "nrow"), json_int(t, f->nrow);
    json_key(t, "scale"), json_int(t, f->scale);
    json_key(t, "to_grayscale"), json_bool(t, f->to_grayscale);
    json_key(t, "result_only"), json_bool(t, f->result_only);
    json_key(t, "interval"), json_int(t, f->interval);
    json_key(t, "clip"), json_bool(t, f->clip);
    json_key(t, "build"), json_text(t, build);
    json_key(t, "device"), json_text(t, device);
}
