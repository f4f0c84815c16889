/* settings.c: see settings.h. */
#include "clients/ddimctl/settings.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int keep(char to[SETTINGS_TEXT_BYTES], const char *value, const char *from, struct error *err)
{
    if (strlen(value) >= SETTINGS_TEXT_BYTES)
        return error_set(err, -EINVAL, NULL, "%s is longer than %d characters", from, SETTINGS_TEXT_BYTES - 1);
    for (const char *c = value; *c; c++)
        if (iscntrl((unsigned char)*c))
            return error_set(err, -EINVAL, NULL, "%s has a control character", from);
    strcpy(to, value);
    return 0;
}

/* Only the owner should be able to read a file with a key. */
static bool is_open(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode) && (s.st_mode & (S_IRGRP | S_IROTH));
}

/* ---- files ---- */

static int read_member(const json_t *file, const char *path, const char *name, char to[SETTINGS_TEXT_BYTES],
                       struct error *err)
{
    char from[320];
    const json_t *value = json_object_get(file, name);
    if (!value)
        return 0;
    snprintf(from, sizeof(from), "%s in %.200s", name, path);
    if (!json_is_string(value))
        return error_set(err, -EINVAL, NULL, "%s must be a string", from);
    return keep(to, json_string_value(value), from, err);
}

static int read_file(const char *path, bool must_exist, struct settings *s, struct error *err)
{
    static const char *const known[] = {"url", "key", "ca", NULL};
    json_error_t why;
    const char *name;
    json_t *value;
    FILE *f = fopen(path, "re");
    if (!f)
        return errno == ENOENT && !must_exist
                   ? 0
                   : error_set(err, -errno, NULL, "%.200s cannot be opened: %s", path, strerror(errno));
    json_t *file = json_loadf(f, JSON_REJECT_DUPLICATES, &why);
    fclose(f);
    int rc = 0;
    if (!json_is_object(file))
        rc = error_set(err, -EINVAL, NULL, "%.200s is not a JSON object: %s (line %d)", path, file ? "" : why.text,
                       file ? 1 : why.line);
    json_object_foreach(file, name,
                        value) if (rc == 0 && strcmp(name, "url") && strcmp(name, "key") && strcmp(name, "ca"))
    {
        const char *nearest = error_nearest_name(name, known);
        rc = error_set(err, -EINVAL, NULL, "%.200s has an unknown key %.40s; known are url, key and ca%s%s", path, name,
                       nearest ? "; did you mean " : "", nearest ? nearest : "");
    }
    if (rc == 0)
        rc = read_member(file, path, "url", s->url, err);
    if (rc == 0)
        rc = read_member(file, path, "key", s->key, err);
    if (rc == 0)
        rc = read_member(file, path, "ca", s->ca, err);
    s->key_is_open = s->key[0] && is_open(path);
    json_decref(file);
    return rc;
}

static int read_settings_file(const char *given, struct settings *s, struct error *err)
{
    char path[SETTINGS_TEXT_BYTES];
    const char *base = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    if (given)
        return read_file(given, true, s, err);
    if (base && *base)
        snprintf(path, sizeof(path), "%s/ddimd/client.json", base);
    else if (home && *home)
        snprintf(path, sizeof(path), "%s/.config/ddimd/client.json", home);
    else
        return 0;
    return read_file(path, false, s, err);
}

static int read_key_file(const char *path, struct settings *s, struct error *err)
{
    char line[SETTINGS_TEXT_BYTES + 2] = "";
    FILE *f = fopen(path, "re");
    if (!f)
        return error_set(err, -errno, NULL, "the key file %.200s cannot be opened: %s", path, strerror(errno));
    bool any = fgets(line, sizeof(line), f) != NULL;
    fclose(f);
    line[strcspn(line, "\r\n")] = '\0';
    if (!any || !*line)
        return error_set(err, -EINVAL, NULL, "the key file %.200s has no key in its first line", path);
    s->key_is_open = is_open(path);
    return keep(s->key, line, "the key", err);
}

/* ---- in order ---- */

static int read_environment(struct settings *s, struct error *err)
{
    const struct {
        const char *name;
        char *to;
    } variables[] = {{"DDIMD_URL", s->url}, {"DDIMD_KEY", s->key}, {"DDIMD_CA", s->ca}};
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
        const char *value = getenv(variables[i].name);
        int rc = value && *value ? keep(variables[i].to, value, variables[i].name, err) : 0;
        if (rc)
            return rc;
        if (value && *value && variables[i].to == s->key)
            s->key_is_open = false;
    }
    return 0;
}

static int read_options(const struct arguments *a, struct settings *s, struct error *err)
{
    const char *url = argument(a, "url"), *key = argument(a, "key"), *ca = argument(a, "ca");
    const char *key_file = argument(a, "key-file");
    int rc = url ? keep(s->url, url, "--url", err) : 0;
    if (rc == 0 && ca)
        rc = keep(s->ca, ca, "--ca", err);
    if (rc == 0 && key_file)
        rc = read_key_file(key_file, s, err);
    if (rc == 0 && key) {
        rc = keep(s->key, key, "--key", err);
        s->key_is_open = false;
    }
    return rc;
}

/* "unix:/path" is the socket and a name for the Host header; a bare "host:8080" means http. */
static int split_url(struct settings *s, struct error *err)
{
    char text[SETTINGS_TEXT_BYTES];
    if (strncmp(s->url, "unix:", 5) == 0) {
        if (s->url[5] != '/')
            return error_set(err, -EINVAL, NULL,
                             "\"%.80s\" must name a socket by its whole path, as in unix:/run/ddimd.sock", s->url);
        strcpy(s->socket_path, s->url + 5);
        strcpy(s->url, "http://localhost");
        return 0;
    }
    if (!strstr(s->url, "://")) {
        snprintf(text, sizeof(text), "http://%.*s", (int)sizeof(text) - 8, s->url);
        strcpy(s->url, text);
    }
    if (strncmp(s->url, "http://", 7) && strncmp(s->url, "https://", 8))
        return error_set(err, -EINVAL, NULL,
                         "\"%.80s\" is no address of ddimd; http://HOST:PORT, https://HOST or unix:/PATH is", s->url);
    size_t n = strlen(s->url);
    while (n && s->url[n - 1] == '/')
        s->url[--n] = '\0';
    return 0;
}

int settings_read(const struct arguments *a, struct settings *ret_settings, struct error *err)
{
    struct settings s = {.url = "http://localhost:8080"};
    int rc = read_settings_file(argument(a, "config"), &s, err);
    if (rc == 0)
        rc = read_environment(&s, err);
    if (rc == 0)
        rc = read_options(a, &s, err);
    if (rc == 0)
        rc = split_url(&s, err);
    s.retries = (int)argument_number(a, "retries", 5);
    if (rc == 0 && s.retries > 100)
        rc = error_set(err, -EINVAL, NULL, "--retries is at most 100");
    if (rc == 0)
        *ret_settings = s;
    return rc;
}
