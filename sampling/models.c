/* models.c: which models are resident, under which name, and which is the default.
 *
 * An entry per name that was ever loaded. One thread loads an entry at a time, without the store's lock; others wait
 * for it, or, where an older version is resident, take that meanwhile. A file that cannot be loaded is not tried again
 * until it changes, while an older version serves.
 */
#include "sampling/cards.h"
#include "sampling/resident.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    char name[MODEL_NAME_BYTES];
    struct resident_model *resident; // the store's reference, or NULL
    struct file_version loaded;      // of resident
    struct file_version failed;      // that could not be loaded
    struct error failure;            // of the last load; code 0: it succeeded
    bool loading;
    uint64_t attempts, last_used;
    struct entry *next;
};

struct model_store {
    pthread_mutex_t lock;
    pthread_cond_t loaded;
    struct card_folder *folder;
    struct resident_options resident;
    size_t max_bytes;
    char default_name[MODEL_NAME_BYTES]; // "": the preferred or first
    const char *preferred;
    struct entry *entries;
    uint64_t uses;
};

int model_store_open(const struct model_store_options *o, struct device *const *devices, struct scheduler *s,
                     struct model_store **ret_store, struct error *err)
{
    struct model_store *m = calloc(1, sizeof(*m));
    if (!m)
        return error_set(err, -ENOMEM, NULL, "no memory");
    int rc = card_folder_open(o->folder, &m->folder, err);
    if (rc) {
        free(m);
        return rc;
    }
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->loaded, NULL);
    m->resident = (struct resident_options){devices, scheduler_n_devices(s), s, o->precision, o->max_rows, o->capacity};
    m->max_bytes = o->max_bytes;
    m->preferred = o->preferred;
    if (o->default_model)
        rc = model_store_set_default(m, o->default_model, err);
    if (rc)
        model_store_close(m);
    else
        *ret_store = m;
    return rc;
}

void model_store_close(struct model_store *m)
{
    if (!m)
        return;
    while (m->entries) {
        struct entry *e = m->entries;
        m->entries = e->next;
        model_release(e->resident);
        free(e);
    }
    card_folder_close(m->folder);
    pthread_cond_destroy(&m->loaded);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- names ---- */

static struct entry *entry_find(struct model_store *m, const char *name)
{
    struct entry *e = m->entries;
    while (e && strcmp(e->name, name))
        e = e->next;
    return e;
}

static struct entry *entry_get(struct model_store *m, const char *name)
{
    struct entry *e = entry_find(m, name);
    if (!e && (e = calloc(1, sizeof(*e)))) {
        snprintf(e->name, sizeof(e->name), "%s", name);
        e->next = m->entries;
        m->entries = e;
    }
    return e;
}

void model_store_default(struct model_store *m, char ret_name[MODEL_NAME_BYTES])
{
    char **names = NULL;
    pthread_mutex_lock(&m->lock);
    memcpy(ret_name, m->default_name, MODEL_NAME_BYTES);
    pthread_mutex_unlock(&m->lock);
    if (!ret_name[0] && card_folder_names(m->folder, &names) == 0) {
        int i = 0;
        while (names[i] && m->preferred && strcmp(names[i], m->preferred))
            i++;
        const char *name = m->preferred && names[i] ? names[i] : names[0];
        snprintf(ret_name, MODEL_NAME_BYTES, "%s", name ? name : "");
        free(names);
    }
}

/* name, or the default's. */
static int resolve(struct model_store *m, const char *name, char ret_name[MODEL_NAME_BYTES], struct error *err)
{
    if (!name) {
        model_store_default(m, ret_name);
        return ret_name[0] ? 0 : error_set(err, -ENOENT, "model", "there is no model in the models folder");
    }
    int rc = model_name_check(name, err);
    if (rc == 0)
        snprintf(ret_name, MODEL_NAME_BYTES, "%s", name);
    return rc;
}

int model_store_set_default(struct model_store *m, const char *name, struct error *err)
{
    struct file_version version;
    int rc = card_folder_version(m->folder, name, &version, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->lock);
    snprintf(m->default_name, sizeof(m->default_name), "%s", name);
    pthread_mutex_unlock(&m->lock);
    return 0;
}

/* ---- room ---- */

static size_t resident_bytes(const struct model_store *m)
{
    size_t bytes = 0;
    for (const struct entry *e = m->entries; e; e = e->next)
        bytes += e->resident ? e->resident->bytes : 0;
    return bytes;
}

/* Drops least recently used idle models until so much more fits. False: it does not. Lock held. */
static bool make_room(struct model_store *m, size_t bytes)
{
    while (m->max_bytes && resident_bytes(m) + bytes > m->max_bytes) {
        struct entry *oldest = NULL;
        for (struct entry *e = m->entries; e; e = e->next)
            if (e->resident && !e->loading && resident_references(e->resident) == 1 &&
                (!oldest || e->last_used < oldest->last_used))
                oldest = e;
        if (!oldest)
            return false;
        model_release(oldest->resident);
        oldest->resident = NULL;
    }
    return true;
}

/* ---- loading ---- */

/* The file's model onto the device. Without the lock. */
static int load_file(struct model_store *m, const char *name, struct file_version *ret_version,
                     struct resident_model **ret_model, struct error *err)
{
    struct checkpoint c;
    int rc = card_folder_checkpoint(m->folder, name, ret_version, &c, err);
    if (rc)
        return rc;
    pthread_mutex_lock(&m->lock);
    make_room(m, (size_t)model_config_parameters(&c.model) * 2); // weights at least; the rest is known afterwards
    pthread_mutex_unlock(&m->lock);
    rc = resident_load(&m->resident, name, &c, ret_model, err);
    checkpoint_close(&c);
    return rc;
}

/* Loads the entry's file and puts it in place of what was resident. Lock held, released meanwhile. */
static int load_entry(struct model_store *m, struct entry *e, const struct file_version *wanted, struct error *err)
{
    struct file_version version = *wanted;
    struct resident_model *r = NULL;
    struct error why = {0};
    e->loading = true;
    pthread_mutex_unlock(&m->lock);
    int rc = load_file(m, e->name, &version, &r, &why);
    pthread_mutex_lock(&m->lock);
    size_t replaced = e->resident ? e->resident->bytes : 0;
    if (rc == 0 && !make_room(m, r->bytes > replaced ? r->bytes - replaced : 0)) {
        rc = error_set(&why, -ENOMEM, "model", "%zu bytes for the model do not fit the limit of %zu", r->bytes,
                       m->max_bytes);
        model_release(r);
    }
    if (rc == 0) {
        model_release(e->resident);
        e->resident = r;
        e->loaded = version;
    } else {
        e->failed = version;
    }
    e->failure = why;
    e->failure.code = rc;
    e->loading = false;
    e->attempts++;
    pthread_cond_broadcast(&m->loaded);
    if (rc && err)
        *err = why;
    return rc;
}

/* Nothing is resident, and this version of the file has been found to be bad: it is not read again. Lock held. */
static bool known_bad(const struct entry *e, const struct file_version *version)
{
    int code = e->failure.code;
    return !e->resident && !e->loading && file_version_equal(&e->failed, version) &&
           (code == -EINVAL || code == -ENOTSUP || code == -ERANGE);
}

/* Is what is resident good enough, or must it be loaded? Lock held. */
static bool usable(const struct entry *e, bool file_exists, const struct file_version *version, bool strict)
{
    if (!e->resident)
        return false;
    if (!file_exists || file_version_equal(&e->loaded, version))
        return true;
    return !strict && (e->loading || file_version_equal(&e->failed, version));
}

static struct resident_model *use(struct model_store *m, struct entry *e)
{
    e->last_used = ++m->uses;
    model_retain(e->resident);
    return e->resident;
}

/* One thread loads, the others wait and share its answer. *ret_again: it went well, but what was loaded was unloaded
 * again before this thread woke up. Lock held. */
static int load_or_wait(struct model_store *m, struct entry *e, const struct file_version *version, bool *ret_again,
                        struct error *err)
{
    if (!e->loading)
        return load_entry(m, e, version, err); // returns with the lock held: nobody unloads it
    for (uint64_t attempt = e->attempts; e->loading && e->attempts == attempt;)
        pthread_cond_wait(&m->loaded, &m->lock);
    *ret_again = !e->failure.code && !e->resident;
    if (e->failure.code && err)
        *err = e->failure;
    return e->failure.code;
}

/* Until e holds what is wanted, or it cannot. Each pass waits for a load by another or ends. Lock held. */
static int entry_make_resident(struct model_store *m, struct entry *e, bool file_exists,
                               const struct file_version *version, bool strict, struct error *err)
{
    int rc = 0;
    for (bool again = true; again && rc == 0;) {
        again = false;
        if (!strict && known_bad(e, version)) {
            rc = e->failure.code;
            if (err)
                *err = e->failure;
        } else if (!usable(e, file_exists, version, strict)) {
            rc = load_or_wait(m, e, version, &again, err);
        }
    }
    return rc && !strict && e->resident ? 0 : rc; // the older version serves on
}

static int acquire(struct model_store *m, const char *wanted, bool strict, struct resident_model **ret_model,
                   struct error *err)
{
    char name[MODEL_NAME_BYTES];
    struct file_version version = {0};
    struct error missing = {0};
    int rc = resolve(m, wanted, name, err);
    if (rc)
        return rc;
    int found = card_folder_version(m->folder, name, &version, &missing);
    pthread_mutex_lock(&m->lock);
    struct entry *e = found == 0 ? entry_get(m, name) : entry_find(m, name);
    if (found != 0 && (!e || !e->resident)) {
        rc = found;
        if (err)
            *err = missing;
    } else if (!e) {
        rc = error_set(err, -ENOMEM, NULL, "no memory");
    } else {
        rc = entry_make_resident(m, e, found == 0, &version, strict, err);
    }
    if (rc == 0)
        *ret_model = use(m, e);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int model_store_acquire(struct model_store *m, const char *name, struct resident_model **ret_model, struct error *err)
{
    return acquire(m, name, false, ret_model, err);
}

int model_store_load(struct model_store *m, const char *name, struct resident_model **ret_model, struct error *err)
{
    return acquire(m, name, true, ret_model, err);
}

struct resident_model *model_store_resident(struct model_store *m, const char *name)
{
    char resolved[MODEL_NAME_BYTES];
    if (resolve(m, name, resolved, NULL))
        return NULL;
    pthread_mutex_lock(&m->lock);
    struct entry *e = entry_find(m, resolved);
    struct resident_model *r = e && e->resident ? use(m, e) : NULL;
    pthread_mutex_unlock(&m->lock);
    return r;
}

int model_store_unload(struct model_store *m, const char *name, struct error *err)
{
    struct file_version version;
    struct error missing = {0};
    int found = card_folder_version(m->folder, name, &version, &missing);
    pthread_mutex_lock(&m->lock);
    struct entry *e = entry_find(m, name);
    struct resident_model *r = e ? e->resident : NULL;
    if (e)
        e->resident = NULL;
    pthread_mutex_unlock(&m->lock);
    model_release(r);
    if (found && !r && err)
        *err = missing;
    return found && !r ? found : 0;
}

/* ---- descriptions ---- */

static void describe_resident(const struct resident_model *r, json_t *object)
{
    json_t *times = json_array();
    for (int32_t i = 0; times && i < r->n_measured; i++)
        json_array_append_new(
            times, json_pack("{s:i, s:f}", "rows", (int)r->measured_rows[i], "seconds", r->measured_seconds[i]));
    json_object_set_new(object, "device_bytes", json_integer((json_int_t)r->bytes));
    json_object_set_new(object, "resident_digest", json_string(r->digest));
    json_object_set_new(object, "precision", json_string(r->precision == DTYPE_BF16 ? "bf16" : "f32"));
    json_object_set_new(object, "max_rows", json_integer(r->max_rows));
    json_object_set_new(object, "lanes", json_integer(r->capacity));
    json_object_set_new(object, "step_times", times);
}

/* card's keys behind name, default and resident. Takes card. */
static json_t *describe(struct model_store *m, const char *name, json_t *card)
{
    char default_name[MODEL_NAME_BYTES];
    model_store_default(m, default_name);
    pthread_mutex_lock(&m->lock);
    struct entry *e = entry_find(m, name);
    struct resident_model *r = e && e->resident ? e->resident : NULL;
    json_t *object =
        json_pack("{s:s, s:b, s:b}", "name", name, "default", !strcmp(name, default_name), "resident", r != NULL);
    if (object) {
        json_object_update(object, card);
        if (r)
            describe_resident(r, object);
        if (e && e->failure.code && e->failure.message[0])
            json_object_set_new(object, "error", json_string(e->failure.message));
    }
    pthread_mutex_unlock(&m->lock);
    json_decref(card);
    return object;
}

json_t *model_store_describe(struct model_store *m, const char *name, struct error *err)
{
    json_t *card = NULL;
    if (card_folder_card(m->folder, name, &card, err))
        return NULL;
    json_t *object = describe(m, name, card);
    if (!object)
        error_set(err, -ENOMEM, NULL, "no memory");
    return object;
}

json_t *model_store_list(struct model_store *m)
{
    char **names = NULL;
    json_t *list = card_folder_names(m->folder, &names) == 0 ? json_array() : NULL;
    for (char **name = names; list && *name; name++) {
        json_t *object = model_store_describe(m, *name, NULL);
        if (object) // else it went away meanwhile
            json_array_append_new(list, object);
    }
    free(names);
    return list;
}

size_t model_store_bytes(struct model_store *m)
{
    pthread_mutex_lock(&m->lock);
    size_t bytes = resident_bytes(m);
    pthread_mutex_unlock(&m->lock);
    return bytes;
}
