/* options.h: the daemon's options, as one table.
 *
 * It makes the command line's parser, --help, and the keys of the configuration file: --max-images on the command line
 * is "max_images" in the file. The command line wins.
 */
#ifndef DDIMD_DAEMON_OPTIONS_H
#define DDIMD_DAEMON_OPTIONS_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { OPTION_PATH_BYTES = 4096, OPTION_NAME_BYTES = 65 };
enum precision_option { PRECISION_AUTO, PRECISION_F32, PRECISION_BF16 };
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

enum { OPTION_MAX_ITEMS = 16, OPTION_ITEM_BYTES = 128 };

struct options {
    char listen[OPTION_PATH_BYTES], models[OPTION_PATH_BYTES];
    char keys[OPTION_PATH_BYTES], tls_certificate[OPTION_PATH_BYTES], tls_key[OPTION_PATH_BYTES]; // "": none
    char hosts[OPTION_MAX_ITEMS][OPTION_ITEM_BYTES], origins[OPTION_MAX_ITEMS][OPTION_ITEM_BYTES];
    int32_t n_hosts, n_origins;
    bool guard_operating;
    char default_model[OPTION_NAME_BYTES], backend[16], devices[128];
    enum precision_option precision;
    int32_t threads;
    int32_t max_images;
    int64_t max_row_steps;
    int32_t max_result_mib, max_picture_mib, max_body_kib;
    int32_t max_queue_images;
    int64_t max_queue_row_steps, max_client_row_steps;
    int32_t max_queue_mib, max_model_mib, max_rows;
    int32_t max_connections, max_connections_each, http_threads;
    int32_t header_timeout_seconds, body_timeout_seconds, idle_timeout_seconds, drain_seconds;
    enum log_level log_level;
    int log_format;                                                                         // enum log_format, of log.h
    char state[OPTION_PATH_BYTES], datasets[OPTION_PATH_BYTES], trainer[OPTION_PATH_BYTES]; // "": none, or as the help
                                                                                            // says
    int32_t job_threads, job_nice, job_grace_seconds, jobs_per_device;
};

/* What the command line asks for besides. */
enum command {
    COMMAND_RUN,
    COMMAND_CHECK_CONFIG,
    COMMAND_PRINT_CONFIG,
    COMMAND_CONFIG_SCHEMA,
    COMMAND_HELP,
    COMMAND_VERSION
};

/* Defaults, then the file that --config names, then the command line. 0, -EINVAL, -ENOENT (file), -EIO; err says what
 * is wrong where. */
int options_parse(int argc, char **argv, struct options *ret_options, enum command *ret_command, struct error *err);
void options_help(FILE *to);
/* A configuration file with every option, its default, and what it means as comments. */
void options_reference(FILE *to);
/* Takes from `wanted` what may change while the daemon runs. ret_names[bytes] gets the names of options that differ and
 * may not, "" for none. 0, -ENOMEM. */
int options_merge_live(struct options *o, const struct options *wanted, char *ret_names, size_t bytes);
/* The configuration file as JSON Schema: for editors, and for the manual pages. */
void options_schema(FILE *to);
/* In syslog's terms: LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG. */
int log_level_priority(enum log_level level);

#endif
