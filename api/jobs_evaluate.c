/* jobs_evaluate.c: a client's evaluation, checked before it is queued. Model and extractor are named, not their files:
 * ddimd-train finds them in the daemon's folders (--models); data sets are beneath the folder of data sets.
 */
#include "api/jobs.h"

#include "training/evaluate_config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_name(const char *field, const char *name, struct error *err)
{
    if (strchr(name, '/') || name[0] == '.')
        return error_set(err, -EINVAL, field, "must be a name, not a path");
    return 0;
}

static int check_file(const struct api_options *o, const char *field, const char *folder, const char *name,
                      struct error *err)
{
    char path[2 * TRAIN_PATH_BYTES];
    int rc = check_name(field, name, err);
    if (rc)
        return rc;
    snprintf(path, sizeof(path), "%s%s/%s.safetensors", o->models_folder, folder, name);
    if (access(path, R_OK))
        return error_set(err, -EINVAL, field, "there is none of the name \"%.100s\"", name);
    return 0;
}

static int check_data(const struct api_options *o, const char *field, const struct evaluate_data *d, struct error *err)
{
    char path[TRAIN_PATH_BYTES];
    return job_dataset_path(o, field, d->set.path, sizeof(path), path, err);
}

/* Lane-steps of all points, as the scheduler counts work. */
static int64_t lane_steps(const struct evaluate_config *c)
{
    struct evaluate_point *points = malloc(EVALUATE_MAX_POINTS * sizeof(*points));
    int64_t sum = 0;
    int32_t n = points && c->model[0] ? evaluate_config_points(c, points) : 0;
    for (int32_t i = 0; i < n; i++)
        sum += c->n * c->seeds * points[i].recipe.steps * (points[i].guidance == 1.0 ? 1 : 2);
    free(points);
    return sum;
}

int job_evaluate_check(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err)
{
    const struct api_options *o = context;
    struct evaluate_config c;
    struct job_plan plan = {0};
    int rc = evaluate_config_parse(config, &c, err);
    if (rc == 0 && c.model[0])
        rc = check_file(o, "model", "", c.model, err);
    if (rc == 0)
        rc = check_file(o, "extractor", "/../extractors", c.extractor, err);
    if (rc == 0)
        rc = check_data(o, "reference.path", &c.reference, err);
    if (rc == 0 && c.has_images)
        rc = check_data(o, "images.path", &c.images, err);
    if (rc == 0 && c.cache[0])
        rc = error_set(err, -EINVAL, "cache", "is a path: only ddimd-train itself takes one");
    if (rc)
        return rc;
    snprintf(plan.device, sizeof(plan.device), "%s", c.device == 0 ? o->job_device : train_device_names[c.device]);
    plan.config = evaluate_config_json(&c);
    plan.estimate = json_pack("{sI}", "lane_steps", (json_int_t)lane_steps(&c));
    if (!plan.config || !plan.estimate) {
        job_plan_done(&plan);
        return error_set(err, -ENOMEM, NULL, "out of memory");
    }
    *ret_plan = plan;
    return 0;
}
