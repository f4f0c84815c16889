/* teacher.h: distillation of classifier-free guidance (Meng et al. 2023, arXiv:2210.03142, its first stage with one
 * scale): the noise that a network is to predict is what a trained one says with guidance, so that one pass does what
 * guidance takes two for.
 *
 * One thread (the device's worker). Host arrays.
 */
#ifndef DDIMD_TRAINING_TEACHER_H
#define DDIMD_TRAINING_TEACHER_H

#include "kernels/backend.h"
#include "model/config.h"
#include "training/diffuse.h"

struct teacher;

struct teacher_options {
    struct device *device; // outlives the teacher
    const char *path;      // model file
    float guidance;
    struct model_config model; // of the network that learns
    struct diffusion_config diffusion;
    int32_t height, width;
    enum dtype precision;
};

/* 0; -EINVAL (err names the field: channels, classes, schedule or image size are not those of the network that learns),
 * as checkpoint_open() and program_prepare(). */
int teacher_open(const struct teacher_options *o, struct teacher **ret_teacher, struct error *err);
void teacher_close(struct teacher *t); // NULL is fine

/* b->eps = e_null + guidance (e_y - e_null) at b's x, t and y; e_null where y is the null class. 0, -EIO, -ENOMEM. */
int teacher_eps(struct teacher *t, struct noised_batch *b, struct error *err);

/* Its weights, flat as learner_graph() says; NULL where the learner's architecture is another. */
const float *teacher_values(const struct teacher *t);
const char *teacher_digest(const struct teacher *t); // SHA-256 of its file, hexadecimal

#endif
