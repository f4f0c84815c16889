/* daemon.c: see daemon.h. The order of start: socket, device, scheduler, models, jobs, HTTP, default model, READY.
 * Stopping goes backwards, once the requests under way are done. */
#include "daemon/daemon.h"

#include "daemon/notify.h"
#include "daemon/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <syslog.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

static const int64_t SECOND_NS = 1000000000, MIB = 1 << 20;
#define LOAD_LIMIT_NS (600 * SECOND_NS) // for the default model, whatever the unit's start timeout says
#define STOP_MARGIN_NS (30 * SECOND_NS) // from the last step to the end of the process; longer than the slowest step

static int64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

#define SHIPPED_MODEL "digits" // the small one of share/models: the default where nothing else is said

/* ---- the scheduler's hooks; its worker ---- */

/* While requests are finished, the unit's stop timeout does not count as long as steps are made. */
static void drain_extend(struct daemon *d, int64_t now)
{
    int64_t until = atomic_load(&d->drain_until_ns);
    if (now >= until || now - atomic_load(&d->extended_ns) < SECOND_NS)
        return;
    atomic_store(&d->extended_ns, now);
    notify_extend(STOP_MARGIN_NS);
}

/* The watchdog is fed from here, so that a step that hangs restarts the service. */
static void on_alive(void *context)
{
    struct daemon *d = context;
    int64_t now = monotonic_ns();
    struct api *api = atomic_load(&d->api);
    if (api)
        api_set_alive(api, now);
    if (d->watchdog_ns && now - atomic_load(&d->pinged_ns) >= d->watchdog_ns) {
        atomic_store(&d->pinged_ns, now);
        notify_alive();
    }
    drain_extend(d, now);
}

static void on_device_lost(void *context)
{
    struct daemon *d = context;
    eventfd_write(d->lost_fd, 1);
}

/* ---- start ---- */

static int events_open(struct daemon *d, struct error *err)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    d->lost_fd = eventfd(0, EFD_CLOEXEC);
    d->load.fd = eventfd(0, EFD_CLOEXEC);
    return d->signal_fd < 0 || d->lost_fd < 0 || d->load.fd < 0
               ? error_set(err, -errno, NULL, "no descriptors: %s", strerror(errno))
               : 0;
}

static int socket_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    struct listener_options l = settings_listener(o);
    int n = sd_listen_fds(1);
    int rc = n > 0 ? listener_adopt(SD_LISTEN_FDS_START, n, &l, &d->listener, err)
                   : listener_open(o->listen, &l, &d->listener, err);
    if (rc == 0 && !d->listener.loopback && !l.secure)
        log_line(&d->log, LOG_WARNING, "keys and images travel unencrypted: tls_certificate is not set");
    return rc;
}

/* How many compute threads a CPU device gets: its share of what there is, one at least. 0: all, it is alone. */
static int threads_of(const struct daemon *d, int32_t n_devices)
{
    cpu_set_t set;
    int all = d->options->threads;
    if (n_devices == 1)
        return all;
    if (!all)
        all = sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
    return all > n_devices ? all / n_devices : 1;
}

static int device_open(struct daemon *d, int number, int threads, struct error *err)
{
    char options[16] = "";
    if (d->backend == &backend_cpu && threads)
        snprintf(options, sizeof(options), "%d", threads);
    else if (d->backend != &backend_cpu && number >= 0)
        snprintf(options, sizeof(options), "%d", number);
    int rc = d->backend->open(options, &d->devices[d->n_devices], err);
    d->n_devices += rc == 0;
    return rc;
}

/* "cpu:0,cpu:1": one kind, a number each. Returns how many; the numbers in ret_numbers. */
static int devices_parse(const char *list, char ret_kind[16], int ret_numbers[SCHEDULER_MAX_DEVICES], struct error *err)
{
    int n = 0, used;
    char kind[16];
    for (const char *at = list; *at || n == 0; at += used + (at[used] == ',')) {
        used = 0;
        if (n == SCHEDULER_MAX_DEVICES)
            return error_set(err, -EINVAL, "devices", "devices are at most %d", SCHEDULER_MAX_DEVICES);
        if (sscanf(at, "%15[a-z]:%d%n", kind, &ret_numbers[n], &used) < 2 || (at[used] && at[used] != ',') ||
            ret_numbers[n] < 0 || (at[used] == ',' && !at[used + 1]))
            return error_set(err, -EINVAL, "devices", "devices are a list like cpu:0,cpu:1, not \"%.64s\"", list);
        if (n && strcmp(kind, ret_kind))
            return error_set(err, -EINVAL, "devices", "devices are of one kind, not %s and %s", ret_kind, kind);
        snprintf(ret_kind, 16, "%s", kind);
        n++;
    }
    return n;
}

static int devices_open(struct daemon *d, struct error *err)
{
    int numbers[SCHEDULER_MAX_DEVICES] = {-1}, n = 1, rc = 0;
    char kind[16];
    snprintf(kind, sizeof(kind), "%s", d->options->backend);
    if (d->options->devices[0])
        n = devices_parse(d->options->devices, kind, numbers, err);
    if (n < 0)
        return n;
    d->backend = backend_find(kind, err);
    if (!d->backend)
        return -ENODEV;
    if (err->message[0])
        log_line(&d->log, LOG_INFO, "no CUDA: %s", err->message);
    *err = (struct error){0};
    for (int i = 0; i < n && rc == 0; i++)
        rc = device_open(d, numbers[i], threads_of(d, n), err);
    return rc;
}

static int scheduler_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    struct scheduler_options s = {.max_images = o->max_queue_images,
                                  .max_row_steps = o->max_queue_row_steps,
                                  .max_bytes = o->max_queue_mib * MIB,
                                  .max_client_row_steps = o->max_client_row_steps,
                                  .n_devices = d->n_devices,
                                  .probe_ns = 10 * SECOND_NS,
                                  .alive = on_alive,
                                  .device_lost = on_device_lost,
                                  .context = d};
    return scheduler_create(&s, &d->scheduler, err);
}

static enum dtype precision_of(const struct daemon *d)
{
    const struct device_base *base = (const void *)d->devices[0];
    if (d->options->precision == PRECISION_AUTO)
        return base->native;
    return d->options->precision == PRECISION_F32 ? DTYPE_F32 : DTYPE_BF16;
}

static int models_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    struct model_store_options m = {.folder = o->models,
                                    .default_model = o->default_model[0] ? o->default_model : NULL,
                                    .preferred = SHIPPED_MODEL,
                                    .precision = (int)precision_of(d),
                                    .max_rows = o->max_rows,
                                    .max_bytes = (size_t)o->max_model_mib * (size_t)MIB};
    return model_store_open(&m, d->devices, d->scheduler, &d->models, err);
}

/* What of the device fixes the bytes of an answer: its kind and precision, and what its description says after the
 * number of threads, which does not. */
static void device_kind(const struct daemon *d, char *to, size_t bytes)
{
    const struct device_base *base = (const void *)d->devices[0];
    const char *features = strchr(base->description, ',');
    snprintf(to, bytes, "%s %s%s", d->backend->name, precision_of(d) == DTYPE_F32 ? "f32" : "bf16",
             features ? features + 1 : "");
}

static int all_jobs_open(struct daemon *d, struct error *err)
{
    char device[FIELD_TEXT_BYTES];
    device_kind(d, device, sizeof(device));
    struct generate_jobs_options g = {.scheduler = d->scheduler, .models = d->models, .device = device};
    int rc = generate_jobs_create(&g, &d->generate_jobs);
    if (rc)
        return error_set(err, rc, NULL, "no memory for jobs");
    return jobs_open(&d->jobs, d->options, generate_jobs_launcher(d->generate_jobs), &d->log, err);
}

static int http_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    struct api *api = NULL;
    struct tls_credentials *credentials = NULL;
    struct api_options a = {.scheduler = d->scheduler,
                            .models = d->models,
                            .jobs = d->jobs.store,
                            .runner = d->jobs.runner,
                            .generate_jobs = d->generate_jobs,
                            .datasets = d->jobs.datasets,
                            .models_folder = o->models,
                            .job_device = d->backend->name,
                            .job_f32 = precision_of(d) == DTYPE_F32,
                            .max_uri_bytes = 8192,
                            .max_header_bytes = 16384,
                            .n_threads = (unsigned)o->http_threads,
                            .log = log_callback,
                            .log_context = &d->log};
    device_kind(d, a.device, sizeof(a.device));
    int rc = settings_load(o, &a.settings, &credentials, err);
    if (rc)
        return rc;
    rc = api_create(&a, &api, err);
    if (rc) {
        tls_credentials_release(credentials);
        return rc;
    }
    api_set_credentials(api, credentials);
    atomic_store(&d->api, api);
    return 0;
}

static int http_listen(struct daemon *d, struct error *err)
{
    int fd = d->listener.fd;
    d->listener.fd = -1;
    int rc = api_listen(atomic_load(&d->api), fd, err);
    if (rc == 0)
        log_line(&d->log, LOG_INFO, "listening on %s", d->listener.address);
    return rc;
}

/* Takes the signal that has come: left pending, it would end the process once signals_restore() lets it through.
 * Returns its number, 0 for none. */
static int signal_take(struct daemon *d)
{
    struct signalfd_siginfo info;
    if (read(d->signal_fd, &info, sizeof(info)) != sizeof(info))
        return 0;
    if (info.ssi_signo != SIGHUP)
        log_line(&d->log, LOG_INFO, "%s: stopping", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
    return (int)info.ssi_signo;
}

static void *load_main(void *context)
{
    struct daemon *d = context;
    struct resident_model *m = NULL;
    int64_t begun = monotonic_ns();
    d->load.result = model_store_acquire(d->models, NULL, &m, &d->load.err);
    if (m)
        log_line(&d->log, LOG_INFO, "model %s: %" PRId64 " parameters, %.1f MiB, %d rows a step, loaded in %.2f s",
                 m->name, m->parameters, (double)m->bytes / (double)MIB, m->max_rows,
                 (double)(monotonic_ns() - begun) / 1e9);
    model_release(m);
    eventfd_write(d->load.fd, 1);
    return NULL;
}

/* Loads the default model in a thread of its own, so that a signal ends the wait: then -ECANCELED, and the thread is
 * left to daemon_stop(). */
static int default_load(struct daemon *d, struct error *err)
{
    struct pollfd fds[] = {{d->signal_fd, POLLIN, 0}, {d->load.fd, POLLIN, 0}};
    notify_status("Loading the default model");
    notify_extend(LOAD_LIMIT_NS);
    int rc = pthread_create(&d->load.thread, NULL, load_main, d);
    if (rc)
        return error_set(err, -rc, NULL, "no thread to load the default model");
    d->load.running = true;
    while (poll(fds, 2, -1) < 0 || !fds[1].revents) {
        int number = fds[0].revents ? signal_take(d) : 0;
        if (number == SIGHUP)
            d->reload_wanted = true;
        else if (number)
            return error_set(err, -ECANCELED, NULL, "stopped while the default model was loading");
    }
    *err = d->load.err;
    return d->load.result;
}

static void load_end(struct daemon *d)
{
    if (d->load.running)
        pthread_join(d->load.thread, NULL);
    d->load.running = false;
}

int daemon_start(struct daemon *d, struct error *err)
{
    int rc = events_open(d, err);
    d->watchdog_ns = notify_alive_interval_ns();
    notify_status("Opening the device");
    if (rc == 0)
        rc = socket_open(d, err);
    if (rc == 0)
        rc = devices_open(d, err);
    if (rc == 0)
        rc = scheduler_open(d, err);
    if (rc == 0)
        rc = models_open(d, err);
    if (rc == 0)
        rc = all_jobs_open(d, err);
    if (rc == 0)
        rc = http_open(d, err);
    if (rc == 0) {
        const struct device_base *base = (const void *)d->devices[0];
        log_line(&d->log, LOG_INFO, "ddimd %s: %s, %s, computing in %s", DDIMD_VERSION, d->backend->name,
                 base->description, precision_of(d) == DTYPE_F32 ? "f32" : "bf16");
        /* On a socket of its own the daemon says while it starts that it does; a socket that outlives it holds the
         * connections until they can be served. */
        if (!d->listener.inherited)
            rc = http_listen(d, err);
    }
    if (rc == 0)
        rc = default_load(d, err);
    if (rc == 0)
        rc = jobs_start(&d->jobs, err);
    if (rc == 0) {
        api_set_state(atomic_load(&d->api), API_READY);
        if (d->listener.inherited)
            rc = http_listen(d, err);
    }
    if (rc)
        return rc;
    log_line(&d->log, LOG_INFO, "ready");
    notify_ready("Serving on %s", d->listener.address);
    return 0;
}

/* ---- wait and stop ---- */

/* What SIGHUP changes, as long as nothing is wrong with any of it. */
static int settings_apply(struct daemon *d, const struct options *wanted, struct error *err)
{
    struct api *api = atomic_load(&d->api);
    struct api_settings settings;
    struct tls_credentials *credentials = NULL;
    int rc = settings_load(wanted, &settings, &credentials, err);
    if (rc)
        return rc;
    if (!credentials != !d->options->tls_certificate[0])
        rc = error_set(err, -EINVAL, "tls_certificate", "HTTP and HTTPS are not exchanged while the daemon runs");
    if (rc == 0 && !settings.keys && !d->listener.loopback)
        rc = error_set(err, -EINVAL, "keys", "without keys %s is not served", d->listener.address);
    if (rc == 0 && wanted->default_model[0] && strcmp(wanted->default_model, d->options->default_model) != 0)
        rc = model_store_set_default(d->models, wanted->default_model, err);
    if (rc) {
        keys_release(settings.keys);
        tls_credentials_release(credentials);
        return rc;
    }
    api_set_credentials(api, credentials);
    return api_configure(api, &settings);
}

int daemon_reload(struct daemon *d, struct error *err)
{
    static struct options wanted, merged; // large
    char names[256];
    enum command command;
    int rc = options_parse(d->argc, d->argv, &wanted, &command, err);
    if (rc)
        return rc;
    merged = *d->options;
    rc = options_merge_live(&merged, &wanted, names, sizeof(names));
    if (rc)
        return error_set(err, rc, NULL, "no memory to read the configuration again");
    rc = settings_apply(d, &merged, err);
    if (rc)
        return rc;
    *d->options = merged;
    log_set_level(&d->log, log_level_priority(merged.log_level));
    if (names[0])
        log_line(&d->log, LOG_WARNING, "SIGHUP: these options change only with a restart: %s", names);
    return 0;
}

static void on_sighup(struct daemon *d)
{
    struct error err = {0};
    notify_reloading();
    if (daemon_reload(d, &err)) {
        log_line(&d->log, LOG_ERR, "SIGHUP: the configuration stays as it was: %s", err.message);
        notify_ready("Serving on %s; the last reload failed: %s", d->listener.address, err.message);
    } else {
        log_line(&d->log, LOG_NOTICE, "SIGHUP: configuration read again");
        notify_ready("Serving on %s", d->listener.address);
    }
}

/* What the device that failed says about it, "" where none does. */
static const char *failure_of(const struct daemon *d)
{
    const char *failure = "";
    for (int32_t i = 0; i < d->n_devices && !*failure; i++)
        failure = ((const struct device_base *)(const void *)d->devices[i])->failure;
    return failure;
}

int daemon_wait(struct daemon *d)
{
    struct pollfd fds[] = {{d->signal_fd, POLLIN, 0}, {d->lost_fd, POLLIN, 0}};
    if (d->reload_wanted)
        on_sighup(d);
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[1].revents) {
            const char *failure = failure_of(d);
            log_line(&d->log, LOG_ERR, "the device failed%s%s; ending, so that the service manager starts anew",
                     *failure ? ": " : "", failure);
            notify_failed(EIO, "The device failed");
            d->failed = true;
            return EXIT_DEVICE_LOST;
        }
        int number = fds[0].revents ? signal_take(d) : 0;
        if (number == SIGHUP)
            on_sighup(d);
        else if (number)
            return EXIT_SUCCESS;
    }
}

/* A second signal is not waited for any more: it ends the process. */
static void signals_restore(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static void requests_drain(struct daemon *d, struct api *api)
{
    if (d->listener.inherited)
        api_hand_over(api, monotonic_ns() + SECOND_NS);
    api_set_state(api, API_DRAINING);
    int64_t deadline = scheduler_now_ns(d->scheduler) + d->options->drain_seconds * SECOND_NS;
    atomic_store(&d->drain_until_ns, deadline);
    if (scheduler_drain(d->scheduler, deadline) == -ETIMEDOUT)
        log_line(&d->log, LOG_WARNING, "requests were still under way after %d s and are given up",
                 d->options->drain_seconds);
    scheduler_stop(d->scheduler);
    if (api_stop(api, monotonic_ns() + 5 * SECOND_NS))
        log_line(&d->log, LOG_WARNING, "some answers were not taken by their clients within 5 s");
}

void daemon_stop(struct daemon *d)
{
    struct api *api = atomic_load(&d->api);
    if (!d->failed)
        notify_stopping(api ? "Finishing the requests under way" : "Stopping");
    signals_restore();
    jobs_stop(&d->jobs);
    if (api)
        requests_drain(d, api);
    load_end(d);
    model_store_close(d->models);
    scheduler_free(d->scheduler);
    api_free(api);
    jobs_close(&d->jobs);
    generate_jobs_free(d->generate_jobs);
    while (d->n_devices > 0)
        d->backend->close(d->devices[--d->n_devices]);
    listener_close(&d->listener);
    if (d->signal_fd >= 0)
        close(d->signal_fd);
    if (d->lost_fd >= 0)
        close(d->lost_fd);
    if (d->load.fd >= 0)
        close(d->load.fd);
    log_line(&d->log, LOG_INFO, "stopped");
}
