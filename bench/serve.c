/* serve.c: how fast a server answers /generate, or how fast the device would go without one: `serve --help`.
 *
 * Prints one JSON line: throughput in lane-steps (images times steps) a second, latencies by kind of request, what the
 * server says of queue, sampling and encoding. With --bare no server is asked: the same steps run in a loop over the
 * lanes of a model in this process, which is the most that a server on this device could reach. Processor time for a
 * lane-step is told too: it says what a request costs besides its steps also where other processes share the machine.
 * bench/serving compares.
 */
#include "bench/serve.h"

#include "model/lanes.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- processor time ---- */

/* Seconds that all threads of a process have used, user and system; NaN where there is none. */
static double processor_seconds(int pid)
{
    char path[64], text[1024] = "";
    unsigned long long user = 0, system = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return NAN;
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = '\0';
    const char *at = strrchr(text, ')'); // field 2 is the name
    if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
        return NAN;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- report ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The smallest value with at least the part p of all at or below it. values are sorted. */
static double percentile(const double *values, size_t n, double p)
{
    size_t i = (size_t)ceil(p * (double)n);
    return n ? values[i ? i - 1 : 0] : NAN;
}

static void print_number(const char *key, double v)
{
    if (isfinite(v))
        printf(", \"%s\": %.4g", key, v);
    else
        printf(", \"%s\": null", key);
}

/* p50, p99 and mean, in ms. Sorts values. */
static void print_spread(const char *key, double *values, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    qsort(values, n, sizeof(*values), compare);
    printf(", \"%s\": {\"n\": %zu", key, n);
    print_number("mean", sum / (double)n);
    print_number("p50", percentile(values, n, 0.5));
    print_number("p99", percentile(values, n, 0.99));
    printf("}");
}

struct report {
    const struct load *load;
    const struct sample *samples;
    size_t n;
    double begin, end; // the time that counts
    double *scratch;   // [n]
    double processor;  // seconds that the server used for all of them
};

static bool counts(const struct report *r, const struct sample *s)
{
    return s->status == 200 && s->due >= r->begin && s->due < r->end;
}

/* Lane-steps done between begin and end: of a request that lies across a bound, the part within. */
static double lane_steps(const struct report *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct sample *s = &r->samples[i];
        const struct load_kind *k = &r->load->kinds[s->kind];
        double within = fmin(s->end, r->end) - fmax(s->due, r->begin);
        if (s->status == 200 && within > 0 && s->end > s->due)
            sum += (double)k->steps * k->images * within / (s->end - s->due);
    }
    return sum;
}

/* Of all requests, warm-up included, as the processor time is. */
static double all_lane_steps(const struct report *r)
{
    double sum = 0;
    for (size_t i = 0; i < r->n; i++)
        if (r->samples[i].status == 200)
            sum += (double)r->load->kinds[r->samples[i].kind].steps * r->load->kinds[r->samples[i].kind].images;
    return sum;
}

/* kind -1: of all. */
static void print_latency(const struct report *r, const char *key, int32_t kind)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        if (counts(r, &r->samples[i]) && (kind < 0 || r->samples[i].kind == kind))
            r->scratch[n++] = (r->samples[i].end - r->samples[i].due) * 1e3;
    print_spread(key, r->scratch, n);
}

/* What the server says of a part of its work; part -1: latency less sampling, what everything else costs. */
static void print_timing(const struct report *r, const char *key, int part)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct sample *s = &r->samples[i];
        if (!counts(r, s) || s->timing_ms[0] < 0)
            continue;
        r->scratch[n++] = part < 0 ? (s->end - s->due) * 1e3 - s->timing_ms[1] : s->timing_ms[part];
    }
    print_spread(key, r->scratch, n);
}

static void print_kinds(const struct report *r)
{
    printf(", \"kinds\": [");
    for (int32_t i = 0; i < r->load->n_kinds; i++) {
        const struct load_kind *k = &r->load->kinds[i];
        printf("%s{\"steps\": %d, \"images\": %d", i ? ", " : "", k->steps, k->images);
        print_latency(r, "latency_ms", i);
        printf("}");
    }
    printf("]");
}

static double metric(const char *metrics, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = metrics; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, n) == 0 && line[n] == ' ')
            return strtod(line + n, NULL);
    return NAN;
}

static double metric_gain(const char *before, const char *after, const char *name)
{
    return metric(after, name) - metric(before, name);
}

static void print_report(const struct report *r, const char *before, const char *after)
{
    size_t failed = 0, done = 0;
    for (size_t i = 0; i < r->n; i++) {
        failed += r->samples[i].status != 200;
        done += counts(r, &r->samples[i]);
    }
    printf("{\"clients\": %d, \"rate\": %g, \"seconds\": %g", r->load->clients, r->load->rate, r->load->seconds);
    print_number("lane_steps_per_s", lane_steps(r) / (r->end - r->begin));
    printf(", \"requests\": %zu, \"failed\": %zu", done, failed);
    print_latency(r, "latency_ms", -1);
    print_timing(r, "queue_ms", 0);
    print_timing(r, "encode_ms", 2);
    print_timing(r, "overhead_ms", -1);
    if (before && after)
        print_number("lanes_per_step", metric_gain(before, after, "ddimd_lane_steps_total") /
                                           metric_gain(before, after, "ddimd_steps_total"));
    print_number("cpu_ms_per_lane_step", 1e3 * r->processor / all_lane_steps(r));
    print_kinds(r);
    printf("}\n");
}

static int run_load(const struct load *l, int pid)
{
    struct report r = {.load = l};
    struct sample *samples = NULL;
    char *before = load_fetch(l, "/metrics");
    double processor = processor_seconds(pid);
    int rc = load_run(l, &samples, &r.n, &r.begin);
    r.processor = processor_seconds(pid) - processor;
    char *after = load_fetch(l, "/metrics");
    r.scratch = rc == 0 ? calloc(r.n + 1, sizeof(*r.scratch)) : NULL;
    if (r.scratch) {
        r.samples = samples;
        r.end = r.begin + l->seconds;
        print_report(&r, before, after);
    }
    free(r.scratch);
    free(samples);
    free(before);
    free(after);
    return rc;
}

/* ---- the bare loop ---- */

struct bare {
    const char *file, *threads;
    int32_t rows, steps;
    double seconds;
    struct device *device;
    const struct backend *backend;
    struct network *network;
    struct lane_pool *pool;
    struct step_table *table;
};

/* All lanes one step on, from its beginning where a lane has ended; lanes are spread over the recipe. */
static int bare_step(struct bare *b, int64_t k, struct lane_step *lanes, uint8_t *finite)
{
    int rc = 0;
    for (int32_t i = 0; i < b->rows && rc == 0; i++) {
        int32_t step = (int32_t)((k + i) % b->table->n_rows);
        lanes[i] = (struct lane_step){
            .slot = i, .guidance = 1, .row = &b->table->rows[step], .image = (uint64_t)i, .draw = (uint32_t)step + 1};
        if (step == 0 || k == 0)
            rc = lane_pool_start(b->pool, i, 0, (uint64_t)i);
    }
    return rc ? rc : lane_pool_step(b->pool, lanes, b->rows, finite);
}

static int bare_loop(struct bare *b)
{
    struct lane_step *lanes = calloc((size_t)b->rows, sizeof(*lanes));
    uint8_t *finite = calloc((size_t)b->rows, 1);
    int64_t k = 0, counted = 0;
    int rc = lanes && finite ? 0 : -ENOMEM;
    double begin = 0, now = load_now(), warm = now + 0.3, processor = 0;
    while (rc == 0 && (!begin || now < begin + b->seconds)) {
        rc = bare_step(b, k++, lanes, finite);
        now = load_now();
        if (begin)
            counted++;
        else if (now >= warm)
            begin = now, processor = processor_seconds(getpid());
    }
    if (rc == 0)
        printf("{\"rows\": %d, \"steps\": %lld, \"lane_steps_per_s\": %.1f, \"step_ms\": %.4f, "
               "\"cpu_ms_per_lane_step\": %.4f}\n",
               b->rows, (long long)counted, (double)counted * b->rows / (now - begin),
               (now - begin) / (double)counted * 1e3,
               1e3 * (processor_seconds(getpid()) - processor) / (double)counted / b->rows);
    free(lanes);
    free(finite);
    return rc;
}

static int bare_open(struct bare *b, struct error *err)
{
    struct checkpoint c;
    struct sampling_recipe recipe = {.steps = b->steps};
    char folder[4096];
    const char *slash = strrchr(b->file, '/');
    snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - b->file) : 1, slash ? b->file : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    b->backend = &backend_cpu;
    int rc = b->backend->open(b->threads, &b->device, err);
    if (rc == 0)
        rc = checkpoint_open(fd, slash ? slash + 1 : b->file, &c, err);
    if (rc == 0) {
        rc = network_create(b->device, &c, ((struct device_base *)b->device)->native, b->rows, &b->network, err);
        if (rc == 0)
            rc = lane_pool_create(b->network, b->rows, &b->pool, err);
        if (rc == 0)
            rc = schedule_table(&c.diffusion, &recipe, &b->table, err);
        checkpoint_close(&c);
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int run_bare(struct bare *b)
{
    struct error err = {0};
    int rc = bare_open(b, &err);
    if (rc == 0)
        rc = bare_loop(b);
    if (err.message[0])
        fprintf(stderr, "serve: %s\n", err.message);
    free(b->table);
    lane_pool_free(b->pool);
    network_free(b->network);
    b->backend->close(b->device);
    return rc;
}

/* ---- command line ---- */

static const struct option options[] = {
    {"address", required_argument, NULL, 'a'}, {"mix", required_argument, NULL, 'm'},
    {"query", required_argument, NULL, 'q'},   {"clients", required_argument, NULL, 'c'},
    {"rate", required_argument, NULL, 'r'},    {"seconds", required_argument, NULL, 's'},
    {"warmup", required_argument, NULL, 'w'},  {"seed", required_argument, NULL, 'z'},
    {"pid", required_argument, NULL, 'p'},     {"bare", required_argument, NULL, 'b'},
    {"rows", required_argument, NULL, 'n'},    {"threads", required_argument, NULL, 't'},
    {"help", no_argument, NULL, 'h'},          {0}};
static const char usage[] = "serve [options]: a load on a server's /generate, and what came of it, as a JSON line\n"
                            "  --address HOST:PORT  (127.0.0.1:8080)\n"
                            "  --mix LIST           kinds of requests: STEPS[xIMAGES][:WEIGHT],... (10:4,25:2,50:1)\n"
                            "  --query QUERY        more fields of each request, \"eta=0.5&sampler=ddim\"\n"
                            "  --clients N          connections, each with one request at a time (16)\n"
                            "  --rate R             open loop: requests a second at random times; 0: closed loop (0)\n"
                            "  --seconds S          that count (10)\n"
                            "  --warmup S           before them (1)\n"
                            "  --seed N             of classes, seeds, kinds and arrivals (1)\n"
                            "  --pid N              the server's process, for its processor time\n"
                            "  --bare FILE          no server: steps over --rows lanes of this model in a loop\n"
                            "  --rows N             lanes of the bare loop (2)\n"
                            "  --threads T          of the bare loop's CPU device, COUNT or COUNT@FIRST (all)\n";

/* "10:4,50x8:1" */
static int mix_parse(const char *text, struct load *l)
{
    l->n_kinds = 0;
    while (*text && l->n_kinds < SERVE_MAX_KINDS) {
        struct load_kind k = {.images = 1, .weight = 1};
        char *end;
        k.steps = (int32_t)strtol(text, &end, 10);
        if (*end == 'x')
            k.images = (int32_t)strtol(end + 1, &end, 10);
        if (*end == ':')
            k.weight = strtod(end + 1, &end);
        if (k.steps < 1 || k.images < 1 || !(k.weight > 0) || (*end && *end != ','))
            return -EINVAL;
        l->kinds[l->n_kinds++] = k;
        text = *end ? end + 1 : end;
    }
    return l->n_kinds && !*text ? 0 : -EINVAL;
}

static int address_parse(char *text, struct load *l)
{
    char *colon = strrchr(text, ':');
    if (!colon)
        return -EINVAL;
    *colon = '\0';
    l->host = text;
    l->port = colon + 1;
    return 0;
}

static int parse_command(int argc, char **argv, struct load *l, struct bare *b, int *ret_pid)
{
    int rc = mix_parse("10:4,25:2,50:1", l);
    for (int o; rc == 0 && (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (o) {
        case 'a':
            rc = address_parse(optarg, l);
            break;
        case 'm':
            rc = mix_parse(optarg, l);
            break;
        case 'q':
            l->query = optarg;
            break;
        case 'c':
            l->clients = atoi(optarg);
            break;
        case 'r':
            l->rate = atof(optarg);
            break;
        case 's':
            l->seconds = b->seconds = atof(optarg);
            break;
        case 'w':
            l->warmup = atof(optarg);
            break;
        case 'z':
            l->seed = strtoull(optarg, NULL, 10);
            break;
        case 'p':
            *ret_pid = atoi(optarg);
            break;
        case 'b':
            b->file = optarg;
            break;
        case 'n':
            b->rows = atoi(optarg);
            break;
        case 't':
            b->threads = optarg;
            break;
        default:
            rc = -EINVAL;
        }
    }
    return rc || l->clients < 1 || b->rows < 1 || !(l->seconds > 0) || optind != argc ? -EINVAL : 0;
}

int main(int argc, char **argv)
{
    struct load l = {
        .host = "127.0.0.1", .port = "8080", .query = "", .clients = 16, .seconds = 10, .warmup = 1, .seed = 1};
    struct bare b = {.threads = "", .rows = 2, .steps = 50, .seconds = 10};
    int pid = 0;
    backend_cpu_settle(argv);
    if (parse_command(argc, argv, &l, &b, &pid)) {
        fputs(usage, stderr);
        return 2;
    }
    int rc = b.file ? run_bare(&b) : run_load(&l, pid);
    if (rc)
        fprintf(stderr, "serve: %s\n", strerror(-rc));
    return rc != 0;
}
