/* state.c: see state.h.
 */
#include "training/state.h"

#include "model/file.h"
#include "model/json.h"
#include "model/safetensors.h"

#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_VERSION = 1 };
static const char metadata_key[] = "ddimd_state";
static const char *const vector_names[LEARNER_VECTOR_COUNT] = {"weights", "ema", "exp_avg", "exp_avg_sq"};

struct train_state train_state_initial(void)
{
    return (struct train_state){.train_loss = NAN, .val_loss = NAN, .best = NAN};
}

/* ---- counters as JSON ---- */

/* JSON has no NAN: null, which reads as absent, which leaves the initial NAN. */
static json_t *write_metric(const void *member)
{
    double v = *(const double *)member;
    return isfinite(v) ? json_real(v) : json_null();
}

static int read_metric(const json_t *json, const char *path, void *member, struct error *err)
{
    if (!json_is_number(json))
        return error_set(err, -EINVAL, path, "must be a number");
    *(double *)member = json_number_value(json);
    return 0;
}

static int read_sums(const json_t *json, const char *path, void *member, struct error *err)
{
    struct loss_sums s = {0};
    const json_t *sums = json_object_get(json, "band_sum"), *counts = json_object_get(json, "band_n");
    if (json_array_size(sums) != TRAIN_BANDS || json_array_size(counts) != TRAIN_BANDS)
        return error_set(err, -EINVAL, path, "is damaged");
    s.sum = json_number_value(json_object_get(json, "sum"));
    s.n = json_integer_value(json_object_get(json, "n"));
    for (size_t i = 0; i < TRAIN_BANDS; i++) {
        s.band_sum[i] = json_number_value(json_array_get(sums, i));
        s.band_n[i] = json_integer_value(json_array_get(counts, i));
    }
    *(struct loss_sums *)member = s;
    return 0;
}

static json_t *write_sums(const void *member)
{
    const struct loss_sums *s = member;
    json_t *sums = json_array(), *counts = json_array();
    for (size_t i = 0; i < TRAIN_BANDS; i++) {
        json_array_append_new(sums, json_real(s->band_sum[i]));
        json_array_append_new(counts, json_integer(s->band_n[i]));
    }
    return json_pack("{sf sI so so}", "sum", s->sum, "n", (json_int_t)s->n, "band_sum", sums, "band_n", counts);
}

#define AT(member) offsetof(struct train_state, member)
static const struct json_field state_fields[] = {
    {"step", FIELD_INT64, AT(step), 0, 4294967295.0, .required = true},
    {"updates", FIELD_INT64, AT(updates), 0, 4294967295.0, .required = true},
    {"epoch", FIELD_INT64, AT(epoch), 0, 4294967295.0, .required = true},
    {"batch", FIELD_INT64, AT(batch), 0, 4294967295.0, .required = true},
    {"images", FIELD_INT64, AT(images), 0, DBL_MAX, .required = true},
    {"skipped", FIELD_INT64, AT(skipped), .min = 0, .max = DBL_MAX},
    {"skipped_in_row", FIELD_INT32, AT(skipped_in_row), .min = 0, .max = 1e9},
    {"interval", FIELD_CUSTOM, AT(interval), .required = true, .read = read_sums, .write = write_sums},
    {"epoch_losses", FIELD_CUSTOM, AT(epoch_losses), .required = true, .read = read_sums, .write = write_sums},
    {"train_loss", FIELD_CUSTOM, AT(train_loss), .nullable = true, .read = read_metric, .write = write_metric},
    {"val_loss", FIELD_CUSTOM, AT(val_loss), .nullable = true, .read = read_metric, .write = write_metric},
    {"best", FIELD_CUSTOM, AT(best), .nullable = true, .read = read_metric, .write = write_metric},
    {"best_epoch", FIELD_INT64, AT(best_epoch), .min = 0, .max = 4294967295.0},
    {"epochs_without_best", FIELD_INT32, AT(epochs_without_best), .min = 0, .max = 1e9},
    {"micro_batch", FIELD_INT32, AT(micro_batch), .min = 0, .max = 65536},
    {"metrics_bytes", FIELD_INT64, AT(metrics_bytes), .min = 0, .max = DBL_MAX},
    {"seconds", FIELD_DOUBLE, AT(seconds), .min = 0, .max = DBL_MAX},
    {0},
};
#undef AT

/* SHA-256 over names, shapes and offsets: two engines agree on what a flat vector means. */
static int layout_digest(const struct graph *g, char *ret_hex)
{
    char *text;
    size_t bytes;
    FILE *f = open_memstream(&text, &bytes);
    if (!f)
        return -ENOMEM;
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct param *p = &g->params[i];
        fprintf(f, "%s %d %d %d %d %zu\n", p->name, p->dim[0], p->dim[1], p->dim[2], p->dim[3], p->offset);
    }
    fprintf(f, "%zu\n", g->param_floats);
    if (fclose(f) != 0)
        return -ENOMEM;
    sha256_hex(text, bytes, ret_hex);
    free(text);
    return 0;
}

/* ---- writing ---- */

static char *metadata_text(const struct train_state *s, const struct train_config *c, const struct graph *g)
{
    char digest[FILE_SHA256_CHARS + 1];
    if (layout_digest(g, digest) < 0)
        return NULL;
    json_t *json = json_pack("{si ss so so}", "version", STATE_VERSION, "layout", digest, "config",
                             train_config_json(c), "state", json_fields_write(state_fields, s));
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(json);
    return text;
}

int train_state_save(int dir_fd, const char *name, const struct train_state *s, const struct train_config *c,
                     struct learner *l, struct error *err)
{
    const struct graph *g = learner_graph(l);
    struct safetensor tensors[LEARNER_VECTOR_COUNT] = {0};
    char *text = metadata_text(s, c, g);
    float *values = malloc(LEARNER_VECTOR_COUNT * g->param_floats * sizeof *values);
    int r = text && values ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    for (int i = 0; r == 0 && i < LEARNER_VECTOR_COUNT; i++) {
        float *at = values + (size_t)i * g->param_floats;
        tensors[i] = (struct safetensor){.name = vector_names[i],
                                         .dtype = SAFETENSORS_F32,
                                         .rank = 1,
                                         .dim = {(int64_t)g->param_floats},
                                         .data = at};
        if ((r = learner_get(l, (enum learner_vector)i, at)) < 0)
            error_set(err, r, NULL, "the device is lost");
    }
    struct safetensors_entry entry = {metadata_key, text};
    if (r == 0)
        r = safetensors_write(dir_fd, name, tensors, LEARNER_VECTOR_COUNT, &entry, 1, err);
    free(values);
    free(text);
    return r;
}

/* ---- reading ---- */

static int check_metadata(const json_t *json, const struct train_config *c, const struct graph *g,
                          struct train_state *ret_state, struct error *err)
{
    char digest[FILE_SHA256_CHARS + 1];
    const char *layout = json_string_value(json_object_get(json, "layout"));
    struct train_config then;
    struct train_state s = train_state_initial();
    if (json_integer_value(json_object_get(json, "version")) != STATE_VERSION)
        return error_set(err, -EINVAL, NULL, "the state file is of another version");
    int r = train_config_parse(json_object_get(json, "config"), &then, err);
    if (r == 0)
        r = train_config_compatible(&then, c, err);
    if (r == 0)
        r = json_fields_read(json_object_get(json, "state"), "state", state_fields, &s, NULL, err);
    if (r == 0 && layout_digest(g, digest) < 0)
        r = error_set(err, -ENOMEM, NULL, "out of memory");
    if (r == 0 && (!layout || strcmp(layout, digest) != 0))
        r = error_set(err, -EINVAL, NULL,
                      "the state file was written by an engine that lays out parameters differently");
    if (r == 0)
        *ret_state = s;
    return r;
}

static int set_vectors(const struct safetensors *file, struct learner *l, struct error *err)
{
    size_t n = learner_graph(l)->param_floats;
    float *values = malloc(n * sizeof *values);
    int r = values ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
    for (int i = 0; r == 0 && i < LEARNER_VECTOR_COUNT; i++) {
        const struct safetensor *t = safetensors_find(file, vector_names[i]);
        if (!t || t->dtype != SAFETENSORS_F32 || (size_t)safetensor_elements(t) != n)
            r = error_set(err, -EINVAL, NULL, "the state file has no vector \"%s\" of %zu values", vector_names[i], n);
        if (r == 0)
            r = safetensor_to_f32(t, 0, n, values);
        if (r == 0 && (r = learner_set(l, (enum learner_vector)i, values)) < 0)
            error_set(err, r, NULL, "the device is lost");
    }
    free(values);
    return r;
}

int train_state_load(int dir_fd, const char *name, const struct train_config *c, struct learner *l,
                     struct train_state *ret_state, struct error *err)
{
    struct safetensors *file;
    struct train_state s;
    json_t *json = NULL;
    int r = safetensors_open(dir_fd, name, &file, err);
    if (r < 0)
        return r;
    const char *text = safetensors_metadata(file, metadata_key);
    if (!text)
        r = error_set(err, -EINVAL, NULL, "%s is not a state file of ddimd-train", name);
    if (r == 0)
        r = json_parse(text, strlen(text), &json, err);
    if (r == 0)
        r = check_metadata(json, c, learner_graph(l), &s, err);
    if (r == 0)
        r = safetensors_load(file, err);
    if (r == 0)
        r = set_vectors(file, l, err);
    if (r == 0 && s.micro_batch && s.micro_batch != learner_micro_batch(l))
        r = learner_set_micro_batch(l, s.micro_batch, err);
    if (r == 0)
        *ret_state = s;
    json_decref(json);
    safetensors_close(file);
    return r;
}
