/* follow.c: see follow.h. */
#include "training/follow.h"

#include "model/file.h"
#include "model/json.h"
#include "model/safetensors.h"
#include "training/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LAST_WORDS_BYTES = 2048, MAX_PLACE_BYTES = 256 };

static int64_t clock_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void take_integer(const json_t *line, const char *key, int64_t *value)
{
    const json_t *v = json_object_get(line, key);
    if (json_is_integer(v))
        *value = json_integer_value(v);
}

// One line (NUL-terminated) into the batch.
static void take_line(struct follow_batch *b, const char *text)
{
    struct job_record *r = &b->records[b->n];
    json_t *line = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const char *event = json_string_value(json_object_get(line, "event"));
    if (!event || strlen(event) >= sizeof r->kind) {
        json_decref(line);
        return;
    }
    *r = (struct job_record){.time_ms = clock_ms(CLOCK_REALTIME), .step = -1, .data = text};
    strcpy(r->kind, event);
    take_integer(line, "step", &r->step);
    take_integer(line, "step", &b->progress.step);
    take_integer(line, "steps", &b->progress.total_steps);
    take_integer(line, "epoch", &b->progress.epoch);
    if (strcmp(event, "step") == 0)
        b->progress.latest = text;
    const char *outcome = strcmp(event, "end") == 0 ? json_string_value(json_object_get(line, "end")) : NULL;
    if (outcome)
        snprintf(b->outcome, sizeof b->outcome, "%s", outcome);
    json_decref(line);
    b->n++;
}

// Takes the whole lines of text[n] apart. Returns the bytes they took.
static int64_t take_lines(struct follow_batch *b, int64_t n)
{
    char *line = b->text, *end;
    while (b->n < FOLLOW_MAX_RECORDS && (end = memchr(line, '\n', b->text + n - line))) {
        *end = 0;
        take_line(b, line);
        line = end + 1;
    }
    // A line that fills the buffer without an end is passed over piece by piece; its last piece is no JSON either.
    return line == b->text && n == FOLLOW_MAX_BYTES ? n : line - b->text;
}

int follow_records(int folder_fd, int64_t from, struct follow_batch *ret_batch)
{
    struct follow_batch *b = ret_batch;
    int fd;
    b->from = b->to = from;
    b->n = 0;
    b->outcome[0] = 0;
    b->progress = (struct job_progress){-1, -1, -1, -1, NULL, b->outcome, clock_ms(CLOCK_BOOTTIME)};
    int rc = job_file_open(folder_fd, FOLLOW_RECORDS_NAME, O_RDONLY, &fd);
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    ssize_t n = pread(fd, b->text, FOLLOW_MAX_BYTES, from);
    rc = n < 0 ? -errno : 0;
    close(fd);
    if (n > 0)
        b->to = from + take_lines(b, n);
    return rc;
}

static const char *base_name(const char *path)
{
    return strchr(path, '/') + 1;
}

static int parse_state(const char *text, struct follow_state *ret_state, struct error *err)
{
    json_t *json;
    struct follow_state s = {-1, -1, -1};
    int rc = json_parse(text, strlen(text), &json, err);
    if (rc < 0)
        return rc;
    const json_t *state = json_object_get(json, "state");
    take_integer(state, "step", &s.step);
    take_integer(state, "epoch", &s.epoch);
    take_integer(state, "metrics_bytes", &s.metrics_bytes);
    json_decref(json);
    if (s.step < 0 || s.epoch < 0 || s.metrics_bytes < 0)
        return error_set(err, -EINVAL, NULL, "the checkpoint does not say where it was written");
    *ret_state = s;
    return 0;
}

static int read_head(int fd, struct follow_state *ret_state, struct error *err)
{
    struct safetensors *file;
    int rc = safetensors_open(fd, base_name(FOLLOW_STATE_NAME), &file, err);
    if (rc < 0)
        return rc;
    const char *text = safetensors_metadata(file, "ddimd_state");
    rc = text ? parse_state(text, ret_state, err) : error_set(err, -EINVAL, NULL, "not a checkpoint of ddimd-train");
    safetensors_close(file);
    return rc;
}

static int read_place(int fd, struct follow_state *ret_state, struct error *err)
{
    char *text;
    size_t bytes;
    int rc = file_read(fd, base_name(FOLLOW_PLACE_NAME), MAX_PLACE_BYTES, &text, &bytes, err);
    if (rc < 0)
        return rc;
    rc = parse_state(text, ret_state, err);
    free(text);
    return rc;
}

int follow_state(int folder_fd, struct follow_state *ret_state, struct error *err)
{
    int fd, rc = job_file_open(folder_fd, "checkpoints", O_RDONLY | O_DIRECTORY, &fd);
    if (rc < 0)
        return rc;
    rc = read_head(fd, ret_state, err);
    if (rc == -ENOENT)
        rc = read_place(fd, ret_state, err);
    close(fd);
    return rc;
}

int follow_state_stat(int folder_fd, struct stat *ret_stat)
{
    struct stat s;
    if (fstatat(folder_fd, FOLLOW_STATE_NAME, &s, AT_SYMLINK_NOFOLLOW) < 0 &&
        fstatat(folder_fd, FOLLOW_PLACE_NAME, &s, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    *ret_stat = s;
    return 0;
}

int follow_state_write(int folder_fd, const struct follow_state *state, struct error *err)
{
    char text[MAX_PLACE_BYTES];
    int fd, n = snprintf(text, sizeof text, "{\"state\": {\"step\": %lld, \"epoch\": %lld, \"metrics_bytes\": %lld}}\n",
                         (long long)state->step, (long long)state->epoch, (long long)state->metrics_bytes);
    if (mkdirat(folder_fd, "checkpoints", 0750) < 0 && errno != EEXIST)
        return error_set(err, -errno, NULL, "cannot write into the job's folder: %s", strerror(errno));
    int rc = job_file_open(folder_fd, "checkpoints", O_RDONLY | O_DIRECTORY, &fd);
    if (rc < 0)
        return error_set(err, rc, NULL, "cannot write into the job's folder: %s", strerror(-rc));
    rc = file_write(fd, base_name(FOLLOW_PLACE_NAME), text, (size_t)n, err);
    close(fd);
    return rc;
}

int follow_rewind(int folder_fd, int64_t bytes, int64_t *ret_bytes, struct error *err)
{
    struct stat s = {0};
    int fd, rc = job_file_open(folder_fd, FOLLOW_RECORDS_NAME, O_WRONLY, &fd);
    if (rc == -ENOENT) {
        *ret_bytes = 0;
        return 0;
    }
    if (rc == 0) {
        if (fstat(fd, &s) < 0 || (s.st_size > bytes && ftruncate(fd, bytes) < 0))
            rc = -errno;
        close(fd);
    }
    if (rc < 0)
        return error_set(err, rc, NULL, "cannot cut " FOLLOW_RECORDS_NAME ": %s", strerror(-rc));
    *ret_bytes = s.st_size > bytes ? bytes : s.st_size;
    return 0;
}

void follow_last_words(int folder_fd, char *buffer, size_t bytes)
{
    char text[LAST_WORDS_BYTES + 1];
    struct stat s;
    int fd;
    buffer[0] = 0;
    if (job_file_open(folder_fd, FOLLOW_LOG_NAME, O_RDONLY, &fd) < 0)
        return;
    ssize_t n = fstat(fd, &s) < 0 ? -1
                                  : pread(fd, text, LAST_WORDS_BYTES,
                                          s.st_size > LAST_WORDS_BYTES ? s.st_size - LAST_WORDS_BYTES : 0);
    close(fd);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' ' || text[n - 1] == '\r'))
        n--;
    if (n <= 0)
        return;
    text[n] = 0;
    char *line = strrchr(text, '\n');
    snprintf(buffer, bytes, "%s", line ? line + 1 : text);
}
