/* model_folder.h: a folder of tiny random models, a device and a scheduler with its worker; cmocka asserts inside. */
#ifndef DDIMD_TESTS_SAMPLING_MODEL_FOLDER_H
#define DDIMD_TESTS_SAMPLING_MODEL_FOLDER_H

#include "sampling/models.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { TINY_SIZE = 16, TINY_CLASSES = 4 };

struct model_folder {
    char path[256];
    struct device *device;
    struct scheduler *scheduler;
    struct model_store *store;
};
void model_folder_open(struct model_folder *f);
/* options NULL: f32, all else measured. */
void model_folder_store(struct model_folder *f, const struct model_store_options *options);
void model_folder_close(struct model_folder *f);
/* Writes (replaces) NAME.safetensors; scale multiplies all weights. */
void model_folder_write(struct model_folder *f, const char *name, uint64_t seed, float scale);
/* Writes bytes that are no model. */
void model_folder_write_garbage(struct model_folder *f, const char *name);
void model_folder_remove(struct model_folder *f, const char *name);

/* A request on the real device and its end. */
struct answer {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool done;
    int status;
    size_t floats;
    float *images; // owned
};
struct question {
    int32_t images, steps, interval;
    enum step_method method;
    enum sampler sampler;
    double eta;
    float guidance;
    bool clip;
    uint64_t seed, client;
    int32_t class_index;
};
void answer_begin(struct answer *a, struct model_folder *f, struct resident_model *model, const struct question *q);
void answer_wait(struct answer *a); // asserts that it ended well
void answer_done(struct answer *a);

#endif
