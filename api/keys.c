/* keys.c: see keys.h. The rate is a bucket of one minute's requests that fills steadily. */
#include "api/keys.h"

#include "api/routes.h"
#include "model/file.h"
#include "model/json_file.h"

#include <errno.h>
#include <nettle/base64.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

const char *const role_names[] = {"generate", "train", "admin", NULL};
static const char prefix[] = "ddim_";

#define AT(member) offsetof(struct key, member)
const struct json_field key_fields[] = {
    {"name", FIELD_STRING, AT(name), .item_bytes = KEY_NAME_BYTES, .required = true,
     .help = "names the key in the log and in errors: letters, digits, '.', '_', '-'"},
    {"sha256", FIELD_STRING, AT(sha256), .item_bytes = 2 * KEY_HASH_BYTES + 1, .required = true,
     .help = "SHA-256 of the key, in hexadecimal"},
    {"roles", FIELD_STRING_LIST, AT(roles), .item_bytes = 16, .min_items = 1, .max_items = 3,
     .count_offset = AT(n_roles), .help = "what it may do: generate, train, admin (everything)"},
    {"requests_per_minute", FIELD_INT32, AT(requests_per_minute), 0, 1000000, .help = "its rate; 0: no limit"},
    {"max_row_steps", FIELD_INT64, AT(max_row_steps), 0, 1e15,
     .help = "work of its requests that is left, at any time; 0: as max_client_row_steps says"},
    {0},
};
const struct key key_defaults = {.roles = {"generate"}, .n_roles = 1};

struct entry {
    struct key key;
    uint8_t hash[KEY_HASH_BYTES];
    double tokens;
    int64_t filled_ns; // 0: full
};

struct keys {
    atomic_int refs;
    pthread_mutex_t lock; // of what is used up
    int n;
    struct entry entries[];
};

/* ---- the secret ---- */

static void hash_of(const char *text, uint8_t ret_hash[KEY_HASH_BYTES])
{
    struct sha256_ctx c;
    sha256_init(&c);
    sha256_update(&c, strlen(text), (const uint8_t *)text);
    sha256_digest(&c, KEY_HASH_BYTES, ret_hash);
}

void key_hash(const char *text, char ret_hex[2 * KEY_HASH_BYTES + 1])
{
    sha256_hex(text, strlen(text), ret_hex);
}

int key_make(char ret_text[KEY_TEXT_BYTES])
{
    uint8_t bits[KEY_HASH_BYTES];
    char encoded[BASE64_ENCODE_LENGTH(sizeof(bits)) + BASE64_ENCODE_FINAL_LENGTH];
    struct base64_encode_ctx c;
    if (getrandom(bits, sizeof(bits), 0) != sizeof(bits))
        return -EIO;
    base64url_encode_init(&c);
    size_t n = base64_encode_update(&c, encoded, sizeof(bits), bits);
    n += base64_encode_final(&c, encoded + n);
    snprintf(ret_text, KEY_TEXT_BYTES, "%s%.43s", prefix, encoded); // without the padding
    return 0;
}

/* ---- the file ---- */

static int role_bit(const char *name)
{
    for (int i = 0; role_names[i]; i++)
        if (strcmp(name, role_names[i]) == 0)
            return 1 << i;
    return 0;
}

static int hash_read(struct entry *e, const char *path, struct error *err)
{
    char field[JSON_PATH_BYTES];
    const char *hex = e->key.sha256;
    if (strlen(hex) != 2 * KEY_HASH_BYTES || strspn(hex, "0123456789abcdef") != 2 * KEY_HASH_BYTES)
        return error_set(err, -EINVAL, json_path(field, path, "sha256"),
                         "must be 64 digits of hexadecimal, in lower case: the SHA-256 of the key");
    for (int i = 0; i < KEY_HASH_BYTES; i++) {
        char byte[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        e->hash[i] = (uint8_t)strtoul(byte, NULL, 16);
    }
    return 0;
}

static int entry_check(struct keys *k, struct entry *e, const char *path, struct error *err)
{
    char field[JSON_PATH_BYTES], item[JSON_PATH_BYTES];
    if (!route_is_name(e->key.name))
        return error_set(err, -EINVAL, json_path(field, path, "name"), "must be letters, digits, '.', '_', '-'");
    for (int i = 0; i < e->key.n_roles; i++)
        if (!role_bit(e->key.roles[i]))
            return json_error_choice(err, json_path_item(item, json_path(field, path, "roles"), (size_t)i),
                                     e->key.roles[i], role_names);
    int rc = hash_read(e, path, err);
    for (int i = 0; rc == 0 && i < k->n; i++) {
        if (strcmp(k->entries[i].key.name, e->key.name) == 0)
            return error_set(err, -EINVAL, json_path(field, path, "name"), "\"%s\" is there twice", e->key.name);
        if (memcmp(k->entries[i].hash, e->hash, KEY_HASH_BYTES) == 0)
            return error_set(err, -EINVAL, json_path(field, path, "sha256"), "is that of \"%s\", too",
                             k->entries[i].key.name);
    }
    return rc;
}

static int entries_read(const json_t *list, struct keys *k, struct error *err)
{
    char path[JSON_PATH_BYTES];
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct entry *e = &k->entries[k->n];
        *e = (struct entry){.key = key_defaults};
        json_path_item(path, "keys", i);
        int rc = json_fields_read(json_array_get(list, i), path, key_fields, &e->key, NULL, err);
        if (rc == 0)
            rc = entry_check(k, e, path, err);
        if (rc)
            return rc;
        k->n++;
    }
    return 0;
}

static int parse(const struct json_file *f, struct keys **ret_keys, struct error *err)
{
    const json_t *list = NULL;
    const struct json_field table[] = {{"keys", FIELD_JSON, 0, .required = true, .help = "the keys"}, {0}};
    int rc = json_file_read(f, table, &list, NULL, err);
    if (rc)
        return rc;
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > KEYS_MAX_COUNT) {
        error_set(err, -EINVAL, "keys", "must be a list of at most %d keys", KEYS_MAX_COUNT);
        return json_file_error(f, -EINVAL, err);
    }
    struct keys *k = calloc(1, sizeof(*k) + n * sizeof(k->entries[0]));
    if (!k)
        return error_set(err, -ENOMEM, "keys", "no memory for the keys");
    atomic_init(&k->refs, 1);
    pthread_mutex_init(&k->lock, NULL);
    rc = entries_read(list, k, err);
    if (rc) {
        keys_release(k);
        return json_file_error(f, rc, err);
    }
    *ret_keys = k;
    return 0;
}

int keys_load(const char *path, struct keys **ret_keys, struct error *err)
{
    struct json_file f = {0};
    struct stat st;
    int rc = json_file_open(path, "keys", &f, err);
    if (rc)
        return rc;
    if (stat(path, &st) == 0 && st.st_mode & S_IWOTH)
        rc = error_set(err, -EPERM, "keys", "everyone may write to %.200s: chmod o-w", path);
    else
        rc = parse(&f, ret_keys, err);
    json_file_done(&f);
    return rc;
}

/* ---- the table ---- */

void keys_retain(struct keys *k)
{
    atomic_fetch_add_explicit(&k->refs, 1, memory_order_relaxed);
}

void keys_release(struct keys *k)
{
    if (!k || atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&k->lock);
    free(k);
}

int keys_count(const struct keys *k)
{
    return k->n;
}

static struct entry *find(const struct keys *k, const uint8_t hash[KEY_HASH_BYTES])
{
    const struct entry *found = NULL;
    for (int i = 0; i < k->n; i++)
        if (memeql_sec(k->entries[i].hash, hash, KEY_HASH_BYTES))
            found = &k->entries[i]; // and on, so that all take as long
    return (struct entry *)found;
}

void keys_inherit(struct keys *k, struct keys *old)
{
    if (!old)
        return;
    pthread_mutex_lock(&old->lock);
    for (int i = 0; i < k->n; i++) {
        const struct entry *e = find(old, k->entries[i].hash);
        if (e) {
            k->entries[i].tokens = e->tokens;
            k->entries[i].filled_ns = e->filled_ns;
        }
    }
    pthread_mutex_unlock(&old->lock);
}

const struct key *keys_find(const struct keys *k, const char *text)
{
    uint8_t hash[KEY_HASH_BYTES];
    hash_of(text, hash);
    const struct entry *e = find(k, hash);
    return e ? &e->key : NULL;
}

unsigned key_roles(const struct key *key)
{
    unsigned roles = 0;
    for (int i = 0; i < key->n_roles; i++)
        roles |= (unsigned)role_bit(key->roles[i]);
    return roles & ROLE_ADMIN ? ROLE_GENERATE | ROLE_TRAIN | ROLE_ADMIN : roles;
}

int keys_spend(struct keys *k, const struct key *key, int64_t now_ns)
{
    struct entry *e = (struct entry *)key; // its first member
    double rate = key->requests_per_minute / 60.0, room = key->requests_per_minute;
    int wait_s = 0;
    if (key->requests_per_minute == 0)
        return 0;
    pthread_mutex_lock(&k->lock);
    double filled = e->filled_ns ? e->tokens + (double)(now_ns - e->filled_ns) / 1e9 * rate : room;
    e->tokens = filled < room ? filled : room;
    e->filled_ns = now_ns;
    if (e->tokens >= 1)
        e->tokens -= 1;
    else
        wait_s = (int)((1 - e->tokens) / rate) + 1;
    pthread_mutex_unlock(&k->lock);
    return wait_s;
}
