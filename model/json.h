/* json.h: JSON objects read into structs by a table of fields.
 *
 * One table per object says name, type, range, place in the struct and help text of every key. The same table reads
 * the object (unknown keys, wrong types and values out of range are errors that name the field), writes it back,
 * takes values from text (a query, a form, a command line), and describes it as JSON Schema for OpenAPI. Strict: no
 * value is converted silently, except whole numbers where a real number is wanted.
 *
 *     static const struct json_field optimizer_fields[] = {
 *         {"lr", FIELD_DOUBLE, offsetof(struct optimizer_config, lr), .min = 0, .max = 1, .above_min = true,
 *          .help = "learning rate"},
 *         {"schedule", FIELD_ENUM, offsetof(struct optimizer_config, schedule), .names = schedule_names},
 *         {0}};
 *
 *     struct optimizer_config c = defaults;      // a key that is absent leaves its member as it is
 *     int rc = json_fields_read(json, "optimizer", optimizer_fields, &c, NULL, err);
 *
 * Pure functions of their arguments, any thread.
 */
#ifndef DDIMD_MODEL_JSON_H
#define DDIMD_MODEL_JSON_H

#include "kernels/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JSON_PATH_BYTES = 128, JSON_MAX_FIELDS = 64 };

enum field_kind {
    FIELD_BOOL,        // bool
    FIELD_INT32,       // int32_t, min..max
    FIELD_INT64,       // int64_t, min..max (exact up to 2^53)
    FIELD_UINT64,      // uint64_t; a whole number, or a string of decimal digits since JSON readers lose the high bits
    FIELD_FLOAT,       // float, min..max, finite
    FIELD_DOUBLE,      // double, min..max, finite
    FIELD_ENUM,        // an enum (int): position of the string in names
    FIELD_STRING,      // char[item_bytes], NUL-terminated; a longer one is an error
    FIELD_INT32_LIST,  // int32_t[max_items], each min..max
    FIELD_DOUBLE_LIST, // double[max_items], each min..max
    FIELD_STRING_LIST, // char[max_items][item_bytes], each not empty
    FIELD_OBJECT,      // a struct at offset, read by the table `fields`
    FIELD_CUSTOM,      // whatever read() makes of it, written by write()
    FIELD_JSON,        // const json_t *, borrowed from the object that is read; any value
};

struct json_field {
    const char *name; // NULL ends a table
    enum field_kind kind;
    size_t offset;                   // of the member in the struct
    double min, max;                 // inclusive; min == max: no limits
    bool above_min;                  // min itself is out
    bool required;                   // absent: an error
    bool nullable;                   // null is the same as absent
    bool live;                       // options: may change while the program runs
    const char *const *names;        // ENUM: NULL-terminated
    size_t item_bytes;               // STRING, STRING_LIST
    int32_t min_items, max_items;    // lists
    size_t count_offset;             // lists: an int32_t that gets the number of items; 0: none (then min_items ==
                                     // max_items). So a count is not the struct's first member.
    const struct json_field *fields; // OBJECT
    /* CUSTOM: reads into `member` (the struct's address + offset), path is the field's own. 0 or negative errno. */
    int (*read)(const json_t *json, const char *path, void *member, struct error *err);
    json_t *(*write)(const void *member); // new reference, NULL without memory
    json_t *(*schema)(void);              // likewise; NULL: any value
    const char *help;                     // one line for people: help texts, OpenAPI
};

/* Parses text strictly: one value, no duplicate keys, no trailing bytes, valid UTF-8. 0, -EINVAL (err says line and
 * column), -ENOMEM. *ret_json: new reference. */
int json_parse(const char *text, size_t bytes, json_t **ret_json, struct error *err);

/* Reads an object into the struct `into`, which holds the defaults. path: prefix of err->field ("optimizer"), "" at the
 * top; err->nearest names the nearest key or allowed string. *into may be partly filled on failure: read into a copy
 * where that matters. ret_given, NULL where not wanted: bit i is set where fields[i] was present and not null.
 * 0, -EINVAL, or what a read() returned. */
int json_fields_read(const json_t *json, const char *path, const struct json_field *fields, void *into,
                     uint64_t *ret_given, struct error *err);

/* The struct as an object, every key present (FIELD_JSON and nullable CUSTOM members only where not NULL). New
 * reference, NULL without memory. */
json_t *json_fields_write(const struct json_field *fields, const void *from);

/* JSON Schema (2020-12) of the object. defaults: a struct that holds them, NULL for none. New reference, NULL without
 * memory. */
json_t *json_fields_schema(const struct json_field *fields, const void *defaults);

/* The field of that name, NULL if there is none. */
const struct json_field *json_fields_find(const struct json_field *fields, const char *name);

/* Text of a query, form or option as the JSON value that the field wants: "true", "12", "0.5", "1,2,2" for lists. Text
 * that does not read as the field's type becomes a JSON string, which json_fields_read then refuses with the field's
 * message; so does f NULL (unknown key). New reference, NULL without memory or where text is not UTF-8. */
json_t *json_field_from_text(const struct json_field *f, const char *text);

/* path + "." + name (or name alone at the top) into buffer[JSON_PATH_BYTES], cut where too long. Returns buffer. */
char *json_path(char *buffer, const char *path, const char *name);
/* path + "[i]", likewise. */
char *json_path_item(char *buffer, const char *path, size_t i);

/* -EINVAL with a message that says what is allowed where, also sets err->nearest; for checks outside a table. names:
 * NULL-terminated. */
int json_error_choice(struct error *err, const char *path, const char *value, const char *const *names);

#endif
