/* test_job_types.c: what the kinds of jobs differ in: the verb that ddimd-train is given, and a launcher that runs jobs
 * inside this process. The one here counts steps in a thread and keeps its place as a real one would.
 */
#include "tests/training/scratch.h"
#include "training/follow.h"
#include "training/job_folder.h"
#include "training/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { TICK_MS = 5, ROUNDS = 6000, STEPS = 500, STEP_US = 2000 };

/* ---- a launcher inside the process ---- */

struct task {
    pthread_t thread;
    int folder_fd, gate_fd, end_fd;
    _Atomic bool may_run, must_stop, has_ended;
};

// For the thread, which cmocka's assertions are not for.
static void must(bool holds)
{
    if (!holds)
        abort();
}

static void append(struct task *t, const char *text)
{
    int fd;
    must(job_file_open(t->folder_fd, FOLLOW_RECORDS_NAME, O_WRONLY | O_CREAT | O_APPEND, &fd) == 0);
    must(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

static void keep(struct task *t, int64_t step)
{
    struct stat s;
    must(fstatat(t->folder_fd, FOLLOW_RECORDS_NAME, &s, 0) == 0);
    const struct follow_state state = {.step = step, .epoch = 0, .metrics_bytes = s.st_size};
    must(follow_state_write(t->folder_fd, &state, NULL) == 0);
}

static void *count(void *arg)
{
    struct task *t = arg;
    struct follow_state state = {.step = 0};
    uint64_t one = 1;
    char line[128];
    (void)!read(t->gate_fd, &one, sizeof one);
    if (atomic_load(&t->may_run)) {
        follow_state(t->folder_fd, &state, NULL);
        int64_t step = state.step;
        while (step < STEPS && !atomic_load(&t->must_stop)) {
            usleep(STEP_US);
            snprintf(line, sizeof line, "{\"event\":\"step\",\"step\":%lld,\"steps\":%d}\n", (long long)++step, STEPS);
            append(t, line);
        }
        keep(t, step);
        snprintf(line, sizeof line, "{\"event\":\"end\",\"end\":\"%s\",\"step\":%lld}\n",
                 step == STEPS ? "finished" : "stopped", (long long)step);
        append(t, line);
        launcher_write_end(t->folder_fd, 0);
    }
    atomic_store(&t->has_ended, true);
    (void)!write(t->end_fd, &one, sizeof one);
    return NULL;
}

static int thread_start(const struct job_launcher *self, const struct launch *launch, struct launched *ret_launched,
                        struct error *err)
{
    struct task *t = calloc(1, sizeof *t);
    struct launched l = {.launcher = self, .gate = -1, .task = t};
    assert_true(launch->job > 0);
    t->folder_fd = open(launch->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    t->gate_fd = eventfd(0, EFD_CLOEXEC);
    t->end_fd = l.pidfd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(launcher_self(&l.identity), 0);
    assert_int_equal(pthread_create(&t->thread, NULL, count, t), 0);
    *ret_launched = l;
    (void)err;
    return 0;
}

static void thread_release(struct launched *l)
{
    struct task *t = l->task;
    uint64_t one = 1;
    atomic_store(&t->may_run, true);
    (void)!write(t->gate_fd, &one, sizeof one);
}

static int thread_find(const struct job_launcher *self, const struct job_process *identity,
                       struct launched *ret_launched)
{
    (void)self;
    (void)ret_launched;
    return launcher_gone(identity);
}

static int thread_signal(const struct launched *l, int number)
{
    struct task *t = l->task;
    assert_int_equal(number, SIGTERM);
    atomic_store(&t->must_stop, true);
    return 0;
}

static bool thread_ended(struct launched *l, int folder_fd, int *ret_end)
{
    struct task *t = l->task;
    if (!atomic_load(&t->has_ended))
        return false;
    *ret_end = launcher_read_end(folder_fd);
    return true;
}

static void thread_forget(struct launched *l)
{
    struct task *t = l->task;
    uint64_t one = 1;
    atomic_store(&t->must_stop, true);
    (void)!write(t->gate_fd, &one, sizeof one);
    pthread_join(t->thread, NULL);
    close(t->folder_fd);
    close(t->gate_fd);
    close(t->end_fd);
    free(t);
}

static const struct job_launcher threads = {.start = thread_start,
                                            .release = thread_release,
                                            .find = thread_find,
                                            .signal = thread_signal,
                                            .ended = thread_ended,
                                            .forget = thread_forget};

/* ---- fixture ---- */

static const struct job_type types[] = {{.name = "train", .place = JOB_IN_PROCESS},
                                        {.name = "evaluate", .place = JOB_IN_PROCESS, .verb = "evaluate"},
                                        {.name = "count", .place = JOB_IN_DAEMON}};

struct fixture {
    char *folder, program[512];
    struct job_store *store;
    struct job_runner *runner;
};

static void open_with(struct fixture *f, const struct job_launcher *in_daemon)
{
    struct error err = {0};
    struct job_runner_options o = {.types = types,
                                   .n_types = sizeof types / sizeof types[0],
                                   .in_daemon = in_daemon,
                                   .program = f->program,
                                   .folder = f->folder,
                                   .tick_ms = TICK_MS};
    if (job_store_open(f->folder, NULL, &f->store, &err) < 0 || job_runner_create(f->store, &o, &f->runner, &err) < 0)
        fail_msg("%s", err.message);
}

static void close_all(struct fixture *f)
{
    job_runner_free(f->runner);
    job_store_close(f->store);
}

// A program that leaves its arguments in its folder, which is the one after --out.
static void write_program(struct fixture *f)
{
    snprintf(f->program, sizeof f->program, "%s/program", f->folder);
    FILE *file = fopen(f->program, "w");
    fputs("#!/bin/sh\nall=\"$*\"\nwhile [ \"$1\" != --out ]; do shift; done\necho \"$all\" >\"$2/arguments\"\n", file);
    fclose(file);
    chmod(f->program, 0755);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->folder = scratch_make();
    write_program(f);
    open_with(f, &threads);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    close_all(f);
    scratch_remove(f->folder);
    free(f);
    return 0;
}

static int64_t submit(struct fixture *f, const char *type)
{
    struct job_new j = {.type = type, .name = "", .device = "cpu", .config = "{}"};
    int64_t id;
    bool existed;
    assert_int_equal(job_store_submit(f->store, &j, &id, &existed, NULL), 0);
    return id;
}

static struct job get(struct fixture *f, int64_t id)
{
    struct job job;
    assert_int_equal(job_store_get(f->store, id, &job, NULL), 0);
    return job;
}

// Turns rounds until the job is in that state and that far; the caller calls job_done.
static struct job until(struct fixture *f, int64_t id, enum job_state state, int64_t step)
{
    struct job job = {0};
    for (int i = 0; i < ROUNDS; i++) {
        job_runner_round(f->runner);
        job = get(f, id);
        if (job.state == state && job.step >= step)
            return job;
        job_done(&job);
        usleep(TICK_MS * 1000);
    }
    fail_msg("job %lld is %s (%s), not %s", (long long)id, job_state_name(job.state), job.end.message,
             job_state_name(state));
    return job;
}

static int next_step(void *arg, int64_t step, const char *data)
{
    int64_t *last = arg;
    (void)data;
    return step == ++*last ? 0 : -EILSEQ;
}

static void assert_each_step_once(struct fixture *f, int64_t id)
{
    int64_t last = 0;
    assert_int_equal(job_store_curve(f->store, id, "step", next_step, &last, NULL), 0);
    assert_int_equal(last, STEPS);
}

/* ---- cases ---- */

static void the_verb_comes_first(void **state)
{
    struct fixture *f = *state;
    static const char *const names[] = {"train", "evaluate"};
    for (int i = 0; i < 2; i++) {
        char path[512], text[2048] = "", expected[2048];
        int64_t id = submit(f, names[i]);
        struct job job = until(f, id, JOB_STATE_SUCCEEDED, 0);
        job_done(&job);
        snprintf(path, sizeof path, "%s/jobs/%lld/arguments", f->folder, (long long)id);
        snprintf(expected, sizeof expected, "%s%s/jobs/%lld/job.json --out %s/jobs/%lld --resume\n",
                 i ? "evaluate " : "", f->folder, (long long)id, f->folder, (long long)id);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        assert_non_null(fgets(text, sizeof text, file));
        fclose(file);
        assert_string_equal(text, expected);
    }
}

static void a_job_inside_runs_to_its_end(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "count");
    struct job job = until(f, id, JOB_STATE_SUCCEEDED, STEPS);
    assert_string_equal(job.outcome, "finished");
    assert_int_equal(job.checkpoint_step, STEPS);
    job_done(&job);
    assert_each_step_once(f, id);
}

static void a_job_inside_is_cancelled_and_goes_on(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "count");
    struct job job = until(f, id, JOB_STATE_RUNNING, 3);
    assert_int_equal(job.process.pid, getpid());
    job_done(&job);
    assert_int_equal(job_store_cancel(f->store, id, NULL, NULL), 0);
    job = until(f, id, JOB_STATE_CANCELLED, 3);
    assert_true(job.step < STEPS && job.checkpoint_step == job.step);
    assert_int_equal(job.end.kind, JOB_END_KILLED);
    job_done(&job);
    assert_int_equal(job_store_resume(f->store, id, NULL, NULL), 0);
    job = until(f, id, JOB_STATE_SUCCEEDED, STEPS);
    job_done(&job);
    assert_each_step_once(f, id);
}

static void a_job_inside_survives_a_stop_of_the_daemon(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "count");
    struct job job = until(f, id, JOB_STATE_RUNNING, 3);
    job_done(&job);
    close_all(f);
    open_with(f, &threads);
    job = get(f, id);
    assert_int_equal(job.state, JOB_STATE_RUNNING); // as its daemon left it
    job_done(&job);
    job = until(f, id, JOB_STATE_SUCCEEDED, STEPS);
    assert_int_equal(job.attempts, 2);
    assert_int_equal(job.deaths, 0);
    job_done(&job);
    assert_each_step_once(f, id);
}

static void a_kind_that_nobody_runs_fails(void **state)
{
    struct fixture *f = *state;
    int64_t unknown = submit(f, "knit");
    struct job job = until(f, unknown, JOB_STATE_FAILED, 0);
    assert_int_equal(job.end.kind, JOB_END_START);
    assert_non_null(strstr(job.end.message, "knit"));
    job_done(&job);
    close_all(f);
    open_with(f, NULL);
    job = until(f, submit(f, "count"), JOB_STATE_FAILED, 0);
    assert_non_null(strstr(job.end.message, "count"));
    job_done(&job);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_verb_comes_first),
        TEST(a_job_inside_runs_to_its_end),
        TEST(a_job_inside_is_cancelled_and_goes_on),
        TEST(a_job_inside_survives_a_stop_of_the_daemon),
        TEST(a_kind_that_nobody_runs_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
