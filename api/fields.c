/* fields.c: the tables of fields, and how a request becomes values. */
#include "api/fields.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- classes ---- */

static int class_item_add(struct class_list *l, const char *item, size_t n, const char *path, struct error *err)
{
    while (n && *item == ' ')
        item++, n--;
    while (n && item[n - 1] == ' ')
        n--;
    if (n == 0)
        return error_set(err, -EINVAL, path, "has an empty element");
    if (n >= sizeof(l->items[0]))
        return error_set(err, -EINVAL, path, "has an element longer than any class name");
    if (l->n == FIELD_MAX_CLASS_ITEMS)
        return error_set(err, -EINVAL, path, "has more than %d elements", FIELD_MAX_CLASS_ITEMS);
    if ((l->n & (l->n - 1)) == 0) { // room is always a power of two
        void *items = realloc(l->items, (l->n ? 2 * (size_t)l->n : 1) * sizeof(l->items[0]));
        if (!items)
            return error_set(err, -ENOMEM, path, "is too long for the memory there is");
        l->items = items;
    }
    memcpy(l->items[l->n], item, n);
    l->items[l->n++][n] = '\0';
    return 0;
}

int fields_set_class(struct fields *f, const char *item)
{
    return class_item_add(&f->classes, item, strlen(item), "class", NULL);
}

/* "0,3,cat" */
static int class_text_read(struct class_list *l, const char *text, const char *path, struct error *err)
{
    for (;; text++) {
        size_t n = strcspn(text, ",");
        int rc = class_item_add(l, text, n, path, err);
        text += n;
        if (rc || !*text)
            return rc;
    }
}

static int class_value_read(struct class_list *l, const json_t *json, const char *path, struct error *err)
{
    char digits[24];
    if (json_is_integer(json)) {
        snprintf(digits, sizeof(digits), "%lld", (long long)json_integer_value(json));
        return class_item_add(l, digits, strlen(digits), path, err);
    }
    if (json_is_string(json))
        return class_item_add(l, json_string_value(json), json_string_length(json), path, err);
    return error_set(err, -EINVAL, path, "must be an index, a name, or a list of those");
}

static int class_list_read(const json_t *json, const char *path, void *member, struct error *err)
{
    struct class_list *l = member;
    if (json_is_string(json))
        return class_text_read(l, json_string_value(json), path, err);
    if (!json_is_array(json))
        return class_value_read(l, json, path, err);
    if (json_array_size(json) == 0)
        return error_set(err, -EINVAL, path, "must not be an empty list");
    int rc = 0;
    for (size_t i = 0; i < json_array_size(json) && rc == 0; i++)
        rc = class_value_read(l, json_array_get(json, i), path, err);
    return rc;
}

/* ---- tables ---- */

#define AT(member) offsetof(struct fields, member)

#define SCHEDULE_FIELDS                                                                                                \
    {"steps", FIELD_INT32, AT(steps), 1, MODEL_MAX_STEPS, .help = "Sampling steps, at most the T of the model."},      \
        {"method", FIELD_ENUM, AT(method), .names = step_method_names, .help = "Spacing of the timesteps."},           \
        {"eta", FIELD_DOUBLE, AT(eta), 0, 1, .help = "0 is DDIM, 1 has DDPM's noise."},                                \
        {"sampler", FIELD_ENUM, AT(sampler), .names = sampler_names,                                                   \
         .help = "Sampling method. ddpm takes all T timesteps with eta 1, whatever steps, method and eta say."},       \
    {                                                                                                                  \
        "model", FIELD_STRING, AT(model), .item_bytes = MODEL_NAME_BYTES,                                              \
                                          .help = "Name of a model; the default model where absent."                   \
    }

#define RECIPE_FIELDS                                                                                                  \
    {"class", FIELD_CUSTOM, AT(classes), .read = class_list_read,                                                      \
     .help = "Class index or name, or a list of them; \"all\" is every class, \"none\" the null class."},              \
        {"n", FIELD_INT32, AT(n), 1, FIELD_IMAGES_MAX, .help = "Images for each class in the list."}, SCHEDULE_FIELDS, \
        {"guidance", FIELD_DOUBLE, AT(guidance), 0, 20, .help = "Scale of classifier-free guidance; 1 is without."},   \
        {"seed", FIELD_UINT64, AT(seed),                                                                               \
         .help = "0 to 2^64 - 1, as a number or as a string of its digits; random where absent. The same seed, "       \
                 "fields and model give the same bytes."},                                                             \
        {"nrow",                                                                                                       \
         FIELD_INT32,                                                                                                  \
         AT(nrow),                                                                                                     \
         1,                                                                                                            \
         FIELD_IMAGES_MAX,                                                                                             \
         .help = "Images in each row of the grid. Where absent: n for several classes, else about square; with "       \
                 "result_only=false the number of results of an image."},                                              \
        {"scale", FIELD_INT32, AT(scale), 1, 16, .help = "Enlarges the picture by whole pixels."},                     \
        {"to_grayscale", FIELD_BOOL, AT(to_grayscale), .help = "Turns the picture grey."},                             \
        {"result_only", FIELD_BOOL, AT(result_only),                                                                   \
         .help = "false: each image is a row of its intermediate results, from the starting noise on."},               \
        {"interval",                                                                                                   \
         FIELD_INT32,                                                                                                  \
         AT(interval),                                                                                                 \
         1,                                                                                                            \
         MODEL_MAX_STEPS,                                                                                              \
         .help = "With result_only=false: the state after every so many steps is shown; at most steps. Where absent: " \
                 "50, or steps where that is less. In a stream of events: previews after every so many steps; about "  \
                 "ten where absent."},                                                                                 \
    {                                                                                                                  \
        "clip", FIELD_BOOL, AT(clip), .help = "Clips the predicted image to [-1, 1] at each step."                     \
    }

#define QUEUE_FIELDS                                                                                                   \
    {"priority", FIELD_ENUM, AT(priority), .names = priority_names, .help = "Which queue the request waits in."},      \
    {                                                                                                                  \
        "timeout_ms", FIELD_INT32, AT(timeout_ms), 1, 86400000,                                                        \
            .help = "Give up after so many milliseconds, with 504; no limit where absent."                             \
    }

const struct json_field generate_fields[] = {
    RECIPE_FIELDS,
    QUEUE_FIELDS,
    {"dry_run", FIELD_BOOL, AT(dry_run),
     .help = "Only check: answers the resolved parameters, the timesteps, the cost and the expected wait."},
    {0},
};

const struct json_field schedule_fields[] = {SCHEDULE_FIELDS, {0}};

#define MAKER_FIELDS                                                                                                   \
    {"digest", FIELD_STRING, AT(digest), .item_bytes = CHECKPOINT_DIGEST_CHARS + 1, .help = "SHA-256 of the model."},  \
        {"build", FIELD_STRING, AT(build), .item_bytes = FIELD_TEXT_BYTES, .help = "Version of ddimd."},               \
    {                                                                                                                  \
        "device", FIELD_STRING, AT(device), .item_bytes = FIELD_TEXT_BYTES, .help = "Kind of device and precision."    \
    }

const struct json_field replay_fields[] = {RECIPE_FIELDS, MAKER_FIELDS, {0}};

const struct json_field generate_job_fields[] = {RECIPE_FIELDS, QUEUE_FIELDS, MAKER_FIELDS, {0}};

const struct json_field no_fields[] = {{0}};

const struct fields fields_defaults = {
    .steps = 50,
    .method = STEP_METHOD_QUADRATIC,
    .sampler = SAMPLER_DDIM,
    .n = 1,
    .guidance = 1,
    .scale = 1,
    .result_only = true,
    .priority = PRIORITY_NORMAL,
};

bool field_has_default(const char *name)
{
    static const char *const without[] = {"seed", "model", "nrow", "interval", "timeout_ms", NULL};
    for (int i = 0; without[i]; i++)
        if (strcmp(without[i], name) == 0)
            return false;
    return true;
}

void fields_done(struct fields *f)
{
    free(f->classes.items);
    f->classes = (struct class_list){0};
}

/* ---- queries and forms ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Percent-decodes p[0..n) into to (n + 1 bytes). false: a bad escape, or a NUL byte. */
static bool percent_decode(const char *p, size_t n, char *to)
{
    for (size_t i = 0; i < n; i++) {
        int c = p[i] == '+' ? ' ' : (unsigned char)p[i];
        if (c == '%') {
            int high = i + 2 < n ? hex_digit(p[i + 1]) : -1, low = i + 2 < n ? hex_digit(p[i + 2]) : -1;
            if (high < 0 || low < 0)
                return false;
            c = high << 4 | low;
            i += 2;
        }
        if (c == '\0')
            return false;
        *to++ = (char)c;
    }
    *to = '\0';
    return true;
}

static int add_pair(json_t *object, const struct json_field *table, const char *name, const char *value,
                    struct problem *ret_problem)
{
    if (!*value && json_fields_find(table, name))
        return problem_set(ret_problem, PROBLEM_BAD_FIELD, name, "%s has no value", name);
    if (json_object_get(object, name))
        return problem_set(ret_problem, PROBLEM_BAD_FIELD, name, "%s is given more than once", name);
    if (json_object_set_new(object, name, json_field_from_text(json_fields_find(table, name), value)))
        return problem_set(ret_problem, PROBLEM_BAD_FIELD, name, "a field is not UTF-8");
    return 0;
}

static int read_pair(json_t *object, const struct json_field *table, const char *pair, size_t n, char *scratch,
                     struct problem *ret_problem)
{
    const char *equals = memchr(pair, '=', n);
    size_t name_bytes = equals ? (size_t)(equals - pair) : n;
    char *name = scratch, *value = scratch + name_bytes + 1;
    *value = '\0';
    if (!percent_decode(pair, name_bytes, name))
        return problem_set(ret_problem, PROBLEM_BAD_FIELD, NULL, "the name of a field is not percent-encoded text");
    if (equals && !percent_decode(equals + 1, n - name_bytes - 1, value))
        return problem_set(ret_problem, PROBLEM_BAD_FIELD, name, "%s is not percent-encoded text", name);
    return add_pair(object, table, name, value, ret_problem);
}

/* "a=1&b=2" into an object. */
static int pairs_read(json_t *object, const struct json_field *table, const char *text, size_t n,
                      struct problem *ret_problem)
{
    int rc = 0;
    char *scratch = malloc(n + 2);
    if (!scratch)
        return problem_set(ret_problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the fields");
    for (size_t i = 0; i < n && rc == 0;) {
        const char *end = memchr(text + i, '&', n - i);
        size_t length = end ? (size_t)(end - text) - i : n - i;
        if (length)
            rc = read_pair(object, table, text + i, length, scratch, ret_problem);
        i += length + 1;
    }
    free(scratch);
    return rc;
}

/* ---- JSON ---- */

/* jansson has 63-bit integers and seeds have 64, so integers of 19 digits and more become strings before it reads the
 * text: a seed may be a string, and no other field takes so large a number. */
static void quote_long_integers(const char *json, size_t n, struct text *ret)
{
    for (size_t i = 0, start = 0; i < n; start = i) {
        if (json[i] == '"') {
            for (i++; i < n && json[i] != '"'; i++)
                i += json[i] == '\\' && i + 1 < n;
            i += i < n;
            text_append(ret, json + start, i - start);
        } else if (isdigit((unsigned char)json[i])) {
            while (i < n && (isalnum((unsigned char)json[i]) || json[i] == '.' || json[i] == '+' || json[i] == '-'))
                i++;
            bool quote = i - start >= 19 && (start == 0 || json[start - 1] != '-');
            for (size_t k = start; k < i; k++)
                quote = quote && isdigit((unsigned char)json[k]);
            text_append(ret, "\"", quote);
            text_append(ret, json + start, i - start);
            text_append(ret, "\"", quote);
        } else {
            text_append(ret, json + i++, 1);
        }
    }
}

/* jansson says `duplicate object key near '"n"'`: the field is between the inner quotes. */
static int duplicate_key(const struct error *err, struct problem *ret_problem)
{
    char name[FIELD_TEXT_BYTES] = "";
    const char *quote = strchr(err->message, '"');
    if (quote)
        snprintf(name, sizeof(name), "%.*s", (int)strcspn(quote + 1, "\""), quote + 1);
    return problem_set(ret_problem, PROBLEM_BAD_FIELD, name, "%s is given more than once", name);
}

int fields_parse_object(const char *text, size_t n, json_t **ret_object, struct problem *ret_problem)
{
    struct text quoted = {0};
    struct error err = {0};
    json_t *json = NULL;
    quote_long_integers(text, n, &quoted);
    int rc = quoted.failed ? error_set(&err, -ENOMEM, NULL, "out of memory")
                           : json_parse(quoted.data ? quoted.data : "", quoted.length, &json, &err);
    text_done(&quoted);
    if (rc == -ENOMEM)
        return problem_set(ret_problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the body");
    if (rc && strstr(err.message, "duplicate object key"))
        return duplicate_key(&err, ret_problem);
    if (rc)
        return problem_set(ret_problem, PROBLEM_BAD_BODY, NULL, "the body is %s", err.message);
    if (!json_is_object(json)) {
        json_decref(json);
        return problem_set(ret_problem, PROBLEM_BAD_BODY, NULL, "the body must be a JSON object");
    }
    *ret_object = json;
    return 0;
}

/* ---- requests ---- */

/* Says what would be right: the names of an enumeration, a range, or of an unknown field the known ones. */
static void allow_from_table(const struct json_field *table, const char *field, struct problem *p)
{
    const struct json_field *f = json_fields_find(table, field);
    const char *names[JSON_MAX_FIELDS + 1];
    int n = 0;
    if (f && f->names) {
        problem_allow_names(p, f->names);
    } else if (f && f->min != f->max) {
        problem_allow_range(p, f->min, f->max);
    } else if (!f) {
        for (; table[n].name; n++)
            names[n] = table[n].name;
        names[n] = NULL;
        problem_allow_names(p, names);
    }
}

static int table_problem(const struct json_field *table, const struct error *err, struct problem *ret_problem)
{
    bool known = json_fields_find(table, err->field) != NULL;
    if (err->code == -ENOMEM)
        return problem_set(ret_problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the fields");
    problem_set(ret_problem, PROBLEM_BAD_FIELD, err->field, "%s%s%s", known ? err->field : "", known ? " " : "",
                err->message);
    snprintf(ret_problem->nearest, sizeof(ret_problem->nearest), "%s", err->nearest);
    allow_from_table(table, err->field, ret_problem);
    return -EINVAL;
}

static bool is_given(const struct json_field *table, uint64_t given, const char *name)
{
    const struct json_field *f = json_fields_find(table, name);
    return f && (given >> (f - table) & 1);
}

int fields_read_object(const struct json_field *table, const json_t *object, struct fields *ret_fields,
                       struct problem *ret_problem)
{
    struct error err = {0};
    uint64_t given = 0;
    struct fields f = fields_defaults;
    int rc = json_fields_read(object, "", table, &f, &given, &err);
    if (rc) {
        fields_done(&f);
        err.code = rc;
        return table_problem(table, &err, ret_problem);
    }
    if (is_given(table, given, "model") && !f.model[0]) {
        fields_done(&f);
        return problem_set(ret_problem, PROBLEM_BAD_FIELD, "model", "model has no value");
    }
    f.has_seed = is_given(table, given, "seed");
    f.eta += 0.0; // -0 becomes 0, so that equal requests are written alike
    f.guidance += 0.0;
    *ret_fields = f;
    return 0;
}

/* Query and body as one object, a query's values first. */
static int source_read(const struct json_field *table, const struct field_source *source, json_t **ret_object,
                       struct problem *ret_problem)
{
    int rc = 0;
    json_t *query = json_object(), *body = NULL;
    if (source->body_is_json && source->body_bytes)
        rc = fields_parse_object(source->body, source->body_bytes, &body, ret_problem);
    else if ((body = json_object()))
        rc = pairs_read(body, table, source->body, source->body_bytes, ret_problem);
    if (rc == 0)
        rc = pairs_read(query, table, source->query, source->query_bytes, ret_problem);
    if (rc == 0 && (!body || json_object_update(body, query)))
        rc = problem_set(ret_problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the fields");
    json_decref(query);
    if (rc)
        json_decref(body);
    else
        *ret_object = body;
    return rc;
}

int fields_read(const struct json_field *table, const struct field_source *source, struct fields *ret_fields,
                struct problem *ret_problem)
{
    json_t *object;
    int rc = source_read(table, source, &object, ret_problem);
    if (rc)
        return rc;
    rc = fields_read_object(table, object, ret_fields, ret_problem);
    json_decref(object);
    return rc;
}

int fields_read_struct(const struct json_field *table, const struct field_source *source, void *into,
                       uint64_t *ret_given, json_t **ret_object, struct problem *ret_problem)
{
    struct error err = {0};
    json_t *object;
    int rc = source_read(table, source, &object, ret_problem);
    if (rc)
        return rc;
    err.code = json_fields_read(object, "", table, into, ret_given, &err);
    if (err.code) {
        json_decref(object);
        return table_problem(table, &err, ret_problem);
    }
    *ret_object = object;
    return 0;
}
