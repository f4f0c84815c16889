/* json_write.c: structs as JSON by their table of fields, and tables as JSON Schema; see json.h. */
#include "model/json.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The shortest decimal that reads back as the same float: 0.1f is written 0.1, not 0.10000000149011612. */
static json_t *write_float(float v)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    return json_real(strtod(text, NULL));
}

static json_t *write_uint64(uint64_t v)
{
    if (v <= INT64_MAX)
        return json_integer((json_int_t)v);
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)v);
    return json_string(text);
}

static json_t *write_item(const struct json_field *f, const char *list, int32_t i)
{
    switch (f->kind) {
    case FIELD_INT32_LIST:
        return json_integer(((const int32_t *)(const void *)list)[i]);
    case FIELD_DOUBLE_LIST:
        return json_real(((const double *)(const void *)list)[i]);
    default:
        return json_string(list + (size_t)i * f->item_bytes);
    }
}

static json_t *write_list(const struct json_field *f, const char *base)
{
    int32_t n = f->count_offset ? *(const int32_t *)(const void *)(base + f->count_offset) : f->max_items;
    json_t *list = json_array();
    for (int32_t i = 0; list && i < n; i++) {
        if (json_array_append_new(list, write_item(f, base + f->offset, i))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *write_value(const struct json_field *f, const char *base)
{
    const void *member = base + f->offset;
    switch (f->kind) {
    case FIELD_BOOL:
        return json_boolean(*(const bool *)member);
    case FIELD_INT32:
        return json_integer(*(const int32_t *)member);
    case FIELD_INT64:
        return json_integer(*(const int64_t *)member);
    case FIELD_UINT64:
        return write_uint64(*(const uint64_t *)member);
    case FIELD_FLOAT:
        return write_float(*(const float *)member);
    case FIELD_DOUBLE:
        return json_real(*(const double *)member);
    case FIELD_ENUM:
        return json_string(f->names[*(const int *)member]);
    case FIELD_STRING:
        return f->nullable && !*(const char *)member ? json_null() : json_string(member);
    case FIELD_INT32_LIST:
    case FIELD_DOUBLE_LIST:
    case FIELD_STRING_LIST:
        return write_list(f, base);
    case FIELD_OBJECT:
        return json_fields_write(f->fields, member);
    case FIELD_CUSTOM:
        return f->write(member);
    case FIELD_JSON:
        return json_incref(*(json_t *const *)member);
    }
    return NULL;
}

json_t *json_fields_write(const struct json_field *fields, const void *from)
{
    json_t *object = json_object();
    for (const struct json_field *f = fields; object && f->name; f++) {
        if (f->kind == FIELD_JSON && !*(json_t *const *)(const void *)((const char *)from + f->offset))
            continue;
        json_t *value = write_value(f, from);
        if (!value && f->kind == FIELD_CUSTOM && f->nullable)
            continue;
        if (json_object_set_new(object, f->name, value)) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

/* ---- JSON Schema ---- */

static void schema_limits(json_t *schema, const struct json_field *f, bool whole)
{
    if (f->min == f->max)
        return;
    json_object_set_new(schema, f->above_min ? "exclusiveMinimum" : "minimum",
                        whole ? json_integer((json_int_t)f->min) : json_real(f->min));
    if (f->max < DBL_MAX)
        json_object_set_new(schema, "maximum", whole ? json_integer((json_int_t)f->max) : json_real(f->max));
}

static json_t *schema_typed(const char *type)
{
    return json_pack("{ss}", "type", type);
}

static json_t *schema_number(const struct json_field *f, bool whole)
{
    json_t *schema = schema_typed(whole ? "integer" : "number");
    if (schema)
        schema_limits(schema, f, whole);
    return schema;
}

static json_t *schema_enum(const struct json_field *f)
{
    json_t *names = json_array();
    for (const char *const *name = f->names; names && *name; name++)
        json_array_append_new(names, json_string(*name));
    return json_pack("{ss so}", "type", "string", "enum", names);
}

static json_t *schema_list(const struct json_field *f)
{
    json_t *item =
        f->kind == FIELD_STRING_LIST ? schema_typed("string") : schema_number(f, f->kind == FIELD_INT32_LIST);
    return json_pack("{ss so si si}", "type", "array", "items", item, "minItems", (int)f->min_items, "maxItems",
                     (int)f->max_items);
}

static json_t *schema_value(const struct json_field *f, const char *base)
{
    switch (f->kind) {
    case FIELD_BOOL:
        return schema_typed("boolean");
    case FIELD_INT32:
    case FIELD_INT64:
        return schema_number(f, true);
    case FIELD_UINT64:
        return json_pack("{s[ss] si ss}", "type", "integer", "string", "minimum", 0, "pattern", "^[0-9]{1,20}$");
    case FIELD_FLOAT:
    case FIELD_DOUBLE:
        return schema_number(f, false);
    case FIELD_ENUM:
        return schema_enum(f);
    case FIELD_STRING:
        return json_pack("{ss sI}", "type", "string", "maxLength", (json_int_t)f->item_bytes - 1);
    case FIELD_INT32_LIST:
    case FIELD_DOUBLE_LIST:
    case FIELD_STRING_LIST:
        return schema_list(f);
    case FIELD_OBJECT:
        return json_fields_schema(f->fields, base ? base + f->offset : NULL);
    case FIELD_CUSTOM:
        return f->schema ? f->schema() : json_object();
    case FIELD_JSON:
        return json_object();
    }
    return NULL;
}

/* null joins the types that the field takes. */
static void schema_allow_null(json_t *schema)
{
    json_t *type = json_object_get(schema, "type");
    if (json_is_string(type))
        json_object_set_new(schema, "type", json_pack("[Os]", type, "null"));
    else if (json_is_array(type))
        json_array_append_new(type, json_string("null"));
    json_t *names = json_object_get(schema, "enum");
    if (names)
        json_array_append_new(names, json_null());
}

static json_t *schema_field(const struct json_field *f, const char *base)
{
    json_t *schema = schema_value(f, base);
    if (!schema)
        return NULL;
    if (f->nullable)
        schema_allow_null(schema);
    if (f->help)
        json_object_set_new(schema, "description", json_string(f->help));
    bool plain = f->kind != FIELD_OBJECT && f->kind != FIELD_CUSTOM && f->kind != FIELD_JSON;
    if (base && plain && !f->required)
        json_object_set_new(schema, "default", write_value(f, base));
    return schema;
}

json_t *json_fields_schema(const struct json_field *fields, const void *defaults)
{
    json_t *properties = json_object(), *required = json_array();
    for (const struct json_field *f = fields; f->name; f++) {
        json_object_set_new(properties, f->name, schema_field(f, defaults));
        if (f->required)
            json_array_append_new(required, json_string(f->name));
    }
    if (json_array_size(required) == 0) {
        json_decref(required);
        required = NULL;
    }
    return json_pack("{ss so so*  sb}", "type", "object", "properties", properties, "required", required,
                     "additionalProperties", 0);
}
