/* cards.c: see cards.h. */
#include "sampling/cards.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char suffix[] = ".safetensors";
enum { FILE_NAME_BYTES = MODEL_NAME_BYTES + sizeof(suffix) };

struct card {
    char name[MODEL_NAME_BYTES];
    struct file_version version;
    json_t *json;
    struct card *next;
};

struct card_folder {
    int fd;
    pthread_mutex_t lock; // of cards
    struct card *cards;
};

bool file_version_equal(const struct file_version *a, const struct file_version *b)
{
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

bool model_name_valid(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strnlen(name, MODEL_NAME_BYTES);
    return n > 0 && n < MODEL_NAME_BYTES && name[0] != '.' && strspn(name, allowed) == n;
}

int card_folder_open(const char *path, struct card_folder **ret_folder, struct error *err)
{
    struct card_folder *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(err, -ENOMEM, NULL, "no memory");
    f->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (f->fd < 0) {
        int code = -errno;
        free(f);
        return error_set(err, code, "models", "cannot open the models folder %s: %s", path, strerror(-code));
    }
    pthread_mutex_init(&f->lock, NULL);
    *ret_folder = f;
    return 0;
}

static void card_free(struct card *c)
{
    json_decref(c->json);
    free(c);
}

void card_folder_close(struct card_folder *f)
{
    if (!f)
        return;
    while (f->cards) {
        struct card *c = f->cards;
        f->cards = c->next;
        card_free(c);
    }
    close(f->fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* "digits.safetensors" -> "digits". False: not a model's file. */
static bool stem_of(const char *file, char ret_name[MODEL_NAME_BYTES])
{
    size_t n = strlen(file), n_suffix = sizeof(suffix) - 1;
    if (n <= n_suffix || n - n_suffix >= MODEL_NAME_BYTES || strcmp(file + n - n_suffix, suffix))
        return false;
    memcpy(ret_name, file, n - n_suffix);
    ret_name[n - n_suffix] = '\0';
    return model_name_valid(ret_name);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* All stems, MODEL_NAME_BYTES each, in ret_stems (malloc'd). Returns their number or a negative errno. */
static int read_stems(struct card_folder *f, char **ret_stems)
{
    int fd = openat(f->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); // an own position in the folder
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    char *stems = NULL, name[MODEL_NAME_BYTES];
    int n = 0;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return -EIO;
    }
    for (struct dirent *entry; n >= 0 && (entry = readdir(dir));) {
        if (!stem_of(entry->d_name, name))
            continue;
        char *grown = realloc(stems, (size_t)(n + 1) * MODEL_NAME_BYTES);
        if (grown) {
            stems = grown;
            memcpy(stems + (size_t)n * MODEL_NAME_BYTES, name, MODEL_NAME_BYTES);
        }
        n = grown ? n + 1 : -ENOMEM;
    }
    closedir(dir);
    *ret_stems = stems;
    return n;
}

int card_folder_names(struct card_folder *f, char ***ret_names)
{
    char *stems = NULL;
    int n = read_stems(f, &stems);
    char **names = n < 0 ? NULL : malloc((size_t)(n + 1) * sizeof(*names) + (size_t)n * MODEL_NAME_BYTES);
    if (names) {
        char *text = (char *)(names + n + 1);
        if (n > 0) {
            qsort(stems, (size_t)n, MODEL_NAME_BYTES, compare_names);
            memcpy(text, stems, (size_t)n * MODEL_NAME_BYTES);
        }
        for (int i = 0; i < n; i++)
            names[i] = text + (size_t)i * MODEL_NAME_BYTES;
        names[n] = NULL;
        *ret_names = names;
    }
    free(stems);
    return names ? 0 : n < 0 ? n : -ENOMEM;
}

static int error_no_model(struct card_folder *f, const char *name, struct error *err)
{
    char **names = NULL;
    error_set(err, -ENOENT, "model", "there is no model \"%s\"", name);
    if (err && card_folder_names(f, &names) == 0) {
        const char *nearest = error_nearest_name(name, (const char *const *)names);
        if (nearest)
            snprintf(err->nearest, sizeof(err->nearest), "%s", nearest);
        free(names);
    }
    return -ENOENT;
}

int model_name_check(const char *name, struct error *err)
{
    if (model_name_valid(name))
        return 0;
    return error_set(err, -EINVAL, "model",
                     "a model's name has 1 to %d characters of A-Z a-z 0-9 . _ - and does not start with a dot",
                     MODEL_NAME_BYTES - 1);
}

static int64_t to_ns(struct timespec t)
{
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int card_folder_version(struct card_folder *f, const char *name, struct file_version *ret_version, struct error *err)
{
    char file[FILE_NAME_BYTES];
    struct stat st;
    int rc = model_name_check(name, err);
    if (rc)
        return rc;
    snprintf(file, sizeof(file), "%s%s", name, suffix);
    if (fstatat(f->fd, file, &st, 0) || !S_ISREG(st.st_mode))
        return error_no_model(f, name, err);
    *ret_version = (struct file_version){st.st_dev, st.st_ino, st.st_size, to_ns(st.st_mtim), to_ns(st.st_ctim)};
    return 0;
}

static json_t *classes_json(const struct data_config *d)
{
    json_t *list = json_array();
    for (int32_t i = 0; list && i < d->n_classes; i++)
        json_array_append_new(list, json_string(d->classes[i]));
    return list;
}

static json_t *card_json(const struct checkpoint *c, int64_t bytes)
{
    json_t *training = c->training ? json_deep_copy(c->training) : json_null();
    return json_pack("{s:I, s:I, s:o, s:[i,i], s:s, s:i, s:s, s:o}", "bytes", (json_int_t)bytes, "parameters",
                     (json_int_t)model_config_parameters(&c->model), "classes", classes_json(&c->data), "image_size",
                     (int)c->data.height, (int)c->data.width, "mode", c->data.channels == 1 ? "L" : "RGB", "T",
                     (int)c->diffusion.T, "digest", c->digest, "training", training);
}

/* Takes json. */
static void remember(struct card_folder *f, const char *name, const struct file_version *version, json_t *json)
{
    pthread_mutex_lock(&f->lock);
    struct card *c = f->cards;
    while (c && strcmp(c->name, name))
        c = c->next;
    if (!c && (c = calloc(1, sizeof(*c)))) {
        snprintf(c->name, sizeof(c->name), "%s", name);
        c->next = f->cards;
        f->cards = c;
    }
    if (c) {
        json_decref(c->json);
        c->json = json;
        c->version = *version;
    } else {
        json_decref(json);
    }
    pthread_mutex_unlock(&f->lock);
}

static json_t *recall(struct card_folder *f, const char *name, const struct file_version *version)
{
    json_t *copy = NULL;
    pthread_mutex_lock(&f->lock);
    for (struct card *c = f->cards; c; c = c->next)
        if (!strcmp(c->name, name) && file_version_equal(&c->version, version))
            copy = json_deep_copy(c->json);
    pthread_mutex_unlock(&f->lock);
    return copy;
}

int card_folder_checkpoint(struct card_folder *f, const char *name, struct file_version *ret_version,
                           struct checkpoint *ret_checkpoint, struct error *err)
{
    char file[FILE_NAME_BYTES];
    struct file_version version, after;
    struct checkpoint c = {0};
    int rc = card_folder_version(f, name, &version, err);
    if (rc)
        return rc;
    snprintf(file, sizeof(file), "%s%s", name, suffix);
    rc = checkpoint_open(f->fd, file, &c, err);
    if (rc == -ENOENT)
        return error_no_model(f, name, err);
    if (rc)
        return rc;
    /* Replaced between the two: the version is not that of what was read; then it is read again at the next look. */
    if (card_folder_version(f, name, &after, NULL) || !file_version_equal(&version, &after))
        memset(&version, 0, sizeof(version));
    else
        remember(f, name, &version, card_json(&c, version.bytes));
    *ret_version = version;
    *ret_checkpoint = c;
    return 0;
}

int card_folder_card(struct card_folder *f, const char *name, json_t **ret_card, struct error *err)
{
    struct file_version version;
    struct checkpoint c;
    struct error why = {0};
    int rc = card_folder_version(f, name, &version, err);
    if (rc)
        return rc;
    json_t *card = recall(f, name, &version);
    if (card) {
        *ret_card = card;
        return 0;
    }
    rc = card_folder_checkpoint(f, name, &version, &c, &why);
    if (rc == 0) {
        card = card_json(&c, version.bytes);
        checkpoint_close(&c);
    } else if (rc != -ENOMEM) {
        card = json_pack("{s:I, s:s}", "bytes", (json_int_t)version.bytes, "error", why.message);
        if (rc == -EINVAL && card)
            remember(f, name, &version, json_deep_copy(card));
    }
    if (!card)
        return error_set(err, -ENOMEM, NULL, "no memory for the model's description");
    *ret_card = card;
    return 0;
}
