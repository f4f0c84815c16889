/* recipe.h: a request's fields resolved against a model: classes as indices, defaults filled in, limits kept.
 *
 * A recipe, its model, the build and the kind of device fix the bytes of the answer. Pure functions, any thread.
 */
#ifndef DDIMD_API_RECIPE_H
#define DDIMD_API_RECIPE_H

#include "api/fields.h"

enum { PICTURE_MAX_SIDE = 65500, PICTURE_PADDING = 2 };

/* What one request may ask for; each refusal says the limit. */
struct request_limits {
    int32_t max_images;        // n times the classes
    int64_t max_row_steps;     // of one request, as scheduler.h counts them
    int64_t max_result_bytes;  // states, f32
    int64_t max_picture_bytes; // the finished picture, RGB; 0: nobody wants one
};

struct recipe {
    const struct resident_model *model; // borrowed
    struct fields fields;               // resolved; without its class list
    int32_t n_classes;                  // entries of the list
    int32_t *classes;                   // [n_classes], num_classes is the null class; malloc'd
    int32_t n_images;                   // n_classes * n, class by class
    int32_t n_frames;                   // of each image
    struct step_table *table;           // malloc'd
};

/* f is read only. 0, -EINVAL with *ret_problem filled; on success the caller ends *ret_recipe with recipe_done(). */
int recipe_resolve(const struct fields *f, const struct resident_model *model, const struct request_limits *limits,
                   struct recipe *ret_recipe, struct problem *ret_problem);
void recipe_done(struct recipe *r); // a zeroed one is fine

/* Batch rows times steps, which is what the queue's bounds count. */
int64_t recipe_row_steps(const struct recipe *r);
/* n of its images from `first` on, as the scheduler wants them: all but client, deadline, callbacks and previews.
 * *ret_generation: generation_free(), or the scheduler's. 0, -ENOMEM. */
int recipe_generation(const struct recipe *r, int32_t first, int32_t n, struct generation **ret_generation);
int32_t recipe_class_of(const struct recipe *r, int32_t image);
/* The class's name, "none" for the null class. Owned by the model. */
const char *recipe_class_name(const struct resident_model *model, int32_t class_index);
/* Members of a JSON object (keys as in replay_fields): everything that fixes the bytes. */
void recipe_write(const struct recipe *r, const char *build, const char *device, struct text *ret_json);

#endif
