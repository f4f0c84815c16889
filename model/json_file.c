/* json_file.c: see json_file.h. */
#include "model/json_file.h"

#include "model/file.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 1 << 20 };

/* ---- where a value stands ---- */

/* Text of valid JSON; end is never passed. */
struct cursor {
    const char *at, *end;
};

static void skip_space(struct cursor *c)
{
    while (c->at < c->end && isspace((unsigned char)*c->at))
        c->at++;
}

static void skip_string(struct cursor *c)
{
    for (c->at++; c->at < c->end && *c->at != '"'; c->at++)
        c->at += *c->at == '\\' && c->at + 1 < c->end;
    c->at += c->at < c->end;
}

/* A value of any kind, up to what follows it. */
static void skip_value(struct cursor *c)
{
    int depth = 0;
    skip_space(c);
    do {
        if (c->at >= c->end)
            return;
        if (*c->at == '"') {
            skip_string(c);
            continue;
        }
        depth += (*c->at == '{' || *c->at == '[') - (*c->at == '}' || *c->at == ']');
        c->at++;
    } while (depth > 0 || (c->at < c->end && !strchr(",]}", *c->at) && !isspace((unsigned char)*c->at)));
}

/* Past the next item of an object or array; false: it was the last. */
static bool next_item(struct cursor *c)
{
    skip_space(c);
    if (c->at >= c->end || *c->at != ',')
        return false;
    c->at++;
    skip_space(c);
    return true;
}

/* From an object to the key `name`; *c is moved to its value, *ret_key to the key. */
static bool enter_object(struct cursor *c, const char *name, size_t n, const char **ret_key)
{
    struct cursor p = *c;
    if (p.at >= p.end || *p.at != '{')
        return false;
    p.at++;
    skip_space(&p);
    do {
        const char *key = p.at;
        if (key >= p.end || *key != '"')
            return false;
        skip_string(&p);
        bool found = (size_t)(p.at - key) == n + 2 && memcmp(key + 1, name, n) == 0;
        skip_space(&p);
        p.at += p.at < p.end; // the colon
        skip_space(&p);
        if (found) {
            *c = p;
            *ret_key = key;
            return true;
        }
        skip_value(&p);
    } while (next_item(&p));
    return false;
}

static bool enter_array(struct cursor *c, size_t i, const char **ret_item)
{
    struct cursor p = *c;
    if (p.at >= p.end || *p.at != '[')
        return false;
    p.at++;
    skip_space(&p);
    for (; i; i--) {
        skip_value(&p);
        if (!next_item(&p))
            return false;
    }
    *c = p;
    *ret_item = p.at;
    return true;
}

int json_text_line(const char *text, size_t n, const char *path)
{
    struct cursor c = {text, text + n};
    const char *found;
    int line = 1;
    skip_space(&c);
    found = c.at;
    for (bool on = true; on && *path;) {
        if (*path == '[') {
            on = enter_array(&c, strtoul(path + 1, NULL, 10), &found);
            path += strcspn(path, "]");
            path += *path == ']';
        } else {
            path += *path == '.';
            size_t bytes = strcspn(path, ".[");
            on = enter_object(&c, path, bytes, &found);
            path += bytes;
        }
    }
    for (const char *p = text; p < found; p++)
        line += *p == '\n';
    return line;
}

/* ---- the file ---- */

/* Blanks comments, so that lines and columns stay what they are. */
static void comments_blank(char *text, size_t n)
{
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        if (in_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"' || text[i] == '\n') {
            in_string = text[i] == '"' && !in_string;
        } else if (!in_string && text[i] == '/' && i + 1 < n && text[i + 1] == '/') {
            while (i < n && text[i] != '\n')
                text[i++] = ' ';
        }
    }
}

int json_file_open(const char *path, const char *field, struct json_file *ret_file, struct error *err)
{
    struct json_file f = {.path = path};
    struct error inner = {0};
    int rc = file_read(AT_FDCWD, path, MAX_BYTES, &f.text, &f.bytes, &inner);
    if (rc)
        return error_set(err, rc, field, "%.150s cannot be opened: %.200s", path, strerror(-rc));
    comments_blank(f.text, f.bytes);
    rc = json_parse(f.text, f.bytes, &f.json, &inner);
    if (rc) {
        json_file_done(&f);
        return error_set(err, rc, field, "%.150s: %.200s", path, inner.message); // says line and column
    }
    *ret_file = f;
    return 0;
}

void json_file_done(struct json_file *f)
{
    free(f->text);
    json_decref(f->json);
    *f = (struct json_file){0};
}

int json_file_error(const struct json_file *f, int rc, struct error *err)
{
    struct error inner = *err;
    error_set(err, rc, inner.field, "%.120s:%d: %.60s%s%.180s", f->path, json_text_line(f->text, f->bytes, inner.field),
              inner.field, inner.field[0] ? " " : "", inner.message);
    snprintf(err->nearest, sizeof(err->nearest), "%s", inner.nearest);
    return rc;
}

int json_file_read(const struct json_file *f, const struct json_field *fields, void *into, uint64_t *ret_given,
                   struct error *err)
{
    struct error inner = {0};
    int rc = json_fields_read(f->json, "", fields, into, ret_given, &inner);
    if (rc && err) {
        *err = inner;
        json_file_error(f, rc, err);
    }
    return rc;
}
