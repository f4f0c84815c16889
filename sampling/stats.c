/* stats.c: counters and histograms that the scheduler keeps for /metrics. */
#include "sampling/internal.h"

#include <string.h>

const char *const refusal_names[REFUSAL_COUNT + 1] = {"queue",    "client",      "size", "deadline",
                                                      "draining", "device_lost", NULL};

static const double seconds_bounds[SCHEDULER_BUCKETS] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                                         0.1,    0.25,  0.5,    1,     2.5,  10,    60};
static const double lanes_bounds[SCHEDULER_BUCKETS] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128};

void stats_init(struct scheduler_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    memcpy(stats->queue_seconds.bounds, seconds_bounds, sizeof(seconds_bounds));
    memcpy(stats->step_seconds.bounds, seconds_bounds, sizeof(seconds_bounds));
    memcpy(stats->cancel_seconds.bounds, seconds_bounds, sizeof(seconds_bounds));
    memcpy(stats->step_lanes.bounds, lanes_bounds, sizeof(lanes_bounds));
}

void histogram_add(struct scheduler_histogram *h, double value)
{
    int i = 0;
    while (i < SCHEDULER_BUCKETS && value > h->bounds[i])
        i++;
    h->count[i]++;
    h->n++;
    h->sum += value;
}

void scheduler_stats(struct scheduler *s, struct scheduler_stats *ret_stats)
{
    pthread_mutex_lock(&s->lock);
    *ret_stats = s->stats;
    ret_stats->shown_ns = s->workers[0].shown_ns;
    for (int32_t d = 1; d < s->n_devices; d++)
        if (s->workers[d].shown_ns < ret_stats->shown_ns)
            ret_stats->shown_ns = s->workers[d].shown_ns;
    ret_stats->row_step_seconds = forecast_row_step_seconds(s);
    pthread_mutex_unlock(&s->lock);
}
