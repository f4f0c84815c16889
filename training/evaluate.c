/* evaluate.c: see evaluate.h.
 */
#include "training/evaluate.h"

#include "model/file.h"
#include "model/image.h"

#include <errno.h>
#include <stdlib.h>

enum { BATCH = 32, MOST_PER_ROW = 10, PADDING = 2 };

int evaluator_init(struct evaluator *e, const struct dataset *d, const int64_t *indices, int64_t n, struct error *err)
{
    size_t elements = (size_t)d->height * d->width * d->channels;
    *e = (struct evaluator){.n = n, .elements = elements};
    e->x0 = malloc((size_t)n * elements * sizeof *e->x0 + 1);
    e->y = malloc((size_t)n * sizeof *e->y + 1);
    e->eps_theta = malloc(BATCH * elements * sizeof *e->eps_theta);
    uint8_t *pixels = malloc(elements);
    int r = e->x0 && e->y && e->eps_theta && pixels ? noised_batch_init(&e->batch, BATCH, elements) : -ENOMEM;
    for (int64_t i = 0; r == 0 && i < n; i++) {
        r = dataset_read(d, indices[i], pixels, &e->y[i]);
        if (r == 0)
            image_from_uint8(pixels, elements, e->x0 + (size_t)i * elements);
    }
    free(pixels);
    if (r == 0)
        return 0;
    evaluator_done(e);
    return error_set(err, r, "dataset.path", r == -ENOMEM ? "out of memory" : "held-out images cannot be read");
}

void evaluator_done(struct evaluator *e)
{
    free(e->x0);
    free(e->y);
    free(e->eps_theta);
    noised_batch_done(&e->batch);
    *e = (struct evaluator){0};
}

static double squared_distance(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = (double)a[i] - b[i];
        sum += difference * difference;
    }
    return sum;
}

int evaluator_loss(struct evaluator *e, const struct diffuser *d, struct teacher *teacher, struct learner *l,
                   double *ret_loss, struct error *err)
{
    double sum = 0;
    for (int64_t first = 0; first < e->n; first += BATCH) {
        int32_t n = e->n - first < BATCH ? (int32_t)(e->n - first) : BATCH;
        diffuser_fix(d, e->x0 + (size_t)first * e->elements, e->y + first, n, first, e->n, &e->batch);
        int r = teacher ? teacher_eps(teacher, &e->batch, err) : 0;
        if (r == 0)
            r = learner_forward(l, n, e->batch.x, e->batch.t, e->batch.y, e->eps_theta, err);
        if (r < 0)
            return r;
        sum += squared_distance(e->eps_theta, e->batch.eps, (size_t)n * e->elements);
    }
    *ret_loss = sum / ((double)e->n * (double)e->elements);
    return 0;
}

/* ---- grids ---- */

static int write_grid(const struct train_config *c, const float *images, int dir_fd, const char *name,
                      struct error *err)
{
    int32_t h = c->dataset.image_size[0], w = c->dataset.image_size[1], channels = c->model.out_channels;
    int32_t nrow = c->model.num_classes < MOST_PER_ROW ? c->model.num_classes : MOST_PER_ROW;
    size_t elements = (size_t)c->sample.n * h * w * channels, bytes = 0;
    uint8_t *pixels = malloc(elements), *png = NULL;
    struct image8 grid = {0};
    int r = pixels ? 0 : -ENOMEM;
    if (r == 0) {
        image_to_uint8(images, elements, pixels);
        r = image_grid(pixels, c->sample.n, h, w, channels, nrow, PADDING, &grid);
    }
    if (r == 0)
        r = image_png_encode(&grid, NULL, NULL, &png, &bytes);
    if (r < 0)
        error_set(err, r, NULL, "out of memory");
    else
        r = file_write(dir_fd, name, png, bytes, err);
    free(png);
    image8_done(&grid);
    free(pixels);
    return r;
}

int evaluate_grid(const struct train_config *c, struct learner *l, int dir_fd, const char *name, struct error *err)
{
    int32_t n = c->sample.n;
    size_t elements = (size_t)c->dataset.image_size[0] * c->dataset.image_size[1] * c->model.out_channels;
    const struct sampling_recipe recipe = {
        .steps = c->sample.steps, .method = STEP_METHOD_QUADRATIC, .sampler = SAMPLER_DDIM};
    struct step_table *table;
    int r = schedule_table(&c->diffusion, &recipe, &table, err);
    if (r < 0)
        return r;
    int32_t *classes = malloc((size_t)n * sizeof *classes);
    float *images = malloc((size_t)n * elements * sizeof *images);
    r = classes && images ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    for (int32_t i = 0; r == 0 && i < n; i++)
        classes[i] = i % c->model.num_classes;
    if (r == 0)
        r = learner_sample(l, table, n, classes, c->sample.guidance, c->sample.seed, images, err);
    if (r == 0)
        r = write_grid(c, images, dir_fd, name, err);
    free(classes);
    free(images);
    free(table);
    return r;
}
