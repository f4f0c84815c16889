/* test_runner.c: jobs from the queue to their end with real processes (fake_trainer): every way to end, the daemon
 * killed at any moment, the machine restarted, the disk and the database in the way.
 *
 * usage: test_runner PATH_OF_FAKE_TRAINER
 */
#include "tests/training/scratch.h"
#include "training/job_end.h"
#include "training/job_folder.h"
#include "training/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* In place of the C library's: the wall clock jumps as a test says. */
static _Atomic int64_t clock_offset_s;

int clock_gettime(clockid_t clock, struct timespec *t)
{
    int rc = (int)syscall(SYS_clock_gettime, clock, t);
    if (clock == CLOCK_REALTIME)
        t->tv_sec += clock_offset_s;
    return rc;
}

enum { GRACE_MS = 300, TICK_MS = 10, ROUNDS = 3000 };

static const char *program;

struct fixture {
    char *folder;
    struct job_store *store;
    struct job_runner *runner;
};

static void open_all(struct fixture *f)
{
    static const struct job_type train = {.name = "train", .place = JOB_IN_PROCESS};
    struct job_runner_options o = {.types = &train,
                                   .n_types = 1,
                                   .program = program,
                                   .folder = f->folder,
                                   .nice = 1,
                                   .tick_ms = TICK_MS,
                                   .grace_ms = GRACE_MS};
    struct error err = {0};
    if (job_store_open(f->folder, &(struct job_store_options){.busy_timeout_ms = 50}, &f->store, &err) < 0 ||
        job_runner_create(f->store, &o, &f->runner, &err) < 0)
        fail_msg("%s", err.message);
}

static void close_all(struct fixture *f)
{
    job_runner_free(f->runner);
    job_store_close(f->store);
    f->runner = NULL;
    f->store = NULL;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->folder = scratch_make();
    open_all(f);
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

static int64_t submit_on(struct fixture *f, const char *device, const char *config)
{
    struct job_new j = {.type = "train", .name = "test", .device = device, .config = config};
    int64_t id;
    bool existed;
    assert_int_equal(job_store_submit(f->store, &j, &id, &existed, NULL), 0);
    return id;
}

static int64_t submit(struct fixture *f, const char *config)
{
    return submit_on(f, "cpu", config);
}

static struct job get(struct fixture *f, int64_t id)
{
    struct job job;
    assert_int_equal(job_store_get(f->store, id, &job, NULL), 0);
    return job;
}

// Turns rounds until the job is in that state; returns it. The caller calls job_done.
static struct job until(struct fixture *f, int64_t id, enum job_state state)
{
    for (int i = 0; i < ROUNDS; i++) {
        job_runner_round(f->runner);
        struct job job = get(f, id);
        if (job.state == state)
            return job;
        job_done(&job);
        usleep(TICK_MS * 1000);
    }
    struct job job = get(f, id);
    fail_msg("job %lld is %s (%s), not %s", (long long)id, job_state_name(job.state), job.end.message,
             job_state_name(state));
    return job;
}

static void until_step(struct fixture *f, int64_t id, int64_t step)
{
    for (int i = 0; i < ROUNDS; i++) {
        job_runner_round(f->runner);
        struct job job = get(f, id);
        int64_t at = job.step;
        job_done(&job);
        if (at >= step)
            return;
        usleep(1000);
    }
    fail_msg("job %lld never comes to step %lld", (long long)id, (long long)step);
}

static bool has_file(struct fixture *f, int64_t id, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/jobs/%lld/%s", f->folder, (long long)id, name);
    return access(path, F_OK) == 0;
}

static int next_step(void *arg, int64_t step, const char *data)
{
    int64_t *last = arg;
    (void)data;
    assert_int_equal(step, *last + 1);
    *last = step;
    return 0;
}

// The curve has the steps 1 to n, each once.
static void assert_whole_curve(struct fixture *f, int64_t id, int64_t n)
{
    int64_t last = 0;
    assert_int_equal(job_store_curve(f->store, id, "step", next_step, &last, NULL), 0);
    assert_int_equal(last, n);
    assert_false(has_file(f, id, "ran-twice"));
}

static void run_sql(struct fixture *f, const char *sql)
{
    char path[512];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/jobs.sqlite", f->folder);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* ---- ways to end ---- */

static void a_job_runs_to_its_end(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":20,\"step_ms\":1,\"keep_every\":5}");
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.step, 20);
    assert_int_equal(job.total_steps, 20);
    assert_int_equal(job.checkpoint_step, 20);
    assert_int_equal(job.attempts, 1);
    assert_string_equal(job.outcome, "finished");
    assert_int_equal(job.end.kind, JOB_END_EXIT);
    assert_true(job.ended_ms >= job.started_ms && job.started_ms >= job.created_ms);
    assert_non_null(strstr(job.latest, "\"loss\""));
    assert_whole_curve(f, id, 20);
    job_done(&job);
    struct error trouble;
    assert_false(job_runner_trouble(f->runner, &trouble));
}

static void one_job_at_a_time_on_a_device(void **state)
{
    struct fixture *f = *state;
    const char *config = "{\"steps\":100,\"step_ms\":5}";
    int64_t first = submit(f, config), second = submit(f, config), third = submit(f, config);
    int64_t other = submit_on(f, "cuda:0", config);
    assert_int_equal(job_store_move(f->store, third, 1, NULL), 0);
    job_runner_round(f->runner);
    int64_t counts[N_JOB_STATES];
    struct job job = until(f, third, JOB_STATE_RUNNING);
    job_done(&job);
    job = until(f, other, JOB_STATE_RUNNING); // another device does not wait
    job_done(&job);
    do {
        int64_t on_cpu = 0;
        job_runner_round(f->runner);
        for (int64_t id = first; id <= third; id++) {
            job = get(f, id);
            on_cpu += job.state == JOB_STATE_RUNNING;
            job_done(&job);
        }
        assert_true(on_cpu <= 1);
        assert_int_equal(job_store_count(f->store, counts, NULL), 0);
        usleep(1000);
    } while (counts[JOB_STATE_SUCCEEDED] < 4);
    struct job a = get(f, first), b = get(f, second), c = get(f, third);
    assert_true(c.started_ms <= a.started_ms && a.started_ms <= b.started_ms);
    job_done(&a);
    job_done(&b);
    job_done(&c);
}

static void a_cancelled_job_keeps_its_work_and_resumes(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":60,\"step_ms\":3,\"keep_every\":50}");
    enum job_state was;
    until_step(f, id, 10);
    assert_int_equal(job_store_cancel(f->store, id, &was, NULL), 0);
    assert_int_equal(was, JOB_STATE_RUNNING);
    struct job job = until(f, id, JOB_STATE_CANCELLED);
    assert_int_equal(job.end.kind, JOB_END_KILLED);
    assert_true(job.checkpoint_step >= 10 && job.checkpoint_step < 60);
    int64_t kept = job.checkpoint_step;
    job_done(&job);
    assert_int_equal(job_store_resume(f->store, id, &was, NULL), 0);
    assert_int_equal(was, JOB_STATE_CANCELLED);
    job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.start_step, kept);
    assert_int_equal(job.attempts, 2);
    job_done(&job);
    assert_whole_curve(f, id, 60);
}

static void a_deaf_job_is_killed_after_the_grace(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":100000,\"step_ms\":5,\"deaf\":true}");
    until_step(f, id, 3);
    assert_int_equal(job_store_cancel(f->store, id, NULL, NULL), 0);
    struct job job = until(f, id, JOB_STATE_CANCELLED);
    assert_int_equal(job.end.kind, JOB_END_KILLED);
    assert_non_null(strstr(job.end.message, "in time"));
    job_done(&job);
}

static void a_job_that_dies_goes_on_from_its_checkpoint(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":30,\"step_ms\":1,\"keep_every\":10,\"die_at\":17,\"die_times\":1,"
                           "\"die_signal\":11}");
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.attempts, 2);
    assert_int_equal(job.start_step, 10);
    job_done(&job);
    assert_whole_curve(f, id, 30);
}

static void a_job_that_dies_twice_without_a_checkpoint_is_failed(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":30,\"step_ms\":1,\"keep_every\":10,\"die_at\":17,\"die_times\":99,"
                           "\"die_signal\":9}");
    struct job job = until(f, id, JOB_STATE_FAILED);
    // From the beginning it came to a new checkpoint before its first death, then to none before its second.
    assert_int_equal(job.attempts, 2);
    assert_int_equal(job.end.kind, JOB_END_SIGNAL);
    assert_int_equal(job.end.code, 9);
    assert_non_null(strstr(job.end.message, "without a new checkpoint"));
    job_done(&job);
    // A person may try once more; then it counts anew.
    assert_int_equal(job_store_resume(f->store, id, NULL, NULL), 0);
    job = until(f, id, JOB_STATE_FAILED);
    assert_int_equal(job.attempts, 4);
    job_done(&job);
}

static void a_job_that_dies_often_but_gets_on_is_not_failed(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":40,\"step_ms\":1,\"keep_every\":10,\"die_after\":13,\"die_times\":99,"
                           "\"die_signal\":6}");
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.attempts, 4);
    job_done(&job);
    assert_whole_curve(f, id, 40);
}

static void an_exit_code_fails_with_its_last_words(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":30,\"die_at\":3,\"die_times\":99,\"die_exit\":3}");
    struct job job = until(f, id, JOB_STATE_FAILED);
    assert_int_equal(job.attempts, 1);
    assert_int_equal(job.end.kind, JOB_END_EXIT);
    assert_int_equal(job.end.code, 3);
    assert_string_equal(job.end.message, "exit code 3: fake_trainer: dies on demand");
    job_done(&job);
}

static void a_sigterm_of_somebody_else_is_no_end(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":40,\"step_ms\":5,\"keep_every\":20}");
    until_step(f, id, 5);
    struct job job = get(f, id);
    assert_int_equal(kill(-job.process.pid, SIGTERM), 0);
    job_done(&job);
    job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.attempts, 2);
    job_done(&job);
    assert_whole_curve(f, id, 40);
}

static void a_deleted_jobs_folder_goes(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":1}");
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    job_done(&job);
    assert_true(has_file(f, id, "checkpoints/state.safetensors"));
    assert_int_equal(job_store_delete(f->store, id, NULL), 0);
    job_runner_round(f->runner);
    assert_false(has_file(f, id, ""));
    int32_t n = -1;
    int64_t ids[1];
    assert_int_equal(job_store_trash(f->store, ids, 1, &n, NULL), 0);
    assert_int_equal(n, 0);
}

/* ---- the daemon goes and comes back ---- */

// A daemon in a process of its own, to be killed. Jobs of a killed one become children of this process.
static pid_t fork_daemon(struct fixture *f)
{
    pid_t pid = fork();
    if (pid == 0) {
        open_all(f);
        if (job_runner_start(f->runner, NULL) < 0)
            _exit(1);
        for (;;)
            pause();
    }
    assert_true(pid > 0);
    return pid;
}

static void kill_daemon(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void wait_until_running(struct fixture *f, int64_t id, int64_t step)
{
    char path[512];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/jobs.sqlite", f->folder);
    for (int i = 0; i < ROUNDS; i++, usleep(2000)) {
        sqlite3_stmt *row;
        int64_t at = -1;
        assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
        sqlite3_busy_timeout(db, 1000);
        assert_int_equal(
            sqlite3_prepare_v2(db, "SELECT step FROM jobs WHERE id = ? AND state = 'running'", -1, &row, NULL),
            SQLITE_OK);
        sqlite3_bind_int64(row, 1, id);
        if (sqlite3_step(row) == SQLITE_ROW)
            at = sqlite3_column_int64(row, 0);
        sqlite3_finalize(row);
        sqlite3_close(db);
        if (at >= step)
            return;
    }
    fail_msg("the daemon does not run the job");
}

static void a_killed_daemon_finds_its_job_again(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":100,\"step_ms\":5,\"keep_every\":10}");
    close_all(f);
    pid_t daemon = fork_daemon(f);
    wait_until_running(f, id, 5);
    kill_daemon(daemon);
    usleep(100000); // records are written that nobody reads
    open_all(f);
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.attempts, 1);
    assert_int_equal(job.end.kind, JOB_END_EXIT);
    job_done(&job);
    assert_whole_curve(f, id, 100);
}

static void a_job_that_ends_without_a_daemon_is_judged_later(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *config;
        enum job_state state;
        enum job_end_kind kind;
        int code;
    } cases[] = {
        {"{\"steps\":40,\"step_ms\":5}", JOB_STATE_SUCCEEDED, JOB_END_EXIT, 0},
        {"{\"steps\":80,\"step_ms\":5,\"die_at\":40,\"die_times\":9,\"die_exit\":4}", JOB_STATE_FAILED, JOB_END_EXIT,
         4},
        {"{\"steps\":80,\"step_ms\":5,\"die_at\":40,\"die_times\":9,\"die_signal\":7}", JOB_STATE_FAILED,
         JOB_END_SIGNAL, 7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t id = submit(f, cases[i].config);
        close_all(f);
        pid_t daemon = fork_daemon(f);
        wait_until_running(f, id, 1);
        kill_daemon(daemon);
        for (int k = 0; k < ROUNDS && !has_file(f, id, "exit"); k++)
            usleep(2000);
        usleep(20000);
        open_all(f);
        struct job job = until(f, id, cases[i].state);
        assert_int_equal(job.end.kind, cases[i].kind);
        assert_int_equal(job.end.code, cases[i].code);
        job_done(&job);
    }
}

static void a_job_found_again_can_be_cancelled(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":100000,\"step_ms\":5,\"keep_every\":1000}");
    close_all(f);
    pid_t daemon = fork_daemon(f);
    wait_until_running(f, id, 2);
    kill_daemon(daemon);
    open_all(f);
    assert_int_equal(job_store_cancel(f->store, id, NULL, NULL), 0);
    struct job job = until(f, id, JOB_STATE_CANCELLED);
    assert_string_equal(job.outcome, "stopped");
    assert_true(job.checkpoint_step > 0);
    job_done(&job);
}

static void after_a_reboot_jobs_go_on(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":60,\"step_ms\":3,\"keep_every\":10}");
    close_all(f);
    pid_t daemon = fork_daemon(f);
    wait_until_running(f, id, 15);
    kill_daemon(daemon);
    // As a power cut leaves it: nothing runs, no exit file, another boot. The pid belongs to somebody else now: to us.
    open_all(f);
    struct job job = get(f, id);
    kill(-job.process.pid, SIGKILL);
    usleep(50000);
    job_done(&job);
    char sql[256];
    snprintf(sql, sizeof sql, "UPDATE jobs SET boot_id = 'an older boot', pid = %d WHERE id = %lld", getpid(),
             (long long)id);
    run_sql(f, sql);
    job = until(f, id, JOB_STATE_SUCCEEDED); // and we still live
    assert_int_equal(job.attempts, 2);
    assert_true(job.start_step >= 10);
    job_done(&job);
    assert_whole_curve(f, id, 60);
}

// The daemon is killed at random moments, among them those between a process' start and the row that knows it.
static void kills_of_the_daemon_lose_and_double_nothing(void **state)
{
    struct fixture *f = *state;
    enum { JOBS = 12 };
    int64_t ids[JOBS];
    unsigned seed = 7;
    for (int i = 0; i < JOBS; i++)
        ids[i] = submit(f, "{\"steps\":25,\"step_ms\":2,\"keep_every\":7}");
    close_all(f);
    int64_t counts[N_JOB_STATES] = {0};
    for (int round = 0; round < 400 && counts[JOB_STATE_SUCCEEDED] < JOBS; round++) {
        pid_t daemon = fork_daemon(f);
        usleep(5000 + rand_r(&seed) % 60000);
        kill_daemon(daemon);
        struct error err = {0};
        assert_int_equal(job_store_open(f->folder, NULL, &f->store, &err), 0);
        assert_int_equal(job_store_count(f->store, counts, NULL), 0);
        job_store_close(f->store);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ; // orphans come to us
    }
    open_all(f);
    for (int i = 0; i < JOBS; i++) {
        struct job job = until(f, ids[i], JOB_STATE_SUCCEEDED);
        job_done(&job);
        assert_whole_curve(f, ids[i], 25);
    }
}

/* ---- things in the way ---- */

static void a_gone_folder_is_told(void **state)
{
    struct fixture *f = *state;
    int64_t id = submit(f, "{\"steps\":50,\"step_ms\":3,\"keep_every\":5}");
    until_step(f, id, 10);
    assert_int_equal(job_store_cancel(f->store, id, NULL, NULL), 0);
    struct job job = until(f, id, JOB_STATE_CANCELLED);
    job_done(&job);
    assert_int_equal(job_folder_remove(job_runner_root(f->runner), id, NULL), 0);
    assert_int_equal(job_store_resume(f->store, id, NULL, NULL), 0);
    job = until(f, id, JOB_STATE_FAILED);
    assert_int_equal(job.end.kind, JOB_END_START);
    assert_non_null(strstr(job.end.message, "folder is gone"));
    job_done(&job);
}

static void a_missing_program_fails_the_job(void **state)
{
    struct fixture *f = *state;
    const char *real = program;
    close_all(f);
    program = "/nowhere/ddimd-train";
    open_all(f);
    program = real;
    int64_t id = submit(f, "{\"steps\":1}");
    struct job job = until(f, id, JOB_STATE_FAILED);
    assert_int_equal(job.end.kind, JOB_END_START);
    assert_non_null(strstr(job.end.message, "/nowhere/ddimd-train"));
    job_done(&job);
}

static void a_locked_database_delays_but_loses_nothing(void **state)
{
    struct fixture *f = *state;
    char path[512];
    sqlite3 *other;
    struct error trouble;
    int64_t id = submit(f, "{\"steps\":40,\"step_ms\":2,\"keep_every\":10}");
    until_step(f, id, 3);
    snprintf(path, sizeof path, "%s/jobs.sqlite", f->folder);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < 10; i++) {
        job_runner_round(f->runner);
        usleep(20000); // longer than the job
    }
    assert_true(job_runner_trouble(f->runner, &trouble));
    assert_int_equal(trouble.code, -EAGAIN);
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    assert_int_equal(job.attempts, 1);
    job_done(&job);
    assert_whole_curve(f, id, 40);
    job_runner_round(f->runner);
    assert_false(job_runner_trouble(f->runner, &trouble));
}

static void a_folder_that_cannot_be_made_fails_its_job_alone(void **state)
{
    struct fixture *f = *state;
    struct error trouble;
    char path[512];
    // A file where the job's folder should be: EEXIST for mkdir, ENOTDIR for open; it fails this job alone.
    snprintf(path, sizeof path, "%s/jobs/1", f->folder);
    close(open(path, O_WRONLY | O_CREAT, 0640));
    int64_t id = submit(f, "{\"steps\":1}"), next = submit(f, "{\"steps\":1}");
    struct job job = until(f, id, JOB_STATE_FAILED);
    assert_int_equal(job.end.kind, JOB_END_START);
    job_done(&job);
    job = until(f, next, JOB_STATE_SUCCEEDED);
    job_done(&job);
    assert_false(job_runner_trouble(f->runner, &trouble));
}

/* Years back and forth under a running job: it goes on, its curve is whole, and what is left is foretold as before. */
static void a_clock_that_jumps_changes_nothing(void **state)
{
    struct fixture *f = *state;
    const int64_t year = 365 * 24 * 3600;
    int64_t id = submit(f, "{\"steps\":1500,\"step_ms\":2}");
    for (int i = 0; i < 4; i++) {
        until_step(f, id, 20 * (i + 1));
        clock_offset_s = i % 2 ? year : -year;
        job_runner_round(f->runner);
        struct job job = get(f, id);
        assert_int_equal(job.state, JOB_STATE_RUNNING);
        assert_in_range(job_eta_ms(&job) + 1, 0, 600000);
        job_done(&job);
    }
    int64_t next = submit(f, "{\"steps\":1}"); // of last year
    struct job job = until(f, id, JOB_STATE_SUCCEEDED);
    job_done(&job);
    assert_whole_curve(f, id, 1500);
    clock_offset_s = 0;
    job = until(f, next, JOB_STATE_SUCCEEDED);
    job_done(&job);
}

static void a_thread_does_it_all_alone(void **state)
{
    struct fixture *f = *state;
    struct error err = {0};
    assert_int_equal(job_runner_start(f->runner, &err), 0);
    int64_t id = submit(f, "{\"steps\":10,\"step_ms\":1}");
    job_runner_wake(f->runner);
    enum job_state at = JOB_STATE_QUEUED;
    for (int i = 0; i < ROUNDS && at != JOB_STATE_SUCCEEDED; i++, usleep(2000)) {
        struct job job = get(f, id);
        at = job.state;
        job_done(&job);
    }
    assert_int_equal(at, JOB_STATE_SUCCEEDED);
    job_runner_stop(f->runner);
    assert_whole_curve(f, id, 10);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_job_runs_to_its_end),
        TEST(one_job_at_a_time_on_a_device),
        TEST(a_cancelled_job_keeps_its_work_and_resumes),
        TEST(a_deaf_job_is_killed_after_the_grace),
        TEST(a_job_that_dies_goes_on_from_its_checkpoint),
        TEST(a_job_that_dies_twice_without_a_checkpoint_is_failed),
        TEST(a_job_that_dies_often_but_gets_on_is_not_failed),
        TEST(an_exit_code_fails_with_its_last_words),
        TEST(a_sigterm_of_somebody_else_is_no_end),
        TEST(a_deleted_jobs_folder_goes),
        TEST(a_killed_daemon_finds_its_job_again),
        TEST(a_job_that_ends_without_a_daemon_is_judged_later),
        TEST(a_job_found_again_can_be_cancelled),
        TEST(after_a_reboot_jobs_go_on),
        TEST(kills_of_the_daemon_lose_and_double_nothing),
        TEST(a_gone_folder_is_told),
        TEST(a_missing_program_fails_the_job),
        TEST(a_locked_database_delays_but_loses_nothing),
        TEST(a_folder_that_cannot_be_made_fails_its_job_alone),
        TEST(a_clock_that_jumps_changes_nothing),
        TEST(a_thread_does_it_all_alone),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: test_runner PATH_OF_FAKE_TRAINER\n");
        return 2;
    }
    program = argv[1];
    // Jobs of daemons that this test kills come to it, not to init: whoever collects them must not change the outcome.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
