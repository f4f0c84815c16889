/* safetensors.c: reading; see safetensors.h. Writing and number formats are in safetensors_write.c. */
#include "model/safetensors.h"

#include "model/file.h"
#include "model/json.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct safetensors {
    int fd;          // -1 once loaded
    uint64_t bytes;  // of the file
    char *head;      // length and header, read at open; NULL where the file is in memory
    size_t n_head;   // 8 + header length
    const char *all; // the whole file, NULL before load
    bool mapped;     // `all` is ours to unmap
    json_t *header;  // owns the names and strings
    size_t n;
    struct safetensor *tensors;        // [n], by offset
    uint64_t *offsets;                 // [n], of `tensors`, from the start of the data
    const struct safetensor **by_name; // [n], by strcmp
};

/* ---- one tensor's claims ---- */

static int fail(struct error *err, const char *name, const char *what)
{
    return error_set(err, -EINVAL, name, "tensor \"%s\" %s", name, what);
}

static bool name_is_valid(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (name[i] < ' ' || name[i] > '~')
            return false;
    return n > 0 && n <= SAFETENSORS_MAX_NAME;
}

static int parse_dtype(const json_t *json, struct safetensor *t, struct error *err)
{
    const char *name = json_string_value(json);
    for (int i = 0; name && safetensors_dtype_names[i]; i++)
        if (!strcmp(name, safetensors_dtype_names[i])) {
            t->dtype = (enum safetensors_dtype)i;
            return 0;
        }
    return fail(err, t->name, "has no dtype that this program knows");
}

/* Shape and size in bytes, without overflow. */
static int parse_shape(const json_t *json, struct safetensor *t, struct error *err)
{
    if (!json_is_array(json) || json_array_size(json) > SAFETENSORS_MAX_RANK)
        return fail(err, t->name, "has no shape, or one of too many dimensions");
    t->rank = (int32_t)json_array_size(json);
    uint64_t bytes = safetensors_dtype_bytes(t->dtype);
    for (int32_t i = 0; i < t->rank; i++) {
        const json_t *dim = json_array_get(json, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return fail(err, t->name, "has a dimension that is not a whole number");
        t->dim[i] = json_integer_value(dim);
        if (__builtin_mul_overflow(bytes, (uint64_t)t->dim[i], &bytes) || bytes > INT64_MAX)
            return fail(err, t->name, "has a shape whose size overflows");
    }
    t->bytes = (size_t)bytes;
    return 0;
}

static int parse_offsets(const json_t *json, uint64_t data_bytes, const struct safetensor *t, uint64_t *ret_offset,
                         struct error *err)
{
    const json_t *begin = json_array_get(json, 0), *end = json_array_get(json, 1);
    if (json_array_size(json) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return fail(err, t->name, "has no data_offsets of two whole numbers");
    json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > data_bytes)
        return fail(err, t->name, "has data_offsets outside the file");
    if ((uint64_t)(to - from) != t->bytes)
        return fail(err, t->name, "has data_offsets that do not fit its shape");
    *ret_offset = (uint64_t)from;
    return 0;
}

static int parse_tensor(const char *name, const json_t *json, uint64_t data_bytes, struct safetensor *ret_tensor,
                        uint64_t *ret_offset, struct error *err)
{
    if (!name_is_valid(name))
        return error_set(err, -EINVAL, NULL, "a tensor's name is not 1 to %d printable ASCII characters",
                         SAFETENSORS_MAX_NAME);
    struct safetensor t = {.name = name};
    if (json_object_size(json) != 3)
        return fail(err, name, "is not an object of dtype, shape and data_offsets");
    int rc = parse_dtype(json_object_get(json, "dtype"), &t, err);
    if (!rc)
        rc = parse_shape(json_object_get(json, "shape"), &t, err);
    if (!rc)
        rc = parse_offsets(json_object_get(json, "data_offsets"), data_bytes, &t, ret_offset, err);
    if (!rc)
        *ret_tensor = t;
    return rc;
}

/* ---- the header ---- */

static int check_metadata(const json_t *json, struct error *err)
{
    const char *key;
    json_t *value;
    if (json && !json_is_object(json))
        return error_set(err, -EINVAL, NULL, "__metadata__ is not an object");
    json_object_foreach((json_t *)json, key, value)
    {
        if (!json_is_string(value))
            return error_set(err, -EINVAL, NULL, "__metadata__ has a value that is not a string");
    }
    return 0;
}

struct placed {
    uint64_t offset;
    struct safetensor tensor;
};

static int compare_placed(const void *a, const void *b)
{
    const struct placed *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->tensor.bytes != y->tensor.bytes)
        return x->tensor.bytes < y->tensor.bytes ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int compare_names(const void *a, const void *b)
{
    const struct safetensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

/* Every tensor of the header, sorted by offset, covering the data exactly. */
static int place_tensors(const json_t *header, uint64_t data_bytes, struct placed *ret_placed, struct error *err)
{
    const char *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)header, name, value)
    {
        if (!strcmp(name, "__metadata__"))
            continue;
        int rc = parse_tensor(name, value, data_bytes, &ret_placed[n].tensor, &ret_placed[n].offset, err);
        if (rc)
            return rc;
        n++;
    }
    qsort(ret_placed, n, sizeof(*ret_placed), compare_placed);
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (ret_placed[i].offset != end)
            return fail(err, ret_placed[i].tensor.name,
                        ret_placed[i].offset < end ? "overlaps another one's data" : "leaves a hole before its data");
        end += ret_placed[i].tensor.bytes;
    }
    if (end != data_bytes)
        return error_set(err, -EINVAL, NULL, "the file has %llu bytes that belong to no tensor",
                         (unsigned long long)(data_bytes - end));
    return 0;
}

static int index_tensors(struct safetensors *s, struct error *err)
{
    uint64_t data_bytes = s->bytes - s->n_head;
    const json_t *metadata = json_object_get(s->header, "__metadata__");
    int rc = check_metadata(metadata, err);
    if (rc)
        return rc;
    s->n = json_object_size(s->header) - (metadata ? 1 : 0);
    struct placed *placed = calloc(s->n + 1, sizeof(*placed));
    s->tensors = calloc(s->n + 1, sizeof(*s->tensors));
    s->offsets = calloc(s->n + 1, sizeof(*s->offsets));
    s->by_name = calloc(s->n + 1, sizeof(*s->by_name));
    if (!placed || !s->tensors || !s->offsets || !s->by_name)
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    if (!rc)
        rc = place_tensors(s->header, data_bytes, placed, err);
    for (size_t i = 0; !rc && i < s->n; i++) {
        s->tensors[i] = placed[i].tensor;
        s->offsets[i] = placed[i].offset;
        s->by_name[i] = &s->tensors[i];
    }
    if (!rc)
        qsort(s->by_name, s->n, sizeof(*s->by_name), compare_names);
    free(placed);
    return rc;
}

/* head: length and header, n_head bytes. */
static int parse_head(struct safetensors *s, const char *head, struct error *err)
{
    // The format's rule: no space before the object; spaces after it are padding.
    if (head[8] != '{')
        return error_set(err, -EINVAL, NULL, "the file's header is not a JSON object");
    int rc = json_parse(head + 8, s->n_head - 8, &s->header, err);
    return rc ? rc : index_tensors(s, err);
}

static int header_length(const char *first8, uint64_t file_bytes, size_t *ret_n_head, struct error *err)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | (uint8_t)first8[i];
    if (n < 2 || n > file_bytes - 8)
        return error_set(err, -EINVAL, NULL,
                         "not a safetensors file: its header would be %llu bytes long in a file of %llu",
                         (unsigned long long)n, (unsigned long long)file_bytes);
    if (n > SAFETENSORS_MAX_HEADER)
        return error_set(err, -EINVAL, NULL, "the file's header is longer than %d bytes", SAFETENSORS_MAX_HEADER);
    *ret_n_head = 8 + (size_t)n;
    return 0;
}

/* ---- objects ---- */

static struct safetensors *create(uint64_t bytes, struct error *err)
{
    struct safetensors *s = NULL;
    if (bytes < 8)
        error_set(err, -EINVAL, NULL, "not a safetensors file: %llu bytes long", (unsigned long long)bytes);
    else if (!(s = calloc(1, sizeof(*s))))
        error_set(err, -ENOMEM, NULL, "out of memory");
    else
        *s = (struct safetensors){.fd = -1, .bytes = bytes};
    return s;
}

static int read_head(struct safetensors *s, struct error *err)
{
    char first8[8];
    int rc = file_read_at(s->fd, first8, sizeof(first8), 0, err);
    if (!rc)
        rc = header_length(first8, s->bytes, &s->n_head, err);
    if (rc)
        return rc;
    s->head = malloc(s->n_head);
    if (!s->head)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    memcpy(s->head, first8, sizeof(first8));
    rc = file_read_at(s->fd, s->head + 8, s->n_head - 8, 8, err);
    return rc ? rc : parse_head(s, s->head, err);
}

int safetensors_open(int dir_fd, const char *name, struct safetensors **ret_file, struct error *err)
{
    int fd;
    uint64_t bytes;
    struct error local;
    err = err ? err : &local;
    int rc = file_open(dir_fd, name, &fd, &bytes, err);
    if (rc)
        return rc;
    struct safetensors *s = create(bytes, err);
    if (!s) {
        close(fd);
        return err->code;
    }
    s->fd = fd;
    rc = read_head(s, err);
    if (rc)
        safetensors_close(s);
    else
        *ret_file = s;
    return rc;
}

static void set_data(struct safetensors *s, const char *all)
{
    s->all = all;
    for (size_t i = 0; i < s->n; i++)
        s->tensors[i].data = all + s->n_head + s->offsets[i];
}

int safetensors_load(struct safetensors *s, struct error *err)
{
    if (s->all)
        return 0;
    char *all = MAP_FAILED;
    if (s->bytes <= PTRDIFF_MAX)
        all = mmap(NULL, (size_t)s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return error_set(err, -ENOMEM, NULL, "out of memory for %llu bytes", (unsigned long long)s->bytes);
    memcpy(all, s->head, s->n_head);
    int rc = file_read_at(s->fd, all + s->n_head, (size_t)s->bytes - s->n_head, s->n_head, err);
    if (rc) {
        munmap(all, (size_t)s->bytes);
        return rc;
    }
    close(s->fd);
    s->fd = -1;
    s->mapped = true;
    set_data(s, all);
    return 0;
}

int safetensors_from_memory(const void *bytes, size_t n, struct safetensors **ret_file, struct error *err)
{
    struct error local;
    err = err ? err : &local;
    struct safetensors *s = create(n, err);
    if (!s)
        return err->code;
    int rc = header_length(bytes, n, &s->n_head, err);
    if (!rc)
        rc = parse_head(s, bytes, err);
    if (rc) {
        safetensors_close(s);
        return rc;
    }
    set_data(s, bytes);
    *ret_file = s;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    if (s->fd >= 0)
        close(s->fd);
    if (s->mapped)
        munmap((void *)s->all, (size_t)s->bytes);
    free(s->head);
    json_decref(s->header);
    free(s->tensors);
    free(s->offsets);
    free(s->by_name);
    free(s);
}

/* ---- looking things up ---- */

size_t safetensors_count(const struct safetensors *s)
{
    return s->n;
}

const struct safetensor *safetensors_at(const struct safetensors *s, size_t i)
{
    assert(i < s->n);
    return &s->tensors[i];
}

const struct safetensor *safetensors_find(const struct safetensors *s, const char *name)
{
    const struct safetensor wanted = {.name = name}, *key = &wanted;
    const struct safetensor **found = bsearch(&key, s->by_name, s->n, sizeof(*s->by_name), compare_names);
    return found ? *found : NULL;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    return json_string_value(json_object_get(json_object_get(s->header, "__metadata__"), key));
}

void safetensors_digest(const struct safetensors *s, char *ret_hex)
{
    assert(s->all);
    sha256_hex(s->all, (size_t)s->bytes, ret_hex);
}
