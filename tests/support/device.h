/* device.h: which backend a test runs on: the CPU, or the one that TEST_BACKEND names ("cuda": a GPU, or its emulation
 * where DDIMD_PLUGINS says so). EMULATED set: it is slow, tests leave out what only costs time.
 */
#ifndef DDIMD_TESTS_DEVICE_H
#define DDIMD_TESTS_DEVICE_H

#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>

static inline const struct backend *test_backend(void)
{
    struct error err = {0};
    const char *name = getenv("TEST_BACKEND");
    const struct backend *b = backend_find(name ? name : "cpu", &err);
    if (!b) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return b;
}

/* The device options that say so many threads, where the backend has such. */
static inline const char *test_threads(const char *threads)
{
    return test_backend() == &backend_cpu ? threads : "";
}

static inline bool test_emulated(void)
{
    return getenv("EMULATED") != NULL;
}

#endif
