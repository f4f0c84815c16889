/* evaluation.h: a run of evaluation from its configuration to its report: real images measured, points generated and
 * measured, seed by seed.
 *
 * Everything that it leaves is in its folder: report.json, .md, .csv, .png (report.h), samples/, metrics.jsonl as any
 * run's. A run that was stopped goes on after the last point that it finished. One call, one thread (plus the
 * device's).
 */
#ifndef DDIMD_TRAINING_EVALUATION_H
#define DDIMD_TRAINING_EVALUATION_H

#include "training/evaluate_config.h"
#include "training/runs.h"

/* *ret_stopped: it was stopped; the points so far are in the report. 0; -EINVAL (err->field: the key), -ENOENT (data, a
 * file), -EEXIST (the folder holds an evaluation and resume is off), -EBUSY, -ERANGE (a model whose images are not
 * finite), -ENOTSUP, -ENOMEM, -ENOSPC, -EIO. */
int evaluation_run(const struct evaluate_config *c, const struct run_options *o, bool *ret_stopped, struct error *err);

#endif
