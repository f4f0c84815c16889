/* thin.h: a long curve with few points that looks the same. */
#ifndef DDIMD_TRAINING_THIN_H
#define DDIMD_TRAINING_THIN_H

#include <stdint.h>

/* Chooses at most max_points (at least 2) of n values: the curve is cut into equal pieces, and of each the smallest and
 * the largest value stay, so that no peak is lost. Values that are not finite are chosen only where a piece has no
 * other. ret_indices: [max_points], ascending. Returns how many; all of them where n <= max_points. Pure. */
int32_t thin_min_max(const double *values, int32_t n, int32_t max_points, int32_t *ret_indices);

#endif
