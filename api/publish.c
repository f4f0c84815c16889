/* publish.c: POST /models/{name}/from-job, a training result becomes a model that is served, and the way back.
 *
 * The checkpoint is read and checked whole, makes a canary grid (canary.h), is copied beside the models, and renamed
 * over the name in one step; then it is loaded. Requests under way finish on the model that they began with, and
 * go on being served by it where the new one cannot be loaded: then the file of before gets its name back. The file of
 * before is kept under a name that no model can have, for the way back.
 */
#include "api/canary.h"
#include "api/jobs.h"

#include "model/checkpoint.h"
#include "model/file.h"
#include "sampling/cards.h"
#include "training/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_NAME_MAX_BYTES = MODEL_NAME_BYTES + 32 };

const struct json_field job_publish_fields[] = {
    {"job", FIELD_INT64, offsetof(struct job_publish, job), 1, 9007199254740991.0, .required = true,
     .help = "The job that trained it."},
    {"checkpoint", FIELD_JSON, offsetof(struct job_publish, checkpoint),
     .help = "\"best\", \"last\", or the number of an epoch; best where absent."},
    {0},
};
const struct job_publish job_publish_defaults = {0};

/* ---- files beside the models ---- */

static void model_file(const char *name, char to[FILE_NAME_MAX_BYTES])
{
    snprintf(to, FILE_NAME_MAX_BYTES, "%s.safetensors", name);
}

static void previous_file(const char *name, char to[FILE_NAME_MAX_BYTES])
{
    snprintf(to, FILE_NAME_MAX_BYTES, ".%s.previous", name);
}

/* The present file under its second name as well. -ENOENT: there is none. */
static int keep_previous(int models_fd, const char *name)
{
    char file[FILE_NAME_MAX_BYTES], previous[FILE_NAME_MAX_BYTES], link[FILE_NAME_MAX_BYTES];
    model_file(name, file);
    previous_file(name, previous);
    snprintf(link, sizeof(link), ".%s.link", name);
    unlinkat(models_fd, link, 0);
    if (linkat(models_fd, file, models_fd, link, 0) < 0)
        return -errno;
    int rc = renameat(models_fd, link, models_fd, previous) < 0 ? -errno : 0;
    unlinkat(models_fd, link, 0); // rename leaves it where both were one file already
    return rc;
}

/* Puts the file in the model's place. *ret_had_one: there was another, which is kept. */
static int install(int models_fd, const char *name, int from, bool *ret_had_one, struct error *err)
{
    char file[FILE_NAME_MAX_BYTES];
    struct file_writer w = {0};
    model_file(name, file);
    int rc = file_writer_open(models_fd, file, &w, err);
    if (rc == 0)
        rc = file_writer_copy(&w, from, err);
    if (rc) {
        file_writer_abort(&w);
        return rc;
    }
    int kept = keep_previous(models_fd, name);
    if (kept && kept != -ENOENT) {
        file_writer_abort(&w);
        return error_set(err, kept, NULL, "the model of before cannot be kept: %s", strerror(-kept));
    }
    *ret_had_one = kept == 0;
    return file_writer_commit(&w, err);
}

static void take_back(int models_fd, const char *name, bool had_one)
{
    char file[FILE_NAME_MAX_BYTES], previous[FILE_NAME_MAX_BYTES];
    model_file(name, file);
    previous_file(name, previous);
    if (had_one)
        renameat(models_fd, previous, models_fd, file);
    else
        unlinkat(models_fd, file, 0);
    fsync(models_fd);
}

/* ---- aside ---- */

static int open_models(struct exchange *x, int *ret_fd)
{
    *ret_fd = open(x->api->options.models_folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*ret_fd >= 0)
        return 0;
    problem_set(&x->aside.problem, PROBLEM_BAD_MODEL, NULL, "the folder of models cannot be opened: %s",
                strerror(errno));
    return -EIO;
}

/* Loads the model that the name stands for now; describes it. 0, or the problem is there. */
static int load(struct exchange *x)
{
    struct error err = {0};
    int rc = model_store_load(x->api->options.models, x->name, &x->aside.model, &err);
    if (rc) {
        api_model_problem(x->name, rc, &err, &x->aside.problem);
        return rc;
    }
    json_t *card = model_store_describe(x->api->options.models, x->name, &err);
    char *text = card ? json_dumps(card, JSON_COMPACT) : NULL;
    text_puts(&x->aside.text, text ? text : "{}");
    free(text);
    json_decref(card);
    return 0;
}

/* The checkpoint's file name from what the client asked for. */
static bool checkpoint_name(const struct job_publish *f, char to[64])
{
    const json_t *c = f->checkpoint;
    const char *text = c ? json_string_value(c) : "best";
    char *end;
    long long epoch = json_is_integer(c) ? json_integer_value(c) : -1;
    if (text && (strcmp(text, "best") == 0 || strcmp(text, "last") == 0)) {
        snprintf(to, 64, "%s.safetensors", text);
        return true;
    }
    if (text && text[0] >= '0' && text[0] <= '9') {
        epoch = strtoll(text, &end, 10);
        epoch = *end == '\0' ? epoch : -1;
    }
    snprintf(to, 64, "epoch-%04lld.safetensors", epoch);
    return epoch >= 0 && epoch < 1000000000;
}

/* Checks the job's checkpoint whole and opens it. 0, or the problem is there. */
static int open_checkpoint(struct exchange *x, const struct job_publish *f, int *ret_fd)
{
    struct checkpoint c;
    struct error err = {0};
    char name[64];
    int folder;
    if (!checkpoint_name(f, name))
        return problem_set(&x->aside.problem, PROBLEM_BAD_FIELD, "checkpoint",
                           "checkpoint is \"best\", \"last\", or the number of an epoch");
    int rc = jobs_open_file_of(x, f->job, "checkpoints", O_RDONLY | O_DIRECTORY, &folder);
    if (rc == 0) {
        rc = job_file_open(folder, name, O_RDONLY, ret_fd);
        if (rc == 0 && (rc = checkpoint_open(folder, name, &c, &err)) == 0)
            checkpoint_close(&c);
        else if (rc && err.code)
            close(*ret_fd);
        close(folder);
    }
    if (err.code)
        problem_from_error(&x->aside.problem, PROBLEM_BAD_MODEL, &err);
    else if (rc)
        problem_set(&x->aside.problem, PROBLEM_NO_SUCH_FILE, "checkpoint", "job %" PRId64 " has no checkpoint %s",
                    f->job, name);
    return rc;
}

/* The canary's grid among the job's samples. 0, or the problem is there. */
static int show_canary(struct exchange *x, int models_fd, int64_t job, int checkpoint_fd)
{
    struct text png = {0};
    struct error err = {0};
    int folder;
    int rc = canary_grid(x->api, models_fd, job, checkpoint_fd, &png, &x->aside.problem);
    if (rc == 0 && jobs_open_file_of(x, job, "samples", O_RDONLY | O_DIRECTORY, &folder) == 0) {
        rc = file_write(folder, "canary.png", png.data, png.length, &err);
        close(folder);
        if (rc)
            problem_from_error(&x->aside.problem, PROBLEM_JOBS_STORE, &err);
    }
    text_done(&png);
    return rc;
}

static void publish(struct exchange *x, int64_t job, int checkpoint_fd)
{
    struct error err = {0};
    bool had_one = false;
    int models_fd, rc = 0;
    if (open_models(x, &models_fd))
        return;
    pthread_mutex_lock(&x->api->publish_lock);
    if (show_canary(x, models_fd, job, checkpoint_fd) == 0 &&
        (rc = install(models_fd, x->name, checkpoint_fd, &had_one, &err)) == 0 && load(x))
        take_back(models_fd, x->name, had_one);
    if (rc)
        problem_from_error(&x->aside.problem, PROBLEM_JOBS_STORE, &err);
    pthread_mutex_unlock(&x->api->publish_lock);
    close(models_fd);
    if (!x->aside.problem.kind) {
        x->aside.status = 201;
        jobs_header(x, "Location", "/models/%s", x->name);
        jobs_header(x, "X-Canary", "/jobs/%" PRId64 "/samples/canary.png", job);
    }
}

static void publish_aside(struct exchange *x)
{
    struct job_publish f = job_publish_defaults;
    struct error err = {0};
    struct job job;
    json_t *object;
    int fd;
    if (!jobs_read_fields(x, &f, NULL, &object))
        return;
    int rc = model_name_check(x->name, &err);
    if (rc)
        problem_from_error(&x->aside.problem, PROBLEM_BAD_FIELD, &err);
    else if ((rc = job_store_get(x->api->options.jobs, f.job, &job, &err)))
        jobs_problem(x, rc, &err);
    else
        job_done(&job);
    if (rc == 0 && open_checkpoint(x, &f, &fd) == 0) {
        publish(x, f.job, fd);
        close(fd);
    }
    json_decref(object);
}

static void rollback_aside(struct exchange *x)
{
    char file[FILE_NAME_MAX_BYTES], previous[FILE_NAME_MAX_BYTES];
    int models_fd;
    if (open_models(x, &models_fd))
        return;
    model_file(x->name, file);
    previous_file(x->name, previous);
    pthread_mutex_lock(&x->api->publish_lock);
    if (renameat2(models_fd, file, models_fd, previous, RENAME_EXCHANGE) < 0)
        problem_set(&x->aside.problem, PROBLEM_NO_SUCH_MODEL, NULL, "there is nothing to go back to for model %s",
                    x->name);
    else if (load(x))
        renameat2(models_fd, file, models_fd, previous, RENAME_EXCHANGE);
    fsync(models_fd);
    pthread_mutex_unlock(&x->api->publish_lock);
    close(models_fd);
}

void handle_model_from_job(struct exchange *x)
{
    if (api_check_ready(x))
        jobs_aside(x, publish_aside);
}

void handle_model_rollback(struct exchange *x)
{
    if (api_check_ready(x))
        jobs_aside(x, rollback_aside);
}
