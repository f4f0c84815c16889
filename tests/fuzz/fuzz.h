/* fuzz.h: what a harness offers: libFuzzer calls it, and so does replay.c, which runs the corpus as a test.
 *
 * A harness takes any bytes, must neither crash nor leak nor hang, and asserts what the code under test promises.
 */
#ifndef DDIMD_TESTS_FUZZ_H
#define DDIMD_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Always returns 0, as libFuzzer wants. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

#endif
