/* jobs_config.c: a client's training configuration, checked before it is queued. The only paths that a client may name
 * are those of data sets, and they lie beneath one folder of the daemon's.
 */
#include "api/jobs.h"

#include "training/config.h"
#include "training/estimate.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Whether there is something at the path, without leaving the root on the way. 0 or negative errno. */
static int look_beneath(const char *root, const char *path)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH};
    int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int found = (int)syscall(SYS_openat2, fd, path, &how, sizeof(how));
    int rc = found < 0 ? -errno : 0;
    if (found >= 0)
        close(found);
    close(fd);
    return rc;
}

int job_dataset_path(const struct api_options *o, const char *field, const char *path, size_t bytes, char *ret_path,
                     struct error *err)
{
    int rc = path[0] == '/' ? -EXDEV : look_beneath(o->datasets, path);
    if (rc == -EXDEV || rc == -ELOOP)
        return error_set(err, -EINVAL, field, "leads out of the daemon's folder of data sets");
    if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM)
        return error_set(err, rc, field, "cannot be looked up now: %s", strerror(-rc));
    if (rc)
        return error_set(err, -EINVAL, field, "there is no \"%.200s\" in the daemon's folder of data sets", path);
    if (strlen(o->datasets) + 1 + strlen(path) >= bytes)
        return error_set(err, -EINVAL, field, "is too long");
    snprintf(ret_path, bytes, "%s/%s", o->datasets, path);
    return 0;
}

/* Opens the data set without reading its images: number and classes. What is still to be fetched is what is published.
 */
static int look_at_dataset(const struct api_options *o, const struct train_config *c, int64_t *ret_n, struct error *err)
{
    struct dataset_options d_options = {.kind = c->dataset.kind,
                                        .path = c->dataset.path,
                                        .root = o->datasets,
                                        .look_only = true,
                                        .train = c->dataset.train,
                                        .height = c->dataset.image_size[0],
                                        .width = c->dataset.image_size[1],
                                        .channels = c->model.in_channels,
                                        .n_suffixes = c->dataset.n_suffixes,
                                        .n_threads = 1};
    struct dataset *d = NULL;
    int64_t n = dataset_published_images(c->dataset.kind, c->dataset.train);
    int32_t n_classes = 10;
    memcpy(d_options.suffix, c->dataset.suffix, sizeof(d_options.suffix));
    int rc = dataset_open(&d_options, &d, err);
    if (rc == 0) {
        n = d->n;
        n_classes = d->n_classes;
    } else if (rc != -ENOENT || !c->dataset.download) {
        return rc;
    }
    dataset_close(d);
    if (n_classes != c->model.num_classes)
        return error_set(err, -EINVAL, "model.num_classes", "is %d, but the data set has %d classes",
                         c->model.num_classes, n_classes);
    *ret_n = n;
    return 0;
}

static json_t *estimate_json(const struct api_options *o, const char *device, const struct train_estimate *e)
{
    char basis[JOB_PACE_BYTES];
    double rate = job_pace(o, device, basis);
    json_t *seconds = rate > 0 ? json_real(e->flop / rate) : json_null();
    return json_pack("{sI sI sI sI sI sI so ss*}", "parameters", (json_int_t)e->parameters, "flop_per_step",
                     (json_int_t)e->flop_per_step, "steps_per_epoch", (json_int_t)e->steps_per_epoch, "steps",
                     (json_int_t)e->steps, "memory_bytes", (json_int_t)e->memory_bytes, "checkpoint_bytes",
                     (json_int_t)e->checkpoint_bytes, "seconds", seconds, "seconds_as", rate > 0 ? basis : NULL);
}

int job_train_check(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err)
{
    const struct api_options *o = context;
    struct train_config c;
    struct train_estimate e;
    int64_t n = 0;
    int rc = train_config_parse(config, &c, err);
    if (rc)
        return rc;
    if (c.resume[0])
        return error_set(err, -EINVAL, "resume", "is not for jobs: POST /jobs/{id}/resume goes on with one");
    if (c.distill.teacher[0])
        return error_set(err, -EINVAL, "distill.teacher", "is a path: only ddimd-train itself takes one");
    rc = look_at_dataset(o, &c, &n, err);
    if (rc == 0)
        rc = train_estimate(&c, n, !o->job_f32, &e, err);
    if (rc == 0 && e.steps == 0)
        rc = error_set(err, -EINVAL, "dataset.batch_size", "%lld images give no whole batch to train on", (long long)n);
    if (rc)
        return rc;
    struct job_plan plan = {0};
    snprintf(plan.device, sizeof(plan.device), "%s", c.device == 0 ? o->job_device : train_device_names[c.device]);
    plan.config = train_config_json(&c);
    plan.estimate = estimate_json(o, plan.device, &e);
    if (!plan.config || !plan.estimate) {
        job_plan_done(&plan);
        return error_set(err, -ENOMEM, NULL, "out of memory");
    }
    *ret_plan = plan;
    return 0;
}
