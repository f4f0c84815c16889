/* jobs_pace.c: how fast a job would train: as the newest one on the device did, or else as the default model's measured
 * steps let expect.
 */
#include "api/jobs.h"

#include "training/config.h"

#include <stdio.h>
#include <string.h>

enum { LOOK_AT = 50 };

// Of the rate of forward passes that training reaches: gradients of filters are slower than the filters are.
static const double share_of_forward = 0.55;

// A job's rate, 0 where it does not tell one.
static double rate_of_job(const struct job *job)
{
    struct train_config c;
    json_t *latest = job->latest ? json_loads(job->latest, 0, NULL) : NULL;
    json_t *config = json_loads(job->config, 0, NULL);
    double images = json_number_value(json_object_get(latest, "images_per_s")), rate = 0;
    if (images > 0 && config && train_config_parse(config, &c, NULL) == 0)
        rate = 3 * images * (double)model_config_flop(&c.model, c.dataset.image_size[0], c.dataset.image_size[1]);
    json_decref(latest);
    json_decref(config);
    return rate;
}

static double rate_of_jobs(const struct api_options *o, const char *device, char basis[JOB_PACE_BYTES])
{
    const struct job_filter filter = {.state = -1, .type = "train", .limit = LOOK_AT};
    struct job *jobs;
    int32_t n;
    double rate = 0;
    if (job_store_list(o->jobs, &filter, &jobs, &n, NULL) < 0)
        return 0;
    for (int32_t i = 0; i < n && rate == 0; i++) {
        if (strcmp(jobs[i].device, device) == 0)
            rate = rate_of_job(&jobs[i]);
        if (rate > 0)
            snprintf(basis, JOB_PACE_BYTES, "job %lld", (long long)jobs[i].id);
    }
    job_list_free(jobs, n);
    return rate;
}

static double rate_of_model(const struct api_options *o, char basis[JOB_PACE_BYTES])
{
    struct resident_model *m = model_store_resident(o->models, NULL);
    double best = 0;
    for (int32_t i = 0; m && i < m->n_measured; i++) {
        double rate = m->measured_rows[i] / m->measured_seconds[i];
        best = rate > best ? rate : best;
    }
    if (m) {
        best *= share_of_forward * (double)model_config_flop(&m->model, m->data.height, m->data.width);
        snprintf(basis, JOB_PACE_BYTES, "model %s", m->name);
    }
    model_release(m);
    return best;
}

double job_pace(const struct api_options *o, const char *device, char basis[JOB_PACE_BYTES])
{
    basis[0] = '\0';
    double rate = rate_of_jobs(o, device, basis);
    return rate > 0 ? rate : rate_of_model(o, basis);
}
