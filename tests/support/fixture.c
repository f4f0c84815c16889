/* fixture.c: see fixture.h. */
#include "tests/support/fixture.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    char *path;
    char *bytes; // the whole file
    size_t size;
    json_t *header;
    const char *data;
    size_t data_size;
    struct widened *widened;
};

/* A BF16 tensor as f32. */
struct widened {
    struct widened *next;
    const void *from;
    float values[];
};

static void die(const char *path, const char *what, const char *name)
{
    fprintf(stderr, "%s: %s%s%s\n", path, what, name ? " " : "", name ? name : "");
    exit(99);
}

static char *read_file(const char *path, size_t *ret_size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path, "cannot be opened", NULL);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *bytes = aligned_alloc(64, ((size_t)size / 64 + 1) * 64);
    if (size < 8 || !bytes || fread(bytes, 1, (size_t)size, file) != (size_t)size)
        die(path, "cannot be read", NULL);
    fclose(file);
    *ret_size = (size_t)size;
    return bytes;
}

struct fixture *fixture_open(const char *path)
{
    struct fixture *f = calloc(1, sizeof(*f));
    uint64_t length;
    if (!f || !(f->path = strdup(path)))
        die(path, "no memory", NULL);
    f->bytes = read_file(path, &f->size);
    memcpy(&length, f->bytes, sizeof(length));
    if (length > f->size - 8)
        die(path, "has a header longer than the file", NULL);
    json_error_t error;
    f->header = json_loadb(f->bytes + 8, length, 0, &error);
    if (!json_is_object(f->header))
        die(path, "has no JSON header:", error.text);
    f->data = f->bytes + 8 + length;
    f->data_size = f->size - 8 - length;
    return f;
}

void fixture_close(struct fixture *f)
{
    if (!f)
        return;
    for (struct widened *w = f->widened, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    json_decref(f->header);
    free(f->bytes);
    free(f->path);
    free(f);
}

bool fixture_find(const struct fixture *f, const char *name, struct fixture_tensor *ret_tensor)
{
    json_t *entry = json_object_get(f->header, name), *shape = json_object_get(entry, "shape");
    json_t *offsets = json_object_get(entry, "data_offsets");
    if (!entry)
        return false;
    struct fixture_tensor t = {.rank = (int)json_array_size(shape), .elements = 1};
    json_int_t begin = json_integer_value(json_array_get(offsets, 0)),
               end = json_integer_value(json_array_get(offsets, 1));
    if (t.rank > 8 || begin < 0 || end < begin || (size_t)end > f->data_size)
        die(f->path, "has a bad entry for", name);
    snprintf(t.dtype, sizeof(t.dtype), "%s", json_string_value(json_object_get(entry, "dtype")));
    for (int i = 0; i < t.rank; i++) {
        t.dim[i] = json_integer_value(json_array_get(shape, (size_t)i));
        t.elements *= (size_t)t.dim[i];
    }
    t.data = f->data + begin;
    *ret_tensor = t;
    return true;
}

static const void *elements_of(const struct fixture *f, const char *name, const char *dtype, size_t *ret_elements)
{
    struct fixture_tensor t;
    if (!fixture_find(f, name, &t))
        die(f->path, "lacks", name);
    if (strcmp(t.dtype, dtype) || (uintptr_t)t.data % 4)
        die(f->path, "has another dtype or alignment of", name);
    if (ret_elements)
        *ret_elements = t.elements;
    return t.data;
}

static const float *widen(struct fixture *f, const struct fixture_tensor *t)
{
    for (struct widened *w = f->widened; w; w = w->next)
        if (w->from == t->data)
            return w->values;
    struct widened *w = malloc(sizeof(*w) + t->elements * sizeof(float));
    if (!w)
        die(f->path, "no memory", NULL);
    for (size_t i = 0; i < t->elements; i++) {
        uint16_t h;
        memcpy(&h, (const char *)t->data + 2 * i, 2);
        uint32_t u = (uint32_t)h << 16;
        memcpy(&w->values[i], &u, 4);
    }
    w->from = t->data;
    w->next = f->widened;
    f->widened = w;
    return w->values;
}

const float *fixture_f32(struct fixture *f, const char *name, size_t *ret_elements)
{
    struct fixture_tensor t;
    if (!fixture_find(f, name, &t))
        die(f->path, "lacks", name);
    if (strcmp(t.dtype, "BF16"))
        return elements_of(f, name, "F32", ret_elements);
    if (ret_elements)
        *ret_elements = t.elements;
    return widen(f, &t);
}

const int32_t *fixture_i32(const struct fixture *f, const char *name, size_t *ret_elements)
{
    return elements_of(f, name, "I32", ret_elements);
}

const char *fixture_metadata(const struct fixture *f, const char *key)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), key));
}
