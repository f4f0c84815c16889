/* unet_fixture.h: the networks of tests/fixtures/make_unet.py: configuration, weights, digests.
 *
 * For tests: failures are failed cmocka assertions.
 */
#ifndef DDIMD_TESTS_UNET_FIXTURE_H
#define DDIMD_TESTS_UNET_FIXTURE_H

#include "kernels/graph.h"
#include "model/config.h"
#include "model/safetensors.h"

enum { DIGEST_PROJECTIONS = 4 };

struct unet_fixture {
    struct safetensors *file;
    struct model_config model;
    int32_t height, width;
    uint64_t seed; // of the weights
};

/* folder/name.safetensors */
void unet_fixture_open(const char *folder, const char *name, struct unet_fixture *ret_fixture);
void unet_fixture_close(struct unet_fixture *f);

/* All elements of a tensor, in the file's memory. */
const float *unet_fixture_f32(const struct unet_fixture *f, const char *name, size_t *ret_elements);
const int32_t *unet_fixture_i32(const struct unet_fixture *f, const char *name, size_t *ret_elements);
/* A number or JSON of the file's __metadata__. */
json_t *unet_fixture_json(const struct unet_fixture *f, const char *key); // new reference
uint64_t unet_fixture_number(const struct unet_fixture *f, const char *key);

/* The fixture's weights in g's layout, padding zero; malloc'd [g->param_floats]. */
float *unet_fixture_weights(const struct graph *g, uint64_t seed);

/* How far a vector of g's parameter layout is from one that the fixture holds as digests `norm` [n_params] and
 * `projection` [n_params, DIGEST_PROJECTIONS]: the estimate of ||v - reference|| of parameter i from the projections'
 * differences, and the reference's norm. */
struct digest_error {
    double difference, norm;
};
struct digest_error digest_compare(const struct graph *g, int32_t i, const float *values, uint64_t seed,
                                   const float *norm, const float *projection);

#endif
