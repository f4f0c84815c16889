/* classify.h: a run of training of a classifier, the extractor that evaluations measure with (model/classifier.h).
 *
 * Its configuration is a training configuration with "classifier" in the place of "model" and "diffusion", and "shift".
 * The folder is that of any run (folder.h), without grids and without a state: a classifier trains in minutes, so a run
 * that was stopped begins again. One thread, plus the loader's workers and the device's.
 */
#ifndef DDIMD_TRAINING_CLASSIFY_H
#define DDIMD_TRAINING_CLASSIFY_H

#include "model/classifier.h"
#include "training/runs.h"

struct classify_config {
    struct classifier_config classifier;
    int32_t shift;             // images are moved by up to this many pixels each way, edges repeated
    struct train_config train; // dataset, optimizer, ema, checkpoint.dtype, validation, epochs, log_steps, seed,
                               // device, precision; the others are not read
};

/* As train_config_parse(). */
int classify_config_parse(const json_t *json, struct classify_config *ret_config, struct error *err);
json_t *classify_config_json(const struct classify_config *c);

struct classify_outcome {
    int64_t steps;
    double accuracy, loss; // of the held-out images, averaged weights; NAN without any
    bool stopped;
};

/* Trains and writes checkpoints/last.safetensors after each epoch; resume: begins again in a folder that holds a run.
 * 0, or as trainer_run(). */
int classify_run(const struct classify_config *c, const struct run_options *o, struct classify_outcome *ret_outcome,
                 struct error *err);

#endif
