/* keygen.c: see keygen.h. */
#include "daemon/keygen.h"

#include "api/keys.h"
#include "model/file.h"
#include "model/json_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int usage(struct error *err)
{
    return error_set(err, -EINVAL, NULL,
                     "usage: ddimd keygen FILE --name NAME [--roles generate,train,admin] "
                     "[--requests-per-minute N] [--max-row-steps N]");
}

/* "--max-row-steps" -> the field max_row_steps, but for the hash, which is ours to make. */
static const struct json_field *field_of(const char *argument)
{
    char name[64];
    if (strncmp(argument, "--", 2) != 0)
        return NULL;
    snprintf(name, sizeof(name), "%s", argument + 2);
    for (char *c = name; *c; c++)
        if (*c == '-')
            *c = '_';
    return strcmp(name, "sha256") ? json_fields_find(key_fields, name) : NULL;
}

static int entry_make(int argc, char **argv, const char *hash, json_t **ret_entry, struct error *err)
{
    struct key key = key_defaults;
    json_t *entry = json_pack("{s[s] ss}", "roles", "generate", "sha256", hash);
    int rc = entry && argc % 2 == 0 ? 0 : usage(err);
    for (int i = 0; rc == 0 && i < argc; i += 2) {
        const struct json_field *f = field_of(argv[i]);
        if (!f)
            rc = usage(err);
        else if (json_object_set_new(entry, f->name, json_field_from_text(f, argv[i + 1])))
            rc = error_set(err, -EINVAL, f->name, "%s is not UTF-8", f->name);
    }
    if (rc == 0) {
        struct error inner = {0};
        rc = json_fields_read(entry, "", key_fields, &key, NULL, &inner);
        if (rc)
            error_set(err, rc, inner.field, "%s %s", inner.field, inner.message);
    }
    if (rc) {
        json_decref(entry);
        return rc;
    }
    *ret_entry = entry;
    return 0;
}

/* The file's object, with an empty list where there is no file. */
static int list_open(const char *path, json_t **ret_json, struct error *err)
{
    struct json_file f = {0};
    struct keys *keys = NULL;
    if (access(path, F_OK) && errno == ENOENT) {
        *ret_json = json_pack("{s[]}", "keys");
        return *ret_json ? 0 : error_set(err, -ENOMEM, NULL, "no memory");
    }
    int rc = keys_load(path, &keys, err); // what is there must be sound
    if (rc == 0)
        rc = json_file_open(path, "keys", &f, err);
    if (rc)
        return rc;
    *ret_json = json_incref(f.json);
    keys_release(keys);
    json_file_done(&f);
    return 0;
}

/* Writes the new file beside the old one, lets the daemon's own reader judge it, and only then puts it in place. */
static int list_write(const char *path, const json_t *json, struct error *err)
{
    char checked[4096];
    struct keys *keys = NULL;
    char *text = json_dumps(json, JSON_INDENT(2));
    if (!text || snprintf(checked, sizeof(checked), "%s.new", path) >= (int)sizeof(checked)) {
        free(text);
        return error_set(err, -EINVAL, NULL, "no memory, or the path is too long");
    }
    mode_t before = umask(0027);
    int rc = file_write(AT_FDCWD, checked, text, strlen(text), err);
    umask(before);
    free(text);
    if (rc == 0)
        rc = keys_load(checked, &keys, err);
    keys_release(keys);
    if (rc == 0 && rename(checked, path))
        rc = error_set(err, -errno, NULL, "%.200s cannot be written: %s", path, strerror(errno));
    if (rc)
        unlink(checked);
    return rc;
}

int keygen(int argc, char **argv, FILE *to, struct error *err)
{
    char text[KEY_TEXT_BYTES], hash[2 * KEY_HASH_BYTES + 1];
    json_t *json = NULL, *entry = NULL;
    if (argc < 1 || argv[0][0] == '-')
        return usage(err);
    int rc = key_make(text);
    if (rc)
        return error_set(err, rc, NULL, "no random numbers for a key");
    key_hash(text, hash);
    rc = entry_make(argc - 1, argv + 1, hash, &entry, err);
    if (rc == 0)
        rc = list_open(argv[0], &json, err);
    if (rc == 0 && json_array_append(json_object_get(json, "keys"), entry))
        rc = error_set(err, -ENOMEM, NULL, "no memory");
    if (rc == 0)
        rc = list_write(argv[0], json, err);
    json_decref(entry);
    json_decref(json);
    if (rc)
        return rc;
    fprintf(to, "%s\n", text);
    return fflush(to) ? error_set(err, -errno, NULL, "the key cannot be written out: %s", strerror(errno)) : 0;
}
