/* report.h: what an evaluation found, as JSON for programs, Markdown and a chart for people, CSV for spreadsheets.
 *
 * The JSON is the source of the others. Pure functions of it but for the files. One thread.
 */
#ifndef DDIMD_TRAINING_REPORT_H
#define DDIMD_TRAINING_REPORT_H

#include "training/evaluate_config.h"
#include "training/measure.h"

#define REPORT_JSON_NAME "report.json"
#define REPORT_MARKDOWN_NAME "report.md"
#define REPORT_CSV_NAME "report.csv"
#define REPORT_CHART_NAME "report.png"

/* One point and seed as an object: the point's numbers, then the measures; what was not measured is null. point NULL:
 * images that no model made. confusion: [n_classes, n_classes] of m, for accuracy by class. New reference. */
json_t *report_result(const struct evaluate_point *point, uint64_t seed, const struct measures *m,
                      const struct measured *images, double seconds);

/* Whether the result is of this point and seed and of n images: then it need not be measured again. */
bool report_result_is(const json_t *result, const struct evaluate_point *point, uint64_t seed, int64_t n);

/* "results" of one point each, over seeds: mean and spread (standard deviation over seeds - 1) of every measure. New
 * reference. */
json_t *report_points(const json_t *results);

/* Writes all four files durably. report: as evaluation.c puts it together. dir_fd: openat. 0 or the files' errors. */
int report_write(int dir_fd, const json_t *report, struct error *err);

/* The chart: Frechet distance over steps, a line for each other choice, as a PNG. *ret_png: malloc'd. -ENODATA: fewer
 * than two numbers of steps. */
int report_chart(const json_t *points, uint8_t **ret_png, size_t *ret_bytes);

#endif
