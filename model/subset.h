/* subset.h: random subsets as numpy's RandomState draws them, so that metrics of published tools come out the same.
 *
 * RandomState(seed).permutation(n) and .choice(n, size, replace=False) are MT19937 (Matsumoto & Nishimura 1998) with
 * masked rejection; torch-fidelity shuffles and chooses with them. Pure functions of their arguments and of *s, any
 * thread.
 */
#ifndef DDIMD_MODEL_SUBSET_H
#define DDIMD_MODEL_SUBSET_H

#include <stdint.h>

enum { SUBSET_STATE_WORDS = 624 };

struct subset_source {
    uint32_t state[SUBSET_STATE_WORDS];
    int32_t used;
};

void subset_seed(struct subset_source *s, uint32_t seed);
/* A permutation of 0 .. n - 1, n < 2^32; its first k elements are choice(n, k, replace=False). ret: [n] */
void subset_permutation(struct subset_source *s, int64_t n, int64_t *ret_order);

#endif
