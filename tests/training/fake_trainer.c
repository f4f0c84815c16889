/* fake_trainer.c: a program that keeps ddimd-train's contract with the job queue (arguments, records, state file, exit
 * codes, SIGTERM) and trains nothing, so that a test says when and how it dies.
 *
 * usage: fake_trainer CONFIG.json --out DIR --resume
 * configuration: {"steps": 20, "step_ms": 1, "keep_every": 5,   a checkpoint every so many steps
 *                 "die_at": 7,            a step; 0: never
 *                 "die_after": 3,         so many steps after each start; 0: never
 *                 "die_times": 1,         how often in all
 *                 "die_signal": 11, "die_exit": 1,
 *                 "deaf": true}           does not hear SIGTERM
 */
#include "model/file.h"
#include "model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t stop_requested;

static void request_stop(int signal_number)
{
    (void)signal_number;
    stop_requested = 1;
}

struct run {
    json_t *config;
    int folder, records;
    long long step, from, kept_bytes;
};

static long long number(const struct run *r, const char *key)
{
    return json_integer_value(json_object_get(r->config, key));
}

static void keep(struct run *r)
{
    char text[256];
    struct safetensor nothing = {.name = "weights", .dtype = SAFETENSORS_F32, .rank = 1, .dim = {1}, .data = "\0\0\0"};
    struct stat s;
    struct error err = {0};
    fstat(r->records, &s);
    snprintf(text, sizeof text, "{\"state\":{\"step\":%lld,\"epoch\":%lld,\"metrics_bytes\":%lld}}", r->step,
             r->step / 10, (long long)s.st_size);
    int dir = openat(r->folder, "checkpoints", O_RDONLY | O_DIRECTORY);
    struct safetensors_entry entry = {"ddimd_state", text};
    if (safetensors_write(dir, "state.safetensors", &nothing, 1, &entry, 1, &err) < 0) {
        fprintf(stderr, "fake_trainer: %s\n", err.message);
        exit(1);
    }
    close(dir);
}

static void take_up(struct run *r)
{
    struct safetensors *file;
    int dir = openat(r->folder, "checkpoints", O_RDONLY | O_DIRECTORY);
    if (safetensors_open(dir, "state.safetensors", &file, NULL) == 0) {
        json_t *json = json_loads(safetensors_metadata(file, "ddimd_state"), 0, NULL);
        json_t *state = json_object_get(json, "state");
        r->step = json_integer_value(json_object_get(state, "step"));
        r->kept_bytes = json_integer_value(json_object_get(state, "metrics_bytes"));
        json_decref(json);
        safetensors_close(file);
    }
    close(dir);
    r->from = r->step;
    r->records = openat(r->folder, "metrics.jsonl", O_WRONLY | O_CREAT | O_APPEND, 0640);
    if (r->records < 0 || ftruncate(r->records, r->kept_bytes) < 0)
        exit(1);
}

static void die_if_due(struct run *r)
{
    long long at = number(r, "die_at"), after = number(r, "die_after"), times = number(r, "die_times");
    struct stat s;
    if (!(at && r->step == at) && !(after && r->step == r->from + after))
        return;
    int fd = openat(r->folder, "deaths", O_WRONLY | O_CREAT | O_APPEND, 0640);
    fstat(fd, &s);
    if (s.st_size >= times || write(fd, "x", 1) != 1)
        return;
    fprintf(stderr, "fake_trainer: dies on demand\n");
    int with = (int)number(r, "die_signal");
    if (with) {
        signal(with, SIG_DFL); // sanitizers handle some
        raise(with);
    }
    exit((int)number(r, "die_exit"));
}

static void record_end(struct run *r, const char *how)
{
    dprintf(r->records, "{\"event\":\"end\",\"end\":\"%s\",\"step\":%lld}\n", how, r->step);
}

static int work(struct run *r)
{
    long long steps = number(r, "steps"), every = number(r, "keep_every");
    while (r->step < steps) {
        usleep((useconds_t)number(r, "step_ms") * 1000);
        r->step++;
        // In two writes now and then: who follows the file must wait for the end of the line.
        dprintf(r->records, "{\"event\":\"step\",\"step\":%lld,", r->step);
        dprintf(r->records, "\"steps\":%lld,\"epoch\":%lld,\"loss\":%f}\n", steps, r->step / 10 + 1, 1.0 / r->step);
        die_if_due(r);
        if (every && r->step % every == 0)
            keep(r);
        if (stop_requested && r->step < steps) {
            keep(r);
            record_end(r, "stopped");
            return 0;
        }
    }
    keep(r);
    record_end(r, "finished");
    return 0;
}

int main(int argc, char **argv)
{
    struct run r = {0};
    if (argc != 5 || strcmp(argv[2], "--out") != 0 || strcmp(argv[4], "--resume") != 0)
        return 2;
    r.config = json_load_file(argv[1], 0, NULL);
    r.folder = open(argv[3], O_RDONLY | O_DIRECTORY);
    if (!r.config || r.folder < 0)
        return 2;
    int lock = openat(r.folder, "lock", O_RDWR | O_CREAT, 0640);
    if (flock(lock, LOCK_EX | LOCK_NB) < 0) {
        close(openat(r.folder, "ran-twice", O_WRONLY | O_CREAT, 0640));
        return 6;
    }
    struct sigaction action = {.sa_handler = json_is_true(json_object_get(r.config, "deaf")) ? SIG_IGN : request_stop};
    sigaction(SIGTERM, &action, NULL);
    mkdirat(r.folder, "checkpoints", 0750);
    take_up(&r);
    int code = work(&r);
    json_decref(r.config);
    return code;
}
