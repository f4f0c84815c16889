/* settings.h: the options that the HTTP interface goes by, with the files that they name. Any thread. */
#ifndef DDIMD_DAEMON_SETTINGS_H
#define DDIMD_DAEMON_SETTINGS_H

#include "api/api.h"
#include "api/tls.h"
#include "daemon/listen.h"
#include "daemon/options.h"

/* Loads keys and certificates. *ret_settings holds a reference to the keys, *ret_credentials is one (NULL without TLS).
 * 0 or a negative errno; err says which file is wrong where. */
int settings_load(const struct options *o, struct api_settings *ret_settings, struct tls_credentials **ret_credentials,
                  struct error *err);
struct listener_options settings_listener(const struct options *o);
/* Everything that can be said of the options without serving. 0 or a negative errno. */
int settings_check(const struct options *o, struct error *err);

#endif
