/* fixture.h: reads the safetensors files that PyTorch's results are kept in.
 *
 * For tests: a file that cannot be read or lacks a tensor ends the program with a message. Independent of model/'s
 * reader, so that neither hides the other's mistakes.
 */
#ifndef DDIMD_TESTS_FIXTURE_H
#define DDIMD_TESTS_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fixture;

struct fixture_tensor {
    char dtype[8]; // "F32", "I32", "I64", "F64", ...
    int rank;
    int64_t dim[8];
    size_t elements;
    const void *data; // in the fixture's memory
};

struct fixture *fixture_open(const char *path);
void fixture_close(struct fixture *f);

/* Whether the file has it; then *ret_tensor is filled. */
bool fixture_find(const struct fixture *f, const char *name, struct fixture_tensor *ret_tensor);
/* All elements; ret_elements may be NULL. BF16 is widened to f32. */
const float *fixture_f32(struct fixture *f, const char *name, size_t *ret_elements);
const int32_t *fixture_i32(const struct fixture *f, const char *name, size_t *ret_elements);
/* A string of __metadata__, NULL where it is absent. */
const char *fixture_metadata(const struct fixture *f, const char *key);

#endif
