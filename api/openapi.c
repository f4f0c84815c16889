/* openapi.c: GET /openapi.json, OpenAPI 3.1, made of the tables that dispatch and validate. */
#include "api/jobs.h"
#include "training/config.h"
#include "training/evaluate_config.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields ---- */

/* class is read by a function of its own, which the table cannot describe. */
static json_t *class_schema(const char *help)
{
    return json_pack("{s[{s[ss]} {sss{s[ss]}si}] ss ss}", "oneOf", "type", "integer", "string", "type", "array",
                     "items", "type", "integer", "string", "minItems", 1, "default", "all", "description", help);
}

/* The schema of one field, by its route's table. */
static json_t *field_schema(const struct route *r, const struct json_field *f)
{
    if (f->kind == FIELD_CUSTOM)
        return class_schema(f->help);
    json_t *all = json_fields_schema(r->fields, r->defaults ? r->defaults : &fields_defaults);
    json_t *schema = json_incref(json_object_get(json_object_get(all, "properties"), f->name));
    json_decref(all);
    if (!field_has_default(f->name))
        json_object_del(schema, "default");
    return schema;
}

static json_t *query_parameters(const struct route *r)
{
    json_t *list = json_array();
    for (const struct json_field *f = r->fields ? r->fields : no_fields; f->name; f++) {
        json_t *schema = field_schema(r, f);
        json_object_del(schema, "description");
        json_t *p =
            json_pack("{ss ss ss so}", "name", f->name, "in", "query", "description", f->help, "schema", schema);
        if (f->kind == FIELD_CUSTOM) { // a list is "0,3,cat"
            json_object_set_new(p, "style", json_string("form"));
            json_object_set_new(p, "explode", json_false());
        }
        json_array_append_new(list, p);
    }
    if (!r->fields)
        json_array_append_new(list,
                              json_pack("{ss ss sb ss s{ss}}", "name", "verbose", "in", "query", "allowEmptyValue", 1,
                                        "description", "Lists the checks.", "schema", "type", "boolean"));
    return list;
}

static json_t *path_parameter(const char *name, size_t bytes)
{
    return json_pack("{ss% ss sb s{ss ss si}}", "name", name, bytes, "in", "path", "required", 1, "schema", "type",
                     "string", "pattern", "^[A-Za-z0-9._-]+$", "maxLength", MODEL_NAME_BYTES - 1);
}

static json_t *header_parameter(const char *name, const char *help)
{
    return json_pack("{ss ss ss s{ss}}", "name", name, "in", "header", "description", help, "schema", "type", "string");
}

/* One parameter for each {name} of the path. */
static void path_parameters_add(const struct route *r, json_t *list)
{
    for (const char *p = strchr(r->path, '{'); p; p = strchr(p + 1, '{'))
        json_array_append_new(list, path_parameter(p + 1, strcspn(p + 1, "}")));
}

static json_t *body_schema(const struct route *r)
{
    json_t *schema = json_fields_schema(r->fields, r->defaults ? r->defaults : &fields_defaults),
           *properties = json_object_get(schema, "properties");
    for (const struct json_field *f = r->fields; f->name; f++)
        json_object_set_new(properties, f->name, field_schema(r, f));
    return schema;
}

static json_t *request_body(const struct route *r)
{
    char schema[64];
    json_t *content = json_object();
    snprintf(schema, sizeof(schema), "#/components/schemas/%s", r->schema ? r->schema : "Generate");
    for (int i = 0; r->bodies[i]; i++) {
        bool picture = strcmp(r->bodies[i], "image/png") == 0;
        json_object_set_new(content, r->bodies[i],
                            picture ? json_object() : json_pack("{s{ss}}", "schema", "$ref", schema));
    }
    return json_pack("{so}", "content", content);
}

/* ---- answers ---- */

static json_t *answer_headers(const struct route *r)
{
    json_t *headers = json_pack("{s{ss s{ss}}}", "X-Request-Id", "description", "Names the request in the log.",
                                "schema", "type", "string");
    if (r->fields != generate_fields)
        return headers;
    static const char *const of_images[][2] = {{"X-Seed", "The seed, also where it was random."},
                                               {"X-Model", "The model's name."},
                                               {"ETag", "A function of model, parameters, build and device."},
                                               {"Server-Timing", "Queue, sample and encode times in milliseconds."}};
    for (size_t i = 0; i < sizeof(of_images) / sizeof(of_images[0]); i++)
        json_object_set_new(headers, of_images[i][0],
                            json_pack("{ss s{ss}}", "description", of_images[i][1], "schema", "type", "string"));
    return headers;
}

static json_t *good_answer(const struct route *r)
{
    json_t *content = json_object();
    for (int i = 0; r->offers[i]; i++)
        json_object_set_new(content, r->offers[i], json_object());
    return json_pack("{ss so so}", "description", r->summary, "headers", answer_headers(r), "content", content);
}

/* Of /generate with Prefer: respond-async. */
static json_t *accepted_answer(void)
{
    return json_pack("{ss s{s{ss s{ss}} s{ss s{ss}}} s{s{}}}", "description",
                     "Prefer: respond-async was given: a job of type generate; GET /jobs/{id}/result has its images.",
                     "headers", "Location", "description", "The job.", "schema", "type", "string", "Preference-Applied",
                     "description", "respond-async", "schema", "type", "string", "content", "application/json");
}

static void problem_add(json_t *answers, enum problem_kind kind)
{
    const struct problem_info *info = &problem_infos[kind];
    char code[8];
    snprintf(code, sizeof(code), "%d", info->status);
    json_t *there = json_object_get(answers, code);
    if (there) { // several types share a status
        const char *so_far = json_string_value(json_object_get(there, "description"));
        if (!strstr(so_far, info->name))
            json_object_set_new(there, "description", json_sprintf("%s; %s", so_far, info->name));
        return;
    }
    json_t *answer = json_pack("{ss s{s{s{ss}}}}", "description", info->name, "content", "application/problem+json",
                               "schema", "$ref", "#/components/schemas/Problem");
    if (info->status == 429 || info->status == 503)
        json_object_set_new(answer, "headers",
                            json_pack("{s{ss s{ss si}}}", "Retry-After", "description",
                                      "Seconds, from backlog and measured step time.", "schema", "type", "integer",
                                      "minimum", 1));
    json_object_set_new(answers, code, answer);
}

static json_t *answers_of(const struct route *r, unsigned method)
{
    char status[8];
    snprintf(status, sizeof(status), "%d", r->status ? r->status : 200);
    json_t *answers = json_pack("{so}", status, good_answer(r));
    if (r->fields == generate_fields) {
        json_object_set_new(answers, "304",
                            json_pack("{ss}", "description", "If-None-Match names the answer to this fixed seed."));
        json_object_set_new(answers, "202", accepted_answer());
    }
    static const enum problem_kind always[] = {PROBLEM_BAD_REQUEST,
                                               PROBLEM_BAD_FIELD,
                                               PROBLEM_NOT_ACCEPTABLE,
                                               PROBLEM_REQUEST_TIMEOUT,
                                               PROBLEM_FOREIGN_ORIGIN,
                                               PROBLEM_FOREIGN_HOST,
                                               PROBLEM_BODY_TOO_LARGE,
                                               PROBLEM_URI_TOO_LONG,
                                               PROBLEM_HEADERS_TOO_LARGE,
                                               PROBLEM_INTERNAL,
                                               PROBLEM_TOO_MANY_CONNECTIONS,
                                               PROBLEM_OUT_OF_MEMORY,
                                               PROBLEM_NONE};
    static const enum problem_kind guarded[] = {PROBLEM_NO_KEY, PROBLEM_FORBIDDEN, PROBLEM_RATE_EXCEEDED, PROBLEM_NONE};
    for (const enum problem_kind *k = always; *k; k++)
        problem_add(answers, *k);
    for (const enum problem_kind *k = guarded; *k; k++) // open ones, too, where guard_operating is set
        problem_add(answers, *k);
    if (method == METHOD_POST && r->bodies)
        problem_add(answers, PROBLEM_UNSUPPORTED_MEDIA_TYPE);
    for (const enum problem_kind *k = r->problems; *k; k++)
        problem_add(answers, *k);
    return answers;
}

/* ---- the document ---- */

static json_t *operation(const struct route *r, unsigned method)
{
    bool both = r->methods == (METHOD_GET | METHOD_POST);
    json_t *parameters = query_parameters(r);
    json_t *o = json_pack("{ss+ ss so}", "operationId", r->operation, both && method == METHOD_GET ? "Get" : "",
                          "summary", r->summary, "responses", answers_of(r, method));
    if (strchr(r->path, '{'))
        path_parameters_add(r, parameters);
    if (r->fields == generate_fields || r->fields == job_submit_fields)
        json_array_append_new(parameters, header_parameter("Idempotency-Key",
                                                           "The same key and body again: the same answer, nothing is "
                                                           "done twice, also after a restart."));
    if (r->fields == generate_fields)
        json_array_append_new(parameters, header_parameter("Prefer", "respond-async: answers 202 and a job at once."));
    json_object_set_new(o, "parameters", parameters);
    if (r->access != ACCESS_OPEN) {
        json_object_set_new(o, "security", json_pack("[{s[]}{}]", "key")); // or none, where the daemon has no keys
        json_object_set_new(o, "x-role", json_string(access_role(r->access)));
    }
    if (method == METHOD_POST && r->bodies)
        json_object_set_new(o, "requestBody", request_body(r));
    return o;
}

static json_t *paths(void)
{
    json_t *all = json_object();
    for (const struct route *r = route_table; r->path; r++) {
        json_t *path = json_incref(json_object_get(all, r->path)); // of a row before with the same path
        path = path ? path : json_object();
        if (r->methods & METHOD_GET)
            json_object_set_new(path, "get", operation(r, METHOD_GET));
        if (r->methods & METHOD_POST)
            json_object_set_new(path, "post", operation(r, METHOD_POST));
        if (r->methods & METHOD_DELETE)
            json_object_set_new(path, "delete", operation(r, METHOD_DELETE));
        json_object_set_new(all, r->path, path);
    }
    return all;
}

static json_t *problem_schema(void)
{
    json_t *types = json_array();
    for (int k = PROBLEM_NONE + 1; k < PROBLEM_COUNT; k++)
        json_array_append_new(types, json_sprintf("/problems/%s", problem_infos[k].name));
    return json_pack("{ss s[sssss] s{s{ss so} s{ss} s{ss} s{ss} s{ss} s{ss} s{s[ss]} s{ss} s{ss}}}", "type", "object",
                     "required", "type", "title", "status", "detail", "instance", "properties", "type", "type",
                     "string", "enum", types, "title", "type", "string", "status", "type", "integer", "detail", "type",
                     "string", "instance", "type", "string", "field", "type", "string", "allowed", "type", "array",
                     "object", "nearest", "type", "string", "retry_after", "type", "integer");
}

static json_t *schemas(void)
{
    const struct route *generate = route_find("/generate", (char[MODEL_NAME_BYTES]){0});
    json_t *all = json_pack("{so so}", "Generate", body_schema(generate), "Problem", problem_schema());
    for (const struct route *r = route_table; r->path; r++)
        if (r->schema)
            json_object_set_new(all, r->schema, body_schema(r));
    const struct route generate_job = {.fields = generate_job_fields};
    json_object_set_new(all, "TrainConfig", train_config_schema());
    json_object_set_new(all, "GenerateConfig", body_schema(&generate_job));
    json_object_set_new(all, "EvaluateConfig", evaluate_config_schema());
    json_t *job = json_object_get(json_object_get(all, "Job"), "properties");
    json_object_set_new(json_object_get(job, "config"), "anyOf",
                        json_pack("[{ss} {ss} {ss}]", "$ref", "#/components/schemas/TrainConfig", "$ref",
                                  "#/components/schemas/GenerateConfig", "$ref",
                                  "#/components/schemas/EvaluateConfig"));
    return all;
}

static json_t *security_schemes(void)
{
    return json_pack("{s{ss ss ss}}", "key", "type", "http", "scheme", "bearer", "description",
                     "A key of the daemon, made by `ddimd keygen`. Needed where the daemon has keys; x-role of an "
                     "operation says which role.");
}

static json_t *document(void)
{
    return json_pack("{ss s{ss ss ss s{ss}} s[{ss} {ss}] so s{so so}}", "openapi", "3.1.0", "info", "title", "ddimd",
                     "version", DDIMD_VERSION, "description",
                     "Class-conditional diffusion models, served with step-level batching.", "license", "name",
                     "Apache-2.0", "servers", "url", "/", "url", "/v1", "paths", paths(), "components", "schemas",
                     schemas(), "securitySchemes", security_schemes());
}

void handle_openapi(struct exchange *x)
{
    struct text t = {0};
    json_t *json = document();
    char *s = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
    if (s)
        text_puts(&t, s);
    else
        t.failed = true;
    free(s);
    json_decref(json);
    exchange_answer(x, 200, "application/json", &t);
}
