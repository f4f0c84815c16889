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

/* A problem of the configuration: the field's path begins with "config", and no path of the daemon's leaves it. */
static bool cannot_run(const struct api_options *o, const struct error *err, struct problem *ret_problem)
{
    char root[TRAIN_PATH_BYTES + 2];
    problem_from_error(ret_problem, PROBLEM_CANNOT_RUN, err);
    snprintf(ret_problem->field, sizeof(ret_problem->field), "config%s%.100s", err->field[0] ? "." : "", err->field);
    size_t n = (size_t)snprintf(root, sizeof(root), "%s/", o->datasets);
    for (char *at; (at = strstr(ret_problem->detail, root));)
        memmove(at, at + n, strlen(at + n) + 1);
    return false;
}

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

/* The whole path of a data set that the client named: the program works in that folder, so its configuration keeps the
 * relative one. */
static int resolve_dataset(const char *root, const char *path, char ret_path[TRAIN_PATH_BYTES], struct error *err)
{
    int rc = path[0] == '/' ? -EXDEV : look_beneath(root, path);
    if (rc == -EXDEV || rc == -ELOOP)
        return error_set(err, -EINVAL, "dataset.path", "leads out of the daemon's folder of data sets");
    if (rc)
        return error_set(err, -EINVAL, "dataset.path", "there is no \"%.200s\" in the daemon's folder of data sets",
                         path);
    if (snprintf(ret_path, TRAIN_PATH_BYTES, "%s/%s", root, path) >= TRAIN_PATH_BYTES)
        return error_set(err, -EINVAL, "dataset.path", "is too long");
    return 0;
}

/* Opens the data set without reading its images: number and classes. */
static int look_at_dataset(const char *root, const struct train_config *c, int64_t *ret_n, struct error *err)
{
    char path[TRAIN_PATH_BYTES];
    int rc = resolve_dataset(root, c->dataset.path, path, err);
    if (rc)
        return rc;
    struct dataset_options o = {.kind = c->dataset.kind,
                                .path = path,
                                .train = c->dataset.train,
                                .height = c->dataset.image_size[0],
                                .width = c->dataset.image_size[1],
                                .channels = c->model.in_channels,
                                .n_suffixes = c->dataset.n_suffixes,
                                .n_threads = 1};
    struct dataset *d;
    memcpy(o.suffix, c->dataset.suffix, sizeof(o.suffix));
    rc = dataset_open(&o, &d, err);
    if (rc)
        return rc;
    if (d->n_classes != c->model.num_classes)
        rc = error_set(err, -EINVAL, "model.num_classes", "is %d, but the data set has %d classes",
                       c->model.num_classes, d->n_classes);
    *ret_n = d->n;
    dataset_close(d);
    return rc;
}

static int check(const struct api_options *o, const json_t *json, struct train_config *c, struct train_estimate *e,
                 struct error *err)
{
    int64_t n = 0;
    int rc = train_config_parse(json, c, err);
    if (rc)
        return rc;
    if (c->resume[0])
        return error_set(err, -EINVAL, "resume", "is not for jobs: POST /jobs/{id}/resume goes on with one");
    rc = look_at_dataset(o->datasets, c, &n, err);
    if (rc == 0)
        rc = train_estimate(c, n, !o->job_f32, e, err);
    if (rc == 0 && e->steps == 0)
        rc = error_set(err, -EINVAL, "dataset.batch_size", "%lld images give no whole batch to train on", (long long)n);
    return rc;
}

bool job_config_check(const struct api_options *o, const json_t *json, struct train_config *ret_config,
                      struct train_estimate *ret_estimate, struct problem *ret_problem)
{
    struct error err = {0};
    return check(o, json, ret_config, ret_estimate, &err) == 0 || cannot_run(o, &err, ret_problem);
}
