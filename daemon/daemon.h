/* daemon.h: the parts of the process, put together and taken apart in order. */
#ifndef DDIMD_DAEMON_H
#define DDIMD_DAEMON_H

#include "api/api.h"
#include "api/jobs_generate.h"
#include "daemon/jobs.h"
#include "daemon/listen.h"
#include "daemon/log.h"
#include "daemon/options.h"

#include <pthread.h>
#include <stdatomic.h>

enum { EXIT_DEVICE_LOST = 3 };

struct daemon {
    struct options *options; // borrowed; a reload changes them
    int argc;                // the command line, for reloads
    char **argv;
    struct log log;
    struct listener listener;
    struct device *devices[SCHEDULER_MAX_DEVICES];
    int32_t n_devices;
    const struct backend *backend;
    struct scheduler *scheduler;
    struct model_store *models;
    struct generate_jobs *generate_jobs;
    struct jobs jobs;
    _Atomic(struct api *) api; // NULL until it is there: the worker turns before
    int lost_fd;               // an eventfd, set once the device is lost
    int signal_fd;             // SIGTERM, SIGINT, SIGHUP
    struct {
        pthread_t thread;
        bool running;
        int fd; // an eventfd, set at its end
        int result;
        struct error err;
    } load;              // of the default model
    bool reload_wanted;  // a SIGHUP came before it was ready
    bool failed;         // the service manager has been told why
    int64_t watchdog_ns; // between pings; 0: the service manager wants none
    _Atomic int64_t pinged_ns, extended_ns;
    _Atomic int64_t drain_until_ns; // 0: not draining
};

/* From options to a socket that answers, with the default model resident; says so to the service manager. On failure
 * the caller still calls daemon_stop(). 0, -ECANCELED (a signal came before it was ready) or a negative errno. */
int daemon_start(struct daemon *d, struct error *err);
/* Reads the configuration again and takes over what may change while serving: the level of the log. Where it is bad,
 * everything stays as it was. 0 or a negative errno. */
int daemon_reload(struct daemon *d, struct error *err);
/* Waits for a signal to end, or for the loss of the device; SIGHUP reloads. Returns the exit status that it asks for.
 */
int daemon_wait(struct daemon *d);
/* Refuses new requests and ends the ones under way, for drain_seconds at most; then frees everything. A second signal
 * meanwhile ends the process at once. */
void daemon_stop(struct daemon *d);

#endif
