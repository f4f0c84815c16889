/* teacher.c: see teacher.h. A batch goes in pieces of ROWS / 2 images, each once with its class and once with none.
 */
#include "training/teacher.h"

#include "kernels/program.h"
#include "model/checkpoint.h"
#include "model/unet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64, IN_X = 0, IN_T, IN_Y, EPS, N_BUFFERS };

struct teacher {
    struct teacher_options o;
    const struct backend *backend;
    struct model_config model; // its own
    struct graph *graph;
    float *values; // flat
    bool same;     // architecture as the learner's
    char digest[CHECKPOINT_DIGEST_CHARS + 1];
    struct weights *weights;
    struct program *program;
    size_t elements;
    void *buffer[N_BUFFERS]; // on the device, ROWS rows
    size_t bytes[N_BUFFERS];
    float *x, *t, *eps; // on the host, ROWS rows
    int32_t *y;
};

static int record(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct teacher *t = context;
    tensor_id x = graph_input(g, DTYPE_F32, t->o.height, t->o.width, t->model.in_channels);
    tensor_id time = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id y = graph_input(g, DTYPE_I32, 1, 1, 1);
    graph_output(g, unet_record(g, &t->model, x, time, y, TENSOR_NONE), DTYPE_F32);
    *ret_loss = *ret_weight = TENSOR_NONE;
    return graph_error(g, NULL);
}

static int check(const struct checkpoint *c, const struct teacher_options *o, struct error *err)
{
    const char *field = "distill.teacher";
    if (c->model.in_channels != o->model.in_channels || c->model.out_channels != o->model.out_channels)
        return error_set(err, -EINVAL, field, "has %d channels, the network that learns has %d", c->model.in_channels,
                         o->model.in_channels);
    if (c->model.num_classes != o->model.num_classes)
        return error_set(err, -EINVAL, field, "has %d classes, the network that learns has %d", c->model.num_classes,
                         o->model.num_classes);
    if (c->data.height != o->height || c->data.width != o->width)
        return error_set(err, -EINVAL, field, "is for images of %dx%d, not %dx%d", c->data.height, c->data.width,
                         o->height, o->width);
    if (c->diffusion.T != o->diffusion.T || c->diffusion.beta[0] != o->diffusion.beta[0] ||
        c->diffusion.beta[1] != o->diffusion.beta[1])
        return error_set(err, -EINVAL, field, "was trained with another noise schedule");
    return 0;
}

/* Whether the parameters are the same, so that the one's values can begin the other. */
static bool same_architecture(const struct model_config *a, const struct model_config *b)
{
    json_t *x = model_config_json(a), *y = model_config_json(b);
    json_object_del(x, "dropout");
    json_object_del(y, "dropout");
    bool same = x && y && json_equal(x, y);
    json_decref(x);
    json_decref(y);
    return same;
}

static int read_file(struct teacher *t, struct error *err)
{
    struct checkpoint c;
    tensor_id loss, weight;
    int r = checkpoint_open(AT_FDCWD, t->o.path, &c, err);
    if (r < 0)
        return r;
    r = check(&c, &t->o, err);
    t->model = c.model;
    memcpy(t->digest, c.digest, sizeof t->digest);
    if (r == 0) {
        t->graph = graph_create(1, DTYPE_F32, false);
        r = t->graph ? record(t, t->graph, &loss, &weight) : -ENOMEM;
    }
    if (r == 0)
        t->values = malloc(t->graph->param_floats * sizeof *t->values);
    if (r == -ENOMEM || (r == 0 && !t->values))
        r = error_set(err, -ENOMEM, NULL, "out of memory");
    if (r == 0)
        r = checkpoint_read_params(&c, t->graph, t->values, err);
    checkpoint_close(&c);
    t->same = same_architecture(&t->model, &t->o.model);
    return r;
}

static int allocate(struct teacher *t)
{
    size_t image = t->elements * sizeof(float);
    const size_t row[N_BUFFERS] = {image, sizeof(float), sizeof(int32_t), image};
    for (int i = 0; i < N_BUFFERS; i++) {
        t->bytes[i] = ROWS * row[i];
        int r = t->backend->alloc(t->o.device, t->bytes[i], &t->buffer[i]);
        if (r < 0)
            return r;
    }
    t->x = malloc(ROWS * image);
    t->eps = malloc(ROWS * image);
    t->t = malloc(ROWS * sizeof *t->t);
    t->y = malloc(ROWS * sizeof *t->y);
    return t->x && t->eps && t->t && t->y ? 0 : -ENOMEM;
}

int teacher_open(const struct teacher_options *o, struct teacher **ret_teacher, struct error *err)
{
    struct teacher *t = calloc(1, sizeof *t);
    if (!t)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    t->o = *o;
    t->backend = ((struct device_base *)o->device)->backend;
    t->elements = (size_t)o->height * o->width * o->model.in_channels;
    int r = read_file(t, err);
    if (r == 0 && (r = allocate(t)) < 0)
        error_set(err, r, NULL, "not enough memory for the teacher");
    if (r == 0)
        r = t->backend->weights_create(o->device, t->graph, t->values, false, &t->weights, err);
    struct program_options options = {.compute = o->precision};
    if (r == 0)
        r = program_create(o->device, t->weights, record, t, &options, &t->program, err);
    if (r == 0)
        r = program_prepare(t->program, ROWS, err);
    if (r < 0) {
        teacher_close(t);
        return r;
    }
    *ret_teacher = t;
    return 0;
}

void teacher_close(struct teacher *t)
{
    if (!t)
        return;
    program_free(t->program);
    if (t->weights)
        t->backend->weights_free(t->weights);
    for (int i = 0; i < N_BUFFERS; i++)
        if (t->buffer[i])
            t->backend->free(t->o.device, t->buffer[i], t->bytes[i]);
    graph_free(t->graph);
    free(t->values);
    free(t->x);
    free(t->eps);
    free(t->t);
    free(t->y);
    free(t);
}

const float *teacher_values(const struct teacher *t)
{
    return t->same ? t->values : NULL;
}

const char *teacher_digest(const struct teacher *t)
{
    return t->digest;
}

/* n images of b from `first` on, as 2 n rows: with their classes, then with none. */
static int predict(struct teacher *t, const struct noised_batch *b, int32_t first, int32_t n, struct error *err)
{
    size_t image = t->elements * sizeof(float), rows = 2 * (size_t)n;
    for (int32_t i = 0; i < 2 * n; i++) {
        int32_t from = first + i % n;
        memcpy(t->x + (size_t)i * t->elements, b->x + (size_t)from * t->elements, image);
        t->t[i] = b->t[from];
        t->y[i] = i < n ? b->y[from] : t->model.num_classes;
    }
    const void *const host[] = {t->x, t->t, t->y};
    const size_t bytes[] = {rows * image, rows * sizeof *t->t, rows * sizeof *t->y};
    int r = 0;
    for (int i = 0; r == 0 && i < EPS; i++)
        r = t->backend->upload(t->o.device, t->buffer[i], host[i], bytes[i]);
    if (r < 0)
        return error_set(err, r, NULL, "the device is lost");
    const void *inputs[] = {t->buffer[IN_X], t->buffer[IN_T], t->buffer[IN_Y]};
    void *outputs[] = {t->buffer[EPS]};
    r = program_run(t->program, 2 * n, inputs, outputs, err);
    if (r == 0 && (r = t->backend->download(t->o.device, t->eps, t->buffer[EPS], rows * image)) < 0)
        error_set(err, r, NULL, "the device is lost");
    return r;
}

int teacher_eps(struct teacher *t, struct noised_batch *b, struct error *err)
{
    for (int32_t first = 0; first < b->n; first += ROWS / 2) {
        int32_t n = b->n - first < ROWS / 2 ? b->n - first : ROWS / 2;
        int r = predict(t, b, first, n, err);
        if (r < 0)
            return r;
        float *eps = b->eps + (size_t)first * t->elements;
        const float *with = t->eps, *without = t->eps + (size_t)n * t->elements;
        for (size_t k = 0; k < (size_t)n * t->elements; k++)
            eps[k] = without[k] + t->o.guidance * (with[k] - without[k]);
    }
    return 0;
}
