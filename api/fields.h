/* fields.h: the fields of a request, as tables.
 *
 * One row says a field's name, type, range, default and help; the rows (model/json.h) drive the query, form and JSON
 * parsers, the error messages and the OpenAPI document. What depends on a model (its classes, its T) is checked in
 * recipe.h. Pure functions, any thread.
 */
#ifndef DDIMD_API_FIELDS_H
#define DDIMD_API_FIELDS_H

#include "api/problem.h"
#include "model/json.h"
#include "model/schedule.h"
#include "sampling/models.h"

enum { FIELD_MAX_CLASS_ITEMS = 4096, FIELD_IMAGES_MAX = 65536, FIELD_TEXT_BYTES = 64 };

/* Classes as a client wrote them, each an index, a name, "all" or "none". */
struct class_list {
    char (*items)[MODEL_CLASS_NAME_BYTES]; // malloc'd
    int32_t n;                             // 0: not given, all of them
};

/* The values of a request; those that were not given have the defaults of fields_defaults. */
struct fields {
    int32_t steps;
    enum step_method method;
    enum sampler sampler;
    double eta;
    char model[MODEL_NAME_BYTES]; // "": the default model
    struct class_list classes;
    int32_t n;
    double guidance;
    uint64_t seed;
    bool has_seed; // from the table's given bits
    int32_t nrow;  // 0: chosen in recipe_resolve()
    int32_t scale;
    bool to_grayscale, result_only;
    int32_t interval; // 0: chosen in recipe_resolve()
    bool clip;
    enum priority priority;
    int32_t timeout_ms; // 0: none
    bool dry_run;
    char digest[CHECKPOINT_DIGEST_CHARS + 1], build[FIELD_TEXT_BYTES], device[FIELD_TEXT_BYTES]; // of a replay
};
extern const struct fields fields_defaults;

extern const struct json_field generate_fields[];     // GET and POST /generate
extern const struct json_field schedule_fields[];     // GET /schedule
extern const struct json_field replay_fields[];       // the text in a PNG of ours
extern const struct json_field generate_job_fields[]; // a job of type generate, as sent and as stored
extern const struct json_field no_fields[];           // routes that take none

/* What of these has no default that a schema could state. */
bool field_has_default(const char *name);

/* Where the values of a request come from. A query wins over the body; within either a name may come once. */
struct field_source {
    const char *query, *body; // NULL where there is none
    size_t query_bytes, body_bytes;
    bool body_is_json; // else a form
};

/* Reads all of a request strictly: unknown, repeated, empty, mistyped or out-of-range fields fill *ret_problem. On
 * success the caller ends *ret_fields with fields_done(). 0, -EINVAL. */
int fields_read(const struct json_field *table, const struct field_source *source, struct fields *ret_fields,
                struct problem *ret_problem);
void fields_done(struct fields *f);
/* The same from an object that is at hand. */
int fields_read_object(const struct json_field *table, const json_t *object, struct fields *ret_fields,
                       struct problem *ret_problem);
/* A JSON object whose numbers of 19 digits and more become strings, as seeds may be. 0, -EINVAL. */
int fields_parse_object(const char *text, size_t n, json_t **ret_object, struct problem *ret_problem);
/* The same into a struct of the table's own, which holds the defaults. *ret_object: all values as they came, owned by
 * the caller (json_decref); FIELD_JSON members point into it. ret_given as in json_fields_read(), or NULL. 0, -EINVAL.
 */
int fields_read_struct(const struct json_field *table, const struct field_source *source, void *into,
                       uint64_t *ret_given, json_t **ret_object, struct problem *ret_problem);
/* Adds one class. 0, -EINVAL, -ENOMEM. */
int fields_set_class(struct fields *f, const char *item);

#endif
