/* test_jobs.c: the store of jobs: its table of transitions, its queue, what it promises to keep when the process is
 * killed, the disk full, or the database locked.
 */
#include "tests/training/scratch.h"
#include "training/job_state.h"
#include "training/jobs.h"
#include "training/thin.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- helpers ---- */

struct fixture {
    char *folder;
    struct job_store *store;
    struct error err;
};

static struct job_store *open_store(const char *folder)
{
    struct job_store *store;
    struct error err = {0};
    if (job_store_open(folder, &(struct job_store_options){.busy_timeout_ms = 200}, &store, &err) < 0)
        fail_msg("open: %s", err.message);
    return store;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->folder = scratch_make();
    f->store = open_store(f->folder);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    job_store_close(f->store);
    scratch_remove(f->folder);
    free(f);
    return 0;
}

static void reopen(struct fixture *f)
{
    job_store_close(f->store);
    f->store = open_store(f->folder);
}

static const struct job_new plain = {.type = "train", .name = "plain", .device = "cpu", .config = "{\"epochs\":1}"};

static int64_t submit(struct job_store *store)
{
    int64_t id = 0;
    bool existed;
    assert_int_equal(job_store_submit(store, &plain, &id, &existed, NULL), 0);
    assert_false(existed);
    return id;
}

static struct job get(struct job_store *store, int64_t id)
{
    struct job job;
    assert_int_equal(job_store_get(store, id, &job, NULL), 0);
    return job;
}

static enum job_state state_of(struct job_store *store, int64_t id)
{
    struct job job = get(store, id);
    enum job_state state = job.state;
    job_done(&job);
    return state;
}

static int32_t position_of(struct job_store *store, int64_t id)
{
    struct job job = get(store, id);
    int32_t position = job.queue_position;
    job_done(&job);
    return position;
}

static const struct job_start from_nothing = {.process = {4711, 99, "boot"}, .checkpoint_step = -1};

static int act(struct job_store *store, int64_t id, enum job_action action, struct error *err)
{
    int64_t copy;
    struct job_end end = {.kind = JOB_END_EXIT};
    switch (action) {
    case JOB_ACTION_START:
        return job_store_start(store, id, &from_nothing, err);
    case JOB_ACTION_SUCCEED:
    case JOB_ACTION_FAIL:
    case JOB_ACTION_STOP:
    case JOB_ACTION_REQUEUE:
        return job_store_end(store, id, action, &end, 0, err);
    case JOB_ACTION_CANCEL:
        return job_store_cancel(store, id, NULL, err);
    case JOB_ACTION_RESUME:
        return job_store_resume(store, id, NULL, err);
    case JOB_ACTION_RETRY:
        return job_store_retry(store, id, &copy, err);
    case JOB_ACTION_MOVE:
        return job_store_move(store, id, 1, err);
    case JOB_ACTION_DELETE:
        return job_store_delete(store, id, err);
    case N_JOB_ACTIONS:
        break;
    }
    return -ENOSYS;
}

// A new job in that state.
static int64_t make(struct job_store *store, enum job_state state)
{
    static const enum job_action last[N_JOB_STATES] = {[JOB_STATE_SUCCEEDED] = JOB_ACTION_SUCCEED,
                                                       [JOB_STATE_FAILED] = JOB_ACTION_FAIL,
                                                       [JOB_STATE_CANCELLED] = JOB_ACTION_STOP};
    int64_t id = submit(store);
    if (state != JOB_STATE_QUEUED)
        assert_int_equal(act(store, id, JOB_ACTION_START, NULL), 0);
    if (job_state_ended(state))
        assert_int_equal(act(store, id, last[state], NULL), 0);
    assert_int_equal(state_of(store, id), state);
    return id;
}

/* ---- transitions ---- */

// What the issue and the interface's description say, written down a second time: all that is possible.
static const struct {
    const char *state, *action, *next;
} possible[] = {
    {"queued", "start", "running"},       {"queued", "fail", "failed"},         {"queued", "cancel", "cancelled"},
    {"queued", "move", "queued"},         {"running", "succeed", "succeeded"},  {"running", "fail", "failed"},
    {"running", "stop", "cancelled"},     {"running", "requeue", "queued"},     {"running", "cancel", "running"},
    {"succeeded", "cancel", "succeeded"}, {"succeeded", "retry", "succeeded"},  {"succeeded", "delete", "gone"},
    {"failed", "cancel", "failed"},       {"failed", "resume", "queued"},       {"failed", "retry", "failed"},
    {"failed", "delete", "gone"},         {"cancelled", "cancel", "cancelled"}, {"cancelled", "resume", "queued"},
    {"cancelled", "retry", "cancelled"},  {"cancelled", "delete", "gone"},
};

static enum job_state expected(enum job_state state, enum job_action action)
{
    for (size_t i = 0; i < sizeof possible / sizeof possible[0]; i++) {
        if (strcmp(possible[i].state, job_state_name(state)) == 0 &&
            strcmp(possible[i].action, job_action_name(action)) == 0)
            return strcmp(possible[i].next, "gone") == 0 ? JOB_STATE_GONE : job_state_from_name(possible[i].next);
    }
    return JOB_STATE_REFUSED;
}

static void transitions_are_those_of_the_table(void **state)
{
    struct fixture *f = *state;
    for (int s = 0; s < N_JOB_STATES; s++) {
        for (int a = 0; a < N_JOB_ACTIONS; a++) {
            enum job_state want = expected(s, a);
            assert_int_equal(job_state_next(s, a), want);
            int64_t id = make(f->store, s);
            struct error err = {0};
            int rc = act(f->store, id, a, &err);
            if (want == JOB_STATE_REFUSED) {
                assert_int_equal(rc, -EPERM);
                assert_non_null(strstr(err.message, job_state_name(s)));
                assert_int_equal(state_of(f->store, id), s);
            } else if (want == JOB_STATE_GONE) {
                struct job job;
                assert_int_equal(rc, 0);
                assert_int_equal(job_store_get(f->store, id, &job, NULL), -ENOENT);
            } else {
                assert_int_equal(rc, 0);
                assert_int_equal(state_of(f->store, id), want);
            }
        }
    }
}

static void unknown_jobs_are_not_found(void **state)
{
    struct fixture *f = *state;
    for (int a = 0; a < N_JOB_ACTIONS; a++)
        assert_int_equal(act(f->store, 12345, a, &f->err), -ENOENT);
    assert_non_null(strstr(f->err.message, "12345"));
}

static void cancel_says_what_it_was(void **state)
{
    struct fixture *f = *state;
    for (int s = 0; s < N_JOB_STATES; s++) {
        int64_t id = make(f->store, s);
        enum job_state was = JOB_STATE_GONE;
        assert_int_equal(job_store_cancel(f->store, id, &was, NULL), 0);
        assert_int_equal(was, s);
        struct job once = get(f->store, id);
        assert_int_equal(once.cancel_requested, s == JOB_STATE_RUNNING);
        assert_int_equal(job_store_cancel(f->store, id, &was, NULL), 0);
        assert_int_equal(was, s == JOB_STATE_QUEUED ? JOB_STATE_CANCELLED : (enum job_state)s);
        struct job twice = get(f->store, id);
        assert_int_equal(once.last_event, twice.last_event); // the second changes nothing
        job_done(&once);
        job_done(&twice);
    }
}

/* ---- queue, lists, keys ---- */

static void queue_keeps_its_order(void **state)
{
    struct fixture *f = *state;
    int64_t a = submit(f->store), b = submit(f->store), c = submit(f->store), d = submit(f->store);
    assert_int_equal(position_of(f->store, c), 3);
    assert_int_equal(job_store_move(f->store, d, 1, NULL), 0);  // d a b c
    assert_int_equal(job_store_move(f->store, a, 99, NULL), 0); // d b c a
    assert_int_equal(job_store_move(f->store, c, 2, NULL), 0);  // d c b a
    assert_int_equal(job_store_move(f->store, c, 0, &f->err), -EINVAL);
    const int64_t order[] = {d, c, b, a};
    reopen(f);
    for (int i = 0; i < 4; i++)
        assert_int_equal(position_of(f->store, order[i]), i + 1);
    // What died goes on first; what a person resumes goes to the end.
    assert_int_equal(act(f->store, d, JOB_ACTION_START, NULL), 0);
    assert_int_equal(position_of(f->store, d), 0);
    assert_int_equal(position_of(f->store, c), 1);
    assert_int_equal(act(f->store, c, JOB_ACTION_CANCEL, NULL), 0);
    assert_int_equal(act(f->store, d, JOB_ACTION_REQUEUE, NULL), 0);
    assert_int_equal(act(f->store, c, JOB_ACTION_RESUME, NULL), 0);
    struct job *jobs;
    int32_t n;
    assert_int_equal(
        job_store_list(f->store, &(struct job_filter){.in_queue_order = true, .limit = 10}, &jobs, &n, NULL), 0);
    const int64_t after[] = {d, b, a, c};
    assert_int_equal(n, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(jobs[i].id, after[i]);
        assert_int_equal(jobs[i].queue_position, i + 1);
    }
    job_list_free(jobs, n);
}

static void lists_filter_and_page(void **state)
{
    struct fixture *f = *state;
    struct job_new evaluate = plain;
    evaluate.type = "evaluate";
    for (int i = 0; i < 10; i++) {
        int64_t id;
        bool existed;
        assert_int_equal(job_store_submit(f->store, i % 3 ? &plain : &evaluate, &id, &existed, NULL), 0);
        if (i % 2)
            assert_int_equal(job_store_cancel(f->store, id, NULL, NULL), 0);
    }
    struct job *jobs;
    int32_t n;
    struct job_filter filter = {.state = -1, .limit = 4};
    int64_t last = 11, seen = 0;
    do {
        assert_int_equal(job_store_list(f->store, &filter, &jobs, &n, NULL), 0);
        for (int i = 0; i < n; i++, seen++) {
            assert_int_equal(jobs[i].id, last - 1);
            last = filter.before = jobs[i].id;
        }
        job_list_free(jobs, n);
    } while (n > 0);
    assert_int_equal(seen, 10);
    filter = (struct job_filter){.state = JOB_STATE_CANCELLED, .type = "evaluate", .limit = 100};
    assert_int_equal(job_store_list(f->store, &filter, &jobs, &n, NULL), 0);
    assert_int_equal(n, 2); // ids 4 and 10
    assert_int_equal(jobs[0].id, 10);
    assert_int_equal(jobs[1].id, 4);
    job_list_free(jobs, n);
    int64_t counts[N_JOB_STATES];
    assert_int_equal(job_store_count(f->store, counts, NULL), 0);
    assert_int_equal(counts[JOB_STATE_QUEUED], 5);
    assert_int_equal(counts[JOB_STATE_CANCELLED], 5);
    filter.limit = JOB_MAX_LIST + 1;
    assert_int_equal(job_store_list(f->store, &filter, &jobs, &n, &f->err), -EINVAL);
}

static void keys_hold_across_restarts(void **state)
{
    struct fixture *f = *state;
    struct job_new j = plain;
    int64_t first = 0, again = 0;
    bool existed = true;
    j.key = "k-1";
    j.digest = "abc";
    assert_int_equal(job_store_submit(f->store, &j, &first, &existed, NULL), 0);
    assert_false(existed);
    reopen(f);
    assert_int_equal(job_store_submit(f->store, &j, &again, &existed, NULL), 0);
    assert_true(existed);
    assert_int_equal(again, first);
    j.digest = "abd";
    assert_int_equal(job_store_submit(f->store, &j, &again, &existed, &f->err), -EKEYREJECTED);
    int64_t counts[N_JOB_STATES];
    assert_int_equal(job_store_count(f->store, counts, NULL), 0);
    assert_int_equal(counts[JOB_STATE_QUEUED], 1);
    // The key goes with its job; the number does not come again.
    assert_int_equal(job_store_cancel(f->store, first, NULL, NULL), 0);
    assert_int_equal(job_store_delete(f->store, first, NULL), 0);
    assert_int_equal(job_store_submit(f->store, &j, &again, &existed, NULL), 0);
    assert_false(existed);
    assert_true(again > first);
}

static void deleted_jobs_leave_their_folder_to_remove(void **state)
{
    struct fixture *f = *state;
    int64_t id = make(f->store, JOB_STATE_FAILED), ids[4];
    int32_t n = 0;
    assert_int_equal(job_store_delete(f->store, id, NULL), 0);
    reopen(f);
    assert_int_equal(job_store_trash(f->store, ids, 4, &n, NULL), 0);
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], id);
    assert_int_equal(job_store_trash_done(f->store, id, NULL), 0);
    assert_int_equal(job_store_trash(f->store, ids, 4, &n, NULL), 0);
    assert_int_equal(n, 0);
}

static void rows_come_back_as_they_were_written(void **state)
{
    struct fixture *f = *state;
    struct job_new j = {
        .type = "train", .name = "\xc3\xa9t\xc3\xa9 '; DROP TABLE jobs", .device = "cuda:1", .config = "{\"a\":\"'\"}"};
    int64_t id;
    bool existed;
    assert_int_equal(job_store_submit(f->store, &j, &id, &existed, NULL), 0);
    struct job_start start = {.process = {123, 456789, "0a-1b"}, .checkpoint_step = 40, .record_offset = 1234};
    assert_int_equal(job_store_start(f->store, id, &start, NULL), 0);
    reopen(f);
    struct job job = get(f->store, id);
    assert_string_equal(job.name, j.name);
    assert_string_equal(job.config, j.config);
    assert_string_equal(job.device, "cuda:1");
    assert_int_equal(job.process.pid, 123);
    assert_int_equal(job.process.start_ticks, 456789);
    assert_string_equal(job.process.boot_id, "0a-1b");
    assert_int_equal(job.step, 40);
    assert_int_equal(job.start_step, 40);
    assert_int_equal(job.checkpoint_step, 40);
    assert_int_equal(job.start_checkpoint, 40);
    assert_int_equal(job.record_offset, 1234);
    assert_int_equal(job.attempts, 1);
    assert_null(job.latest);
    job_done(&job);
    struct job_end end = {.kind = JOB_END_SIGNAL, .code = 9, .message = "ended by signal 9"};
    assert_int_equal(job_store_end(f->store, id, JOB_ACTION_REQUEUE, &end, 1, NULL), 0);
    job = get(f->store, id);
    assert_int_equal(job.end.kind, JOB_END_SIGNAL);
    assert_int_equal(job.end.code, 9);
    assert_string_equal(job.end.message, end.message);
    assert_int_equal(job.deaths, 1);
    assert_int_equal(job.process.pid, 0);
    assert_int_equal(job.ended_ms, 0);
    job_done(&job);
}

/* ---- records ---- */

static int ingest(struct job_store *store, int64_t id, int64_t from, int64_t step)
{
    char data[64];
    snprintf(data, sizeof data, "{\"step\":%lld}", (long long)step);
    struct job_record record = {"step", 1, step, data};
    struct job_progress progress = {step, 1000, 2, -1, data, NULL, 1000 + step * 10};
    return job_store_ingest(store, id, from, from + 1, &record, 1, &progress, NULL);
}

struct curve {
    int64_t steps[256];
    int32_t n;
};

static int add_point(void *arg, int64_t step, const char *data)
{
    struct curve *c = arg;
    char want[64];
    snprintf(want, sizeof want, "{\"step\":%lld}", (long long)step);
    assert_string_equal(data, want);
    c->steps[c->n++] = step;
    return 0;
}

static void records_are_stored_once(void **state)
{
    struct fixture *f = *state;
    int64_t id = make(f->store, JOB_STATE_RUNNING);
    assert_int_equal(ingest(f->store, id, 0, 10), 0);
    assert_int_equal(ingest(f->store, id, 0, 10), -ESTALE);
    assert_int_equal(ingest(f->store, id, 1, 20), 0);
    assert_int_equal(ingest(f->store, id + 1, 0, 1), -ENOENT);
    reopen(f);
    struct job job = get(f->store, id);
    assert_int_equal(job.record_offset, 2);
    assert_int_equal(job.step, 20);
    assert_int_equal(job.total_steps, 1000);
    assert_int_equal(job.epoch, 2);
    assert_string_equal(job.latest, "{\"step\":20}");
    // The 10 steps after the first report took from 1100 to 1200 ms of the boot clock; 980 are left.
    assert_int_equal(job_eta_ms(&job), 100 * 980 / 10);
    job_done(&job);
    struct job_event *events;
    int32_t n;
    assert_int_equal(job_store_events(f->store, id, 0, 100, &events, &n, NULL), 0);
    assert_int_equal(n, 4); // queued, running, two steps
    for (int i = 0; i < n; i++)
        assert_int_equal(events[i].seq, i + 1);
    assert_string_equal(events[3].kind, "step");
    assert_string_equal(events[1].data, "{\"state\":\"running\",\"was\":\"queued\"}");
    job_events_free(events, n);
    assert_int_equal(job_store_events(f->store, id, 3, 100, &events, &n, NULL), 0);
    assert_int_equal(n, 1);
    job_events_free(events, n);
    assert_int_equal(job_store_events(f->store, id + 1, 0, 100, &events, &n, NULL), -ENOENT);
}

static void a_resumed_run_replaces_the_steps_it_repeats(void **state)
{
    struct fixture *f = *state;
    int64_t id = make(f->store, JOB_STATE_RUNNING);
    for (int i = 0; i < 5; i++)
        assert_int_equal(ingest(f->store, id, i, 10 + 10 * i), 0); // 10..50
    assert_int_equal(act(f->store, id, JOB_ACTION_REQUEUE, NULL), 0);
    struct job_start start = from_nothing;
    start.checkpoint_step = 30;
    start.record_offset = 3;
    assert_int_equal(job_store_start(f->store, id, &start, NULL), 0);
    assert_int_equal(ingest(f->store, id, 3, 40), 0);
    struct curve curve = {0};
    assert_int_equal(job_store_curve(f->store, id, "step", add_point, &curve, NULL), 0);
    const int64_t want[] = {10, 20, 30, 40};
    assert_int_equal(curve.n, 4);
    assert_memory_equal(curve.steps, want, sizeof want);
    struct job job = get(f->store, id);
    assert_int_equal(job.step, 40);
    assert_int_equal(job.last_event, 10); // all that happened is still told: 3 states, requeue, 6 steps
    job_done(&job);
}

static void thinning_keeps_the_peaks(void **state)
{
    enum { N = 10000, MOST = 100 };
    static double values[N];
    int32_t chosen[MOST];
    (void)state;
    for (int i = 0; i < N; i++)
        values[i] = sin(i * 0.01);
    values[4321] = 50;
    values[4322] = -50;
    values[0] = NAN;
    int32_t n = thin_min_max(values, N, MOST, chosen);
    assert_in_range(n, MOST / 2, MOST);
    bool high = false, low = false;
    for (int i = 0; i < n; i++) {
        assert_true(i == 0 || chosen[i] > chosen[i - 1]);
        assert_true(isfinite(values[chosen[i]]));
        high = high || chosen[i] == 4321;
        low = low || chosen[i] == 4322;
    }
    assert_true(high && low);
    // Each piece of the curve has its own smallest and largest.
    for (int p = 0; p < MOST / 2; p++) {
        int32_t least = -1;
        for (int32_t i = p * 200; i < (p + 1) * 200; i++)
            least = isfinite(values[i]) && (least < 0 || values[i] < values[least]) ? i : least;
        bool found = false;
        for (int i = 0; i < n; i++)
            found = found || chosen[i] == least;
        assert_true(found);
    }
    assert_int_equal(thin_min_max(values, 7, MOST, chosen), 7);
    assert_int_equal(chosen[6], 6);
    for (int i = 0; i < N; i++)
        values[i] = NAN;
    assert_int_equal(thin_min_max(values, N, MOST, chosen), MOST / 2);
    assert_int_equal(thin_min_max(values, 0, MOST, chosen), 0);
}

/* ---- killed at any moment ---- */

enum { CRASH_ROUNDS = 25 };

struct acknowledged {
    int64_t submits, ingests;
};

// Until it is killed: submits with keys, records for one job, and tells the pipe of each that returned.
static void work_until_killed(const char *folder, int64_t id, struct acknowledged done, int ack_fd)
{
    struct job_store *store;
    if (job_store_open(folder, NULL, &store, NULL) < 0)
        _exit(2);
    for (;;) {
        char key[32];
        struct job_new j = plain;
        int64_t made;
        bool existed;
        snprintf(key, sizeof key, "key-%lld", (long long)done.submits);
        j.key = key;
        j.digest = "d";
        if (job_store_submit(store, &j, &made, &existed, NULL) < 0 || job_store_cancel(store, made, NULL, NULL) < 0)
            _exit(3);
        done.submits++;
        (void)!write(ack_fd, &done, sizeof done);
        if (ingest(store, id, done.ingests, done.ingests) < 0)
            _exit(4);
        done.ingests++;
        (void)!write(ack_fd, &done, sizeof done);
    }
}

static int64_t ask(const char *folder, const char *sql)
{
    char path[512];
    sqlite3 *db;
    sqlite3_stmt *row;
    snprintf(path, sizeof path, "%s/jobs.sqlite", folder);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &row, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(row), SQLITE_ROW);
    int64_t value = sqlite3_column_int64(row, 0);
    if (sqlite3_column_type(row, 0) == SQLITE_TEXT)
        value = strcmp((const char *)sqlite3_column_text(row, 0), "ok") == 0;
    sqlite3_finalize(row);
    sqlite3_close(db);
    return value;
}

// Kills a working child after a random time; returns what it had acknowledged.
static struct acknowledged run_and_kill(const char *folder, int64_t id, struct acknowledged before, unsigned *seed)
{
    struct acknowledged done = before, next;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(ends[0]);
        work_until_killed(folder, id, before, ends[1]);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &done, sizeof done), sizeof done); // it works
    usleep(rand_r(seed) % 20000);
    kill(pid, SIGKILL);
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status));
    while (read(ends[0], &next, sizeof next) == sizeof next)
        done = next;
    close(ends[0]);
    return done;
}

static void kills_lose_and_double_nothing(void **state)
{
    struct fixture *f = *state;
    unsigned seed = 1;
    int64_t id = make(f->store, JOB_STATE_RUNNING);
    struct acknowledged done = {0};
    for (int round = 0; round < CRASH_ROUNDS; round++) {
        job_store_close(f->store);
        f->store = NULL;
        done = run_and_kill(f->folder, id, done, &seed);
        f->store = open_store(f->folder);
        assert_true(ask(f->folder, "PRAGMA integrity_check"));
        struct job job = get(f->store, id);
        int64_t keys = ask(f->folder, "SELECT count(*) FROM keys");
        // At most one more than was acknowledged: the one under way.
        assert_in_range(job.record_offset, done.ingests, done.ingests + 1);
        assert_in_range(keys, done.submits, done.submits + 1);
        assert_int_equal(ask(f->folder, "SELECT count(*) FROM jobs"), keys + 1);
        assert_int_equal(ask(f->folder, "SELECT count(*) FROM events WHERE job = 1 AND kind = 'step'"),
                         job.record_offset);
        assert_int_equal(ask(f->folder, "SELECT count(DISTINCT step) FROM events WHERE job = 1 AND kind = 'step'"),
                         job.record_offset);
        assert_int_equal(ask(f->folder, "SELECT count(*) FROM (SELECT max(seq) m, count(*) n FROM events GROUP BY job)"
                                        " WHERE m <> n"),
                         0);
        done.ingests = job.record_offset;
        job_done(&job);
        done.submits = ask(f->folder, "SELECT count(*) FROM keys WHERE job IN (SELECT id FROM jobs"
                                      " WHERE state = 'cancelled')");
        assert_true(keys - done.submits <= 1); // a job is whole: queued or cancelled
    }
    assert_true(done.submits > CRASH_ROUNDS && done.ingests > CRASH_ROUNDS);
}

/* ---- faults ---- */

// In a child, since the limit is the process's: files may not grow past 256 KiB. Exit code 0: all as it should be.
static int fill_the_disk(const char *folder)
{
    struct job_store *store;
    struct error err = {0};
    struct rlimit limit = {256 << 10, RLIM_INFINITY};
    struct job_new j = plain;
    int64_t id = 0, accepted = 0, counts[N_JOB_STATES];
    bool existed;
    char config[4096];
    memset(config, ' ', sizeof config - 1);
    config[sizeof config - 1] = 0;
    j.config = config;
    signal(SIGXFSZ, SIG_IGN);
    if (job_store_open(folder, NULL, &store, NULL) < 0 || setrlimit(RLIMIT_FSIZE, &limit) < 0)
        return 2;
    int rc;
    while ((rc = job_store_submit(store, &j, &id, &existed, &err)) == 0 && accepted < 10000)
        accepted++;
    if (rc != -ENOSPC && rc != -EIO)
        return 3;
    if (!accepted || !strstr(err.message, "jobs"))
        return 4;
    // What was accepted can be read while the disk is full, and work goes on once it is not.
    if (job_store_count(store, counts, NULL) < 0 || counts[JOB_STATE_QUEUED] != accepted)
        return 5;
    limit.rlim_cur = RLIM_INFINITY;
    if (setrlimit(RLIMIT_FSIZE, &limit) < 0 || job_store_submit(store, &j, &id, &existed, &err) < 0)
        return 6;
    if (job_store_count(store, counts, NULL) < 0 || counts[JOB_STATE_QUEUED] != accepted + 1 || id != accepted + 1)
        return 7;
    job_store_close(store);
    return 0;
}

static void a_full_disk_is_told_and_survived(void **state)
{
    struct fixture *f = *state;
    job_store_close(f->store);
    f->store = NULL;
    pid_t pid = fork();
    if (pid == 0)
        _exit(fill_the_disk(f->folder));
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void a_locked_database_is_told_and_survived(void **state)
{
    struct fixture *f = *state;
    char path[512];
    sqlite3 *other;
    int64_t id = submit(f->store), none;
    bool existed;
    snprintf(path, sizeof path, "%s/jobs.sqlite", f->folder);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(job_store_submit(f->store, &plain, &none, &existed, &f->err), -EAGAIN);
    assert_non_null(strstr(f->err.message, "locked"));
    assert_int_equal(state_of(f->store, id), JOB_STATE_QUEUED); // reading goes on
    assert_int_equal(sqlite3_exec(other, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(other);
    assert_int_equal(submit(f->store), id + 1);
}

static void a_second_daemon_is_refused(void **state)
{
    struct fixture *f = *state;
    struct job_store *second;
    assert_int_equal(job_store_open(f->folder, NULL, &second, &f->err), -EBUSY);
    assert_non_null(strstr(f->err.message, "another daemon"));
}

static void a_damaged_or_newer_database_is_refused(void **state)
{
    struct fixture *f = *state;
    char path[512];
    sqlite3 *db;
    struct job_store *store;
    job_store_close(f->store);
    f->store = NULL;
    snprintf(path, sizeof path, "%s/jobs.sqlite", f->folder);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    assert_int_equal(job_store_open(f->folder, NULL, &store, &f->err), -EPROTONOSUPPORT);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "this is no database at all", 26, 0), 26);
    close(fd);
    assert_int_equal(job_store_open(f->folder, NULL, &store, &f->err), -EBADMSG);
}

/* ---- threads ---- */

enum { THREADS = 4, PER_THREAD = 25 };

static void *submit_and_cancel(void *arg)
{
    struct job_store *store = arg;
    struct job job;
    for (int i = 0; i < PER_THREAD; i++) {
        int64_t id;
        bool existed;
        if (job_store_submit(store, &plain, &id, &existed, NULL) < 0 || job_store_get(store, id, &job, NULL) < 0)
            return arg;
        job_done(&job);
        if (i % 2 && job_store_cancel(store, id, NULL, NULL) < 0)
            return arg;
    }
    return NULL;
}

static void threads_share_a_store(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[THREADS];
    void *failed;
    int64_t counts[N_JOB_STATES];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submit_and_cancel, f->store), 0);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(job_store_count(f->store, counts, NULL), 0);
    assert_int_equal(counts[JOB_STATE_CANCELLED], THREADS * (PER_THREAD / 2));
    assert_int_equal(counts[JOB_STATE_QUEUED], THREADS * (PER_THREAD - PER_THREAD / 2));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(transitions_are_those_of_the_table),
        TEST(unknown_jobs_are_not_found),
        TEST(cancel_says_what_it_was),
        TEST(queue_keeps_its_order),
        TEST(lists_filter_and_page),
        TEST(keys_hold_across_restarts),
        TEST(deleted_jobs_leave_their_folder_to_remove),
        TEST(rows_come_back_as_they_were_written),
        TEST(records_are_stored_once),
        TEST(a_resumed_run_replaces_the_steps_it_repeats),
        cmocka_unit_test(thinning_keeps_the_peaks),
        TEST(kills_lose_and_double_nothing),
        TEST(a_full_disk_is_told_and_survived),
        TEST(a_locked_database_is_told_and_survived),
        TEST(a_second_daemon_is_refused),
        TEST(a_damaged_or_newer_database_is_refused),
        TEST(threads_share_a_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
