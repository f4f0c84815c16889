/* jobs_generate.c: the launcher of jobs of type generate: a thread for each job, that feeds the scheduler and keeps
 * what comes back.
 *
 * Two parts of the images are with the scheduler at any time, so that a part's last images do not leave steps half
 * empty. Parts are kept in order: written, and from time to time synced with the place that a restart goes on from.
 * The scheduler's callback only says that a part has ended. A task's lock guards what is marked.
 */
#include "api/jobs_generate.h"

#include "api/private.h"
#include "model/file.h"
#include "training/follow.h"
#include "training/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PARTS = 2, PART_MIN_IMAGES = 8, CONFIG_MAX_BYTES = 16 << 20, EXIT_FAILED = 1, EXIT_NO_MEMORY = 5 };
static const int64_t KEEP_NS = 2000000000, TELL_NS = 250000000, LONGEST_WAIT_NS = 1000000000;

struct generate_jobs {
    struct scheduler *scheduler;
    struct model_store *models;
    char device[FIELD_TEXT_BYTES];
    struct job_launcher launcher;
    void (*ended)(void *context, int64_t job);
    void *context;
};

/* Images that are with the scheduler, or came back and wait for those before them. */
struct part {
    struct task *task;
    struct generation *generation; // NULL: free; the scheduler's until `ended`
    uint64_t ticket;
    int32_t first;
    bool ended; // locked
};

struct task {
    struct generate_jobs *all;
    int64_t job;
    int folder_fd, log_fd, end_fd; // end_fd: an eventfd, set at the end
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool released, stopping, ended; // locked

    /* the thread's */
    struct resident_model *model; // a reference
    struct recipe recipe;
    struct text text; // recipe.json
    int images_fd, records_fd;
    struct part parts[PARTS];
    int32_t part_images;                          // of one part, at most
    int32_t next, kept, synced;                   // images: given to the scheduler, written, safe
    int64_t begun_ns, kept_ns, told_ns, retry_ns; // scheduler's clock
    struct timing timing;
    struct problem problem; // kind NONE: nothing went wrong
};

/* ---- telling ---- */

static void record(struct task *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void record(struct task *t, const char *format, ...)
{
    char line[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (write(t->records_fd, line, (size_t)n) != n) // a full disk shows elsewhere
        return;
}

static int fail(struct task *t, enum problem_kind kind, const struct error *err)
{
    problem_from_error(&t->problem, kind, err);
    return err->code ? err->code : -EIO;
}

static int fail_file(struct task *t, const char *what)
{
    int code = -errno;
    problem_set(&t->problem, PROBLEM_JOBS_STORE, NULL, "%s: %s", what, strerror(-code));
    return code;
}

/* ---- the beginning ---- */

static int read_config(struct task *t, struct fields *ret_fields)
{
    struct error err = {0};
    char *text = NULL;
    size_t n = 0;
    int rc = file_read(t->folder_fd, "job.json", CONFIG_MAX_BYTES, &text, &n, &err);
    if (rc)
        return fail(t, PROBLEM_JOBS_STORE, &err);
    struct field_source source = {.body = text, .body_bytes = n, .body_is_json = true};
    rc = fields_read(generate_job_fields, &source, ret_fields, &t->problem);
    free(text);
    return rc;
}

static int resolve(struct task *t)
{
    struct error err = {0};
    struct fields f;
    int rc = read_config(t, &f);
    if (rc)
        return rc;
    rc = model_store_acquire(t->all->models, f.model[0] ? f.model : NULL, &t->model, &err);
    if (rc)
        api_model_problem(f.model, rc, &err, &t->problem);
    else
        rc = recipe_resolve(&f, t->model, &generate_job_limits, &t->recipe, &t->problem);
    fields_done(&f);
    if (rc)
        return rc;
    t->part_images = t->model->max_rows > PART_MIN_IMAGES ? t->model->max_rows : PART_MIN_IMAGES;
    json_open(&t->text, '{');
    recipe_write(&t->recipe, DDIMD_VERSION, t->all->device, &t->text);
    json_close(&t->text, '}');
    return text_string(&t->text) ? 0 : problem_set(&t->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the job");
}

static size_t image_bytes(const struct task *t)
{
    const struct data_config *d = &t->model->data;
    return (size_t)t->recipe.n_frames * (size_t)d->height * (size_t)d->width * (size_t)d->channels * sizeof(float);
}

/* Whether what the folder holds is of this recipe, by this model and build: then how many images are safe in it. */
static int32_t images_at_hand(struct task *t)
{
    struct follow_state state = {0};
    char *text = NULL;
    size_t n = 0;
    int32_t safe = 0;
    bool same = file_read(t->folder_fd, "recipe.json", CONFIG_MAX_BYTES, &text, &n, NULL) == 0 &&
                strcmp(text, text_string(&t->text)) == 0;
    if (same && follow_state(t->folder_fd, &state, NULL) == 0 && state.step <= t->recipe.n_images)
        safe = (int32_t)state.step;
    free(text);
    return safe;
}

/* What is written becomes what a restart goes on from. */
static int sync_images(struct task *t)
{
    struct error err = {0};
    struct stat s;
    struct follow_state state = {.step = t->kept};
    if (t->synced == t->kept)
        return 0;
    if (fdatasync(t->images_fd) || fstat(t->records_fd, &s))
        return fail_file(t, "the images' file cannot be written");
    state.metrics_bytes = s.st_size;
    if (follow_state_write(t->folder_fd, &state, &err))
        return fail(t, PROBLEM_JOBS_STORE, &err);
    t->synced = t->kept;
    return 0;
}

/* images.npy with its head, at full size. */
static int begin_images(struct task *t)
{
    struct error err = {0};
    struct text head = {0};
    const struct data_config *d = &t->model->data;
    struct picture p = {
        .n = t->recipe.n_images * t->recipe.n_frames, .height = d->height, .width = d->width, .channels = d->channels};
    t->kept = t->next = 0;
    t->synced = -1; // whatever the place was: before the recipe that it is not of
    int rc = sync_images(t);
    if (rc)
        return rc;
    if (file_write(t->folder_fd, "recipe.json", t->text.data, t->text.length, &err) || ftruncate(t->images_fd, 0))
        return fail(t, PROBLEM_JOBS_STORE, &err);
    rc = encode_npy_head(&p, &head);
    if (rc == 0 && (write(t->images_fd, head.data, head.length) != (ssize_t)head.length ||
                    ftruncate(t->images_fd, (off_t)(head.length + (size_t)t->recipe.n_images * image_bytes(t)))))
        rc = fail_file(t, "the images' file cannot be written");
    text_done(&head);
    return rc;
}

static int open_files(struct task *t)
{
    struct stat s;
    int rc = job_file_open(t->folder_fd, "images.npy", O_RDWR | O_CREAT, &t->images_fd);
    if (rc == 0)
        rc = job_file_open(t->folder_fd, FOLLOW_RECORDS_NAME, O_WRONLY | O_CREAT | O_APPEND, &t->records_fd);
    if (rc)
        return problem_set(&t->problem, PROBLEM_JOBS_STORE, NULL, "the job's files cannot be opened: %s",
                           strerror(-rc));
    t->kept = t->next = t->synced = images_at_hand(t);
    bool whole = fstat(t->images_fd, &s) == 0 && (size_t)s.st_size > (size_t)t->recipe.n_images * image_bytes(t);
    return t->kept && whole ? 0 : begin_images(t);
}

/* ---- the end of a part ---- */

static int write_part(struct task *t, const struct part *p)
{
    const char *from = (const char *)p->generation->images;
    size_t left = (size_t)p->generation->n_images * image_bytes(t);
    struct stat s;
    if (fstat(t->images_fd, &s))
        return fail_file(t, "the images' file cannot be written");
    off_t at = s.st_size - (off_t)((size_t)(t->recipe.n_images - p->first) * image_bytes(t));
    while (left > 0) {
        ssize_t n = pwrite(t->images_fd, from, left, at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_file(t, "the images' file cannot be written");
        from += n;
        at += n;
        left -= (size_t)n;
    }
    return 0;
}

static void note_times(struct task *t, const struct generation *g)
{
    int64_t started = g->started_ns ? g->started_ns : g->finished_ns;
    if (t->timing.sample_ms == 0)
        t->timing.queue_ms = (double)(started - g->submitted_ns) / 1e6;
    t->timing.sample_ms = (double)(g->finished_ns - t->begun_ns) / 1e6 - t->timing.queue_ms;
}

static int part_status(struct task *t, int status)
{
    static const struct {
        int status;
        enum problem_kind kind;
        const char *detail;
    } known[] = {{-ETIMEDOUT, PROBLEM_TIMEOUT, "the images were not ready in the time given"},
                 {-ERANGE, PROBLEM_NOT_FINITE, "an image's state was no longer finite"},
                 {-EIO, PROBLEM_DEVICE_LOST, "the device failed"}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (known[i].status == status)
            problem_set(&t->problem, known[i].kind, NULL, "%s", known[i].detail);
    if (status && status != -ECANCELED && status != -ESHUTDOWN && !t->problem.kind)
        problem_set(&t->problem, PROBLEM_INTERNAL, NULL, "sampling failed: %s", strerror(-status));
    return status;
}

/* The part that is next in order, where it has ended: kept. 0, or why the job does not go on. */
static int keep_part(struct task *t, struct part *p)
{
    struct scheduler *s = t->all->scheduler;
    struct generation *g = p->generation;
    int rc = part_status(t, g->status);
    if (rc == 0)
        rc = write_part(t, p);
    if (rc == 0) {
        note_times(t, g);
        t->kept += g->n_images;
        int64_t now = scheduler_now_ns(s);
        bool last = t->kept == t->recipe.n_images;
        if (last || now - t->told_ns > TELL_NS) {
            record(t, "{\"event\":\"step\",\"step\":%d,\"steps\":%d}\n", t->kept, t->recipe.n_images);
            t->told_ns = now;
        }
        if (last || now - t->kept_ns > KEEP_NS) {
            rc = sync_images(t);
            t->kept_ns = now;
        }
    }
    generation_free(g);
    p->generation = NULL;
    p->ended = false;
    return rc;
}

/* ---- with the scheduler ---- */

/* Worker thread. */
static void on_done(struct generation *g, void *context)
{
    struct part *p = context;
    struct task *t = p->task;
    (void)g;
    pthread_mutex_lock(&t->lock);
    p->ended = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static int32_t part_size(const struct task *t)
{
    int32_t left = t->recipe.n_images - t->next;
    return left < t->part_images ? left : t->part_images;
}

/* Gives the next images to the scheduler. 0; -EAGAIN: not now, later; else why the job does not go on. */
static int submit_part(struct task *t, struct part *p)
{
    struct scheduler_ticket ticket = {0};
    struct error err = {0};
    struct generation *g = NULL;
    int32_t n = part_size(t), timeout_ms = t->recipe.fields.timeout_ms;
    if (recipe_generation(&t->recipe, t->next, n, &g))
        return problem_set(&t->problem, PROBLEM_OUT_OF_MEMORY, NULL, "no memory for the images");
    g->client = text_hash(TEXT_HASH_SEED, GENERATE_JOB_TYPE, sizeof(GENERATE_JOB_TYPE));
    g->on.done = on_done;
    g->context = p;
    g->deadline_ns = timeout_ms ? t->begun_ns + (int64_t)timeout_ms * 1000000 : 0;
    p->generation = g;
    p->first = t->next;
    int rc = scheduler_submit(t->all->scheduler, g, &ticket, &err);
    if (rc) {
        p->generation = NULL;
        generation_free(g);
    }
    if (rc == 0) {
        p->ticket = ticket.id;
        t->next += n;
    } else if (rc == -EAGAIN || rc == -EDQUOT) {
        t->retry_ns = ticket.retry_after_ns < LONGEST_WAIT_NS ? ticket.retry_after_ns : LONGEST_WAIT_NS;
        return -EAGAIN;
    } else if (rc == -E2BIG && n > 1) {
        t->part_images = n / 2;
        return submit_part(t, p);
    } else if (rc != -ESHUTDOWN) {
        fail(t, rc == -ETIMEDOUT ? PROBLEM_TIMEOUT : rc == -EIO ? PROBLEM_DEVICE_LOST : PROBLEM_BAD_FIELD, &err);
    }
    return rc;
}

/* The part that must be kept next: parts are taken in turn. */
static struct part *oldest_part(struct task *t)
{
    struct part *oldest = NULL;
    for (int i = 0; i < PARTS; i++)
        if (t->parts[i].generation && (!oldest || t->parts[i].first < oldest->first))
            oldest = &t->parts[i];
    return oldest;
}

static struct part *free_part(struct task *t)
{
    for (int i = 0; i < PARTS; i++)
        if (!t->parts[i].generation)
            return &t->parts[i];
    return NULL;
}

/* Waits until the oldest part has ended, the job is to stop, or a refusal is over. True: the part has ended. */
static bool wait_part(struct task *t, const struct part *oldest)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (t->retry_ns ? t->retry_ns : LONGEST_WAIT_NS);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&t->lock);
    while (!t->stopping && !(oldest && oldest->ended))
        if (pthread_cond_timedwait(&t->wake, &t->lock, &until))
            break;
    bool ended = oldest && oldest->ended;
    pthread_mutex_unlock(&t->lock);
    t->retry_ns = 0;
    return ended;
}

static bool is_stopping(struct task *t)
{
    pthread_mutex_lock(&t->lock);
    bool stopping = t->stopping;
    pthread_mutex_unlock(&t->lock);
    return stopping;
}

/* Nothing of this job's is left with the scheduler afterwards; what is whole and in order is kept. */
static void take_back(struct task *t, bool keep)
{
    for (struct part *p; (p = oldest_part(t));) {
        scheduler_cancel(t->all->scheduler, p->ticket);
        pthread_mutex_lock(&t->lock);
        while (!p->ended)
            pthread_cond_wait(&t->wake, &t->lock);
        pthread_mutex_unlock(&t->lock);
        keep = keep && p->generation->status == 0 && keep_part(t, p) == 0;
        if (p->generation) {
            generation_free(p->generation);
            p->generation = NULL;
            p->ended = false;
        }
    }
}

/* Until all images are kept, or the job stops. 0, -ECANCELED: stopped. */
static int make_images(struct task *t)
{
    int rc = 0;
    while (rc == 0 && t->kept < t->recipe.n_images) {
        struct part *p;
        if (is_stopping(t)) {
            rc = -ECANCELED;
            break;
        }
        while (rc == 0 && t->next < t->recipe.n_images && (p = free_part(t)))
            rc = submit_part(t, p);
        if (rc == -EAGAIN)
            rc = 0;
        p = oldest_part(t);
        if (rc == 0 && wait_part(t, p))
            rc = keep_part(t, p);
    }
    take_back(t, rc == -ECANCELED || rc == -ESHUTDOWN);
    return rc;
}

/* ---- the thread ---- */

static int run_task(struct task *t)
{
    t->begun_ns = scheduler_now_ns(t->all->scheduler);
    int rc = resolve(t);
    if (rc == 0)
        rc = open_files(t);
    if (rc == 0)
        rc = make_images(t);
    bool stopped = !t->problem.kind && (rc == -ECANCELED || rc == -ESHUTDOWN);
    if (stopped)
        rc = sync_images(t);
    if (rc && !t->problem.kind)
        problem_set(&t->problem, PROBLEM_INTERNAL, NULL, "%s", strerror(-rc));
    if (t->problem.kind) {
        dprintf(t->log_fd, "%s\n", t->problem.detail);
        kept_result_write(t->folder_fd, NULL, NULL, &t->problem, NULL);
        return t->problem.kind == PROBLEM_OUT_OF_MEMORY ? EXIT_NO_MEMORY : EXIT_FAILED;
    }
    struct error err = {0};
    if (!stopped && kept_result_write(t->folder_fd, &t->recipe, &t->timing, NULL, &err)) {
        dprintf(t->log_fd, "%s\n", err.message);
        return EXIT_FAILED;
    }
    record(t, "{\"event\":\"end\",\"end\":\"%s\",\"step\":%d}\n", stopped ? "stopped" : "finished", t->kept);
    return 0;
}

static void *task_main(void *context)
{
    struct task *t = context;
    pthread_mutex_lock(&t->lock);
    while (!t->released && !t->stopping)
        pthread_cond_wait(&t->wake, &t->lock);
    bool run = t->released;
    pthread_mutex_unlock(&t->lock);
    if (run)
        launcher_write_end(t->folder_fd, run_task(t));
    model_release(t->model);
    t->model = NULL;
    pthread_mutex_lock(&t->lock);
    t->ended = true;
    pthread_mutex_unlock(&t->lock);
    eventfd_write(t->end_fd, 1);
    return NULL;
}

static void task_free(struct task *t)
{
    const int fds[] = {t->folder_fd, t->log_fd, t->end_fd, t->images_fd, t->records_fd};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    recipe_done(&t->recipe);
    text_done(&t->text);
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static struct task *task_create(struct generate_jobs *g, const struct launch *launch)
{
    struct task *t = calloc(1, sizeof(*t));
    pthread_condattr_t monotonic;
    if (!t)
        return NULL;
    *t = (struct task){.all = g, .job = launch->job, .images_fd = -1, .records_fd = -1};
    for (int i = 0; i < PARTS; i++)
        t->parts[i].task = t;
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    t->folder_fd = open(launch->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    t->log_fd = fcntl(launch->log_fd, F_DUPFD_CLOEXEC, 3);
    t->end_fd = eventfd(0, EFD_CLOEXEC);
    return t;
}

/* ---- the launcher ---- */

static int start(const struct job_launcher *self, const struct launch *launch, struct launched *ret_launched,
                 struct error *err)
{
    struct task *t = task_create(self->context, launch);
    struct launched l = {.launcher = self, .pidfd = -1, .gate = -1, .is_child = true, .task = t};
    if (!t)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int rc = t->folder_fd < 0 || t->log_fd < 0 || t->end_fd < 0 ? -EMFILE : launcher_self(&l.identity);
    if (rc == 0)
        rc = -pthread_create(&t->thread, NULL, task_main, t);
    if (rc) {
        task_free(t);
        return error_set(err, rc, NULL, "cannot start the job's thread: %s", strerror(-rc));
    }
    l.pidfd = t->end_fd;
    *ret_launched = l;
    return 0;
}

static void task_tell(struct task *t, bool *flag)
{
    pthread_mutex_lock(&t->lock);
    *flag = true;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static void release(struct launched *l)
{
    struct task *t = l->task;
    task_tell(t, &t->released);
}

static int find(const struct job_launcher *self, const struct job_process *identity, struct launched *ret_launched)
{
    return launcher_gone(identity);
}

static int signal_task(const struct launched *l, int signal)
{
    struct task *t = l->task;
    task_tell(t, &t->stopping);
    return 0;
}

static bool ended(struct launched *l, int folder_fd, int *ret_end)
{
    struct task *t = l->task;
    pthread_mutex_lock(&t->lock);
    bool over = t->ended;
    pthread_mutex_unlock(&t->lock);
    if (over)
        *ret_end = launcher_read_end(folder_fd);
    return over;
}

static void forget(struct launched *l)
{
    struct task *t = l->task;
    struct generate_jobs *g = t->all;
    int64_t job = t->job;
    task_tell(t, &t->stopping);
    pthread_join(t->thread, NULL);
    task_free(t);
    l->task = NULL;
    if (g->ended)
        g->ended(g->context, job);
}

int generate_jobs_create(const struct generate_jobs_options *o, struct generate_jobs **ret_jobs)
{
    struct generate_jobs *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    g->scheduler = o->scheduler;
    g->models = o->models;
    snprintf(g->device, sizeof(g->device), "%s", o->device);
    g->launcher = (struct job_launcher){.start = start,
                                        .release = release,
                                        .find = find,
                                        .signal = signal_task,
                                        .ended = ended,
                                        .forget = forget,
                                        .context = g};
    *ret_jobs = g;
    return 0;
}

void generate_jobs_free(struct generate_jobs *g)
{
    free(g);
}

const struct job_launcher *generate_jobs_launcher(const struct generate_jobs *g)
{
    return &g->launcher;
}

void generate_jobs_on_end(struct generate_jobs *g, void (*on_end)(void *context, int64_t job), void *context)
{
    g->ended = on_end;
    g->context = context;
}
