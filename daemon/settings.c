/* settings.c: see settings.h. */
#include "daemon/settings.h"

#include <assert.h>
#include <string.h>

static_assert((int)OPTION_MAX_ITEMS == (int)API_MAX_NAMES && (int)OPTION_ITEM_BYTES == (int)API_NAME_BYTES,
              "lists of names are copied as they are");

static void limits_fill(const struct options *o, struct api_settings *s)
{
    const int64_t mib = 1 << 20;
    int64_t queue = o->max_queue_row_steps, steps = o->max_row_steps;
    s->limits = (struct request_limits){.max_images = o->max_images,
                                        .max_row_steps = queue && queue < steps ? queue : steps,
                                        .max_result_bytes = o->max_result_mib * mib,
                                        .max_picture_bytes = o->max_picture_mib * mib};
    s->max_body_bytes = (size_t)o->max_body_kib * 1024;
    s->max_connections = (unsigned)o->max_connections;
    s->max_connections_each = (unsigned)o->max_connections_each;
    s->header_timeout_s = (unsigned)o->header_timeout_seconds;
    s->body_timeout_s = (unsigned)o->body_timeout_seconds;
    s->idle_timeout_s = (unsigned)o->idle_timeout_seconds;
}

int settings_load(const struct options *o, struct api_settings *ret_settings, struct tls_credentials **ret_credentials,
                  struct error *err)
{
    struct api_settings s = {.guard_operating = o->guard_operating, .n_hosts = o->n_hosts, .n_origins = o->n_origins};
    struct tls_credentials *credentials = NULL;
    limits_fill(o, &s);
    memcpy(s.hosts, o->hosts, sizeof(s.hosts));
    memcpy(s.origins, o->origins, sizeof(s.origins));
    int rc = o->keys[0] ? keys_load(o->keys, &s.keys, err) : 0;
    if (rc == 0 && o->tls_certificate[0])
        rc = tls_credentials_load(o->tls_certificate, o->tls_key, &credentials, err);
    if (rc) {
        keys_release(s.keys);
        return rc;
    }
    *ret_settings = s;
    *ret_credentials = credentials;
    return 0;
}

struct listener_options settings_listener(const struct options *o)
{
    return (struct listener_options){.has_keys = o->keys[0] != '\0', .secure = o->tls_certificate[0] != '\0'};
}

int settings_check(const struct options *o, struct error *err)
{
    struct api_settings s;
    struct tls_credentials *credentials;
    struct listener_options l = settings_listener(o);
    int rc = listener_check(o->listen, &l, err);
    if (rc == 0)
        rc = settings_load(o, &s, &credentials, err);
    if (rc)
        return rc;
    keys_release(s.keys);
    tls_credentials_release(credentials);
    return 0;
}
