/* daemon.c: see daemon.h. The order of start: socket, device, scheduler, models, jobs, HTTP, default model, READY.
 * Stopping goes backwards, once the requests under way are done. */
#include "daemon/daemon.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
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

static int64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

/* ---- the scheduler's hooks; its worker ---- */

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
        sd_notify(0, "WATCHDOG=1");
    }
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
    if (sd_listen_fds(1) > 0)
        return listener_adopt(SD_LISTEN_FDS_START, &d->listener, err);
    return listener_open(d->options->listen, &d->listener, err);
}

static int device_open(struct daemon *d, struct error *err)
{
    char options[16] = "";
    d->backend = backend_find(d->options->backend, err);
    if (!d->backend)
        return -ENODEV;
    if (err->message[0])
        log_line(&d->log, LOG_INFO, "no CUDA: %s", err->message);
    *err = (struct error){0};
    if (d->options->threads && d->backend == &backend_cpu)
        snprintf(options, sizeof(options), "%d", d->options->threads);
    return d->backend->open(options, &d->device, err);
}

static int scheduler_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    struct scheduler_options s = {.max_images = o->max_queue_images,
                                  .max_row_steps = o->max_queue_row_steps,
                                  .max_bytes = o->max_queue_mib * MIB,
                                  .max_client_row_steps = o->max_client_row_steps,
                                  .probe_ns = 10 * SECOND_NS,
                                  .alive = on_alive,
                                  .device_lost = on_device_lost,
                                  .context = d};
    return scheduler_create(&s, &d->scheduler, err);
}

static enum dtype precision_of(const struct daemon *d)
{
    const struct device_base *base = (const void *)d->device;
    if (d->options->precision == PRECISION_AUTO)
        return base->native;
    return d->options->precision == PRECISION_F32 ? DTYPE_F32 : DTYPE_BF16;
}

static int models_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    struct model_store_options m = {.folder = o->models,
                                    .default_model = o->default_model[0] ? o->default_model : NULL,
                                    .precision = (int)precision_of(d),
                                    .max_rows = o->max_rows,
                                    .max_bytes = (size_t)o->max_model_mib * (size_t)MIB};
    return model_store_open(&m, d->device, d->scheduler, &d->models, err);
}

/* What of the device fixes the bytes of an answer: its kind and precision, and what its description says after the
 * number of threads, which does not. */
static void device_kind(const struct daemon *d, char *to, size_t bytes)
{
    const struct device_base *base = (const void *)d->device;
    const char *features = strchr(base->description, ',');
    snprintf(to, bytes, "%s %s%s", d->backend->name, precision_of(d) == DTYPE_F32 ? "f32" : "bf16",
             features ? features + 1 : "");
}

static int http_open(struct daemon *d, struct error *err)
{
    const struct options *o = d->options;
    int64_t queue = o->max_queue_row_steps, steps = o->max_row_steps;
    struct api *api = NULL;
    struct api_options a = {.scheduler = d->scheduler,
                            .models = d->models,
                            .jobs = d->jobs.store,
                            .runner = d->jobs.runner,
                            .datasets = d->jobs.datasets,
                            .models_folder = o->models,
                            .job_device = d->backend->name,
                            .job_f32 = precision_of(d) == DTYPE_F32,
                            .limits = {.max_images = o->max_images,
                                       .max_row_steps = queue && queue < steps ? queue : steps,
                                       .max_result_bytes = o->max_result_mib * MIB,
                                       .max_picture_bytes = o->max_picture_mib * MIB},
                            .max_body_bytes = (size_t)o->max_body_kib * 1024,
                            .max_uri_bytes = 8192,
                            .max_header_bytes = 16384,
                            .max_connections = (unsigned)o->max_connections,
                            .idle_timeout_s = (unsigned)o->idle_timeout_seconds,
                            .n_threads = (unsigned)o->http_threads,
                            .log = log_callback,
                            .log_context = &d->log};
    device_kind(d, a.device, sizeof(a.device));
    int rc = api_create(&a, &api, err);
    if (rc)
        return rc;
    atomic_store(&d->api, api);
    int fd = d->listener.fd;
    d->listener.fd = -1;
    return api_listen(api, fd, err);
}

/* Takes the signal that has come: left pending, it would end the process once signals_restore() lets it through. */
static void signal_take(struct daemon *d)
{
    struct signalfd_siginfo info;
    if (read(d->signal_fd, &info, sizeof(info)) == sizeof(info))
        log_line(&d->log, LOG_INFO, "%s: stopping", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
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
    sd_notify(0, "STATUS=Loading the default model");
    int rc = pthread_create(&d->load.thread, NULL, load_main, d);
    if (rc)
        return error_set(err, -rc, NULL, "no thread to load the default model");
    d->load.running = true;
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    if (!fds[1].revents) {
        signal_take(d);
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

static void watchdog_init(struct daemon *d)
{
    uint64_t usec = 0;
    if (sd_watchdog_enabled(0, &usec) > 0)
        d->watchdog_ns = (int64_t)usec * 1000 / 4;
}

int daemon_start(struct daemon *d, struct error *err)
{
    int rc = events_open(d, err);
    watchdog_init(d);
    if (rc == 0)
        rc = socket_open(d, err);
    if (rc == 0)
        rc = device_open(d, err);
    if (rc == 0)
        rc = scheduler_open(d, err);
    if (rc == 0)
        rc = models_open(d, err);
    if (rc == 0)
        rc = jobs_open(&d->jobs, d->options, &d->log, err);
    if (rc == 0)
        rc = http_open(d, err);
    if (rc == 0) {
        const struct device_base *base = (const void *)d->device;
        log_line(&d->log, LOG_INFO, "ddimd %s: %s, %s, computing in %s", DDIMD_VERSION, d->backend->name,
                 base->description, precision_of(d) == DTYPE_F32 ? "f32" : "bf16");
        log_line(&d->log, LOG_INFO, "listening on %s", d->listener.address);
        rc = default_load(d, err);
    }
    if (rc == 0)
        rc = jobs_start(&d->jobs, err);
    if (rc)
        return rc;
    api_set_state(atomic_load(&d->api), API_READY);
    log_line(&d->log, LOG_INFO, "ready");
    sd_notifyf(0, "READY=1\nSTATUS=Serving on %s", d->listener.address);
    return 0;
}

/* ---- wait and stop ---- */

int daemon_wait(struct daemon *d)
{
    struct pollfd fds[] = {{d->signal_fd, POLLIN, 0}, {d->lost_fd, POLLIN, 0}};
    while (poll(fds, 2, -1) < 0 && errno == EINTR)
        ;
    if (fds[1].revents) {
        log_line(&d->log, LOG_ERR, "the device failed; ending, so that the service manager starts anew");
        sd_notify(0, "STATUS=The device failed");
        return EXIT_DEVICE_LOST;
    }
    signal_take(d);
    return EXIT_SUCCESS;
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
    api_set_state(api, API_DRAINING);
    sd_notify(0, "STOPPING=1\nSTATUS=Finishing the requests under way");
    int64_t deadline = scheduler_now_ns(d->scheduler) + d->options->drain_seconds * SECOND_NS;
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
    signals_restore();
    jobs_stop(&d->jobs);
    if (api)
        requests_drain(d, api);
    load_end(d);
    model_store_close(d->models);
    scheduler_free(d->scheduler);
    api_free(api);
    jobs_close(&d->jobs);
    if (d->device)
        d->backend->close(d->device);
    listener_close(&d->listener);
    if (d->signal_fd >= 0)
        close(d->signal_fd);
    if (d->lost_fd >= 0)
        close(d->lost_fd);
    if (d->load.fd >= 0)
        close(d->load.fd);
    log_line(&d->log, LOG_INFO, "stopped");
}
