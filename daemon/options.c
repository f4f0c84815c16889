/* options.c: see options.h. */
#include "daemon/options.h"

#include "model/json_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

static const char *const precision_names[] = {"auto", "f32", "bf16", NULL};
static const char *const log_level_names[] = {"error", "warning", "info", "debug", NULL};
static const char *const log_format_names[] = {"text", "json", NULL};

#define AT(member) offsetof(struct options, member)
static const struct json_field option_fields[] = {
    {"listen", FIELD_STRING, AT(listen), .item_bytes = OPTION_PATH_BYTES,
     .help =
         "address to serve: 127.0.0.1:PORT, [::1]:PORT (port 0: any that is free), unix:/path, or with keys any other"},
    {"keys", FIELD_STRING, AT(keys), .item_bytes = OPTION_PATH_BYTES, .live = true,
     .help = "file of keys (ddimd keygen); empty: none is needed, and only loopback and unix sockets are served"},
    {"guard_operating", FIELD_BOOL, AT(guard_operating), .live = true,
     .help = "with keys: the page, /healthz, /readyz, /metrics, /version and /openapi.json ask for one, too"},
    {"tls_certificate", FIELD_STRING, AT(tls_certificate), .item_bytes = OPTION_PATH_BYTES, .live = true,
     .help = "PEM file with the certificate and its chain: HTTPS is served; empty: HTTP is"},
    {"tls_key", FIELD_STRING, AT(tls_key), .item_bytes = OPTION_PATH_BYTES, .live = true,
     .help = "PEM file with the certificate's key"},
    {"hosts", FIELD_STRING_LIST, AT(hosts), .item_bytes = OPTION_ITEM_BYTES, .max_items = OPTION_MAX_ITEMS,
     .count_offset = AT(n_hosts), .live = true,
     .help = "names that the daemon answers to, besides addresses, localhost and names without a dot; with keys and "
             "without a list: every name"},
    {"origins", FIELD_STRING_LIST, AT(origins), .item_bytes = OPTION_ITEM_BYTES, .max_items = OPTION_MAX_ITEMS,
     .count_offset = AT(n_origins), .live = true,
     .help = "other sites whose pages may use the daemon (CORS), as https://lab.example"},
    {"models", FIELD_STRING, AT(models), .item_bytes = OPTION_PATH_BYTES, .help = "folder of model files"},
    {"default_model", FIELD_STRING, AT(default_model), .item_bytes = OPTION_NAME_BYTES, .live = true,
     .help = "model that requests get which name none; empty: digits where there is one, else the first by name"},
    {"backend", FIELD_STRING, AT(backend), .item_bytes = 16, .help = "auto, cpu or cuda"},
    {"devices", FIELD_STRING, AT(devices), .item_bytes = 128,
     .help =
         "devices that share the queue, of one kind: cpu:0,cpu:1 (a share of the cores each); empty: one of --backend"},
    {"precision", FIELD_ENUM, AT(precision), .names = precision_names,
     .help = "numbers to compute with: auto (what the device does best), f32 or bf16"},
    {"threads", FIELD_INT32, AT(threads), 0, 1024, .help = "threads of a CPU device; 0: one for each core"},
    {"max_images", FIELD_INT32, AT(max_images), 1, 65536, .live = true, .help = "images of one request"},
    {"max_row_steps", FIELD_INT64, AT(max_row_steps), 1, 1e12, .live = true,
     .help = "work of one request: images times steps, twice that with guidance"},
    {"max_result_mib", FIELD_INT32, AT(max_result_mib), 1, 65536, .live = true,
     .help = "MiB of the results of one request, in f32"},
    {"max_picture_mib", FIELD_INT32, AT(max_picture_mib), 1, 4096, .live = true,
     .help = "MiB of the finished picture, uncompressed"},
    {"max_body_kib", FIELD_INT32, AT(max_body_kib), 1, 1048576, .live = true, .help = "KiB of a request's body"},
    {"max_queue_images", FIELD_INT32, AT(max_queue_images), 0, 1e9,
     .help = "images of all requests queued and running; 0: no limit"},
    {"max_queue_row_steps", FIELD_INT64, AT(max_queue_row_steps), 0, 1e15,
     .help = "their work that is left; 0: no limit"},
    {"max_client_row_steps", FIELD_INT64, AT(max_client_row_steps), 0, 1e15,
     .help = "work that is left of one client; 0: no limit"},
    {"max_queue_mib", FIELD_INT32, AT(max_queue_mib), 0, 1048576, .help = "MiB of their results; 0: no limit"},
    {"max_model_mib", FIELD_INT32, AT(max_model_mib), 0, 1048576,
     .help = "MiB of resident models, beyond which idle ones are unloaded; 0: no limit"},
    {"max_rows", FIELD_INT32, AT(max_rows), 0, 4096, .help = "batch rows of one step; 0: by measurement"},
    {"max_connections", FIELD_INT32, AT(max_connections), 1, 65536, .live = true, .help = "open connections"},
    {"max_connections_each", FIELD_INT32, AT(max_connections_each), 0, 65536, .live = true,
     .help = "open connections of one address; 0: no limit"},
    {"http_threads", FIELD_INT32, AT(http_threads), 1, 64, .help = "threads that serve connections"},
    {"header_timeout_seconds", FIELD_INT32, AT(header_timeout_seconds), 1, 86400, .live = true,
     .help = "for a request's header to arrive, and for a TLS handshake"},
    {"body_timeout_seconds", FIELD_INT32, AT(body_timeout_seconds), 1, 86400, .live = true,
     .help = "for a request's body to arrive, and a second more for each KiB of it"},
    {"idle_timeout_seconds", FIELD_INT32, AT(idle_timeout_seconds), 1, 86400, .live = true,
     .help = "after which a connection without a request is closed, and one that takes no more of its answer"},
    {"drain_seconds", FIELD_INT32, AT(drain_seconds), 0, 86400, .live = true,
     .help = "how long requests under way may take to end after SIGTERM"},
    {"log_level", FIELD_ENUM, AT(log_level), .names = log_level_names, .live = true,
     .help = "error, warning, info or debug"},
    {"log_format", FIELD_ENUM, AT(log_format), .names = log_format_names,
     .help = "text (with fields where the journal is) or json, one object for each line"},
    {"state", FIELD_STRING, AT(state), .item_bytes = OPTION_PATH_BYTES,
     .help = "folder of jobs and all that they produce; empty: this daemon runs no jobs"},
    {"datasets", FIELD_STRING, AT(datasets), .item_bytes = OPTION_PATH_BYTES,
     .help = "folder that the data sets of jobs lie in; empty: `datasets` in the folder of jobs"},
    {"trainer", FIELD_STRING, AT(trainer), .item_bytes = OPTION_PATH_BYTES,
     .help = "program that trains; empty: ddimd-train beside this program"},
    {"job_threads", FIELD_INT32, AT(job_threads), 0, 1024, .help = "compute threads of a job; 0: one for each core"},
    {"job_nice", FIELD_INT32, AT(job_nice), 0, 19,
     .help = "niceness of jobs; 19: they run only where nobody else wants the core"},
    {"job_grace_seconds", FIELD_INT32, AT(job_grace_seconds), 1, 86400,
     .help = "how long a cancelled job may take to write its checkpoint"},
    {"jobs_per_device", FIELD_INT32, AT(jobs_per_device), 1, 64, .help = "jobs that run at once on one device"},
    {0},
};

static const struct options option_defaults = {
    .listen = "127.0.0.1:8080",
    .models = "share/models",
    .backend = "auto",
    .max_images = 256,
    .max_row_steps = 1000000,
    .max_result_mib = 256,
    .max_picture_mib = 128,
    .max_body_kib = 16384,
    .max_queue_images = 4096,
    .max_queue_row_steps = 4000000,
    .max_queue_mib = 1024,
    .max_connections = 1024,
    .max_connections_each = 512,
    .http_threads = 2,
    .header_timeout_seconds = 10,
    .body_timeout_seconds = 30,
    .idle_timeout_seconds = 60,
    .drain_seconds = 60,
    .log_level = LOG_LEVEL_INFO,
    .job_nice = 19,
    .job_grace_seconds = 60,
    .jobs_per_device = 1,
};

/* ---- the file ---- */

static int file_apply(const char *path, struct options *o, struct error *err)
{
    struct json_file f = {0};
    int rc = json_file_open(path, "config", &f, err);
    if (rc == 0)
        rc = json_file_read(&f, option_fields, o, NULL, err);
    json_file_done(&f);
    return rc;
}

/* ---- the command line ---- */

/* "max_images" -> "--max-images" */
static const char *dashed(const char *name, char buffer[64])
{
    snprintf(buffer, 64, "--%s", name);
    for (char *c = buffer; *c; c++)
        if (*c == '_')
            *c = '-';
    return buffer;
}

static int unknown_option(const char *argument, struct error *err)
{
    static const char *const others[] = {"--config",        "--check-config", "--print-config",
                                         "--config-schema", "--help",         "--version"};
    char names[JSON_MAX_FIELDS][64];
    const char *list[JSON_MAX_FIELDS + 7], *nearest;
    int n = 0;
    for (; option_fields[n].name; n++)
        list[n] = dashed(option_fields[n].name, names[n]);
    for (int i = 0; i < 6; i++)
        list[n++] = others[i];
    list[n] = NULL;
    nearest = error_nearest_name(argument, list);
    error_set(err, -EINVAL, NULL, "unknown option %.64s%s%s%s", argument, nearest ? "; did you mean " : "",
              nearest ? nearest : "", nearest ? "?" : "");
    snprintf(err->nearest, sizeof(err->nearest), "%s", nearest ? nearest : "");
    return -EINVAL;
}

static const struct json_field *option_find(const char *argument)
{
    char name[64];
    for (const struct json_field *f = option_fields; f->name; f++) {
        size_t n = strlen(dashed(f->name, name));
        if (strncmp(argument, name, n) == 0 && (argument[n] == '\0' || argument[n] == '='))
            return f;
    }
    return NULL;
}

/* Sets one option from its text by way of a JSON object with this one key, as a file would. */
static int option_set(const struct json_field *f, const char *value, struct options *o, struct error *err)
{
    char name[64];
    json_t *json = json_object();
    int rc = json_object_set_new(json, f->name, json_field_from_text(f, value))
                 ? error_set(err, -EINVAL, f->name, "is not UTF-8")
                 : json_fields_read(json, "", option_fields, o, NULL, err);
    json_decref(json);
    if (rc) {
        struct error inner = *err;
        error_set(err, rc, f->name, "%s %s", dashed(f->name, name), inner.message);
        snprintf(err->nearest, sizeof(err->nearest), "%s", inner.nearest);
    }
    return rc;
}

/* The value of "--name=value" or "--name value"; NULL where there is none. */
static const char *option_value(int argc, char **argv, int *i)
{
    const char *equals = strchr(argv[*i], '=');
    if (equals)
        return equals + 1;
    return *i + 1 < argc ? argv[++*i] : NULL;
}

static bool is_option(const char *argument, const char *name)
{
    size_t n = strlen(name);
    return strncmp(argument, name, n) == 0 && (argument[n] == '\0' || argument[n] == '=');
}

/* One pass over the arguments: the file's name and commands at first, then the options. */
static int arguments_read(int argc, char **argv, struct options *o, const char **ret_config, enum command *ret_command,
                          struct error *err)
{
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i], *value;
        if (!strcmp(argument, "--check-config")) {
            *ret_command = COMMAND_CHECK_CONFIG;
        } else if (!strcmp(argument, "--print-config")) {
            *ret_command = COMMAND_PRINT_CONFIG;
        } else if (!strcmp(argument, "--config-schema")) {
            *ret_command = COMMAND_CONFIG_SCHEMA;
        } else if (!strcmp(argument, "--help") || !strcmp(argument, "-h")) {
            *ret_command = COMMAND_HELP;
        } else if (!strcmp(argument, "--version")) {
            *ret_command = COMMAND_VERSION;
        } else {
            const struct json_field *f = option_find(argument);
            bool config = is_option(argument, "--config");
            if (!f && !config)
                return unknown_option(argument, err);
            value = option_value(argc, argv, &i);
            if (!value)
                return error_set(err, -EINVAL, f ? f->name : "config", "%.64s needs a value", argument);
            if (config)
                *ret_config = value;
            int rc = config || !o ? 0 : option_set(f, value, o, err);
            if (rc)
                return rc;
        }
    }
    return 0;
}

static int values_check(const struct options *o, struct error *err)
{
    if (!o->tls_certificate[0] != !o->tls_key[0])
        return error_set(err, -EINVAL, o->tls_key[0] ? "tls_certificate" : "tls_key",
                         "tls_certificate and tls_key belong together: one of them is missing");
    static const char *const backends[] = {"auto", "cpu", "cuda", NULL};
    for (int i = 0; backends[i]; i++)
        if (!strcmp(o->backend, backends[i]))
            return 0;
    return json_error_choice(err, "backend", o->backend, backends);
}

int options_parse(int argc, char **argv, struct options *ret_options, enum command *ret_command, struct error *err)
{
    struct options o = option_defaults;
    const char *config = NULL;
    enum command command = COMMAND_RUN;
    int rc = arguments_read(argc, argv, NULL, &config, &command, err);
    if (rc == 0 && config && command != COMMAND_HELP && command != COMMAND_VERSION)
        rc = file_apply(config, &o, err);
    if (rc == 0)
        rc = arguments_read(argc, argv, &o, &config, &command, err);
    if (rc == 0)
        rc = values_check(&o, err);
    if (rc)
        return rc;
    *ret_options = o;
    *ret_command = command;
    return 0;
}

int log_level_priority(enum log_level level)
{
    static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
    return priorities[level];
}

static const char *argument_of(const struct json_field *f)
{
    switch (f->kind) {
    case FIELD_BOOL:
        return "BOOL";
    case FIELD_ENUM:
        return "NAME";
    case FIELD_STRING:
        return "TEXT";
    case FIELD_STRING_LIST:
        return "LIST";
    default:
        return "N";
    }
}

void options_help(FILE *to)
{
    json_t *defaults = json_fields_write(option_fields, &option_defaults);
    fputs("Usage: ddimd [OPTION]...\n       ddimd keygen FILE --name NAME [--roles ROLE,...]\n\n", to);
    fputs("Serves diffusion models over HTTP. keygen adds a key to a file of keys and prints it, once.\n\n", to);
    fputs("  --config FILE\n        JSON object with the options below as keys, '_' in place of '-'\n", to);
    fputs("  --check-config\n        reads the configuration, says what is wrong with it, and ends\n", to);
    fputs("  --print-config\n        prints a configuration file with every option and its default, and ends\n", to);
    fputs("  --config-schema\n        prints the configuration's keys as JSON Schema, and ends\n", to);
    fputs("  --help, --version\n", to);
    for (const struct json_field *f = option_fields; f->name; f++) {
        char name[64];
        char *value = json_dumps(json_object_get(defaults, f->name), JSON_ENCODE_ANY);
        fprintf(to, "  %s %s\n        %s", dashed(f->name, name), argument_of(f), f->help);
        if (value)
            fprintf(to, " [%s]%s", value, f->live ? " (SIGHUP)" : "");
        fputs("\n", to);
        free(value);
    }
    json_decref(defaults);
}

/* The text as lines of a comment, cut between words. */
static void comment_write(FILE *to, const char *text)
{
    enum { WIDTH = 110 };
    while (*text) {
        int n = (int)strlen(text);
        if (n > WIDTH)
            for (n = WIDTH; n > 1 && text[n] != ' ';)
                n--;
        fprintf(to, "  // %.*s\n", n, text);
        text += n;
        while (*text == ' ')
            text++;
    }
}

/* What may stand there, beyond what the help says. */
static void range_write(FILE *to, const struct json_field *f)
{
    if (f->min != f->max)
        fprintf(to, "  // from %.0f to %.0f%s\n", f->min, f->max, f->live ? "; read again by SIGHUP" : "");
    else if (f->live)
        fputs("  // read again by SIGHUP\n", to);
}

void options_reference(FILE *to)
{
    json_t *defaults = json_fields_write(option_fields, &option_defaults);
    fputs("// Every option of ddimd with its default. In ddimd.json, unlike elsewhere in JSON, // begins a comment.\n"
          "// Made by: ddimd --print-config\n{\n",
          to);
    for (const struct json_field *f = option_fields; f->name; f++) {
        char *value = json_dumps(json_object_get(defaults, f->name), JSON_ENCODE_ANY);
        comment_write(to, f->help);
        range_write(to, f);
        fprintf(to, "  \"%s\": %s%s\n", f->name, value ? value : "null", f[1].name ? ",\n" : "");
        free(value);
    }
    fputs("}\n", to);
    json_decref(defaults);
}

int options_merge_live(struct options *o, const struct options *wanted, char *ret_names, size_t bytes)
{
    json_t *now = json_fields_write(option_fields, o), *then = json_fields_write(option_fields, wanted);
    size_t used = 0;
    ret_names[0] = '\0';
    int rc = now && then ? 0 : -ENOMEM;
    for (const struct json_field *f = option_fields; rc == 0 && f->name; f++) {
        json_t *value = json_object_get(then, f->name);
        if (f->live)
            rc = json_object_set(now, f->name, value) ? -ENOMEM : 0;
        else if (!json_equal(json_object_get(now, f->name), value) && used < bytes)
            used += (size_t)snprintf(ret_names + used, bytes - used, "%s%s", used ? ", " : "", f->name);
    }
    if (rc == 0)
        rc = json_fields_read(now, "", option_fields, o, NULL, NULL);
    json_decref(now);
    json_decref(then);
    return rc;
}

void options_schema(FILE *to)
{
    json_t *schema = json_fields_schema(option_fields, &option_defaults);
    if (schema)
        json_dumpf(schema, to, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    fputs("\n", to);
    json_decref(schema);
}
