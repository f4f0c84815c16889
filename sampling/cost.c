/* cost.c: how long a step of so many rows takes: measured at load, then learned from every step. */
#include "sampling/internal.h"

#include <errno.h>
#include <stdlib.h>

int step_cost_init(struct step_cost *c, const struct stepper *stepper)
{
    double *seconds = calloc((size_t)stepper->max_rows + 1, sizeof(*seconds));
    if (!seconds)
        return -ENOMEM;
    for (int32_t i = 0; i < stepper->n_measured; i++) {
        int32_t rows = stepper->measured_rows[i];
        if (rows >= 1 && rows <= stepper->max_rows)
            seconds[rows] = stepper->measured_seconds[i];
    }
    *c = (struct step_cost){stepper->max_rows, seconds};
    return 0;
}

void step_cost_done(struct step_cost *c)
{
    free(c->seconds);
    c->seconds = NULL;
}

/* A moving average over about ten steps. One stray step (a page fault, a neighbour on the machine) must not move
 * estimates, so it counts as at most four times the average. */
void step_cost_learn(struct step_cost *c, int32_t rows, double seconds)
{
    double *known = &c->seconds[rows];
    if (!(seconds >= 0))
        return;
    if (*known > 0 && seconds > 4 * *known)
        seconds = 4 * *known;
    *known = *known > 0 ? *known + 0.1 * (seconds - *known) : seconds;
}

double step_cost_seconds(const struct step_cost *c, int32_t rows)
{
    if (rows <= 0)
        return 0;
    if (rows > c->max_rows)
        rows = c->max_rows;
    int32_t below = rows, above = rows;
    while (below > 0 && !(c->seconds[below] > 0))
        below--;
    while (above <= c->max_rows && !(c->seconds[above] > 0))
        above++;
    if (below == 0 && above > c->max_rows)
        return 0;
    if (below == 0)
        return c->seconds[above];
    if (above > c->max_rows)
        return c->seconds[below] * rows / below;
    if (above == below)
        return c->seconds[rows];
    double part = (double)(rows - below) / (above - below);
    return c->seconds[below] + part * (c->seconds[above] - c->seconds[below]);
}
