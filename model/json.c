/* json.c: see json.h. Reading, and values from text; writing and schemas are in json_write.c. */
#include "model/json.h"

#include <ctype.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUOTE_BYTES = 48 };

char *json_path(char *buffer, const char *path, const char *name)
{
    snprintf(buffer, JSON_PATH_BYTES, "%s%s%s", path, *path ? "." : "", name);
    return buffer;
}

char *json_path_item(char *buffer, const char *path, size_t i)
{
    snprintf(buffer, JSON_PATH_BYTES, "%.*s[%zu]", JSON_PATH_BYTES - 23, path, i);
    return buffer;
}

int json_parse(const char *text, size_t bytes, json_t **ret_json, struct error *err)
{
    json_error_t e;
    json_t *json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!json) {
        if (json_error_code(&e) == json_error_out_of_memory)
            return error_set(err, -ENOMEM, NULL, "out of memory");
        for (char *p = e.text; *p; p++) // it quotes the text, which need not be UTF-8
            *p = *p < ' ' || *p > '~' ? '?' : *p;
        return error_set(err, -EINVAL, NULL, "not valid JSON: %s (line %d, column %d)", e.text, e.line, e.column);
    }
    *ret_json = json;
    return 0;
}

/* ---- messages ---- */

/* Foreign UTF-8 as a message may carry it: cut between characters, control characters replaced. Returns buffer. */
static char *quote(const char *text, char *buffer, size_t bytes)
{
    size_t n = strnlen(text, bytes);
    if (n == bytes)
        for (n = bytes - 1; n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80;)
            n--;
    for (size_t i = 0; i < n; i++)
        buffer[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
    buffer[n] = '\0';
    return buffer;
}

/* A value as a message quotes it: JSON in ASCII, cut to fit. */
static void describe(const json_t *json, char *buffer, size_t bytes)
{
    char *text = json_is_object(json) || json_is_array(json)
                     ? NULL
                     : json_dumps(json, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
    if (text && strlen(text) >= bytes)
        memcpy(text + bytes - 4, "...", 4);
    snprintf(buffer, bytes, "%s", text ? text : json_is_object(json) ? "an object" : "a list");
    free(text);
}

static int error_value(struct error *err, const char *path, const json_t *json, const char *wanted)
{
    char value[QUOTE_BYTES];
    describe(json, value, sizeof(value));
    return error_set(err, -EINVAL, path, "must be %s, not %s", wanted, value);
}

static bool has_limits(const struct json_field *f)
{
    return f->min != f->max;
}

static int error_number(struct error *err, const char *path, const json_t *json, const struct json_field *f, bool whole)
{
    char wanted[128];
    const char *noun = whole ? "a whole number" : "a number";
    if (!has_limits(f))
        snprintf(wanted, sizeof(wanted), "%s", noun);
    else if (f->above_min && f->max >= DBL_MAX)
        snprintf(wanted, sizeof(wanted), "%s above %.15g", noun, f->min);
    else if (f->max >= DBL_MAX)
        snprintf(wanted, sizeof(wanted), "%s, %.15g or more", noun, f->min);
    else
        snprintf(wanted, sizeof(wanted), "%s %s %.15g %s %.15g", noun, f->above_min ? "above" : "from", f->min,
                 f->above_min ? "and up to" : "to", f->max);
    return error_value(err, path, json, wanted);
}

int json_error_choice(struct error *err, const char *path, const char *value, const char *const *names)
{
    char list[256] = "";
    size_t used = 0;
    for (const char *const *name = names; *name && used < sizeof(list) - 1; name++) {
        const char *join = name == names ? "" : name[1] ? ", " : " or ";
        int n = snprintf(list + used, sizeof(list) - used, "%s\"%s\"", join, *name);
        used += n > 0 ? (size_t)n : 0;
    }
    char quoted[QUOTE_BYTES];
    error_set(err, -EINVAL, path, "must be %s, not \"%s\"", list, quote(value, quoted, sizeof(quoted)));
    const char *nearest = error_nearest_name(value, names);
    if (err && nearest)
        snprintf(err->nearest, sizeof(err->nearest), "%s", nearest);
    return -EINVAL;
}

static int error_unknown_key(struct error *err, const char *path, const char *key, const struct json_field *fields)
{
    const char *names[JSON_MAX_FIELDS + 1];
    int n = 0;
    while (n < JSON_MAX_FIELDS && fields[n].name) {
        names[n] = fields[n].name;
        n++;
    }
    names[n] = NULL;
    const char *nearest = error_nearest_name(key, names);
    char field[JSON_PATH_BYTES], quoted[QUOTE_BYTES];
    json_path(field, path, quote(key, quoted, sizeof(quoted)));
    if (!nearest)
        return error_set(err, -EINVAL, field, "unknown key \"%s\"", quoted);
    error_set(err, -EINVAL, field, "unknown key \"%s\"; did you mean \"%s\"?", quoted, nearest);
    if (err)
        snprintf(err->nearest, sizeof(err->nearest), "%s", nearest);
    return -EINVAL;
}

/* ---- one value ---- */

static bool within(const struct json_field *f, double v)
{
    return !has_limits(f) || (v <= f->max && (f->above_min ? v > f->min : v >= f->min));
}

static int read_integer(const json_t *json, const char *path, const struct json_field *f, int64_t *ret_value,
                        struct error *err)
{
    if (!json_is_integer(json) || !within(f, (double)json_integer_value(json)))
        return error_number(err, path, json, f, true);
    *ret_value = json_integer_value(json);
    return 0;
}

static int read_int32(const json_t *json, const char *path, const struct json_field *f, int32_t *ret_value,
                      struct error *err)
{
    int64_t v = 0;
    int rc = read_integer(json, path, f, &v, err);
    if (rc)
        return rc;
    if (v < INT32_MIN || v > INT32_MAX)
        return error_value(err, path, json, "a whole number that fits 32 bits");
    *ret_value = (int32_t)v;
    return 0;
}

static int read_uint64(const json_t *json, const char *path, uint64_t *ret_value, struct error *err)
{
    if (json_is_integer(json) && json_integer_value(json) >= 0) {
        *ret_value = (uint64_t)json_integer_value(json);
        return 0;
    }
    const char *text = json_string_value(json);
    if (text && *text && strspn(text, "0123456789") == strlen(text)) {
        errno = 0;
        unsigned long long v = strtoull(text, NULL, 10);
        if (errno == 0) {
            *ret_value = v;
            return 0;
        }
    }
    return error_value(err, path, json, "a whole number from 0 to 18446744073709551615");
}

static int read_double(const json_t *json, const char *path, const struct json_field *f, double *ret_value,
                       struct error *err)
{
    if (!json_is_number(json) || !isfinite(json_number_value(json)) || !within(f, json_number_value(json)))
        return error_number(err, path, json, f, false);
    *ret_value = json_number_value(json);
    return 0;
}

static int read_float(const json_t *json, const char *path, const struct json_field *f, float *ret_value,
                      struct error *err)
{
    double v = 0;
    int rc = read_double(json, path, f, &v, err);
    if (rc)
        return rc;
    if (isinf((float)v))
        return error_value(err, path, json, "a number that fits a 32-bit float");
    *ret_value = (float)v;
    return 0;
}

static int read_enum(const json_t *json, const char *path, const struct json_field *f, int *ret_value,
                     struct error *err)
{
    const char *text = json_string_value(json);
    for (int i = 0; text && f->names[i]; i++) {
        if (!strcmp(text, f->names[i])) {
            *ret_value = i;
            return 0;
        }
    }
    char value[QUOTE_BYTES];
    describe(json, value, sizeof(value));
    return json_error_choice(err, path, text ? text : value, f->names);
}

static int read_string(const json_t *json, const char *path, size_t item_bytes, bool may_be_empty, char *ret_value,
                       struct error *err)
{
    const char *text = json_string_value(json);
    if (!text)
        return error_value(err, path, json, "a string");
    if (!*text && !may_be_empty)
        return error_set(err, -EINVAL, path, "must not be empty");
    if (strlen(text) >= item_bytes)
        return error_set(err, -EINVAL, path, "must be at most %zu bytes long", item_bytes - 1);
    memset(ret_value, 0, item_bytes);
    memcpy(ret_value, text, strlen(text));
    return 0;
}

static int read_item(const json_t *json, const char *path, const struct json_field *f, char *list, size_t i,
                     struct error *err)
{
    switch (f->kind) {
    case FIELD_INT32_LIST:
        return read_int32(json, path, f, (int32_t *)(void *)list + i, err);
    case FIELD_DOUBLE_LIST:
        return read_double(json, path, f, (double *)(void *)list + i, err);
    default:
        return read_string(json, path, f->item_bytes, false, list + i * f->item_bytes, err);
    }
}

static int read_list(const json_t *json, const char *path, const struct json_field *f, char *base, struct error *err)
{
    size_t n = json_array_size(json);
    if (!json_is_array(json) || n < (size_t)f->min_items || n > (size_t)f->max_items) {
        const char *noun = f->kind == FIELD_STRING_LIST ? "strings" : "numbers";
        if (f->min_items == f->max_items)
            return error_set(err, -EINVAL, path, "must be a list of %d %s", f->max_items, noun);
        return error_set(err, -EINVAL, path, "must be a list of %d to %d %s", f->min_items, f->max_items, noun);
    }
    char item[JSON_PATH_BYTES];
    for (size_t i = 0; i < n; i++) {
        int rc = read_item(json_array_get(json, i), json_path_item(item, path, i), f, base + f->offset, i, err);
        if (rc)
            return rc;
    }
    if (f->count_offset)
        *(int32_t *)(void *)(base + f->count_offset) = (int32_t)n;
    return 0;
}

static int read_value(const json_t *json, const char *path, const struct json_field *f, char *base, struct error *err)
{
    void *member = base + f->offset;
    switch (f->kind) {
    case FIELD_BOOL:
        if (!json_is_boolean(json))
            return error_value(err, path, json, "true or false");
        *(bool *)member = json_is_true(json);
        return 0;
    case FIELD_INT32:
        return read_int32(json, path, f, member, err);
    case FIELD_INT64:
        return read_integer(json, path, f, member, err);
    case FIELD_UINT64:
        return read_uint64(json, path, member, err);
    case FIELD_FLOAT:
        return read_float(json, path, f, member, err);
    case FIELD_DOUBLE:
        return read_double(json, path, f, member, err);
    case FIELD_ENUM:
        return read_enum(json, path, f, member, err);
    case FIELD_STRING:
        return read_string(json, path, f->item_bytes, true, member, err);
    case FIELD_INT32_LIST:
    case FIELD_DOUBLE_LIST:
    case FIELD_STRING_LIST:
        return read_list(json, path, f, base, err);
    case FIELD_OBJECT:
        return json_fields_read(json, path, f->fields, member, NULL, err);
    case FIELD_CUSTOM:
        return f->read(json, path, member, err);
    case FIELD_JSON:
        *(const json_t **)member = json;
        return 0;
    }
    return -EINVAL;
}

/* ---- objects ---- */

const struct json_field *json_fields_find(const struct json_field *fields, const char *name)
{
    for (; fields->name; fields++)
        if (!strcmp(fields->name, name))
            return fields;
    return NULL;
}

int json_fields_read(const json_t *json, const char *path, const struct json_field *fields, void *into,
                     uint64_t *ret_given, struct error *err)
{
    if (!json_is_object(json))
        return error_value(err, path, json, "an object");
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)json, key, value)
    {
        if (!json_fields_find(fields, key))
            return error_unknown_key(err, path, key, fields);
    }
    uint64_t given = 0;
    for (int i = 0; fields[i].name; i++) {
        const struct json_field *f = &fields[i];
        char field[JSON_PATH_BYTES];
        json_path(field, path, f->name);
        value = json_object_get(json, f->name);
        if (f->nullable && json_is_null(value))
            value = NULL;
        if (!value && f->required)
            return error_set(err, -EINVAL, field, "is missing");
        if (!value)
            continue;
        int rc = read_value(value, field, f, into, err);
        if (rc)
            return rc;
        if (i < JSON_MAX_FIELDS)
            given |= UINT64_C(1) << i;
    }
    if (ret_given)
        *ret_given = given;
    return 0;
}

/* ---- values from text ---- */

/* The number that text spells as JSON does (no sign "+", no "0x", no "inf"), NULL where it is none or not whole as
 * wanted. */
static json_t *number_from_text(const char *text, size_t n, bool whole)
{
    if (n == 0 || !(text[n - 1] == '.' || isdigit((unsigned char)text[n - 1])))
        return NULL;
    if (strspn(text, whole ? "-0123456789" : "-+0123456789.eE") < n)
        return NULL;
    return json_loadb(text, n, JSON_DECODE_ANY, NULL);
}

static json_t *item_from_text(const struct json_field *f, const char *text, size_t n)
{
    json_t *json = NULL;
    switch (f->kind) {
    case FIELD_BOOL:
        if ((n == 4 && !memcmp(text, "true", 4)) || (n == 1 && *text == '1'))
            json = json_true();
        else if ((n == 5 && !memcmp(text, "false", 5)) || (n == 1 && *text == '0'))
            json = json_false();
        break;
    case FIELD_INT32:
    case FIELD_INT64:
    case FIELD_INT32_LIST:
        json = number_from_text(text, n, true);
        break;
    case FIELD_FLOAT:
    case FIELD_DOUBLE:
    case FIELD_DOUBLE_LIST:
        json = number_from_text(text, n, false);
        break;
    default:
        break;
    }
    return json ? json : json_stringn(text, n);
}

static json_t *list_from_text(const struct json_field *f, const char *text)
{
    json_t *list = json_array();
    for (const char *p = text; list && *text; p++) {
        size_t n = strcspn(p, ",");
        if (json_array_append_new(list, item_from_text(f, p, n))) {
            json_decref(list);
            return NULL;
        }
        p += n;
        if (!*p)
            break;
    }
    return list;
}

json_t *json_field_from_text(const struct json_field *f, const char *text)
{
    if (!f)
        return json_string(text);
    switch (f->kind) {
    case FIELD_INT32_LIST:
    case FIELD_DOUBLE_LIST:
    case FIELD_STRING_LIST:
        return list_from_text(f, text);
    default:
        return item_from_text(f, text, strlen(text));
    }
}
