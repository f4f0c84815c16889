/* subset.c: see subset.h. */
#include "model/subset.h"

enum { SHIFT = 397 };

void subset_seed(struct subset_source *s, uint32_t seed)
{
    s->state[0] = seed;
    for (uint32_t i = 1; i < SUBSET_STATE_WORDS; i++)
        s->state[i] = 1812433253u * (s->state[i - 1] ^ s->state[i - 1] >> 30) + i;
    s->used = SUBSET_STATE_WORDS;
}

static void refill(struct subset_source *s)
{
    for (int i = 0; i < SUBSET_STATE_WORDS; i++) {
        uint32_t y = (s->state[i] & 0x80000000u) | (s->state[(i + 1) % SUBSET_STATE_WORDS] & 0x7FFFFFFFu);
        s->state[i] = s->state[(i + SHIFT) % SUBSET_STATE_WORDS] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
    }
    s->used = 0;
}

static uint32_t next_word(struct subset_source *s)
{
    if (s->used == SUBSET_STATE_WORDS)
        refill(s);
    uint32_t y = s->state[s->used++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9D2C5680u;
    y ^= y << 15 & 0xEFC60000u;
    return y ^ y >> 18;
}

/* Uniform in 0 .. max: words under the smallest mask that covers max, until one is not above it. */
static uint32_t interval(struct subset_source *s, uint32_t max)
{
    uint32_t mask = max, value;
    for (int bits = 1; bits < 32; bits *= 2)
        mask |= mask >> bits;
    do {
        value = next_word(s) & mask;
    } while (value > max);
    return value;
}

void subset_permutation(struct subset_source *s, int64_t n, int64_t *ret_order)
{
    for (int64_t i = 0; i < n; i++)
        ret_order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = interval(s, (uint32_t)i), kept = ret_order[j];
        ret_order[j] = ret_order[i];
        ret_order[i] = kept;
    }
}
