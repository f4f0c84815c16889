/* thin.c: see thin.h. */
#include "training/thin.h"

#include <assert.h>
#include <math.h>

// The indices of the smallest and the largest finite value in [from, to), in their order; from where none is finite.
static int32_t extremes(const double *values, int32_t from, int32_t to, int32_t *ret_indices)
{
    int32_t least = -1, most = -1;
    for (int32_t i = from; i < to; i++) {
        if (!isfinite(values[i]))
            continue;
        if (least < 0 || values[i] < values[least])
            least = i;
        if (most < 0 || values[i] > values[most])
            most = i;
    }
    if (least < 0)
        least = most = from;
    ret_indices[0] = least < most ? least : most;
    ret_indices[1] = least < most ? most : least;
    return least == most ? 1 : 2;
}

int32_t thin_min_max(const double *values, int32_t n, int32_t max_points, int32_t *ret_indices)
{
    assert(max_points >= 2);
    int32_t chosen = 0, pieces = max_points / 2;
    if (n <= max_points) {
        for (int32_t i = 0; i < n; i++)
            ret_indices[i] = i;
        return n;
    }
    for (int32_t p = 0; p < pieces; p++) {
        int32_t from = (int32_t)((int64_t)n * p / pieces), to = (int32_t)((int64_t)n * (p + 1) / pieces);
        chosen += extremes(values, from, to, ret_indices + chosen);
    }
    return chosen;
}
