/* table.c: the functions of one instruction set. */
#include "kernels/cpu/loops/loops.h"

#define NAME2(x) #x
#define NAME(x) NAME2(x)

const struct loops LOOPS(loops) = {
    .name = NAME(LOOPS_ISA),
    .pointwise = &LOOPS(pointwise_loops),
    .pool = &LOOPS(pool_loops),
    .random = &LOOPS(random_loops),
    .norm = &LOOPS(norm_loops),
    .matrix = &LOOPS(matrix_loops),
#ifdef __AMX_BF16__
    .attention = &LOOPS(attention_amx_loops),
    .conv_weights = &LOOPS(conv_weights_loops),
#else
    .attention = &LOOPS(attention_loops),
#endif
#ifdef __AVX512F__
    .winograd = &LOOPS(winograd_loops),
#endif
    .state = &LOOPS(state_loops),
};
