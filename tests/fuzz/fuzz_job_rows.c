/* fuzz_job_rows.c: a job store whose rows hold anything: a damaged disk, another version, somebody with sqlite3. The
 * input is a list of changes: table and column, type, length, bytes. Everything that reads rows must answer or refuse.
 */
#include "tests/fuzz/fuzz.h"

#include "training/jobs.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const columns[] = {
    "jobs.type",        "jobs.name",          "jobs.device",         "jobs.config",   "jobs.state",
    "jobs.queue_key",   "jobs.created_ms",    "jobs.started_ms",     "jobs.ended_ms", "jobs.attempts",
    "jobs.deaths",      "jobs.step",          "jobs.total_steps",    "jobs.epoch",    "jobs.checkpoint_step",
    "jobs.start_step",  "jobs.first_boot_ms", "jobs.latest_boot_ms", "jobs.latest",   "jobs.outcome",
    "jobs.pid",         "jobs.start_ticks",   "jobs.boot_id",        "jobs.end_kind", "jobs.end_code",
    "jobs.end_message", "jobs.record_offset", "jobs.last_event",     "events.kind",   "events.data",
    "events.time_ms",   "events.step",        "events.seq",          "keys.key",      "keys.digest"};

static struct job_store *store;
static sqlite3 *db;
static char folder[64];

static void store_remove(void)
{
    static const char *const names[] = {"jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm", "lock"};
    char path[128];
    sqlite3_close(db);
    job_store_close(store);
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void store_make(void)
{
    char path[128];
    snprintf(folder, sizeof(folder), "%s/fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder) || job_store_open(folder, NULL, &store, NULL))
        abort();
    snprintf(path, sizeof(path), "%s/jobs.sqlite", folder);
    if (sqlite3_open(path, &db))
        abort();
    sqlite3_exec(db, "PRAGMA synchronous = OFF", NULL, NULL, NULL);
    atexit(store_remove);
}

/* Two jobs as they should be, one of them with an event. */
static void rows_reset(void)
{
    struct job_new job = {.type = "train", .name = "a", .device = "cpu", .config = "{}", .key = "k", .digest = "d"};
    int64_t id;
    bool existed;
    sqlite3_exec(db, "DELETE FROM keys; DELETE FROM events; DELETE FROM jobs; DELETE FROM trash", NULL, NULL, NULL);
    if (job_store_submit(store, &job, &id, &existed, NULL))
        abort();
    job.key = NULL;
    if (job_store_submit(store, &job, &id, &existed, NULL))
        abort();
}

/* One change at *at; false at the end of the input. */
static bool change(const uint8_t **at, size_t *left)
{
    char sql[128];
    if (*left < 3)
        return false;
    const char *column = columns[(*at)[0] % (sizeof(columns) / sizeof(columns[0]))], *dot = strchr(column, '.');
    uint8_t type = (*at)[1];
    size_t n = (*at)[2] < *left - 3 ? (*at)[2] : *left - 3;
    const uint8_t *bytes = *at + 3;
    sqlite3_stmt *s;
    int64_t number = 0;
    snprintf(sql, sizeof(sql), "UPDATE OR IGNORE %.*s SET %s = ?", (int)(dot - column), column, dot + 1);
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL))
        abort();
    memcpy(&number, bytes, n < sizeof(number) ? n : sizeof(number));
    if (type % 4 == 0)
        sqlite3_bind_text(s, 1, (const char *)bytes, (int)n, SQLITE_STATIC);
    else if (type % 4 == 1)
        sqlite3_bind_int64(s, 1, number);
    else if (type % 4 == 2)
        sqlite3_bind_blob(s, 1, bytes, (int)n, SQLITE_STATIC);
    else
        sqlite3_bind_null(s, 1);
    sqlite3_step(s);
    sqlite3_finalize(s);
    *at += 3 + n;
    *left -= 3 + n;
    return true;
}

static int each(void *arg, int64_t step, const char *data)
{
    (void)arg, (void)step;
    return data ? (int)(strlen(data) & 0) : 0;
}

static void read_job(int64_t id)
{
    struct job job;
    struct job_event *events;
    struct error err = {0};
    int32_t n;
    int rc = job_store_get(store, id, &job, &err);
    if (rc == 0) {
        job_eta_ms(&job);
        if (!memchr(job.name, 0, sizeof(job.name)) || (unsigned)job.state >= N_JOB_STATES || !job.config)
            abort();
        job_done(&job);
    } else if (!err.message[0]) {
        abort();
    }
    if (job_store_events(store, id, 0, 10, &events, &n, NULL) == 0)
        job_events_free(events, n);
    job_store_curve(store, id, "step", each, NULL, NULL);
    job_store_cancel(store, id, NULL, NULL);
    job_store_resume(store, id, NULL, NULL);
    job_store_move(store, id, 1, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct job *jobs;
    struct job_filter all = {.state = -1, .limit = 10}, queue = {.state = -1, .limit = 10, .in_queue_order = true};
    int64_t counts[N_JOB_STATES], ids[2] = {0, 0};
    int32_t found;
    if (!store)
        store_make();
    rows_reset();
    if (job_store_list(store, &all, &jobs, &found, NULL) || found != 2)
        abort();
    ids[0] = jobs[0].id, ids[1] = jobs[1].id;
    job_list_free(jobs, found);
    while (change(&bytes, &n))
        ;
    if (job_store_list(store, &all, &jobs, &found, NULL) == 0)
        job_list_free(jobs, found);
    if (job_store_list(store, &queue, &jobs, &found, NULL) == 0)
        job_list_free(jobs, found);
    job_store_count(store, counts, NULL);
    read_job(ids[0]);
    read_job(ids[1]);
    return 0;
}
