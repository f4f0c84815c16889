/* settings.h: where the daemon is and who asks: from options, the environment, or a file, in this order. */
#ifndef DDIMCTL_SETTINGS_H
#define DDIMCTL_SETTINGS_H

#include "clients/ddimctl/arguments.h"

enum { SETTINGS_TEXT_BYTES = 1024 };

struct settings {
    char url[SETTINGS_TEXT_BYTES];         // without a slash at its end
    char socket_path[SETTINGS_TEXT_BYTES]; // of unix:/path, else ""
    char key[SETTINGS_TEXT_BYTES];         // "": none
    char ca[SETTINGS_TEXT_BYTES];          // "": the system's
    int retries;
    bool key_is_open; // the file that holds it can be read by others
};

/* 0, -EINVAL and the errno of files; err says which setting, from where. */
int settings_read(const struct arguments *a, struct settings *ret_settings, struct error *err);

#endif
