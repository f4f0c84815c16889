/* classifier.h: a small convolutional classifier, whose last features also measure generated images.
 *
 * Levels of `blocks` times (3x3 convolution, group norm of GROUPS groups, SiLU), halved in between by the mean of 2x2;
 * the mean over what is left is the feature vector, one matrix makes it logits. Files are safetensors as model files
 * are, with "classifier" in the place of "model" and "diffusion". Any thread.
 */
#ifndef DDIMD_MODEL_CLASSIFIER_H
#define DDIMD_MODEL_CLASSIFIER_H

#include "kernels/graph.h"
#include "model/config.h"

struct safetensors;

enum { CLASSIFIER_MAX_LEVELS = 6 };

struct classifier_config {
    int32_t in_channels, n_levels, channels[CLASSIFIER_MAX_LEVELS];
    int32_t blocks; // convolutions of a level
    float dropout;  // of the features, while training
    int32_t num_classes;
};

extern const struct classifier_config classifier_config_default;

/* As model_config_parse(). */
int classifier_config_parse(const json_t *json, const char *path, struct classifier_config *ret_config,
                            struct error *err);
json_t *classifier_config_json(const struct classifier_config *c);
/* data of a classifier: image_size, mode and class names, checked against c. As data_config_parse(). */
int classifier_data_parse(const json_t *json, const char *path, const struct classifier_config *c,
                          struct data_config *ret_data, struct error *err);

/* x: [N, H, W, in_channels] in [-1, 1], F32 or compute dtype. Returns logits [N, 1, 1, num_classes] F32 and
 * *ret_features [N, 1, 1, channels of the last level] F32. key: as graph_dropout()'s, TENSOR_NONE where the graph is
 * not for training. TENSOR_NONE with graph_error() set. */
tensor_id classifier_record(struct graph *g, const struct classifier_config *c, tensor_id x, tensor_id key,
                            tensor_id *ret_features);

struct classifier_file {
    struct classifier_config classifier;
    struct data_config data;
    json_t *training; // free form, NULL where absent
};

/* The metadata of a file that holds a classifier. 0, -EINVAL (err->field: the key), -ENOMEM. */
int classifier_file_parse(const json_t *metadata, struct classifier_file *ret_file, struct error *err);
void classifier_file_done(struct classifier_file *f); // zeroed is fine
/* Writes one durably; g: its parameter table. As checkpoint_write(). */
int classifier_write(const char *path, const struct classifier_file *f, const struct graph *g, const float *values,
                     const char *dtype, struct error *err);

#endif
