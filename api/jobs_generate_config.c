/* jobs_generate_config.c: what a job of type generate is told: the fields of a recipe, checked when it is queued and
 * read again when it runs.
 */
#include "api/api.h"
#include "api/jobs_generate.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

const struct request_limits generate_job_limits = {
    .max_images = 1000000, .max_row_steps = 1000000000, .max_result_bytes = INT64_C(16) << 30, .max_picture_bytes = 0};

void generate_config_write(const struct recipe *r, const char *build, const char *device, struct text *t)
{
    json_open(t, '{');
    recipe_write(r, build, device, t);
    json_key(t, "priority"), json_text(t, priority_names[r->fields.priority]);
    if (r->fields.timeout_ms)
        json_key(t, "timeout_ms"), json_int(t, r->fields.timeout_ms);
    json_close(t, '}');
}

static int problem_to_error(const struct problem *p, struct error *err)
{
    bool memory = p->kind == PROBLEM_OUT_OF_MEMORY;
    error_set(err, memory ? -ENOMEM : -EINVAL, p->field, "%s", p->detail);
    if (err)
        snprintf(err->nearest, sizeof(err->nearest), "%s", p->nearest);
    return memory ? -ENOMEM : -EINVAL;
}

static int resolve(const struct api_options *o, struct fields *f, struct resident_model *model, struct job_plan *plan,
                   struct error *err)
{
    struct recipe r;
    struct problem p;
    struct text text = {0};
    if (recipe_resolve(f, model, &generate_job_limits, &r, &p))
        return problem_to_error(&p, err);
    generate_config_write(&r, DDIMD_VERSION, o->device, &text);
    int64_t bytes =
        (int64_t)r.n_images * r.n_frames * model->data.height * model->data.width * model->data.channels * 4;
    plan->estimate = json_pack("{sI sI sI}", "images", (json_int_t)r.n_images, "row_steps",
                               (json_int_t)recipe_row_steps(&r), "result_bytes", (json_int_t)bytes);
    int rc = text.failed || !plan->estimate ? -ENOMEM : 0;
    if (rc == 0)
        rc = fields_parse_object(text.data, text.length, &plan->config, &p) ? -ENOMEM : 0;
    text_done(&text);
    recipe_done(&r);
    return rc ? error_set(err, rc, NULL, "out of memory") : 0;
}

/* The seed is chosen and the model's names are resolved here, so that a job that begins anew makes the same images. */
int job_generate_check(const void *context, const json_t *config, struct job_plan *ret_plan, struct error *err)
{
    const struct api_options *o = context;
    struct job_plan plan = {.device = GENERATE_JOB_DEVICE};
    struct resident_model *model = NULL;
    struct fields f;
    struct problem p;
    bool has_priority = json_object_get(config, "priority") != NULL;
    if (fields_read_object(generate_job_fields, config, &f, &p))
        return problem_to_error(&p, err);
    if (!has_priority)
        f.priority = PRIORITY_LOW; // nobody waits for it
    int rc = 0;
    if (!f.has_seed && getrandom(&f.seed, sizeof(f.seed), 0) != sizeof(f.seed))
        rc = error_set(err, -EIO, "seed", "no random number for the seed");
    else if (!f.has_seed)
        f.seed >>= 11;
    if (rc == 0)
        rc = model_store_acquire(o->models, f.model[0] ? f.model : NULL, &model, err);
    if (rc == 0)
        rc = resolve(o, &f, model, &plan, err);
    model_release(model);
    fields_done(&f);
    if (rc == 0)
        *ret_plan = plan;
    else
        job_plan_done(&plan);
    return rc;
}
