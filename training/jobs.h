/* jobs.h: the store of jobs, their events and their queue: one SQLite file that outlives the daemon and the machine.
 *
 * A job is a row, a process and a folder (training/job_folder.h). Every change is one transaction, on the disk before
 * the function returns (WAL, synchronous FULL): what was accepted is never lost, and a kill at any moment leaves the
 * state before or the state after. Changes of state go through the table of training/job_state.h.
 *
 * Thread model: any thread. One connection for changes and one for reading, a mutex each, so that a reader of a long
 * curve does not hold up the runner.
 *
 * Errors, all functions: -ENOSPC (disk full), -EAGAIN (database locked by someone else for longer than the time-out),
 * -EIO, -EROFS, -EBADMSG (file damaged), -ENOMEM; each says so in err, nothing was changed then.
 */
#ifndef DDIMD_TRAINING_JOBS_H
#define DDIMD_TRAINING_JOBS_H

#include "kernels/error.h"
#include "training/job_state.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { JOB_NAME_BYTES = 128, JOB_TYPE_BYTES = 16, JOB_DEVICE_BYTES = 32, JOB_KIND_BYTES = 24, JOB_BOOT_ID_BYTES = 40 };
enum { JOB_KEY_BYTES = 256, JOB_DIGEST_BYTES = 65, JOB_MAX_LIST = 1000 };

/* What finds a process again after the daemon restarted: a pid alone may have been given to another. */
struct job_process {
    int32_t pid;                     // 0: none
    int64_t start_ticks;             // field 22 of /proc/PID/stat, clock ticks since boot
    char boot_id[JOB_BOOT_ID_BYTES]; // /proc/sys/kernel/random/boot_id when it started
};

enum job_end_kind {
    JOB_END_NONE,   // has not ended
    JOB_END_EXIT,   // code: exit code
    JOB_END_SIGNAL, // code: signal
    JOB_END_KILLED, // on request; code: 0, exit code or signal
    JOB_END_OOM,    // the kernel killed it for lack of memory
    JOB_END_LOST,   // found gone after a restart of the daemon, how is not known
    JOB_END_REBOOT, // the machine restarted under it
    JOB_END_START,  // could not be started
};

struct job_end {
    enum job_end_kind kind;
    int32_t code;
    char message[256]; // for people
};

struct job {
    int64_t id; // from 1, never given twice
    char type[JOB_TYPE_BYTES], name[JOB_NAME_BYTES], device[JOB_DEVICE_BYTES];
    char *config; // JSON text, owned
    enum job_state state;
    bool cancel_requested;                    // running, and asked to stop
    int32_t queue_position;                   // from 1 while queued, else 0
    int64_t created_ms, started_ms, ended_ms; // Unix time; 0: not yet. started: of the latest attempt
    int32_t attempts;                         // starts of a process
    int32_t deaths;                           // since the last new checkpoint
    int64_t step, total_steps, epoch;         // as last reported; total 0: not known yet
    int64_t checkpoint_step;                  // of the last checkpoint, -1: none
    int64_t start_step, start_checkpoint;     // step and checkpoint that the latest attempt began with
    int64_t first_step;                       // that the latest attempt reported
    int64_t first_boot_ms, latest_boot_ms;    // CLOCK_BOOTTIME of its first and last report (no clock jumps); 0: none
    char *latest;                             // latest metrics, JSON object text, owned, NULL: none yet
    char outcome[JOB_KIND_BYTES];             // what the program itself said about its end, "" nothing
    struct job_process process;               // of the latest attempt
    struct job_end end;                       // of the latest attempt that ended
    int64_t record_offset;                    // bytes of the program's record file that are in the store
    int64_t last_event;                       // sequence number of its newest event
};

/* Frees what the fields own. NULL is fine. */
void job_done(struct job *job);

/* Milliseconds until a running job has done all its steps, by its own word ("seconds_left" in its latest
 * record) or else from the pace of the present attempt; -1: not known. */
int64_t job_eta_ms(const struct job *job);

struct job_store;

struct job_store_options {
    int32_t busy_timeout_ms; // wait for a locked database; 0: 5000
};

/* Opens or creates `folder`/jobs.sqlite, and holds folder/lock so that no second daemon works on the same jobs
 * (-EBUSY). folder exists. options NULL: defaults. */
int job_store_open(const char *folder, const struct job_store_options *options, struct job_store **ret_store,
                   struct error *err);
void job_store_close(struct job_store *store);

/* Counts up with every event stored since open: tells a waiting reader cheaply that there may be news. */
uint64_t job_store_generation(struct job_store *store);

struct job_new {
    const char *type, *name, *device; // short enough for struct job
    const char *config;               // JSON text
    const char *key, *digest;         // Idempotency-Key and a digest of the request's body; NULL: no key
};

/* Queues a job at the end of the queue. With a key that was used before and the same digest: nothing is added,
 * *ret_id is the job made then and *ret_existed true; with another digest: -EKEYREJECTED. A key is forgotten with its
 * job. */
int job_store_submit(struct job_store *store, const struct job_new *new_job, int64_t *ret_id, bool *ret_existed,
                     struct error *err);

/* Copies a job. -ENOENT. Release with job_done. */
int job_store_get(struct job_store *store, int64_t id, struct job *ret_job, struct error *err);

struct job_filter {
    int state;           // enum job_state; -1: any
    const char *type;    // NULL: any
    int64_t before;      // only ids below (the cursor: newest first); 0: from the newest
    int32_t limit;       // 1..JOB_MAX_LIST
    bool in_queue_order; // queued jobs, first to run first; state and before are ignored
};

/* Jobs that match, newest first. *ret_jobs: an array to release with job_list_free. */
int job_store_list(struct job_store *store, const struct job_filter *filter, struct job **ret_jobs, int32_t *ret_n,
                   struct error *err);
void job_list_free(struct job *jobs, int32_t n);

/* Jobs in each state. */
int job_store_count(struct job_store *store, int64_t ret_counts[N_JOB_STATES], struct error *err);

/* A client's action. *ret_was: the state before (may be NULL). -ENOENT, -EPERM (not in this state; err says what the
 * job is and what would be possible). */
int job_store_cancel(struct job_store *store, int64_t id, enum job_state *ret_was, struct error *err);
int job_store_resume(struct job_store *store, int64_t id, enum job_state *ret_was, struct error *err);
/* A copy of an ended job at the end of the queue. */
int job_store_retry(struct job_store *store, int64_t id, int64_t *ret_id, struct error *err);
/* To place `position` of the queue, from 1; past its end means its end. */
int job_store_move(struct job_store *store, int64_t id, int32_t position, struct error *err);
/* Row, events and key go at once; the folder is the runner's to remove (job_store_trash). */
int job_store_delete(struct job_store *store, int64_t id, struct error *err);

/* What an attempt begins with. */
struct job_start {
    struct job_process process;
    int64_t checkpoint_step; // of the checkpoint that it goes on from, -1: from the beginning
    int64_t record_offset;   // length of the record file
};

/* Runner: its process waits at the gate. Records of steps after the checkpoint are marked as replaced: they will be
 * done again. -EPERM where the job is not queued any more. */
int job_store_start(struct job_store *store, int64_t id, const struct job_start *start, struct error *err);

/* Runner: the attempt ended. action: SUCCEED, FAIL, STOP or REQUEUE; a requeued job is first in the queue again.
 * deaths: the new count. REQUEUE of a job that a client has cancelled is STOP. */
int job_store_end(struct job_store *store, int64_t id, enum job_action action, const struct job_end *end,
                  int32_t deaths, struct error *err);

/* One record of a job's program. */
struct job_record {
    char kind[JOB_KIND_BYTES]; // "step", "epoch", "checkpoint", ...
    int64_t time_ms;           // Unix time
    int64_t step;              // steps done, -1 where it has none
    const char *data;          // JSON object text
};

/* What a group of records says together; -1, NULL and "": nothing new. */
struct job_progress {
    int64_t step, total_steps, epoch, checkpoint_step;
    const char *latest, *outcome;
    int64_t boot_ms; // CLOCK_BOOTTIME now
};

/* Runner: takes over records that lie in the record file from byte `from` up to `to`, together with the offset, in one
 * transaction: however often the daemon dies, each record is stored once. -ESTALE where the store is not at `from`. */
int job_store_ingest(struct job_store *store, int64_t id, int64_t from, int64_t to, const struct job_record *records,
                     int32_t n, const struct job_progress *progress, struct error *err);

struct job_event {
    int64_t seq; // from 1 within the job, without gaps
    int64_t time_ms;
    char kind[JOB_KIND_BYTES];
    char *data; // JSON object text, owned
};

/* Up to limit events of a job after sequence number `after`, oldest first. -ENOENT: no such job. */
int job_store_events(struct job_store *store, int64_t id, int64_t after, int32_t limit, struct job_event **ret_events,
                     int32_t *ret_n, struct error *err);
void job_events_free(struct job_event *events, int32_t n);

/* Calls each(arg, step, data) for the records of one kind ("step", "epoch") by step, replaced ones left out; stops at
 * its first negative value and returns it. Holds the readers' connection meanwhile: each does not call the store. */
int job_store_curve(struct job_store *store, int64_t id, const char *kind,
                    int (*each)(void *arg, int64_t step, const char *data), void *arg, struct error *err);

/* Ids of deleted jobs whose folders are still to be removed, up to limit; and that one was. */
int job_store_trash(struct job_store *store, int64_t *ret_ids, int32_t limit, int32_t *ret_n, struct error *err);
int job_store_trash_done(struct job_store *store, int64_t id, struct error *err);

#endif
