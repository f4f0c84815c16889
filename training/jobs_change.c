/* jobs_change.c: changes of state. Each public function is one transaction that looks the action up in the table of
 * job_state.c, changes the row, and leaves an event.
 */
#include "training/jobs_private.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Within a transaction: the job and its state after the action; refuses what the table refuses. *ret_job: job_done.
static int look_up(struct job_store *store, int64_t id, enum job_action action, struct job *ret_job,
                   enum job_state *ret_next, struct error *err)
{
    struct job job;
    int rc = store_read_job(store->writer, id, &job, err);
    if (rc < 0)
        return rc;
    enum job_state next = job_state_next(job.state, action);
    if (next == JOB_STATE_REFUSED) {
        const char *hint = "";
        if (action == JOB_ACTION_DELETE || action == JOB_ACTION_RETRY)
            hint = ": cancel it first";
        else if (action == JOB_ACTION_MOVE)
            hint = ": only queued jobs have a place in the queue";
        else if (action == JOB_ACTION_RESUME && job.state == JOB_STATE_SUCCEEDED)
            hint = ": it has nothing left to do";
        rc = error_set(err, -EPERM, NULL, "job %lld is %s, which %s does not apply to%s", (long long)id,
                       job_state_name(job.state), job_action_name(action), hint);
        job_done(&job);
        return rc;
    }
    *ret_job = job;
    *ret_next = next;
    return 0;
}

static int add_state_event(struct job_store *store, int64_t id, enum job_state state, enum job_state was,
                           const char *message, struct error *err)
{
    json_t *data = json_pack("{s:s, s:s, s:s*}", "state", job_state_name(state), "was", job_state_name(was), "message",
                             message && *message ? message : NULL);
    return store_add_event_json(store, id, "state", data, err);
}

// The job that was made with the key before: 1 and *ret_id, 0 if there is none, -EKEYREJECTED.
static int find_key(sqlite3 *db, const struct job_new *j, int64_t *ret_id, struct error *err)
{
    sqlite3_stmt *rows;
    int rc = sql_prepare(db, &rows, err, "SELECT job, digest FROM keys WHERE key = ?", "s", j->key);
    if (rc < 0)
        return rc;
    rc = sql_step(rows, err);
    if (rc > 0) {
        if (strcmp((const char *)sqlite3_column_text(rows, 1), j->digest) == 0)
            *ret_id = sqlite3_column_int64(rows, 0);
        else
            rc = error_set(err, -EKEYREJECTED, "Idempotency-Key", "this key was used with another body, for job %lld",
                           (long long)sqlite3_column_int64(rows, 0));
    }
    sqlite3_finalize(rows);
    return rc;
}

// Within a transaction: a new row at the end of the queue.
static int insert_job(struct job_store *store, const struct job_new *j, int64_t *ret_id, struct error *err)
{
    sqlite3 *db = store->writer;
    int rc = sql_run(db, err,
                     "INSERT INTO jobs (type, name, device, config, state, queue_key, created_ms)"
                     " VALUES (?, ?, ?, ?, 'queued',"
                     " (SELECT coalesce(max(queue_key), 0) + 1 FROM jobs WHERE state = 'queued'), ?)",
                     "ssssi", j->type, j->name, j->device, j->config, store_now_ms());
    if (rc < 0)
        return rc;
    int64_t id = sqlite3_last_insert_rowid(db);
    rc = store_add_event_json(store, id, "state", json_pack("{s:s}", "state", job_state_name(JOB_STATE_QUEUED)), err);
    if (rc == 0)
        *ret_id = id;
    return rc;
}

int job_store_submit(struct job_store *store, const struct job_new *j, int64_t *ret_id, bool *ret_existed,
                     struct error *err)
{
    assert(strlen(j->type) < JOB_TYPE_BYTES && strlen(j->name) < JOB_NAME_BYTES);
    assert(strlen(j->device) < JOB_DEVICE_BYTES && (!j->key || strlen(j->key) < JOB_KEY_BYTES));
    int64_t id = 0;
    bool existed = false;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    if (j->key) {
        rc = find_key(store->writer, j, &id, err);
        existed = rc > 0;
    }
    if (rc == 0)
        rc = insert_job(store, j, &id, err);
    if (rc == 0 && j->key)
        rc = sql_run(store->writer, err, "INSERT INTO keys (key, digest, job) VALUES (?, ?, ?)", "ssi", j->key,
                     j->digest, id);
    rc = store_finish(store, rc, err);
    if (rc < 0)
        return rc;
    *ret_id = id;
    *ret_existed = existed;
    return 0;
}

int job_store_cancel(struct job_store *store, int64_t id, enum job_state *ret_was, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED, was = JOB_STATE_QUEUED;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, JOB_ACTION_CANCEL, &job, &next, err);
    if (rc == 0) {
        was = job.state;
        if (was == JOB_STATE_QUEUED) {
            rc = sql_run(store->writer, err, "UPDATE jobs SET state = ?, ended_ms = ? WHERE id = ?", "sii",
                         job_state_name(next), store_now_ms(), id);
            if (rc >= 0)
                rc = add_state_event(store, id, next, was, NULL, err);
        } else if (was == JOB_STATE_RUNNING && !job.cancel_requested) {
            rc = sql_run(store->writer, err, "UPDATE jobs SET cancel_requested = 1 WHERE id = ?", "i", id);
            if (rc >= 0)
                rc = store_add_event_json(store, id, "cancel", json_pack("{}"), err);
        }
        job_done(&job);
    }
    rc = store_finish(store, rc, err);
    if (rc == 0 && ret_was)
        *ret_was = was;
    return rc;
}

int job_store_resume(struct job_store *store, int64_t id, enum job_state *ret_was, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED, was = JOB_STATE_QUEUED;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, JOB_ACTION_RESUME, &job, &next, err);
    if (rc == 0) {
        was = job.state;
        // The end of the last attempt stays to be read until the next begins. A person asked: deaths count anew.
        rc = sql_run(store->writer, err,
                     "UPDATE jobs SET state = ?, ended_ms = 0, cancel_requested = 0, deaths = 0, queue_key ="
                     " (SELECT coalesce(max(queue_key), 0) + 1 FROM jobs WHERE state = 'queued') WHERE id = ?",
                     "si", job_state_name(next), id);
        if (rc >= 0)
            rc = add_state_event(store, id, next, was, NULL, err);
        job_done(&job);
    }
    rc = store_finish(store, rc, err);
    if (rc == 0 && ret_was)
        *ret_was = was;
    return rc;
}

int job_store_retry(struct job_store *store, int64_t id, int64_t *ret_id, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED;
    int64_t copy = 0;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, JOB_ACTION_RETRY, &job, &next, err);
    if (rc == 0) {
        struct job_new j = {.type = job.type, .name = job.name, .device = job.device, .config = job.config};
        rc = insert_job(store, &j, &copy, err);
        job_done(&job);
    }
    rc = store_finish(store, rc, err);
    if (rc == 0)
        *ret_id = copy;
    return rc;
}

// Within a transaction: the queue's ids in order without `id`, in a new array.
static int read_queue(sqlite3 *db, int64_t id, int64_t **ret_ids, int32_t *ret_n, struct error *err)
{
    int64_t count = 0;
    sqlite3_stmt *rows;
    int rc = sql_value(db, &count, err, "SELECT count(*) FROM jobs WHERE state = 'queued' AND id <> ?", "i", id);
    if (rc < 0)
        return rc;
    int64_t *ids = calloc(count + 1, sizeof *ids);
    if (!ids)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    rc = sql_prepare(db, &rows, err, "SELECT id FROM jobs WHERE state = 'queued' AND id <> ? ORDER BY queue_key, id",
                     "i", id);
    int32_t n = 0;
    if (rc == 0) {
        while ((rc = sql_step(rows, err)) > 0)
            ids[n++] = sqlite3_column_int64(rows, 0);
        sqlite3_finalize(rows);
    }
    if (rc < 0) {
        free(ids);
        return rc;
    }
    *ret_ids = ids;
    *ret_n = n;
    return 0;
}

// Within a transaction: numbers the queue anew with `id` at the place (from 1).
static int place(sqlite3 *db, int64_t id, int32_t position, struct error *err)
{
    int64_t *ids = NULL;
    int32_t n = 0;
    int rc = read_queue(db, id, &ids, &n, err);
    if (rc < 0)
        return rc;
    int32_t at = position - 1 < n ? position - 1 : n;
    for (int32_t i = n; i > at; i--)
        ids[i] = ids[i - 1];
    ids[at] = id;
    for (int32_t i = 0; i <= n && rc >= 0; i++)
        rc = sql_run(db, err, "UPDATE jobs SET queue_key = ? WHERE id = ?", "ii", (int64_t)i + 1, ids[i]);
    free(ids);
    return rc < 0 ? rc : 0;
}

int job_store_move(struct job_store *store, int64_t id, int32_t position, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED;
    if (position < 1)
        return error_set(err, -EINVAL, "position", "places in the queue count from 1");
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, JOB_ACTION_MOVE, &job, &next, err);
    if (rc == 0) {
        job_done(&job);
        rc = place(store->writer, id, position, err);
    }
    return store_finish(store, rc, err);
}

int job_store_delete(struct job_store *store, int64_t id, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, JOB_ACTION_DELETE, &job, &next, err);
    if (rc == 0) {
        job_done(&job);
        rc = sql_run(store->writer, err, "INSERT INTO trash (job) VALUES (?)", "i", id);
    }
    if (rc >= 0)
        rc = sql_run(store->writer, err, "DELETE FROM jobs WHERE id = ?", "i", id); // events and keys go with it
    rc = store_finish(store, rc, err);
    return rc < 0 ? rc : 0;
}

int job_store_start(struct job_store *store, int64_t id, const struct job_start *start, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED;
    int64_t step = start->checkpoint_step > 0 ? start->checkpoint_step : 0;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, JOB_ACTION_START, &job, &next, err);
    if (rc == 0) {
        rc = sql_run(store->writer, err,
                     "UPDATE jobs SET state = ?1, attempts = attempts + 1, started_ms = ?2, ended_ms = 0, outcome = '',"
                     " step = ?3, start_step = ?3, checkpoint_step = ?4, start_checkpoint = ?4, record_offset = ?5,"
                     " first_boot_ms = 0, latest_boot_ms = 0, pid = ?6, start_ticks = ?7, boot_id = ?8,"
                     " end_kind = 0, end_code = 0, end_message = '' WHERE id = ?9",
                     "siiiiiisi", job_state_name(next), store_now_ms(), step, start->checkpoint_step,
                     start->record_offset, (int64_t)start->process.pid, start->process.start_ticks,
                     start->process.boot_id, id);
        if (rc >= 0)
            rc = sql_run(store->writer, err, "UPDATE events SET replaced = 1 WHERE job = ? AND step > ?", "ii", id,
                         step);
        if (rc >= 0)
            rc = add_state_event(store, id, next, job.state, NULL, err);
        job_done(&job);
    }
    return store_finish(store, rc, err);
}

int job_store_end(struct job_store *store, int64_t id, enum job_action action, const struct job_end *end,
                  int32_t deaths, struct error *err)
{
    struct job job;
    enum job_state next = JOB_STATE_REFUSED;
    int rc = store_begin(store, err);
    if (rc < 0)
        return rc;
    rc = look_up(store, id, action, &job, &next, err);
    if (rc == 0) {
        if (action == JOB_ACTION_REQUEUE && job.cancel_requested)
            next = job_state_next(job.state, JOB_ACTION_STOP); // asked for while the runner judged
        int64_t ended_ms = next == JOB_STATE_QUEUED ? 0 : store_now_ms();
        rc = sql_run(store->writer, err,
                     "UPDATE jobs SET state = ?, ended_ms = ?, end_kind = ?, end_code = ?, end_message = ?,"
                     " deaths = ?, pid = 0, cancel_requested = 0, queue_key ="
                     " (SELECT coalesce(min(queue_key), 1) - 1 FROM jobs WHERE state = 'queued') WHERE id = ?",
                     "siiisii", job_state_name(next), ended_ms, (int64_t)end->kind, (int64_t)end->code, end->message,
                     (int64_t)deaths, id);
        if (rc >= 0)
            rc = add_state_event(store, id, next, job.state, end->message, err);
        job_done(&job);
    }
    return store_finish(store, rc, err);
}
