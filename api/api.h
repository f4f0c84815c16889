/* api.h: the HTTP interface, as the daemon starts and stops it.
 *
 * libmicrohttpd's threads take requests apart and put answers together; a request that waits for the device or for a
 * model is suspended, so that no HTTP thread ever blocks on either. Nothing here logs but through the callback.
 */
#ifndef DDIMD_API_H
#define DDIMD_API_H

#include "api/keys.h"
#include "api/recipe.h"
#include "training/job_type.h"

struct job_store;
struct job_runner;
struct generate_jobs;

enum api_state { API_STARTING, API_READY, API_LEAVING, API_DRAINING }; // leaving: api_hand_over()

enum { API_MAX_NAMES = 16, API_NAME_BYTES = 128 };

/* What may change while requests are served. */
struct api_settings {
    struct request_limits limits;
    size_t max_body_bytes;
    unsigned max_connections, max_connections_each;            // each: of one address; 0: no limit
    unsigned header_timeout_s, body_timeout_s, idle_timeout_s; // conn.h
    char hosts[API_MAX_NAMES][API_NAME_BYTES];                 // names that this daemon answers to, besides its own
    char origins[API_MAX_NAMES][API_NAME_BYTES];               // whose pages may use it: "https://lab.example"
    int32_t n_hosts, n_origins;
    struct keys *keys;    // NULL: none are needed; a reference
    bool guard_operating; // paths that are open ask for a key, too
};

struct api_options {
    struct scheduler *scheduler; // both outlive the api
    struct model_store *models;
    char device[FIELD_TEXT_BYTES]; // kind of device and precision, "cpu bf16": with the model and the build it fixes
                                   // the bytes of an answer
    /* jobs; jobs NULL: this daemon has none. Both outlive the api, folders are copied by nobody. */
    struct job_store *jobs;
    struct job_runner *runner;
    struct generate_jobs *generate_jobs; // runs those of type generate
    const char *datasets;                // folder that the data sets of jobs lie in, absolute
    const char *models_folder;           // that training results are published to
    const char *job_device;              // what "auto" means: "cpu"
    bool job_f32;                        // estimates are for computing in f32
    struct api_settings settings;
    size_t max_uri_bytes, max_header_bytes;
    unsigned n_threads;
    /* One line, no newline; priority as in syslog.h. From any thread. */
    void (*log)(void *context, int priority, const char *line);
    void *log_context;
};

/* The kinds of jobs that this daemon runs, for the runner; constant. */
extern const struct job_type api_job_types[];
extern const int32_t api_n_job_types;

struct api;
struct tls_credentials;
/* 0, -ENOMEM, -EAGAIN (no thread). Strings are copied. */
int api_create(const struct api_options *o, struct api **ret_api, struct error *err);
/* Serves a listening socket, which is taken over also on failure. Once. 0, -EMFILE, -ENOMEM, -EAGAIN. */
int api_listen(struct api *a, int fd, struct error *err);
/* New settings for the requests that come from now on; takes the reference to the keys over, also on failure, and lets
 * them go on counting what was used up. Any thread. 0, -ENOMEM. */
int api_configure(struct api *a, const struct api_settings *settings);
/* New connections speak TLS with these; takes the reference over. NULL: they do not. Any thread. */
void api_set_credentials(struct api *a, struct tls_credentials *credentials);

/* What /readyz says, and whether requests are taken; starting at first. Any thread. */
void api_set_state(struct api *a, enum api_state state);
/* CLOCK_MONOTONIC at which the device's worker last turned (scheduler_options.alive). Any thread. */
void api_set_alive(struct api *a, int64_t now_ns);

/* Before a stop, where another process goes on with the listening socket: accepts nothing more, serves what comes on
 * the connections that are open, one request each, and returns when nothing has come for a moment, or at deadline_ns.
 */
void api_hand_over(struct api *a, int64_t deadline_ns);
/* Waits until no request is under way, at most until deadline_ns (CLOCK_MONOTONIC); ends the listening socket and all
 * connections. The scheduler is drained or stopped before, else its requests stay suspended. Returns 0, -ETIMEDOUT
 * (some were cut off). */
int api_stop(struct api *a, int64_t deadline_ns);
void api_free(struct api *a); // stopped, or never listened; NULL is fine

#endif
