/* jobs_files.c: what a job has produced: its curve, thinned here so that no client has to; its log by byte offset;
 * sample grids and checkpoints. Names of files are made from numbers here, never taken from a client.
 */
#include "api/jobs.h"

#include "training/follow.h"
#include "training/thin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_SAMPLE_BYTES = 64 << 20 };

#define FIELD(type, member) offsetof(struct type, member)
const struct json_field job_metrics_fields[] = {
    {"max_points", FIELD_INT32, FIELD(job_metrics, max_points), 2, 100000,
     .help = "Steps in the answer; of more, each piece of the curve keeps its smallest and its largest loss."},
    {0},
};
const struct job_metrics job_metrics_defaults = {.max_points = 1000};

const struct json_field job_log_fields[] = {
    {"offset", FIELD_INT64, FIELD(job_log, offset), 0, 9007199254740991.0, .help = "Byte to begin with."},
    {"limit", FIELD_INT32, FIELD(job_log, limit), 1, 1 << 20, .help = "Bytes in the answer."},
    {0},
};
const struct job_log job_log_defaults = {.limit = 65536};
#undef FIELD

/* ---- GET /jobs/{id}/metrics ---- */

struct curve {
    int64_t *steps;
    double *losses;
    int32_t n, capacity;
    int32_t *chosen, n_chosen, next; // chosen: indices
    struct text *out;
    bool csv;
};

static int curve_grow(struct curve *c)
{
    int32_t capacity = c->capacity ? 2 * c->capacity : 1024;
    int64_t *steps = realloc(c->steps, (size_t)capacity * sizeof(*steps));
    if (steps)
        c->steps = steps;
    double *losses = realloc(c->losses, (size_t)capacity * sizeof(*losses));
    if (losses)
        c->losses = losses;
    if (!steps || !losses)
        return -ENOMEM;
    c->capacity = capacity;
    return 0;
}

/* First pass: step and loss of every record. */
static int curve_add(void *arg, int64_t step, const char *data)
{
    struct curve *c = arg;
    if (c->n == c->capacity && curve_grow(c))
        return -ENOMEM;
    const char *loss = strstr(data, "\"loss\":");
    char *end = NULL;
    double value = loss ? strtod(loss + 7, &end) : NAN;
    c->steps[c->n] = step;
    c->losses[c->n++] = end != loss + 7 ? value : NAN;
    return 0;
}

static const char *const csv_columns[] = {"step",      "steps",        "epoch",      "loss",   "lr",
                                          "grad_norm", "images_per_s", "wait_share", "skipped"};
enum { N_CSV_COLUMNS = sizeof(csv_columns) / sizeof(csv_columns[0]) };

static void csv_row(struct text *t, const char *data)
{
    json_t *json = json_loads(data, 0, NULL);
    for (int i = 0; i < N_CSV_COLUMNS; i++) {
        const json_t *v = json_object_get(json, csv_columns[i]);
        text_puts(t, i ? "," : "");
        if (json_is_integer(v))
            text_printf(t, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        else if (json_is_real(v))
            text_printf(t, "%.9g", json_real_value(v));
    }
    text_puts(t, "\r\n");
    json_decref(json);
}

static void write_point(struct curve *c, const char *data)
{
    if (c->csv)
        csv_row(c->out, data);
    else
        json_raw(c->out, data);
}

/* Second pass: writes the records whose steps were chosen. */
static int curve_write(void *arg, int64_t step, const char *data)
{
    struct curve *c = arg;
    while (c->next < c->n_chosen && c->steps[c->chosen[c->next]] < step)
        c->next++; // gone since the first pass: a resumed run does it again
    if (c->next < c->n_chosen && c->steps[c->chosen[c->next]] == step) {
        write_point(c, data);
        c->next++;
    }
    return 0;
}

static int write_each(void *arg, int64_t step, const char *data)
{
    (void)step;
    write_point(arg, data);
    return 0;
}

static int steps_write(struct job_store *store, int64_t id, int32_t max_points, struct curve *c, struct error *err)
{
    int rc = job_store_curve(store, id, "step", curve_add, c, err);
    if (rc == 0 && !(c->chosen = malloc((size_t)max_points * sizeof(*c->chosen))))
        rc = -ENOMEM;
    if (rc)
        return rc;
    c->n_chosen = thin_min_max(c->losses, c->n, max_points, c->chosen);
    return job_store_curve(store, id, "step", curve_write, c, err);
}

static void csv_header(struct text *t)
{
    for (int i = 0; i < N_CSV_COLUMNS; i++)
        text_printf(t, "%s%s", i ? "," : "", csv_columns[i]);
    text_puts(t, "\r\n");
}

static int metrics_write(struct exchange *x, int64_t id, int32_t max_points, struct curve *c, struct error *err)
{
    struct job_store *store = x->api->options.jobs;
    struct text *t = c->out;
    if (c->csv) {
        csv_header(t);
        return steps_write(store, id, max_points, c, err);
    }
    json_open(t, '{');
    json_key(t, "job"), json_int(t, id);
    json_key(t, "steps"), json_open(t, '[');
    int rc = steps_write(store, id, max_points, c, err);
    json_close(t, ']');
    json_key(t, "recorded"), json_int(t, c->n);
    json_key(t, "epochs"), json_open(t, '[');
    if (rc == 0)
        rc = job_store_curve(store, id, "epoch", write_each, c, err);
    json_close(t, ']');
    json_close(t, '}');
    return rc;
}

static void metrics_aside(struct exchange *x)
{
    struct job_metrics f = job_metrics_defaults;
    struct error err = {0};
    struct job job;
    if (!jobs_read_fields(x, &f, NULL, NULL) || !jobs_get(x, &job))
        return;
    struct curve c = {.out = &x->aside.text, .csv = strcmp(x->route->offers[x->offer], "text/csv") == 0};
    int rc = metrics_write(x, job.id, f.max_points, &c, &err);
    if (rc)
        jobs_problem(x, rc, &err);
    x->aside.content_type = c.csv ? "text/csv" : NULL;
    free(c.steps);
    free(c.losses);
    free(c.chosen);
    job_done(&job);
}

void handle_job_metrics(struct exchange *x)
{
    jobs_aside(x, metrics_aside);
}

/* ---- GET /jobs/{id}/log ---- */

static void log_aside(struct exchange *x)
{
    struct job_log f = job_log_defaults;
    struct stat s = {0};
    struct job job;
    int fd = -1;
    if (!jobs_read_fields(x, &f, NULL, NULL) || !jobs_get(x, &job))
        return;
    job_done(&job);
    if (jobs_open_file(x, FOLLOW_LOG_NAME, O_RDONLY, &fd) == 0 && fstat(fd, &s) == 0 && f.offset < s.st_size)
        jobs_send_file(x, fd, f.offset, s.st_size - f.offset < f.limit ? s.st_size - f.offset : f.limit);
    if (fd >= 0)
        close(fd);
    x->aside.content_type = "text/plain; charset=utf-8";
    jobs_header(x, "X-Log-Next", "%" PRId64, f.offset + (int64_t)x->aside.text.length);
    jobs_header(x, "X-Log-Size", "%" PRId64, (int64_t)s.st_size);
}

void handle_job_log(struct exchange *x)
{
    jobs_aside(x, log_aside);
}

/* ---- samples and checkpoints ---- */

/* Calls each() for the names in a folder of the job; a folder that is not there is empty. */
static void list_folder(struct exchange *x, const char *folder, void (*each)(void *arg, int dir_fd, const char *name),
                        void *arg)
{
    int fd;
    if (jobs_open_file(x, folder, O_RDONLY | O_DIRECTORY, &fd))
        return;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.')
            each(arg, dirfd(dir), e->d_name);
    closedir(dir);
}

struct found {
    char name[64];
    int64_t epoch; // -1: not of an epoch
    int64_t bytes, modified_ms;
};

struct finds {
    const char *suffix;
    struct found *items;
    int32_t n, capacity;
    bool failed;
};

/* "epoch-0007.png" -> 7; -1 for other names. */
static int64_t epoch_of(const char *name, const char *suffix)
{
    char want[64];
    char *end;
    long long epoch = strncmp(name, "epoch-", 6) == 0 ? strtoll(name + 6, &end, 10) : -1;
    snprintf(want, sizeof(want), "epoch-%04lld%s", epoch, suffix);
    return epoch >= 0 && strcmp(name, want) == 0 ? epoch : -1;
}

static void find(void *arg, int dir_fd, const char *name)
{
    struct finds *f = arg;
    struct stat s;
    size_t n = strlen(name), suffix = strlen(f->suffix);
    if (n >= sizeof(f->items->name) || n <= suffix || strcmp(name + n - suffix, f->suffix) != 0 ||
        fstatat(dir_fd, name, &s, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(s.st_mode))
        return;
    if (f->n == f->capacity) {
        int32_t capacity = f->capacity ? 2 * f->capacity : 64;
        struct found *items = realloc(f->items, (size_t)capacity * sizeof(*items));
        if (!items) {
            f->failed = true;
            return;
        }
        f->items = items;
        f->capacity = capacity;
    }
    struct found *item = &f->items[f->n++];
    *item = (struct found){.epoch = epoch_of(name, f->suffix),
                           .bytes = s.st_size,
                           .modified_ms = (int64_t)s.st_mtim.tv_sec * 1000 + s.st_mtim.tv_nsec / 1000000};
    snprintf(item->name, sizeof(item->name), "%.*s", (int)(n - suffix), name);
}

/* Epochs ascending, then the others by name. */
static int compare_found(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->epoch != y->epoch)
        return x->epoch < 0 ? 1 : y->epoch < 0 ? -1 : x->epoch < y->epoch ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The files of a folder with that suffix, sorted. false: the problem is there. */
static bool find_all(struct exchange *x, const char *folder, struct finds *f)
{
    struct job job;
    if (!jobs_get(x, &job))
        return false;
    job_done(&job);
    list_folder(x, folder, find, f);
    if (f->failed) {
        problem_set(&x->aside.problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the list");
        return false;
    }
    if (f->n)
        qsort(f->items, (size_t)f->n, sizeof(*f->items), compare_found);
    return true;
}

static void samples_aside(struct exchange *x)
{
    struct finds f = {.suffix = ".png"};
    struct text *t = &x->aside.text;
    if (find_all(x, "samples", &f)) {
        json_open(t, '{');
        json_key(t, "samples"), json_open(t, '[');
        for (int32_t i = 0; i < f.n; i++) {
            if (f.items[i].epoch < 0)
                continue;
            json_open(t, '{');
            json_key(t, "epoch"), json_int(t, f.items[i].epoch);
            json_key(t, "href");
            text_printf(t, "\"/jobs/%" PRId64 "/samples/%" PRId64 ".png\"", jobs_path_id(x), f.items[i].epoch);
            json_key(t, "bytes"), json_int(t, f.items[i].bytes);
            json_close(t, '}');
        }
        json_close(t, ']');
        json_close(t, '}');
    }
    free(f.items);
}

void handle_job_samples(struct exchange *x)
{
    jobs_aside(x, samples_aside);
}

static void sample_aside(struct exchange *x)
{
    char name[64], *end;
    const char *part = jobs_path_part(x);
    long long epoch = strtoll(part, &end, 10);
    struct stat s;
    struct job job;
    int fd = -1;
    if (!jobs_get(x, &job))
        return;
    job_done(&job);
    snprintf(name, sizeof(name), "samples/epoch-%04lld.png", epoch);
    bool number = part[0] >= '0' && part[0] <= '9' && *end == '\0' && end - part < 10;
    bool canary = strcmp(part, "canary") == 0; // of its last publication
    if (canary)
        strcpy(name, "samples/canary.png");
    if ((!number && !canary) || jobs_open_file(x, name, O_RDONLY, &fd) || fstat(fd, &s) < 0 ||
        s.st_size > MAX_SAMPLE_BYTES)
        problem_set(&x->aside.problem, PROBLEM_NO_SUCH_FILE, NULL, "job %" PRId64 " has no samples of epoch %.32s",
                    jobs_path_id(x), part);
    else
        jobs_send_file(x, fd, 0, s.st_size);
    if (fd >= 0)
        close(fd);
    x->aside.content_type = "image/png";
}

void handle_job_sample(struct exchange *x)
{
    jobs_aside(x, sample_aside);
}

/* What an evaluation writes, and its type. */
static const struct report_file {
    const char *name, *type;
} report_files[] = {{"report.json", "application/json"},
                    {"report.md", "text/markdown; charset=utf-8"},
                    {"report.csv", "text/csv; charset=utf-8"},
                    {"report.png", "image/png"}};

static void report_aside(struct exchange *x)
{
    const char *part = jobs_path_part(x);
    const struct report_file *file = NULL;
    struct stat s;
    struct job job;
    int fd = -1;
    if (!jobs_get(x, &job))
        return;
    job_done(&job);
    for (size_t i = 0; i < sizeof(report_files) / sizeof(report_files[0]); i++)
        if (!strcmp(part, report_files[i].name))
            file = &report_files[i];
    if (!file || jobs_open_file(x, file->name, O_RDONLY, &fd) || fstat(fd, &s) < 0 || s.st_size > MAX_SAMPLE_BYTES)
        problem_set(&x->aside.problem, PROBLEM_NO_SUCH_FILE, NULL, "job %" PRId64 " has no %.32s", jobs_path_id(x),
                    part);
    else
        jobs_send_file(x, fd, 0, s.st_size);
    if (fd >= 0)
        close(fd);
    x->aside.content_type = file ? file->type : report_files[0].type;
}

void handle_job_report(struct exchange *x)
{
    jobs_aside(x, report_aside);
}

static void checkpoints_aside(struct exchange *x)
{
    struct finds f = {.suffix = ".safetensors"};
    struct text *t = &x->aside.text;
    if (find_all(x, "checkpoints", &f)) {
        json_open(t, '{');
        json_key(t, "checkpoints"), json_open(t, '[');
        for (int32_t i = 0; i < f.n; i++) {
            if (strcmp(f.items[i].name, "state") == 0)
                continue; // for resuming, not a model
            json_open(t, '{');
            json_key(t, "checkpoint");
            f.items[i].epoch >= 0 ? json_int(t, f.items[i].epoch) : json_text(t, f.items[i].name);
            json_key(t, "bytes"), json_int(t, f.items[i].bytes);
            job_time_write(t, "modified", f.items[i].modified_ms);
            json_close(t, '}');
        }
        json_close(t, ']');
        json_close(t, '}');
    }
    free(f.items);
}

void handle_job_checkpoints(struct exchange *x)
{
    jobs_aside(x, checkpoints_aside);
}
