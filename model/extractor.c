/* extractor.c: see extractor.h. */
#include "model/extractor.h"

#include "kernels/program.h"
#include "model/classifier.h"
#include "model/image.h"
#include "model/inception.h"
#include "model/params.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSIFIER_BATCH = 64, INCEPTION_BATCH = 8 };

/* Of the public conversion of the 2015-12-05 weights: the first eight digits of its SHA-256, which are in its name. */
static const char published_digest[] = "6726825d";

struct extractor {
    struct device *device;
    const struct backend *backend;
    struct extractor_info info;
    struct classifier_file classifier; // of a classifier
    enum resize resize;
    int32_t height, width, channels; // of the network's input
    int32_t batch;
    struct weights *weights;
    struct program *program;
    float *host;                 // [batch] network inputs
    void *x, *features, *logits; // [batch] on the device
};

static size_t input_floats(const struct extractor *e)
{
    return (size_t)e->height * (size_t)e->width * (size_t)e->channels;
}

/* program_record: features, logits = network(x). */
static int record(void *context, struct graph *g, tensor_id *ret_loss, tensor_id *ret_weight)
{
    const struct extractor *e = context;
    tensor_id features = TENSOR_NONE, logits, x = graph_input(g, DTYPE_F32, e->height, e->width, e->channels);
    (void)ret_loss;
    (void)ret_weight;
    if (e->info.resizes)
        logits = inception_record(g, x, &features);
    else
        logits = classifier_record(g, &e->classifier.classifier, x, TENSOR_NONE, &features);
    graph_output(g, features, DTYPE_F32);
    graph_output(g, logits, DTYPE_F32);
    return graph_error(g, NULL);
}

/* ---- opening ---- */

static int describe_classifier(struct extractor *e, const json_t *metadata, struct error *err)
{
    int rc = classifier_file_parse(metadata, &e->classifier, err);
    if (rc)
        return rc;
    const struct classifier_config *c = &e->classifier.classifier;
    const struct data_config *data = &e->classifier.data;
    e->info = (struct extractor_info){.kind = "classifier",
                                      .height = data->height,
                                      .width = data->width,
                                      .channels = data->channels,
                                      .n_features = c->channels[c->n_levels - 1],
                                      .n_logits = c->num_classes,
                                      .data = data};
    e->height = data->height;
    e->width = data->width;
    e->channels = data->channels;
    e->batch = CLASSIFIER_BATCH;
    return 0;
}

static void describe_inception(struct extractor *e, const json_t *metadata)
{
    const char *source = json_string_value(json_object_get(json_object_get(metadata, "inception"), "sha256"));
    e->info = (struct extractor_info){.kind = "inception",
                                      .n_features = INCEPTION_FEATURES,
                                      .n_logits = INCEPTION_CLASSES,
                                      .resizes = true,
                                      .published = source && !strncmp(source, published_digest, 8)};
    e->height = e->width = INCEPTION_SIDE;
    e->channels = 3;
    e->batch = INCEPTION_BATCH;
}

static int describe(struct extractor *e, const struct safetensors *s, struct error *err)
{
    json_t *metadata = NULL;
    int rc = params_metadata(s, &metadata, err);
    if (rc)
        return rc;
    if (json_object_get(metadata, "classifier"))
        rc = describe_classifier(e, metadata, err);
    else if (json_object_get(metadata, "inception"))
        describe_inception(e, metadata);
    else
        rc = error_set(err, -EINVAL, NULL, "not an extractor: its metadata names neither a classifier nor inception");
    json_decref(metadata);
    return rc;
}

static int upload(struct extractor *e, struct safetensors *s, struct error *err)
{
    tensor_id none;
    struct graph *g = graph_create(1, DTYPE_F32, false);
    int rc = g ? record(e, g, &none, &none) : -ENOMEM;
    if (rc && g)
        graph_error(g, err);
    if (!rc && !e->info.resizes)
        rc = params_check(s, g, err);
    if (!rc)
        rc = safetensors_load(s, err);
    float *values = rc ? NULL : malloc(g->param_floats * sizeof *values);
    if (!rc && !values)
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    if (!rc)
        rc = e->info.resizes ? inception_read_params(s, g, values, err) : params_read(s, g, values, err);
    if (!rc)
        rc = e->backend->weights_create(e->device, g, values, false, &e->weights, err);
    free(values);
    graph_free(g);
    return rc;
}

static int prepare(struct extractor *e, struct error *err)
{
    const struct program_options options = {.compute = DTYPE_F32};
    size_t n = (size_t)e->batch;
    int rc = program_create(e->device, e->weights, record, e, &options, &e->program, err);
    if (!rc)
        rc = program_prepare(e->program, e->batch, err);
    if (rc)
        return rc;
    e->host = malloc(n * input_floats(e) * sizeof *e->host);
    rc = e->host ? e->backend->alloc(e->device, n * input_floats(e) * sizeof(float), &e->x) : -ENOMEM;
    if (!rc)
        rc = e->backend->alloc(e->device, n * (size_t)e->info.n_features * sizeof(float), &e->features);
    if (!rc)
        rc = e->backend->alloc(e->device, n * (size_t)e->info.n_logits * sizeof(float), &e->logits);
    return rc ? error_set(err, rc, NULL, "not enough memory for the extractor") : 0;
}

int extractor_open(struct device *d, int dir_fd, const char *name, enum resize resize, struct extractor **ret_extractor,
                   struct error *err)
{
    struct safetensors *s = NULL;
    struct extractor *e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    e->device = d;
    e->backend = ((struct device_base *)d)->backend;
    e->resize = resize;
    int rc = safetensors_open(dir_fd, name, &s, err);
    if (!rc)
        rc = describe(e, s, err);
    if (!rc)
        rc = upload(e, s, err);
    if (!rc) {
        safetensors_digest(s, e->info.digest);
        rc = prepare(e, err);
    }
    safetensors_close(s);
    if (rc)
        extractor_close(e);
    else
        *ret_extractor = e;
    return rc;
}

static void free_memory(struct extractor *e, void *memory, size_t floats)
{
    if (memory)
        e->backend->free(e->device, memory, (size_t)e->batch * floats * sizeof(float));
}

void extractor_close(struct extractor *e)
{
    if (!e)
        return;
    program_free(e->program);
    if (e->weights)
        e->backend->weights_free(e->weights);
    free_memory(e, e->x, input_floats(e));
    free_memory(e, e->features, (size_t)e->info.n_features);
    free_memory(e, e->logits, (size_t)e->info.n_logits);
    classifier_file_done(&e->classifier);
    free(e->host);
    free(e);
}

const struct extractor_info *extractor_info(const struct extractor *e)
{
    return &e->info;
}

/* ---- running ---- */

int extractor_accepts(const struct extractor *e, int32_t height, int32_t width, int32_t channels, struct error *err)
{
    if (e->info.resizes || (height == e->height && width == e->width && channels == e->channels))
        return 0;
    return error_set(err, -EINVAL, "extractor", "takes images of %dx%d with %d channel%s, not of %dx%d with %d",
                     e->height, e->width, e->channels, e->channels == 1 ? "" : "s", height, width, channels);
}

static int run_batch(struct extractor *e, int32_t n, float *ret_features, float *ret_logits, struct error *err)
{
    size_t count = (size_t)n;
    int rc = e->backend->upload(e->device, e->x, e->host, count * input_floats(e) * sizeof(float));
    const void *inputs[] = {e->x};
    void *outputs[] = {e->features, e->logits};
    if (rc)
        return error_set(err, rc, NULL, "the device is lost");
    rc = program_run(e->program, n, inputs, outputs, err);
    if (rc)
        return rc;
    rc = e->backend->download(e->device, ret_features, e->features, count * (size_t)e->info.n_features * sizeof(float));
    if (!rc)
        rc = e->backend->download(e->device, ret_logits, e->logits, count * (size_t)e->info.n_logits * sizeof(float));
    return rc ? error_set(err, rc, NULL, "the device is lost") : 0;
}

int extractor_run(struct extractor *e, const uint8_t *pixels, int64_t n, int32_t height, int32_t width,
                  int32_t channels, float *ret_features, float *ret_logits, struct error *err)
{
    size_t bytes = (size_t)height * (size_t)width * (size_t)channels;
    for (int64_t first = 0; first < n; first += e->batch) {
        int32_t count = n - first < e->batch ? (int32_t)(n - first) : e->batch;
        for (int32_t i = 0; i < count; i++) {
            const uint8_t *from = pixels + (size_t)(first + i) * bytes;
            float *to = e->host + (size_t)i * input_floats(e);
            if (e->info.resizes)
                resize_image(e->resize, from, height, width, channels, e->height, to);
            else
                image_from_uint8(from, bytes, to);
        }
        int rc =
            run_batch(e, count, ret_features + first * e->info.n_features, ret_logits + first * e->info.n_logits, err);
        if (rc)
            return rc;
    }
    return 0;
}
