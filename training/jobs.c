/* jobs.c: the store itself: file, schema, transactions, and reading jobs. Changes of state are in jobs_change.c, what
 * the programs report in jobs_records.c.
 */
#include "training/jobs.h"

#include "training/jobs_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { SCHEMA_VERSION = 1, DEFAULT_BUSY_TIMEOUT_MS = 5000, LOCK_WAIT_MS = 2000 };

static const char schema[] =
    "CREATE TABLE jobs ("
    " id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " type TEXT NOT NULL, name TEXT NOT NULL, device TEXT NOT NULL, config TEXT NOT NULL,"
    " state TEXT NOT NULL, cancel_requested INTEGER NOT NULL DEFAULT 0, queue_key INTEGER NOT NULL,"
    " created_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL DEFAULT 0, ended_ms INTEGER NOT NULL DEFAULT 0,"
    " attempts INTEGER NOT NULL DEFAULT 0, deaths INTEGER NOT NULL DEFAULT 0,"
    " step INTEGER NOT NULL DEFAULT 0, total_steps INTEGER NOT NULL DEFAULT 0, epoch INTEGER NOT NULL DEFAULT 0,"
    " checkpoint_step INTEGER NOT NULL DEFAULT -1,"
    " start_step INTEGER NOT NULL DEFAULT 0, start_checkpoint INTEGER NOT NULL DEFAULT -1,"
    " first_step INTEGER NOT NULL DEFAULT 0,"
    " first_boot_ms INTEGER NOT NULL DEFAULT 0, latest_boot_ms INTEGER NOT NULL DEFAULT 0,"
    " latest TEXT, outcome TEXT NOT NULL DEFAULT '',"
    " pid INTEGER NOT NULL DEFAULT 0, start_ticks INTEGER NOT NULL DEFAULT 0, boot_id TEXT NOT NULL DEFAULT '',"
    " end_kind INTEGER NOT NULL DEFAULT 0, end_code INTEGER NOT NULL DEFAULT 0, end_message TEXT NOT NULL DEFAULT '',"
    " record_offset INTEGER NOT NULL DEFAULT 0, last_event INTEGER NOT NULL DEFAULT 0);"
    "CREATE INDEX jobs_by_state ON jobs (state, queue_key, id);"
    // step: -1 where an event has none; replaced: a resumed run has done the step again
    "CREATE TABLE events ("
    " job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, seq INTEGER NOT NULL, time_ms INTEGER NOT NULL,"
    " kind TEXT NOT NULL, step INTEGER NOT NULL, replaced INTEGER NOT NULL DEFAULT 0, data TEXT NOT NULL,"
    " PRIMARY KEY (job, seq)) WITHOUT ROWID;"
    "CREATE INDEX events_by_step ON events (job, kind, step);"
    "CREATE TABLE keys ("
    " key TEXT PRIMARY KEY, digest TEXT NOT NULL,"
    " job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE);"
    "CREATE INDEX keys_by_job ON keys (job);"
    "CREATE TABLE trash (job INTEGER PRIMARY KEY);";

// The columns of read_row, in its order. A queue is short: counting it for each queued row is cheap.
#define JOB_COLUMNS                                                                                                    \
    "id, type, name, device, config, state, cancel_requested,"                                                         \
    " CASE WHEN state = 'queued' THEN (SELECT count(*) FROM jobs q WHERE q.state = 'queued'"                           \
    " AND (q.queue_key, q.id) <= (j.queue_key, j.id)) ELSE 0 END,"                                                     \
    " created_ms, started_ms, ended_ms, attempts, deaths, step, total_steps, epoch, checkpoint_step, start_step,"      \
    " start_checkpoint, first_step, first_boot_ms, latest_boot_ms, latest, outcome, pid, start_ticks, boot_id,"        \
    " end_kind, end_code, end_message, record_offset, last_event"

int64_t store_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int connection_open(const char *path, int busy_timeout_ms, sqlite3 **ret_db, struct error *err)
{
    sqlite3 *db = NULL;
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK) {
        int rc = db ? sql_error(db, err) : error_set(err, -ENOMEM, NULL, "out of memory");
        sqlite3_close(db);
        return rc;
    }
    sqlite3_busy_timeout(db, busy_timeout_ms);
    int rc = sql_script(db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;", err);
    if (rc < 0) {
        sqlite3_close(db);
        return rc;
    }
    *ret_db = db;
    return 0;
}

static int schema_apply(sqlite3 *db, struct error *err)
{
    int64_t version = 0;
    int rc = sql_script(db, "BEGIN IMMEDIATE", err);
    if (rc < 0)
        return rc;
    rc = sql_value(db, &version, err, "PRAGMA user_version", "");
    if (rc == 0 && version == 0)
        rc = sql_script(db, schema, err);
    else if (rc == 0 && version != SCHEMA_VERSION)
        rc = error_set(err, -EPROTONOSUPPORT, NULL, "the database of jobs is of version %lld, this program knows %d",
                       (long long)version, SCHEMA_VERSION);
    if (rc == 0 && version == 0)
        rc = sql_script(db, "PRAGMA user_version = 1", err);
    return sql_end(db, rc, err);
}

static int lock_folder(const char *folder, int *ret_fd, struct error *err)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/lock", folder) >= (int)sizeof path)
        return error_set(err, -ENAMETOOLONG, NULL, "the state folder's name is too long");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return error_set(err, -errno, NULL, "cannot open %s: %s", path, strerror(errno));
    int rc = flock(fd, LOCK_EX | LOCK_NB);
    // A daemon that was killed while it started a process leaves its lock to that until the program is there.
    for (int waited = 0; rc < 0 && errno == EWOULDBLOCK && waited < LOCK_WAIT_MS; waited += 20) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        rc = flock(fd, LOCK_EX | LOCK_NB);
    }
    if (rc < 0) {
        int code = errno == EWOULDBLOCK ? -EBUSY : -errno;
        close(fd);
        return error_set(err, code, NULL, "%s is used by another daemon", folder);
    }
    *ret_fd = fd;
    return 0;
}

int job_store_open(const char *folder, const struct job_store_options *options, struct job_store **ret_store,
                   struct error *err)
{
    int busy_ms = options && options->busy_timeout_ms ? options->busy_timeout_ms : DEFAULT_BUSY_TIMEOUT_MS;
    char path[4096];
    struct job_store *store = calloc(1, sizeof *store);
    if (!store)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    store->lock_fd = -1;
    pthread_mutex_init(&store->write_mutex, NULL);
    pthread_mutex_init(&store->read_mutex, NULL);
    int rc = lock_folder(folder, &store->lock_fd, err);
    if (rc == 0 && snprintf(path, sizeof path, "%s/jobs.sqlite", folder) >= (int)sizeof path)
        rc = error_set(err, -ENAMETOOLONG, NULL, "the state folder's name is too long");
    if (rc == 0)
        rc = connection_open(path, busy_ms, &store->writer, err);
    if (rc == 0)
        rc = schema_apply(store->writer, err);
    if (rc == 0)
        rc = connection_open(path, busy_ms, &store->reader, err);
    if (rc < 0) {
        job_store_close(store);
        return rc;
    }
    *ret_store = store;
    return 0;
}

void job_store_close(struct job_store *store)
{
    if (!store)
        return;
    sqlite3_close(store->reader);
    sqlite3_close(store->writer);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    pthread_mutex_destroy(&store->write_mutex);
    pthread_mutex_destroy(&store->read_mutex);
    free(store);
}

uint64_t job_store_generation(struct job_store *store)
{
    return atomic_load(&store->generation);
}

int store_begin(struct job_store *store, struct error *err)
{
    pthread_mutex_lock(&store->write_mutex);
    int rc = sql_script(store->writer, "BEGIN IMMEDIATE", err);
    if (rc < 0)
        pthread_mutex_unlock(&store->write_mutex);
    return rc;
}

int store_finish(struct job_store *store, int rc, struct error *err)
{
    rc = sql_end(store->writer, rc, err);
    pthread_mutex_unlock(&store->write_mutex);
    if (rc >= 0)
        atomic_fetch_add(&store->generation, 1);
    return rc;
}

static void copy_text(char *to, size_t bytes, sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    snprintf(to, bytes, "%s", text ? text : "");
}

// Reads a row of JOB_COLUMNS. *job owns nothing before; release it with job_done whatever is returned.
static int read_row(sqlite3_stmt *row, struct job *job, struct error *err)
{
    int c = 0;
    *job = (struct job){.id = sqlite3_column_int64(row, c++)};
    copy_text(job->type, sizeof job->type, row, c++);
    copy_text(job->name, sizeof job->name, row, c++);
    copy_text(job->device, sizeof job->device, row, c++);
    job->config = strdup((const char *)sqlite3_column_text(row, c++));
    const char *state = (const char *)sqlite3_column_text(row, c++);
    int known = state ? job_state_from_name(state) : -1;
    if (known < 0)
        return error_set(err, -EBADMSG, NULL, "job %lld has the unknown state '%s'", (long long)job->id, state);
    job->state = known;
    job->cancel_requested = sqlite3_column_int(row, c++);
    job->queue_position = sqlite3_column_int(row, c++);
    int64_t *const numbers[] = {&job->created_ms, &job->started_ms, &job->ended_ms};
    for (size_t i = 0; i < 3; i++)
        *numbers[i] = sqlite3_column_int64(row, c++);
    job->attempts = sqlite3_column_int(row, c++);
    job->deaths = sqlite3_column_int(row, c++);
    int64_t *const progress[] = {&job->step,          &job->total_steps,      &job->epoch,      &job->checkpoint_step,
                                 &job->start_step,    &job->start_checkpoint, &job->first_step, &job->first_boot_ms,
                                 &job->latest_boot_ms};
    for (size_t i = 0; i < sizeof progress / sizeof progress[0]; i++)
        *progress[i] = sqlite3_column_int64(row, c++);
    const char *latest = (const char *)sqlite3_column_text(row, c++);
    job->latest = latest ? strdup(latest) : NULL;
    copy_text(job->outcome, sizeof job->outcome, row, c++);
    job->process.pid = sqlite3_column_int(row, c++);
    job->process.start_ticks = sqlite3_column_int64(row, c++);
    copy_text(job->process.boot_id, sizeof job->process.boot_id, row, c++);
    job->end.kind = sqlite3_column_int(row, c++);
    job->end.code = sqlite3_column_int(row, c++);
    copy_text(job->end.message, sizeof job->end.message, row, c++);
    job->record_offset = sqlite3_column_int64(row, c++);
    job->last_event = sqlite3_column_int64(row, c++);
    return job->config && (job->latest || !latest) ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
}

int store_read_job(sqlite3 *db, int64_t id, struct job *ret_job, struct error *err)
{
    sqlite3_stmt *rows;
    int rc = sql_prepare(db, &rows, err, "SELECT " JOB_COLUMNS " FROM jobs j WHERE id = ?", "i", id);
    if (rc < 0)
        return rc;
    struct job job = {0};
    rc = sql_step(rows, err);
    if (rc == 0)
        rc = error_set(err, -ENOENT, NULL, "there is no job %lld", (long long)id);
    else if (rc > 0)
        rc = read_row(rows, &job, err);
    sqlite3_finalize(rows);
    if (rc < 0) {
        job_done(&job);
        return rc;
    }
    *ret_job = job;
    return 0;
}

int job_store_get(struct job_store *store, int64_t id, struct job *ret_job, struct error *err)
{
    pthread_mutex_lock(&store->read_mutex);
    int rc = store_read_job(store->reader, id, ret_job, err);
    pthread_mutex_unlock(&store->read_mutex);
    return rc;
}

// Reads all rows into a new array of at most limit jobs.
static int read_rows(sqlite3_stmt *rows, int32_t limit, struct job **ret_jobs, int32_t *ret_n, struct error *err)
{
    struct job *jobs = calloc(limit, sizeof *jobs);
    int32_t n = 0;
    int rc = jobs ? 1 : error_set(err, -ENOMEM, NULL, "out of memory");
    while (rc > 0 && n < limit && (rc = sql_step(rows, err)) > 0) {
        int read = read_row(rows, &jobs[n++], err);
        if (read < 0)
            rc = read;
    }
    if (rc < 0) {
        job_list_free(jobs, n);
        return rc;
    }
    *ret_jobs = jobs;
    *ret_n = n;
    return 0;
}

int job_store_list(struct job_store *store, const struct job_filter *filter, struct job **ret_jobs, int32_t *ret_n,
                   struct error *err)
{
    static const char newest[] = "SELECT " JOB_COLUMNS " FROM jobs j WHERE (?1 IS NULL OR state = ?1)"
                                 " AND (?2 IS NULL OR type = ?2) AND (?3 = 0 OR id < ?3) ORDER BY id DESC LIMIT ?4";
    static const char queue[] = "SELECT " JOB_COLUMNS " FROM jobs j WHERE state = 'queued'"
                                " AND (?2 IS NULL OR type = ?2) AND ?1 IS NULL AND ?3 = 0"
                                " ORDER BY queue_key, id LIMIT ?4";
    if (filter->limit < 1 || filter->limit > JOB_MAX_LIST)
        return error_set(err, -EINVAL, "limit", "limit is 1 to %d", JOB_MAX_LIST);
    bool order = filter->in_queue_order;
    const char *state = order || filter->state < 0 ? NULL : job_state_name(filter->state);
    sqlite3_stmt *rows;
    pthread_mutex_lock(&store->read_mutex);
    int rc = sql_prepare(store->reader, &rows, err, order ? queue : newest, "ssii", state, filter->type,
                         order ? (int64_t)0 : filter->before, (int64_t)filter->limit);
    if (rc == 0) {
        rc = read_rows(rows, filter->limit, ret_jobs, ret_n, err);
        sqlite3_finalize(rows);
    }
    pthread_mutex_unlock(&store->read_mutex);
    return rc;
}

int job_store_count(struct job_store *store, int64_t ret_counts[N_JOB_STATES], struct error *err)
{
    int64_t counts[N_JOB_STATES] = {0};
    int rc = 0;
    pthread_mutex_lock(&store->read_mutex);
    for (int i = 0; i < N_JOB_STATES && rc == 0; i++)
        rc = sql_value(store->reader, &counts[i], err, "SELECT count(*) FROM jobs WHERE state = ?", "s",
                       job_state_name(i));
    pthread_mutex_unlock(&store->read_mutex);
    if (rc == 0)
        memcpy(ret_counts, counts, sizeof counts);
    return rc;
}

void job_done(struct job *job)
{
    if (!job)
        return;
    free(job->config);
    free(job->latest);
    job->config = job->latest = NULL;
}

void job_list_free(struct job *jobs, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        job_done(&jobs[i]);
    free(jobs);
}

// What the program itself says is left, less what has passed since; -1: it says nothing.
static int64_t foretold_ms(const struct job *job)
{
    struct timespec now;
    json_t *latest = job->latest ? json_loads(job->latest, 0, NULL) : NULL;
    const json_t *left = json_object_get(latest, "seconds_left");
    double ms = json_is_number(left) ? json_number_value(left) * 1000 : -1;
    json_decref(latest);
    if (ms < 0)
        return -1;
    clock_gettime(CLOCK_BOOTTIME, &now);
    ms -= (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6 - (double)job->latest_boot_ms;
    return ms > 0 ? (int64_t)ms : 0;
}

int64_t job_eta_ms(const struct job *job)
{
    int64_t foretold = job->state == JOB_STATE_RUNNING && job->first_boot_ms ? foretold_ms(job) : -1;
    if (foretold >= 0)
        return foretold;
    // From the first report on: what it took to start does not come again.
    int64_t done = job->step - job->first_step, left = job->total_steps - job->step;
    int64_t elapsed = job->latest_boot_ms - job->first_boot_ms;
    if (job->state != JOB_STATE_RUNNING || done <= 0 || left < 0 || elapsed <= 0)
        return -1;
    return (int64_t)((double)elapsed / done * left);
}
