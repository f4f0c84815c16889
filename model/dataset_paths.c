/* dataset_paths.c: which images a folder or an archive holds, and of which classes, from nothing but their paths, so
 * that an index means the same image wherever it lies.
 */
#include "model/dataset_readers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void paths_done(struct paths *p)
{
    for (size_t i = 0; i < p->n; i++)
        free(p->v[i]);
    free(p->v);
    *p = (struct paths){0};
}

int paths_add(struct paths *p, char *path)
{
    if (path && p->n == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 64;
        char **v = realloc(p->v, capacity * sizeof *v);
        if (v) {
            p->v = v;
            p->capacity = capacity;
        }
    }
    if (!path || p->n == p->capacity) {
        free(path);
        return -ENOMEM;
    }
    p->v[p->n++] = path;
    return 0;
}

// Byte order of the components: what lies in "a" comes before what lies in "a-b".
static int compare_paths(const void *a, const void *b)
{
    const unsigned char *x = *(unsigned char *const *)a, *y = *(unsigned char *const *)b;
    while (*x && *x == *y)
        x++, y++;
    int p = *x == '/' ? 1 : *x ? *x + 1 : 0, q = *y == '/' ? 1 : *y ? *y + 1 : 0;
    return p - q;
}

bool paths_wanted(const struct dataset_options *o, const char *path)
{
    static const char usual[][DATASET_SUFFIX_BYTES] = {"png", "jpg", "jpeg"};
    const char(*suffix)[DATASET_SUFFIX_BYTES] = o->n_suffixes ? o->suffix : usual;
    int32_t n = o->n_suffixes ? o->n_suffixes : 3;
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    if (path[0] == '.' || strstr(path, "/.") || !dot || (slash && dot < slash))
        return false;
    for (int32_t i = 0; i < n; i++)
        if (strcasecmp(dot + 1, suffix[i]) == 0)
            return true;
    return false;
}

/* ---- classes ---- */

// Sorted paths from `first` on that begin with `prefix` (its length, of the path at first).
struct range {
    char **v;
    size_t n, prefix;
};

// The sub-folders of a range, in order.
static int list_folders(const struct range *r, struct paths *ret_folders)
{
    struct paths folders = {0};
    for (size_t i = 0; i < r->n; i++) {
        const char *rest = r->v[i] + r->prefix, *slash = strchr(rest, '/');
        if (!slash)
            continue;
        size_t n = (size_t)(slash - rest);
        const char *last = folders.n ? folders.v[folders.n - 1] : NULL;
        if (last && strlen(last) == n && memcmp(last, rest, n) == 0)
            continue;
        if (paths_add(&folders, strndup(rest, n)) < 0) {
            paths_done(&folders);
            return -ENOMEM;
        }
    }
    *ret_folders = folders;
    return 0;
}

// The part of a range that lies in the sub-folder.
static struct range enter(const struct range *r, const char *folder)
{
    struct range inner = {.v = r->v, .n = 0, .prefix = r->prefix + strlen(folder) + 1};
    size_t length = strlen(folder);
    for (size_t i = 0; i < r->n; i++) {
        const char *rest = r->v[i] + r->prefix;
        if (strncmp(rest, folder, length) != 0 || rest[length] != '/')
            continue;
        if (inner.n++ == 0)
            inner.v = r->v + i;
    }
    return inner;
}

static bool is_part(const char *name)
{
    return strcmp(name, "train") == 0 || strcmp(name, "test") == 0 || strcmp(name, "val") == 0;
}

// From a folder of parts into the wanted one: true where it went.
static bool enter_part(const struct dataset_options *o, struct range *r, const struct paths *folders)
{
    const char *part = NULL;
    for (size_t i = 0; i < folders->n; i++) {
        if (!is_part(folders->v[i]))
            return false;
        if ((strcmp(folders->v[i], "train") == 0) == o->train)
            part = folders->v[i];
    }
    if (!part)
        return false;
    *r = enter(r, part);
    return true;
}

// From an archive's outermost folder, which is there only to hold the others, into it.
static int enter_wrapper(struct range *r, const struct paths *folders)
{
    struct paths inner_folders;
    if (folders->n != 1 || is_part(folders->v[0]))
        return 0;
    struct range inner = enter(r, folders->v[0]);
    int rc = list_folders(&inner, &inner_folders);
    if (rc < 0)
        return rc;
    bool wraps = inner_folders.n > 0;
    paths_done(&inner_folders);
    if (wraps)
        *r = inner;
    return wraps;
}

// Goes down to the folder of class folders; *ret_classes: these.
static int find_classes(const struct dataset_options *o, bool wrapped, struct range *r, struct paths *ret_classes)
{
    for (bool parted = false;;) {
        struct paths folders;
        int rc = list_folders(r, &folders);
        if (rc == 0 && wrapped && !parted)
            rc = enter_wrapper(r, &folders);
        if (rc == 0 && !parted && enter_part(o, r, &folders))
            rc = parted = true;
        if (rc == 0) {
            *ret_classes = folders;
            return 0;
        }
        paths_done(&folders);
        if (rc < 0)
            return rc;
    }
}

/* ---- files and labels ---- */

// Takes over the range's images that lie directly in a class folder, or in the range itself where it has no classes.
static int take_files(struct range *r, const struct paths *classes, struct dataset *d)
{
    struct paths files = {0};
    size_t label = 0;
    d->labels = malloc((r->n + 1) * sizeof *d->labels);
    if (!d->labels)
        return -ENOMEM;
    for (size_t i = 0; i < r->n; i++) {
        const char *rest = r->v[i] + r->prefix, *slash = strchr(rest, '/');
        if (!*rest || !slash != !classes->n || (slash && (!slash[1] || strchr(slash + 1, '/'))))
            continue;
        size_t n = slash ? (size_t)(slash - rest) : 0;
        while (slash && (strncmp(classes->v[label], rest, n) != 0 || classes->v[label][n]))
            label++;
        d->labels[files.n] = (int32_t)label;
        char *path = r->v[i];
        r->v[i] = NULL;
        if (paths_add(&files, path) < 0) {
            paths_done(&files);
            return -ENOMEM;
        }
    }
    d->files = files.v;
    d->n = (int64_t)files.n;
    return 0;
}

int dataset_arrange(const struct dataset_options *o, struct paths *all, bool wrapped, struct dataset *d,
                    struct error *err)
{
    struct range r = {.v = all->v, .n = all->n};
    struct paths classes = {0};
    if (all->n)
        qsort(all->v, all->n, sizeof *all->v, compare_paths);
    int rc = find_classes(o, wrapped, &r, &classes);
    if (rc == 0 && classes.n > MODEL_MAX_CLASSES)
        rc = error_set(err, -EINVAL, "dataset.path", "%s has %zu class folders, at most %d are supported", o->path,
                       classes.n, MODEL_MAX_CLASSES);
    if (rc == 0)
        rc = take_files(&r, &classes, d);
    if (rc == 0)
        rc = classes.n ? dataset_name_classes(d, (int32_t)classes.n, (const char *const *)classes.v)
                       : dataset_name_classes(d, 1, NULL);
    paths_done(&classes);
    return rc == -ENOMEM ? error_set(err, rc, NULL, "out of memory") : rc;
}
