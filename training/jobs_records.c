/* jobs_records.c: what a job's program reported: events, the curve of its steps, and where its record file was read
 * up to. Also the trash, the folders still to remove.
 */
#include "training/jobs_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int store_add_event(struct job_store *store, int64_t id, int64_t time_ms, const char *kind, int64_t step,
                    const char *data, struct error *err)
{
    int rc = sql_run(store->writer, err, "UPDATE jobs SET last_event = last_event + 1 WHERE id = ?", "i", id);
    if (rc >= 0)
        rc = sql_run(store->writer, err,
                     "INSERT INTO events (job, seq, time_ms, kind, step, data)"
                     " VALUES (?1, (SELECT last_event FROM jobs WHERE id = ?1), ?2, ?3, ?4, ?5)",
                     "iisis", id, time_ms, kind, step, data);
    return rc < 0 ? rc : 0;
}

int store_add_event_json(struct job_store *store, int64_t id, const char *kind, json_t *data, struct error *err)
{
    char *text = data ? json_dumps(data, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    int rc = text ? store_add_event(store, id, store_now_ms(), kind, -1, text, err)
                  : error_set(err, -ENOMEM, NULL, "out of memory");
    free(text);
    json_decref(data);
    return rc;
}

// Within a transaction: what the records say together, and the new offset.
static int update_progress(struct job_store *store, int64_t id, int64_t to, const struct job_progress *p,
                           struct error *err)
{
    int rc = sql_run(store->writer, err,
                     "UPDATE jobs SET step = iif(?1 >= 0, ?1, step), total_steps = iif(?2 >= 0, ?2, total_steps),"
                     " epoch = iif(?3 >= 0, ?3, epoch), checkpoint_step = iif(?4 >= 0, ?4, checkpoint_step),"
                     " latest = coalesce(?5, latest), outcome = coalesce(nullif(?6, ''), outcome),"
                     " first_step = iif(?1 >= 0 AND first_boot_ms = 0, ?1, first_step),"
                     " first_boot_ms = iif(?1 >= 0 AND first_boot_ms = 0, ?7, first_boot_ms),"
                     " latest_boot_ms = iif(?1 >= 0, ?7, latest_boot_ms), record_offset = ?8 WHERE id = ?9",
                     "iiiissiii", p->step, p->total_steps, p->epoch, p->checkpoint_step, p->latest, p->outcome,
                     p->boot_ms, to, id);
    return rc < 0 ? rc : 0;
}

int job_store_ingest(struct job_store *store, int64_t id, int64_t from, int64_t to, const struct job_record *records,
                     int32_t n, const struct job_progress *progress, struct error *err)
{
    int64_t at = 0;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = sql_value(store->writer, &at, err, "SELECT record_offset FROM jobs WHERE id = ?", "i", id);
    if (rc == -ENOENT)
        error_set(err, rc, NULL, "there is no job %lld", (long long)id);
    if (rc == 0 && at != from)
        rc = error_set(err, -ESTALE, NULL, "records of job %lld up to byte %lld are stored already", (long long)id,
                       (long long)at);
    for (int32_t i = 0; i < n && rc == 0; i++)
        rc = store_add_event(store, id, records[i].time_ms, records[i].kind, records[i].step, records[i].data, err);
    if (rc == 0)
        rc = update_progress(store, id, to, progress, err);
    return store_finish(store, rc, err);
}

static int read_event(sqlite3_stmt *row, struct job_event *e, struct error *err)
{
    *e = (struct job_event){.seq = sqlite3_column_int64(row, 0), .time_ms = sqlite3_column_int64(row, 1)};
    snprintf(e->kind, sizeof e->kind, "%s", (const char *)sqlite3_column_text(row, 2));
    e->data = strdup((const char *)sqlite3_column_text(row, 3));
    return e->data ? 0 : error_set(err, -ENOMEM, NULL, "out of memory");
}

static int read_events(sqlite3 *db, int64_t id, int64_t after, struct job_event *events, int32_t limit, int32_t *ret_n,
                       struct error *err)
{
    sqlite3_stmt *rows;
    int rc = sql_prepare(db, &rows, err,
                         "SELECT seq, time_ms, kind, data FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?",
                         "iii", id, after, (int64_t)limit);
    if (rc < 0)
        return rc;
    int32_t n = 0;
    while (n < limit && (rc = sql_step(rows, err)) > 0) {
        int read = read_event(rows, &events[n++], err);
        if (read < 0) {
            rc = read;
            break;
        }
    }
    sqlite3_finalize(rows);
    *ret_n = n;
    return rc < 0 ? rc : 0;
}

static int check_exists(sqlite3 *db, int64_t id, struct error *err)
{
    int64_t ignored;
    int rc = sql_value(db, &ignored, err, "SELECT 1 FROM jobs WHERE id = ?", "i", id);
    return rc == -ENOENT ? error_set(err, rc, NULL, "there is no job %lld", (long long)id) : rc;
}

int job_store_events(struct job_store *store, int64_t id, int64_t after, int32_t limit, struct job_event **ret_events,
                     int32_t *ret_n, struct error *err)
{
    struct job_event *events = calloc(limit, sizeof *events);
    int32_t n = 0;
    if (!events)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    pthread_mutex_lock(&store->read_mutex);
    int rc = check_exists(store->reader, id, err);
    if (rc == 0)
        rc = read_events(store->reader, id, after, events, limit, &n, err);
    pthread_mutex_unlock(&store->read_mutex);
    if (rc < 0) {
        job_events_free(events, n);
        return rc;
    }
    *ret_events = events;
    *ret_n = n;
    return 0;
}

void job_events_free(struct job_event *events, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        free(events[i].data);
    free(events);
}

int job_store_curve(struct job_store *store, int64_t id, const char *kind,
                    int (*each)(void *arg, int64_t step, const char *data), void *arg, struct error *err)
{
    sqlite3_stmt *rows;
    pthread_mutex_lock(&store->read_mutex);
    int rc = check_exists(store->reader, id, err);
    if (rc == 0)
        rc = sql_prepare(store->reader, &rows, err,
                         "SELECT step, data FROM events WHERE job = ? AND kind = ? AND step >= 0 AND replaced = 0"
                         " ORDER BY step, seq",
                         "is", id, kind);
    if (rc == 0) {
        while ((rc = sql_step(rows, err)) > 0) {
            rc = each(arg, sqlite3_column_int64(rows, 0), (const char *)sqlite3_column_text(rows, 1));
            if (rc < 0)
                break;
        }
        sqlite3_finalize(rows);
    }
    pthread_mutex_unlock(&store->read_mutex);
    return rc;
}

int job_store_trash(struct job_store *store, int64_t *ret_ids, int32_t limit, int32_t *ret_n, struct error *err)
{
    sqlite3_stmt *rows;
    int32_t n = 0;
    pthread_mutex_lock(&store->read_mutex);
    int rc = sql_prepare(store->reader, &rows, err, "SELECT job FROM trash ORDER BY job LIMIT ?", "i", (int64_t)limit);
    if (rc == 0) {
        while (n < limit && (rc = sql_step(rows, err)) > 0)
            ret_ids[n++] = sqlite3_column_int64(rows, 0);
        sqlite3_finalize(rows);
    }
    pthread_mutex_unlock(&store->read_mutex);
    if (rc < 0)
        return rc;
    *ret_n = n;
    return 0;
}

int job_store_trash_done(struct job_store *store, int64_t id, struct error *err)
{
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = store_finish(store, sql_run(store->writer, err, "DELETE FROM trash WHERE job = ?", "i", id), err);
    return rc < 0 ? rc : 0;
}
