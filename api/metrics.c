/* metrics.c: GET /metrics, in Prometheus' text format 0.0.4: base units, bounded labels. */
#include "api/jobs.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const int status_codes[STATUS_KINDS] = {200, 201, 204, 304, 400, 401, 403, 404, 405, 406, 408, 409, 413,
                                               414, 415, 421, 422, 429, 431, 499, 500, 501, 503, 504, 505};

/* Column of api.answers; the last one is for codes without a column of their own. */
static int status_index(int status)
{
    for (int i = 0; i < STATUS_KINDS - 1; i++)
        if (status_codes[i] == status)
            return i;
    return STATUS_KINDS - 1;
}

static const double request_bounds[SCHEDULER_BUCKETS] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                         0.1,    0.25,  0.5,    1,     2.5,  10,    60};

void metrics_init(struct api *a)
{
    memcpy(a->request_seconds.bounds, request_bounds, sizeof(request_bounds));
}

void metrics_count(struct api *a, const struct route *r, int status, double seconds)
{
    struct scheduler_histogram *h = &a->request_seconds;
    ptrdiff_t route = r ? r - route_table : ROUTE_MAX_COUNT;
    int i = 0;
    atomic_fetch_add(&a->answers[route][status_index(status)], 1);
    while (i < SCHEDULER_BUCKETS && seconds > h->bounds[i])
        i++;
    pthread_mutex_lock(&a->lock);
    h->count[i]++;
    h->n++;
    h->sum += seconds;
    pthread_mutex_unlock(&a->lock);
}

static void describe(struct text *t, const char *name, const char *type, const char *help)
{
    text_printf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct text *t, const char *name, const char *type, const char *help, double v)
{
    describe(t, name, type, help);
    text_printf(t, "%s %.17g\n", name, v);
}

static void requests_write(struct api *a, struct text *t)
{
    describe(t, "ddimd_http_requests_total", "counter", "Requests answered, by route and status.");
    for (int r = 0; r <= ROUTE_MAX_COUNT; r++) {
        for (int i = 0; i < STATUS_KINDS; i++) {
            unsigned long long n = atomic_load(&a->answers[r][i]);
            if (n == 0)
                continue;
            text_printf(t, "ddimd_http_requests_total{route=\"%s\",code=\"",
                        r < ROUTE_MAX_COUNT ? route_table[r].path : "");
            if (status_codes[i])
                text_printf(t, "%d\"} %llu\n", status_codes[i], n);
            else
                text_printf(t, "other\"} %llu\n", n);
        }
    }
}

static void histogram_write(struct text *t, const char *name, const char *help, const struct scheduler_histogram *h)
{
    int64_t n = 0;
    describe(t, name, "histogram", help);
    for (int i = 0; i < SCHEDULER_BUCKETS; i++) {
        n += h->count[i];
        text_printf(t, "%s_bucket{le=\"%.10g\"} %lld\n", name, h->bounds[i], (long long)n);
    }
    text_printf(t, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.17g\n%s_count %lld\n", name, (long long)h->n, name, h->sum,
                name, (long long)h->n);
}

/* ---- the process ---- */

/* Field n (from 1, as in proc(5)) of /proc/self/stat, 0 where it cannot be read. */
static double stat_field(const char *text, int n)
{
    const char *at = strrchr(text, ')'); // ends field 2, which may hold spaces
    for (int i = 2; at && i < n; i++)
        at = strchr(at + 1, ' ');
    return at ? strtod(at, NULL) : 0;
}

static int open_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = -3; // ".", "..", and this folder's own
    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n < 0 ? 0 : n;
}

/* As Prometheus' own client libraries name them. */
static void process_write(struct text *t)
{
    enum { UTIME = 14, STIME = 15, N_THREADS = 20, START_TIME = 22, RSS = 24 };
    char stat[1024] = "";
    int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, stat, sizeof(stat) - 1) : 0;
    if (fd >= 0)
        close(fd);
    stat[n > 0 ? n : 0] = '\0';
    double tick = (double)sysconf(_SC_CLK_TCK);
    struct rlimit files = {0};
    struct timespec boot, now;
    getrlimit(RLIMIT_NOFILE, &files);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    clock_gettime(CLOCK_REALTIME, &now);
    double booted = difftime(now.tv_sec, boot.tv_sec) + (double)(now.tv_nsec - boot.tv_nsec) * 1e-9;
    value(t, "process_cpu_seconds_total", "counter", "User and system time.",
          (stat_field(stat, UTIME) + stat_field(stat, STIME)) / tick);
    value(t, "process_resident_memory_bytes", "gauge", "Memory of the process that is resident.",
          stat_field(stat, RSS) * (double)sysconf(_SC_PAGESIZE));
    value(t, "process_threads", "gauge", "Threads.", stat_field(stat, N_THREADS));
    value(t, "process_open_fds", "gauge", "Open descriptors.", open_descriptors());
    value(t, "process_max_fds", "gauge", "Largest number of them.", (double)files.rlim_cur);
    value(t, "process_start_time_seconds", "gauge", "Start, in seconds since 1970.",
          booted + stat_field(stat, START_TIME) / tick);
}

/* ---- the scheduler ---- */

static void outcomes_write(struct text *t, const struct scheduler_stats *s)
{
    const struct {
        const char *outcome;
        int64_t n;
    } rows[] = {
        {"completed", s->completed}, {"cancelled", s->cancelled}, {"timed_out", s->timed_out}, {"failed", s->failed}};
    describe(t, "ddimd_generations_total", "counter", "Generations that left the scheduler, by how they ended.");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        text_printf(t, "ddimd_generations_total{outcome=\"%s\"} %lld\n", rows[i].outcome, (long long)rows[i].n);
    describe(t, "ddimd_refusals_total", "counter", "Generations that the scheduler refused, by reason.");
    for (int i = 0; i < REFUSAL_COUNT; i++)
        text_printf(t, "ddimd_refusals_total{reason=\"%s\"} %lld\n", refusal_names[i], (long long)s->refused[i]);
}

static void scheduler_write(struct text *t, const struct scheduler_stats *s)
{
    value(t, "ddimd_queue_requests", "gauge", "Generations queued or running.", (double)s->requests);
    value(t, "ddimd_queue_images", "gauge", "Their images that are not done.", (double)s->images);
    value(t, "ddimd_queue_row_steps", "gauge", "Their work: batch rows times steps that are left.",
          (double)s->row_steps);
    value(t, "ddimd_queue_bytes", "gauge", "Memory held for their results.", (double)s->bytes);
    value(t, "ddimd_lanes_active", "gauge", "Images on the device.", (double)s->active_lanes);
    value(t, "ddimd_steps_total", "counter", "Steps of the device.", (double)s->steps);
    value(t, "ddimd_lane_steps_total", "counter", "Images advanced, summed over steps.", (double)s->lane_steps);
    value(t, "ddimd_lane_joins_total", "counter", "Images that joined the device.", (double)s->joins);
    value(t, "ddimd_lane_leaves_total", "counter", "Images that left the device.", (double)s->leaves);
    value(t, "ddimd_lanes_not_finite_total", "counter", "Images whose state was no longer finite.",
          (double)s->failed_lanes);
    value(t, "ddimd_row_step_seconds", "gauge", "Device time of one batch row in one full step.", s->row_step_seconds);
    value(t, "ddimd_device_lost", "gauge", "1 once the device failed.", s->device_lost);
    outcomes_write(t, s);
    histogram_write(t, "ddimd_queue_wait_seconds", "From arrival to the first step.", &s->queue_seconds);
    histogram_write(t, "ddimd_step_seconds", "Time of one step.", &s->step_seconds);
    histogram_write(t, "ddimd_step_lanes", "Images in one step.", &s->step_lanes);
    histogram_write(t, "ddimd_cancel_seconds", "From a cancel to its end.", &s->cancel_seconds);
}

static void metrics_answer(struct exchange *x)
{
    struct api *a = x->api;
    struct text t = {0};
    struct scheduler_stats stats;
    scheduler_stats(a->options.scheduler, &stats);
    describe(&t, "ddimd_build_info", "gauge", "1, with version and device as labels.");
    text_printf(&t, "ddimd_build_info{version=\"%s\",device=\"%s\"} 1\n", DDIMD_VERSION, a->options.device);
    value(&t, "ddimd_uptime_seconds", "gauge", "Since the start.", (double)(now_ns() - a->started_ns) / 1e9);
    value(&t, "ddimd_ready", "gauge", "1 while requests can be served.", api_unready(a) == NULL);
    pthread_mutex_lock(&a->lock);
    int n_live = a->n_live;
    struct scheduler_histogram request_seconds = a->request_seconds;
    pthread_mutex_unlock(&a->lock);
    value(&t, "ddimd_http_requests_active", "gauge", "Requests under way, this one included.", n_live);
    requests_write(a, &t);
    histogram_write(&t, "ddimd_http_request_seconds", "From the first byte of a request to the last of its answer.",
                    &request_seconds);
    value(&t, "ddimd_http_answer_bytes_total", "counter", "Bytes of answers, without streams.",
          (double)atomic_load(&a->answer_bytes));
    value(&t, "ddimd_images_total", "counter", "Images answered.", (double)atomic_load(&a->images));
    describe(&t, "ddimd_encode_seconds", "summary", "Time spent encoding an answer's images.");
    text_printf(&t, "ddimd_encode_seconds_sum %.9g\nddimd_encode_seconds_count %llu\n",
                (double)atomic_load(&a->encode_ns) / 1e9, (unsigned long long)atomic_load(&a->encodes));
    value(&t, "ddimd_models_resident", "gauge", "Models on the device.", (double)stats.models);
    value(&t, "ddimd_device_memory_bytes", "gauge", "Memory of the models on the device, weights and lanes.",
          (double)model_store_bytes(a->options.models));
    scheduler_write(&t, &stats);
    process_write(&t);
    text_append(&t, x->aside.text.data, x->aside.text.length);
    exchange_answer(x, 200, "text/plain; version=0.0.4; charset=utf-8", &t);
    exchange_header(x, "Cache-Control", "no-store");
}

void handle_metrics(struct exchange *x)
{
    if (x->api->options.jobs)
        exchange_aside(x, job_gauges_aside, metrics_answer);
    else
        metrics_answer(x);
}
