/* jobs_gauges.c: jobs in GET /metrics: how many in which state, and how far the running ones are. */
#include "api/jobs.h"

#include "training/runner.h"

#include <inttypes.h>

/* The number of a key in the latest metrics; NULL or none: false. */
static bool latest_number(const json_t *latest, const char *key, double *ret_value)
{
    const json_t *v = json_object_get(latest, key);
    if (!json_is_number(v))
        return false;
    *ret_value = json_number_value(v);
    return true;
}

static void gauge(struct text *t, const char *name, const char *help)
{
    text_printf(t, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name);
}

/* One gauge of all running jobs, from the rows or, where key is given, from their latest metrics. */
static void training_gauge(struct text *t, const char *name, const char *help, const struct job *jobs, int32_t n,
                           int64_t (*of)(const struct job *job), const char *key)
{
    gauge(t, name, help);
    for (int32_t i = 0; i < n; i++) {
        json_t *latest = key && jobs[i].latest ? json_loads(jobs[i].latest, 0, NULL) : NULL;
        double v = key ? 0 : (double)of(&jobs[i]);
        if (!key || latest_number(latest, key, &v))
            text_printf(t, "%s{job=\"%" PRId64 "\"} %.9g\n", name, jobs[i].id, v);
        json_decref(latest);
    }
}

static int64_t step_of(const struct job *job)
{
    return job->step;
}

static int64_t steps_of(const struct job *job)
{
    return job->total_steps;
}

static int64_t checkpoint_of(const struct job *job)
{
    return job->checkpoint_step;
}

void job_gauges_aside(struct exchange *x)
{
    struct job_store *store = x->api->options.jobs;
    struct job_filter running = {.state = JOB_STATE_RUNNING, .limit = JOB_MAX_LIST};
    struct text *t = &x->aside.text;
    int64_t counts[N_JOB_STATES];
    struct error trouble;
    struct job *jobs;
    int32_t n;
    gauge(t, "ddimd_jobs_trouble", "1 while something stands in the way of jobs; the log says what.");
    text_printf(t, "ddimd_jobs_trouble %d\n", job_runner_trouble(x->api->options.runner, &trouble));
    if (job_store_count(store, counts, NULL) || job_store_list(store, &running, &jobs, &n, NULL))
        return; // the trouble says it
    gauge(t, "ddimd_jobs", "Jobs by state.");
    for (int s = 0; s < N_JOB_STATES; s++)
        text_printf(t, "ddimd_jobs{state=\"%s\"} %" PRId64 "\n", job_state_name(s), counts[s]);
    training_gauge(t, "ddimd_training_step", "Steps that a running job has done.", jobs, n, step_of, NULL);
    training_gauge(t, "ddimd_training_steps", "Steps that it will have done.", jobs, n, steps_of, NULL);
    training_gauge(t, "ddimd_training_checkpoint_step", "Step of its last checkpoint, -1: none.", jobs, n,
                   checkpoint_of, NULL);
    training_gauge(t, "ddimd_training_loss", "Mean loss of its last interval.", jobs, n, NULL, "loss");
    training_gauge(t, "ddimd_training_images_per_second", "Its throughput.", jobs, n, NULL, "images_per_s");
    job_list_free(jobs, n);
}
