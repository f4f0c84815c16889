/* runner.c: the thread, and its rounds. One watch per running job; how a job is started is in runner_start.c. */
#include "training/runner.h"

#include "training/follow.h"
#include "training/job_end.h"
#include "training/job_folder.h"
#include "training/launcher.h"
#include "training/runner_private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_TICK_MS = 500, DEFAULT_GRACE_MS = 60000, TRASH_AT_ONCE = 16 };

int64_t runner_clock_ms(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- trouble ---- */

void runner_report(struct job_runner *r, int64_t job, const char *message)
{
    if (r->options.report)
        r->options.report(r->options.arg, job, message);
}

void runner_note_trouble(struct job_runner *r, int64_t job, const struct error *err)
{
    pthread_mutex_lock(&r->trouble_mutex);
    bool is_new = !r->has_trouble || strcmp(r->trouble.message, err->message) != 0;
    r->trouble = *err;
    r->has_trouble = r->round_had_trouble = true;
    pthread_mutex_unlock(&r->trouble_mutex);
    if (is_new)
        runner_report(r, job, err->message);
}

bool job_runner_trouble(struct job_runner *r, struct error *ret_error)
{
    pthread_mutex_lock(&r->trouble_mutex);
    bool has = r->has_trouble;
    if (has)
        *ret_error = r->trouble;
    pthread_mutex_unlock(&r->trouble_mutex);
    return has;
}

/* ---- kinds ---- */

const struct job_launcher *runner_launcher(const struct job_runner *r, const struct job_type *type)
{
    return type->place == JOB_IN_PROCESS ? &launcher_processes : r->options.in_daemon;
}

const struct job_type *runner_type(const struct job_runner *r, const char *name)
{
    for (int32_t i = 0; i < r->options.n_types; i++)
        if (strcmp(r->options.types[i].name, name) == 0 && runner_launcher(r, &r->options.types[i]))
            return &r->options.types[i];
    return NULL;
}

/* ---- watches ---- */

struct watch *runner_add_watch(struct job_runner *r, int64_t id)
{
    struct watch *grown = realloc(r->watches, (r->n_watches + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    r->watches = grown;
    struct watch *w = &grown[r->n_watches++];
    *w = (struct watch){.id = id, .folder_fd = -1, .process = {.pidfd = -1, .gate = -1}};
    return w;
}

static void remove_watch(struct job_runner *r, struct watch *w)
{
    if (w->process.launcher)
        w->process.launcher->forget(&w->process);
    if (w->folder_fd >= 0)
        close(w->folder_fd);
    *w = r->watches[--r->n_watches];
}

// Takes over what the program has written since. 0, or the store's error: then the watch is as it was.
static int follow(struct job_runner *r, struct watch *w, struct error *err)
{
    struct follow_batch *b = r->batch;
    int rc = 0;
    do {
        // A folder that is gone, or a disk that cannot be read, ends no job; its process will say so itself.
        if (w->folder_fd < 0 || follow_records(w->folder_fd, w->offset, b) < 0 || b->to == b->from)
            return 0;
        rc = job_store_ingest(r->store, w->id, b->from, b->to, b->records, b->n, &b->progress, err);
        if (rc == 0)
            w->offset = b->to;
    } while (rc == 0);
    return rc;
}

// Tells the store of a new checkpoint. 0, or the store's error.
static int follow_checkpoint(struct job_runner *r, struct watch *w, struct error *err)
{
    struct follow_state state;
    struct stat s;
    char data[96];
    if (w->folder_fd < 0 || follow_state_stat(w->folder_fd, &s) < 0)
        return 0;
    if (s.st_ino == w->state_inode && s.st_mtim.tv_sec == w->state_time.tv_sec &&
        s.st_mtim.tv_nsec == w->state_time.tv_nsec)
        return 0;
    if (follow_state(w->folder_fd, &state, NULL) < 0)
        return 0;
    int rc = 0;
    if (state.step != w->checkpoint_step) {
        snprintf(data, sizeof data, "{\"event\":\"checkpoint\",\"step\":%lld,\"epoch\":%lld}", (long long)state.step,
                 (long long)state.epoch);
        struct job_record record = {"checkpoint", runner_clock_ms(CLOCK_REALTIME), state.step, data};
        struct job_progress progress = {-1, -1, -1, state.step, NULL, NULL, 0};
        rc = job_store_ingest(r->store, w->id, w->offset, w->offset, &record, 1, &progress, err);
    }
    if (rc == 0) {
        w->checkpoint_step = state.step;
        w->state_inode = s.st_ino;
        w->state_time = s.st_mtim;
    }
    return rc;
}

static void ask_to_stop(struct job_runner *r, struct watch *w)
{
    int64_t now = runner_clock_ms(CLOCK_MONOTONIC);
    if (!w->term_ms) {
        w->term_ms = now;
        w->process.launcher->signal(&w->process, SIGTERM);
    } else if (now - w->term_ms >= r->options.grace_ms && !w->killed) {
        w->killed = true;
        w->process.launcher->signal(&w->process, SIGKILL);
    }
}

static void report_end(struct job_runner *r, int64_t id, enum job_action action, const struct job_end *end)
{
    char message[384];
    const char *what = action == JOB_ACTION_SUCCEED ? "succeeded"
                       : action == JOB_ACTION_FAIL  ? "failed"
                       : action == JOB_ACTION_STOP  ? "cancelled"
                                                    : "goes on from its last checkpoint";
    snprintf(message, sizeof message, "%s%s%s", what, end->message[0] ? ": " : "", end->message);
    runner_report(r, id, message);
}

// The process has ended: stores what that means, and drops the watch. 0, or the store's error: tried again next round.
static int judge(struct job_runner *r, struct watch *w, struct error *err)
{
    struct job job;
    struct job_end end;
    char words[256] = "";
    int32_t deaths;
    int rc = job_store_get(r->store, w->id, &job, err);
    if (rc < 0)
        return rc;
    if (w->folder_fd >= 0)
        follow_last_words(w->folder_fd, words, sizeof words);
    struct job_ending ending = {w->end, w->rebooted, w->out_of_memory, job.checkpoint_step, words};
    enum job_action action = job_end_judge(&job, &ending, &end, &deaths);
    rc = job_store_end(r->store, w->id, action, &end, deaths, err);
    job_done(&job);
    if (rc < 0)
        return rc;
    report_end(r, w->id, action, &end);
    remove_watch(r, w);
    return 0;
}

// One job's share of a round. The watch may be gone afterwards.
static int attend(struct job_runner *r, struct watch *w, struct error *err)
{
    struct job job;
    // Looked at before its records are read, so that none comes after the last look.
    if (!w->ended && w->process.launcher->ended(&w->process, w->folder_fd, &w->end)) {
        int64_t kills = launcher_oom_kills();
        w->ended = true;
        w->out_of_memory = r->oom_kills >= 0 && kills > r->oom_kills;
    }
    int rc = follow(r, w, err);
    if (rc == 0)
        rc = follow_checkpoint(r, w, err);
    if (rc < 0)
        return rc;
    if (w->ended)
        return judge(r, w, err);
    rc = job_store_get(r->store, w->id, &job, err);
    if (rc < 0)
        return rc;
    if (job.cancel_requested)
        ask_to_stop(r, w);
    job_done(&job);
    return 0;
}

static void attend_all(struct job_runner *r)
{
    for (int32_t i = 0; i < r->n_watches;) {
        struct error err = {0};
        int64_t id = r->watches[i].id;
        if (attend(r, &r->watches[i], &err) < 0)
            runner_note_trouble(r, id, &err);
        if (i < r->n_watches && r->watches[i].id == id)
            i++; // else it is gone and the last is in its place
    }
    r->oom_kills = launcher_oom_kills();
}

/* ---- after a restart of the daemon ---- */

// A job that the store says is running: finds its process, or notes that it is gone.
static int adopt(struct job_runner *r, const struct job *job, struct error *err)
{
    struct watch *w = runner_add_watch(r, job->id);
    if (!w)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    if (job_folder_open(r->root_fd, job->id, 0, &w->folder_fd, NULL) < 0)
        w->folder_fd = -1;
    w->offset = job->record_offset;
    w->checkpoint_step = job->checkpoint_step;
    strcpy(w->device, job->device);
    const struct job_type *type = runner_type(r, job->type);
    const struct job_launcher *launcher = type ? runner_launcher(r, type) : &launcher_processes;
    int rc = launcher->find(launcher, &job->process, &w->process);
    if (rc < 0) {
        w->ended = true;
        w->rebooted = rc == -ENODATA;
        w->end = launcher_read_end(w->folder_fd);
    }
    runner_report(r, job->id, rc == 0 ? "found running" : "its process has ended while nobody looked");
    return 0;
}

static int adopt_all(struct job_runner *r, struct error *err)
{
    struct job_filter running = {.state = JOB_STATE_RUNNING, .limit = JOB_MAX_LIST};
    struct job *jobs;
    int32_t n;
    int rc = job_store_list(r->store, &running, &jobs, &n, err);
    if (rc < 0)
        return rc;
    for (int32_t i = 0; i < n && rc == 0; i++)
        rc = adopt(r, &jobs[i], err);
    job_list_free(jobs, n);
    while (rc < 0 && r->n_watches > 0)
        remove_watch(r, &r->watches[0]);
    return rc;
}

/* ---- rounds ---- */

static void empty_trash(struct job_runner *r)
{
    int64_t ids[TRASH_AT_ONCE];
    int32_t n = 0;
    struct error err = {0};
    int rc = job_store_trash(r->store, ids, TRASH_AT_ONCE, &n, &err);
    for (int32_t i = 0; i < n && rc == 0; i++) {
        rc = job_folder_remove(r->root_fd, ids[i], &err);
        if (rc == 0)
            rc = job_store_trash_done(r->store, ids[i], &err);
    }
    if (rc < 0)
        runner_note_trouble(r, 0, &err);
}

void job_runner_round(struct job_runner *r)
{
    struct error err = {0};
    r->round_had_trouble = false;
    if (!r->adopted) {
        // Before all else: to start a job whose process still runs would run it twice.
        if (adopt_all(r, &err) < 0) {
            runner_note_trouble(r, 0, &err);
            return;
        }
        r->adopted = true;
    }
    attend_all(r);
    runner_start_queued(r);
    empty_trash(r);
    pthread_mutex_lock(&r->trouble_mutex);
    r->has_trouble = r->round_had_trouble;
    pthread_mutex_unlock(&r->trouble_mutex);
}

// Waits for a tick, a wake, or the end of a process.
static void wait_for_work(struct job_runner *r)
{
    struct pollfd fds[1 + JOB_MAX_LIST];
    int n = 0;
    fds[n++] = (struct pollfd){.fd = r->wake_fd, .events = POLLIN};
    for (int32_t i = 0; i < r->n_watches && n <= JOB_MAX_LIST; i++) {
        if (!r->watches[i].ended)
            fds[n++] = (struct pollfd){.fd = r->watches[i].process.pidfd, .events = POLLIN};
    }
    poll(fds, n, r->options.tick_ms);
    uint64_t count;
    if (fds[0].revents)
        (void)!read(r->wake_fd, &count, sizeof count);
}

static void *run(void *arg)
{
    struct job_runner *r = arg;
    while (!atomic_load(&r->stopping)) {
        job_runner_round(r);
        wait_for_work(r);
    }
    return NULL;
}

/* ---- life ---- */

static int copy_options(struct job_runner *r, const struct job_runner_options *o)
{
    r->options = *o;
    r->program = strdup(o->program);
    r->folder = strdup(o->folder);
    r->directory = o->directory ? strdup(o->directory) : NULL;
    r->options.tick_ms = o->tick_ms ? o->tick_ms : DEFAULT_TICK_MS;
    r->options.grace_ms = o->grace_ms ? o->grace_ms : DEFAULT_GRACE_MS;
    r->options.per_device = o->per_device ? o->per_device : 1;
    for (int i = 0; o->program_args && o->program_args[i] && i < RUNNER_MAX_ARGS; i++) {
        r->args[i] = strdup(o->program_args[i]);
        if (!r->args[i])
            return -ENOMEM;
    }
    return r->program && r->folder && (r->directory || !o->directory) ? 0 : -ENOMEM;
}

int job_runner_create(struct job_store *store, const struct job_runner_options *options, struct job_runner **ret_runner,
                      struct error *err)
{
    char path[4096];
    struct job_runner *r = calloc(1, sizeof *r);
    if (!r)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    r->store = store;
    r->root_fd = r->wake_fd = -1;
    r->oom_kills = launcher_oom_kills();
    pthread_mutex_init(&r->trouble_mutex, NULL);
    r->batch = malloc(sizeof *r->batch);
    int rc = copy_options(r, options);
    if (rc < 0 || !r->batch)
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    if (rc == 0 && snprintf(path, sizeof path, "%s/jobs", options->folder) >= (int)sizeof path)
        rc = error_set(err, -ENAMETOOLONG, NULL, "the state folder's name is too long");
    if (rc == 0)
        rc = job_root_open(path, &r->root_fd, err);
    if (rc == 0 && (r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        rc = error_set(err, -errno, NULL, "eventfd: %s", strerror(errno));
    if (rc < 0) {
        job_runner_free(r);
        return rc;
    }
    *ret_runner = r;
    return 0;
}

int job_runner_start(struct job_runner *r, struct error *err)
{
    int rc = pthread_create(&r->thread, NULL, run, r);
    if (rc != 0)
        return error_set(err, -rc, NULL, "cannot start a thread: %s", strerror(rc));
    r->has_thread = true;
    return 0;
}

void job_runner_wake(struct job_runner *r)
{
    uint64_t one = 1;
    (void)!write(r->wake_fd, &one, sizeof one);
}

void job_runner_stop(struct job_runner *r)
{
    atomic_store(&r->stopping, true);
    if (r->has_thread) {
        job_runner_wake(r);
        pthread_join(r->thread, NULL);
        r->has_thread = false;
    }
    while (r->n_watches > 0)
        remove_watch(r, &r->watches[0]);
}

void job_runner_free(struct job_runner *r)
{
    if (!r)
        return;
    job_runner_stop(r);
    for (int i = 0; i < RUNNER_MAX_ARGS; i++)
        free(r->args[i]);
    if (r->root_fd >= 0)
        close(r->root_fd);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    pthread_mutex_destroy(&r->trouble_mutex);
    free(r->watches);
    free(r->batch);
    free(r->program);
    free(r->folder);
    free(r->directory);
    free(r);
}

int job_runner_root(const struct job_runner *r)
{
    return r->root_fd;
}
