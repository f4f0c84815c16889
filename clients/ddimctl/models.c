/* models.c: ddimctl models, model, what is done with one, and publish. */
#include "clients/ddimctl/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 512 };

/* ---- lists ---- */

/* "32 x 32 grey" */
static const char *size_text(const json_t *model, char buffer[48])
{
    const json_t *size = json_object_get(model, "image_size");
    const char *mode = json_text_of(model, "mode");
    if (json_array_size(size) != 2)
        return NULL;
    snprintf(buffer, 48, "%lld x %lld %s", (long long)json_integer_value(json_array_get(size, 1)),
             (long long)json_integer_value(json_array_get(size, 0)),
             mode && strcmp(mode, "L") == 0 ? "grey" : "colour");
    return buffer;
}

static const char *state_text(const json_t *model)
{
    if (json_object_get(model, "error"))
        return "unusable";
    if (json_is_true(json_object_get(model, "default")))
        return json_is_true(json_object_get(model, "resident")) ? "default" : "default, not resident";
    return json_is_true(json_object_get(model, "resident")) ? "resident" : NULL;
}

static bool add_model(struct table *t, const json_t *model)
{
    char size[48], classes[16], parameters[TEXT_NUMBER_BYTES], bytes[TEXT_NUMBER_BYTES];
    size_t n = json_array_size(json_object_get(model, "classes"));
    double count = json_number_of(model, "parameters"), file = json_number_of(model, "bytes");
    snprintf(classes, sizeof(classes), "%zu", n);
    return table_add(t, (const char *const[]){json_text_of(model, "name"), size_text(model, size), n ? classes : NULL,
                                              isfinite(count) ? text_count((int64_t)count, parameters) : NULL,
                                              isfinite(file) ? text_bytes((int64_t)file, bytes) : NULL,
                                              state_text(model)});
}

enum outcome run_models(struct session *s, const struct arguments *a)
{
    struct table table = {.columns = 6, .elastic = 0, .right = {false, false, true, true, true}, .spare = {4, 3, 2, 1}};
    json_t *answer, *model;
    size_t i;
    enum outcome outcome = session_ask(s, "GET", "/models", NULL, &answer);
    if (outcome)
        return outcome;
    const json_t *models = json_object_get(answer, "models");
    if (s->json) {
        session_print_json(answer, true);
    } else if (s->quiet) {
        json_array_foreach(models, i, model) puts(json_word_of(model, "name"));
    } else {
        table_add(&table, (const char *const[]){"NAME", "IMAGES", "CLASSES", "PARAMETERS", "FILE", "STATE"});
        json_array_foreach(models, i, model) add_model(&table, model);
        table_print(&table, &s->out);
    }
    json_decref(answer);
    return OUTCOME_OK;
}

/* ---- one model ---- */

/* Scalars as they are, lists by their elements, objects by their members with a dot between. */
static void print_members(const json_t *object, const char *prefix)
{
    const char *name;
    json_t *value, *item;
    size_t i;
    json_object_foreach((json_t *)object, name, value)
    {
        struct buffer line = {0};
        char label[128];
        snprintf(label, sizeof(label), "%s%s", prefix, name);
        if (json_is_object(value)) {
            snprintf(label, sizeof(label), "%s%s.", prefix, name);
            print_members(value, label);
            continue;
        }
        if (json_is_array(value) && json_is_object(json_array_get(value, 0)))
            continue; // tables, which --json shows
        json_array_foreach(value, i, item)
        {
            char *text = json_is_string(item) ? strdup(json_string_value(item)) : json_dumps(item, JSON_ENCODE_ANY);
            buffer_printf(&line, "%s%s", i ? ", " : "", text ? text : "?");
            free(text);
        }
        if (!json_is_array(value)) {
            char *text = json_is_string(value) ? strdup(json_string_value(value))
                                               : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
            buffer_printf(&line, "%s", text ? text : "?");
            free(text);
        }
        printf("%-20s %s\n", label, line.data ? text_tame(line.data) : "");
        free(line.data);
    }
}

enum outcome run_model(struct session *s, const struct arguments *a)
{
    char path[PATH_BYTES];
    json_t *model;
    enum outcome outcome =
        session_ask(s, "GET", session_path(path, sizeof(path), "/models/", a->operands[0], ""), NULL, &model);
    if (outcome)
        return outcome;
    if (s->json)
        session_print_json(model, true);
    else
        print_members(model, "");
    json_decref(model);
    return OUTCOME_OK;
}

/* ---- actions ---- */

static enum outcome act(struct session *s, const char *name, const char *action, const json_t *body, const char *said)
{
    char path[PATH_BYTES];
    json_t *model;
    enum outcome outcome =
        session_ask(s, "POST", session_path(path, sizeof(path), "/models/", name, action), body, &model);
    if (outcome)
        return outcome;
    if (s->json)
        session_print_json(model, true);
    else if (!s->quiet)
        printf("%s %s\n", name, said);
    json_decref(model);
    return OUTCOME_OK;
}

static enum outcome each_model(struct session *s, const struct arguments *a, const char *action, const char *said)
{
    enum outcome outcome = OUTCOME_OK;
    for (int i = 0; i < a->n_operands && outcome == OUTCOME_OK; i++)
        outcome = act(s, a->operands[i], action, NULL, said);
    return outcome;
}

enum outcome run_load(struct session *s, const struct arguments *a)
{
    return each_model(s, a, "/load", "is resident");
}

enum outcome run_unload(struct session *s, const struct arguments *a)
{
    return each_model(s, a, "/unload", "is not resident any more");
}

enum outcome run_default(struct session *s, const struct arguments *a)
{
    return each_model(s, a, "/default", "is the default model");
}

enum outcome run_rollback(struct session *s, const struct arguments *a)
{
    return each_model(s, a, "/rollback", "is what it was before");
}

enum outcome run_publish(struct session *s, const struct arguments *a)
{
    const char *id = a->operands[0], *checkpoint = argument(a, "checkpoint");
    char *end, said[160];
    long long job = strtoll(id, &end, 10);
    if (*end || job < 1)
        return outcome_fail(OUTCOME_USAGE, "\"%.40s\" is no job's number; `ddimctl jobs` lists them", id);
    json_t *body = json_pack("{s:I, s:s}", "job", (json_int_t)job, "checkpoint", checkpoint ? checkpoint : "best");
    snprintf(said, sizeof(said), "is now checkpoint %.40s of job %lld", checkpoint ? checkpoint : "best", job);
    enum outcome outcome = act(s, a->operands[1], "/from-job", body, said);
    json_decref(body);
    if (outcome == OUTCOME_OK && argument(a, "default"))
        outcome = act(s, a->operands[1], "/default", NULL, "is the default model");
    return outcome;
}
