/* generator.h: images of a model file, as many as asked, straight from lanes: nothing is written to disk.
 *
 * Image i of a seed is what POST /generate of that seed, with class i mod num_classes, gives as image i. One thread
 * (the device's worker).
 */
#ifndef DDIMD_TRAINING_GENERATOR_H
#define DDIMD_TRAINING_GENERATOR_H

#include "model/lanes.h"

#include <signal.h>

struct generator {
    struct checkpoint model;
    struct network *network;
    struct lane_pool *pool;
    int32_t rows;
    struct lane_step *lanes; // [rows]
    uint8_t *finite;         // [rows]
    float *image;            // [H, W, C]
    uint8_t *pixels;         // [rows, H, W, C]
    int32_t *labels;         // [rows]
};

/* rows: of the network at once. 0, or as checkpoint_open() and network_create() (err->field "model" where the file is
 * at fault). */
int generator_open(struct device *d, const char *path, enum dtype precision, int32_t rows,
                   struct generator *ret_generator, struct error *err);
void generator_close(struct generator *g); // zeroed is fine

struct generation {
    struct sampling_recipe recipe;
    double guidance;
    bool clip;
    int64_t n;
    uint64_t seed;
    const volatile sig_atomic_t *stop; // not 0: ends with -ECANCELED
    /* Takes images [first, first + n) as 8-bit pixels, [n, H, W, C], and their classes. 0, or an error that ends it. */
    int (*take)(void *context, int64_t first, int32_t n, const uint8_t *pixels, const int32_t *classes,
                struct error *err);
    void *context;
};

/* 0, -ERANGE (an image is not finite), -ECANCELED, -EINVAL (recipe), -EIO, -ENOMEM, or what take() returned. */
int generator_run(struct generator *g, const struct generation *o, struct error *err);

/* Encodes n images [n, H, W, C] in [-1, 1] to noise by DDIM without noise, in `steps` steps, and decodes them in as
 * many (Song et al. 2021, section 5.4). ret_error: the mean squared error per pixel, in the paper's scale of [0, 1]. 0,
 * -EINVAL, -EIO, -ENOMEM. */
int generator_invert(struct generator *g, int32_t steps, enum step_method method, const float *images,
                     const int32_t *classes, int32_t n, double *ret_error, struct error *err);

#endif
