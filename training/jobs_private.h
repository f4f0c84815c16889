/* jobs_private.h: what the files of the store share. */
#ifndef DDIMD_TRAINING_JOBS_PRIVATE_H
#define DDIMD_TRAINING_JOBS_PRIVATE_H

#include "training/jobs.h"
#include "training/sql.h"

#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

struct job_store {
    pthread_mutex_t write_mutex, read_mutex;
    sqlite3 *writer, *reader; // each under its mutex
    int lock_fd;              // flock of folder/lock
    _Atomic uint64_t generation;
};

/* Takes the writers' mutex and begins a transaction. On failure nothing is held. */
int store_begin(struct job_store *store, struct error *err);

/* Commits (rc >= 0) or rolls back, releases the mutex; returns rc or the commit's failure. Committed events wake
 * waiting readers. */
int store_finish(struct job_store *store, int rc, struct error *err);

/* Reads a job over either connection, whose mutex the caller holds. -ENOENT. */
int store_read_job(sqlite3 *db, int64_t id, struct job *ret_job, struct error *err);

/* Within a transaction: appends an event to a job. data: JSON object text. */
int store_add_event(struct job_store *store, int64_t id, int64_t time_ms, const char *kind, int64_t step,
                    const char *data, struct error *err);

/* The same with an object that is consumed; NULL (out of memory while it was built): -ENOMEM. */
int store_add_event_json(struct job_store *store, int64_t id, const char *kind, json_t *data, struct error *err);

/* Unix time in milliseconds. */
int64_t store_now_ms(void);

#endif
