/* report.c: see report.h. The chart is chart.c's.
 */
#include "training/report.h"

#include "model/file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The measures of a result: key, title, digits, and factor in people's tables. */
static const struct measure_kind {
    const char *key, *title;
    int digits;
    double factor;
} kinds[] = {
    {"fd", "FD", 2, 1},
    {"inception_score", "IS", 3, 1},
    {"kid", "KID x 1000", 3, 1000},
    {"precision", "precision", 3, 1},
    {"recall", "recall", 3, 1},
    {"accuracy", "accuracy %", 2, 100},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* What tells points apart. */
static const char *const point_keys[] = {"sampler", "method", "guidance", "eta", "steps"};
enum { N_POINT_KEYS = sizeof point_keys / sizeof point_keys[0] };

static json_t *real_or_null(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

/* NAN where it is null or absent. */
static double number(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* ---- results ---- */

static json_t *class_accuracy(const struct measured *m)
{
    json_t *list = json_array();
    for (int32_t i = 0; i < m->n_classes; i++) {
        int64_t all = 0;
        for (int32_t j = 0; j < m->n_classes; j++)
            all += m->confusion[i * m->n_classes + j];
        json_array_append_new(list, real_or_null(all ? (double)m->confusion[i * m->n_classes + i] / (double)all : NAN));
    }
    return list;
}

json_t *report_result(const struct evaluate_point *point, uint64_t seed, const struct measures *m,
                      const struct measured *images, double seconds)
{
    json_t *json = !point ? json_object()
                          : json_pack("{ss ss sf sf si sI}", "sampler", sampler_names[point->recipe.sampler], "method",
                                      step_method_names[point->recipe.method], "guidance", point->guidance, "eta",
                                      point->recipe.eta, "steps", point->recipe.steps, "seed", (json_int_t)seed);
    json_t *measured =
        json_pack("{sI so so so so so so so so so sf}", "n", (json_int_t)m->n, "fd", real_or_null(m->frechet),
                  "inception_score", real_or_null(m->inception_score.mean), "inception_score_std",
                  real_or_null(m->inception_score.std), "kid", real_or_null(m->kid.mean), "kid_std",
                  real_or_null(m->kid.std), "precision", real_or_null(m->precision), "recall", real_or_null(m->recall),
                  "accuracy", real_or_null(m->accuracy), "class_accuracy", class_accuracy(images), "seconds", seconds);
    if (!json || !measured || json_object_update(json, measured)) {
        json_decref(json);
        json = NULL;
    }
    json_decref(measured);
    return json;
}

bool report_result_is(const json_t *result, const struct evaluate_point *point, uint64_t seed, int64_t n)
{
    const char *sampler = json_string_value(json_object_get(result, "sampler")),
               *method = json_string_value(json_object_get(result, "method"));
    return sampler && method && !strcmp(sampler, sampler_names[point->recipe.sampler]) &&
           !strcmp(method, step_method_names[point->recipe.method]) && number(result, "guidance") == point->guidance &&
           number(result, "eta") == point->recipe.eta && number(result, "steps") == point->recipe.steps &&
           json_integer_value(json_object_get(result, "seed")) == (json_int_t)seed &&
           json_integer_value(json_object_get(result, "n")) == n;
}

static bool same_point(const json_t *a, const json_t *b)
{
    for (int i = 0; i < N_POINT_KEYS; i++)
        if (!json_equal(json_object_get(a, point_keys[i]), json_object_get(b, point_keys[i])))
            return false;
    return true;
}

/* Mean and spread of a measure over the results of a point. */
static void add_spread(json_t *point, const json_t *results, const char *key)
{
    double sum = 0, squares = 0;
    int32_t n = 0;
    size_t i;
    json_t *r;
    char spread[64];
    json_array_foreach((json_t *)results, i, r) if (same_point(point, r) && isfinite(number(r, key)))
    {
        sum += number(r, key);
        n++;
    }
    json_array_foreach((json_t *)results, i, r) if (same_point(point, r) && isfinite(number(r, key)))
    {
        double d = number(r, key) - sum / n;
        squares += d * d;
    }
    snprintf(spread, sizeof spread, "%s_spread", key);
    json_object_set_new(point, key, real_or_null(n ? sum / n : NAN));
    json_object_set_new(point, spread, real_or_null(n > 1 ? sqrt(squares / (n - 1)) : NAN));
}

json_t *report_points(const json_t *results)
{
    json_t *points = json_array(), *r, *p;
    size_t i, j;
    json_array_foreach((json_t *)results, i, r)
    {
        bool known = false;
        json_array_foreach(points, j, p) known = known || same_point(p, r);
        if (known)
            continue;
        p = json_object();
        for (int k = 0; k < N_POINT_KEYS; k++)
            json_object_set(p, point_keys[k], json_object_get(r, point_keys[k]));
        json_object_set(p, "n", json_object_get(r, "n"));
        for (int k = 0; k < N_KINDS; k++)
            add_spread(p, results, kinds[k].key);
        json_array_append_new(points, p);
    }
    return points;
}

/* ---- Markdown ---- */

/* "12.34", "12.34 ± 0.05", or "" where it was not measured. */
static const char *cell(char buffer[64], const json_t *object, const struct measure_kind *k)
{
    char key[64];
    double v = number(object, k->key);
    snprintf(key, sizeof key, "%s_spread", k->key);
    double spread = number(object, key);
    buffer[0] = 0;
    if (isfinite(v) && isfinite(spread))
        snprintf(buffer, 64, "%.*f ± %.*f", k->digits, v * k->factor, k->digits, spread * k->factor);
    else if (isfinite(v))
        snprintf(buffer, 64, "%.*f", k->digits, v * k->factor);
    return buffer;
}

static const char *string_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s ? s : "";
}

static bool same_table(const json_t *a, const json_t *b)
{
    for (int i = 0; i < 3; i++) // sampler, method, guidance
        if (!json_equal(json_object_get(a, point_keys[i]), json_object_get(b, point_keys[i])))
            return false;
    return true;
}

/* The different values of a key over the points of one table, in order. Returns their number. */
static int32_t axis(const json_t *points, const json_t *of, const char *key, double ret_values[EVALUATE_MAX_LIST])
{
    int32_t n = 0;
    size_t i;
    json_t *p;
    json_array_foreach((json_t *)points, i, p)
    {
        bool known = !same_table(p, of);
        for (int32_t k = 0; k < n && !known; k++)
            known = ret_values[k] == number(p, key);
        if (!known && n < EVALUATE_MAX_LIST)
            ret_values[n++] = number(p, key);
    }
    return n;
}

static const json_t *point_at(const json_t *points, const json_t *of, double eta, double steps)
{
    size_t i;
    json_t *p;
    json_array_foreach((json_t *)points, i,
                       p) if (same_table(p, of) && number(p, "eta") == eta && number(p, "steps") == steps) return p;
    return NULL;
}

/* The shape of the DDIM paper's Table 1: a row for each eta, a column for each number of steps. */
static void write_table(FILE *f, const json_t *points, const json_t *of)
{
    double etas[EVALUATE_MAX_LIST], steps[EVALUATE_MAX_LIST];
    char text[64];
    int32_t n_etas = axis(points, of, "eta", etas), n_steps = axis(points, of, "steps", steps);
    fprintf(f, "\n### %s, %s, guidance %g\n\n| FD: eta \\ steps |", string_of(of, "sampler"), string_of(of, "method"),
            number(of, "guidance"));
    for (int32_t i = 0; i < n_steps; i++)
        fprintf(f, " %g |", steps[i]);
    fprintf(f, "\n| --- |");
    for (int32_t i = 0; i < n_steps; i++)
        fprintf(f, " ---: |");
    for (int32_t j = 0; j < n_etas; j++) {
        fprintf(f, "\n| %g |", etas[j]);
        for (int32_t i = 0; i < n_steps; i++)
            fprintf(f, " %s |", cell(text, point_at(points, of, etas[j], steps[i]), &kinds[0]));
    }
    fprintf(f, "\n");
}

static void write_tables(FILE *f, const json_t *points)
{
    size_t i, j;
    json_t *p, *before;
    json_array_foreach((json_t *)points, i, p)
    {
        bool written = false;
        json_array_foreach((json_t *)points, j, before) written = written || (j < i && same_table(before, p));
        if (!written)
            write_table(f, points, p);
    }
}

static void write_measures_row(FILE *f, const json_t *object)
{
    char text[64];
    for (int k = 0; k < N_KINDS; k++)
        fprintf(f, " %s |", cell(text, object, &kinds[k]));
    fprintf(f, "\n");
}

static void write_list(FILE *f, const json_t *report)
{
    size_t i;
    json_t *p, *real = json_object_get(report, "real"), *images = json_object_get(report, "images");
    fprintf(f, "\n| | n |");
    for (int k = 0; k < N_KINDS; k++)
        fprintf(f, " %s |", kinds[k].title);
    fprintf(f, "\n| --- | ---: |");
    for (int k = 0; k < N_KINDS; k++)
        fprintf(f, " ---: |");
    fprintf(f, "\n");
    if (json_is_object(real)) {
        fprintf(f, "| real images, held out | %lld |", (long long)json_integer_value(json_object_get(real, "n")));
        write_measures_row(f, real);
    }
    if (json_is_object(images)) {
        fprintf(f, "| the images | %lld |", (long long)json_integer_value(json_object_get(images, "n")));
        write_measures_row(f, images);
    }
    json_array_foreach(json_object_get(report, "points"), i, p)
    {
        fprintf(f, "| %s %s, %g steps, eta %g, guidance %g | %lld |", string_of(p, "sampler"), string_of(p, "method"),
                number(p, "steps"), number(p, "eta"), number(p, "guidance"),
                (long long)json_integer_value(json_object_get(p, "n")));
        write_measures_row(f, p);
    }
}

static void write_classes(FILE *f, const json_t *report)
{
    const json_t *classes = json_object_get(report, "classes"), *real = json_object_get(report, "real");
    size_t i, k;
    json_t *r, *v;
    if (!json_array_size(classes))
        return;
    fprintf(f, "\n## Accuracy by class, %%\n\n| |");
    json_array_foreach((json_t *)classes, k, v) fprintf(f, " %s |", json_string_value(v));
    fprintf(f, "\n| --- |");
    json_array_foreach((json_t *)classes, k, v) fprintf(f, " ---: |");
    fprintf(f, "\n");
    if (json_is_object(real)) {
        fprintf(f, "| real images, held out |");
        json_array_foreach(json_object_get(real, "class_accuracy"), k, v)
            fprintf(f, " %.1f |", 100 * json_number_value(v));
        fprintf(f, "\n");
    }
    json_array_foreach(json_object_get(report, "results"), i, r)
    {
        fprintf(f, "| %s %s, %g steps, eta %g, guidance %g, seed %lld |", string_of(r, "sampler"),
                string_of(r, "method"), number(r, "steps"), number(r, "eta"), number(r, "guidance"),
                (long long)json_integer_value(json_object_get(r, "seed")));
        json_array_foreach(json_object_get(r, "class_accuracy"), k, v)
            fprintf(f, " %.1f |", 100 * json_number_value(v));
        fprintf(f, "\n");
    }
}

static void write_rest(FILE *f, const json_t *report)
{
    size_t i;
    json_t *v;
    const json_t *inversion = json_object_get(report, "inversion"), *nearest = json_object_get(report, "nearest");
    if (json_array_size(inversion)) {
        fprintf(f, "\n## Image to noise and back (DDIM, eta 0)\n\n| steps | mean squared error, of [0, 1] |\n| ---: | "
                   "---: |\n");
        json_array_foreach((json_t *)inversion, i, v)
            fprintf(f, "| %g | %.6f |\n", number(v, "steps"), number(v, "error"));
    }
    if (json_is_object(nearest)) {
        fprintf(
            f,
            "\n## Nearest real images\n\nRoot mean squared difference of pixels (0 to 255) to the nearest reference "
            "image: smallest %.1f, mean %.1f over %lld generated images",
            number(nearest, "smallest"), number(nearest, "mean"),
            (long long)json_integer_value(json_object_get(nearest, "n")));
        if (isfinite(number(nearest, "held_out_mean")))
            fprintf(f, "; smallest %.1f, mean %.1f over as many held-out real images",
                    number(nearest, "held_out_smallest"), number(nearest, "held_out_mean"));
        fprintf(f, ". `samples/nearest.png` shows each above its nearest.\n");
    }
    fprintf(f, "\nComparable with published numbers: %s.\n",
            json_is_true(json_object_get(report, "published_comparable")) ? "yes" : "no");
    json_array_foreach(json_object_get(report, "because"), i, v) fprintf(f, "- %s\n", json_string_value(v));
}

static void write_markdown(FILE *f, const json_t *report)
{
    const json_t *model = json_object_get(report, "model"), *reference = json_object_get(report, "reference"),
                 *extractor = json_object_get(report, "extractor");
    fprintf(f, "# Evaluation\n\n| | |\n| --- | --- |\n");
    if (json_is_object(model))
        fprintf(f, "| model | %s, SHA-256 %.16s... |\n", string_of(model, "file"), string_of(model, "digest"));
    fprintf(f, "| reference | %lld images, %s (%s), SHA-256 of the pixels %.16s... |\n",
            (long long)json_integer_value(json_object_get(reference, "n")), string_of(reference, "kind"),
            string_of(reference, "part"), string_of(reference, "digest"));
    fprintf(f, "| extractor | %s, %s, SHA-256 %.16s..., resize: %s |\n", string_of(extractor, "file"),
            string_of(extractor, "kind"), string_of(extractor, "digest"), string_of(extractor, "resize"));
    fprintf(f, "| computed in | %s on %s |\n", string_of(report, "precision"), string_of(report, "device"));
    write_tables(f, json_object_get(report, "points"));
    fprintf(f, "\n## All measures\n");
    write_list(f, report);
    write_classes(f, report);
    write_rest(f, report);
}

/* ---- CSV ---- */

static void write_csv(FILE *f, const json_t *report)
{
    static const char *const columns[] = {"sampler",
                                          "method",
                                          "guidance",
                                          "eta",
                                          "steps",
                                          "seed",
                                          "n",
                                          "fd",
                                          "inception_score",
                                          "inception_score_std",
                                          "kid",
                                          "kid_std",
                                          "precision",
                                          "recall",
                                          "accuracy",
                                          "seconds"};
    enum { N = sizeof columns / sizeof columns[0] };
    size_t i;
    json_t *r;
    for (int k = 0; k < N; k++)
        fprintf(f, "%s%s", k ? "," : "", columns[k]);
    fprintf(f, "\r\n");
    json_array_foreach(json_object_get(report, "results"), i, r)
    {
        for (int k = 0; k < N; k++) {
            const json_t *v = json_object_get(r, columns[k]);
            fprintf(f, "%s", k ? "," : "");
            if (json_is_string(v))
                fprintf(f, "%s", json_string_value(v));
            else if (json_is_integer(v))
                fprintf(f, "%lld", (long long)json_integer_value(v));
            else if (json_is_real(v))
                fprintf(f, "%.9g", json_real_value(v));
        }
        fprintf(f, "\r\n");
    }
}

/* ---- files ---- */

static int write_text(int dir_fd, const char *name, const json_t *report, void (*write)(FILE *f, const json_t *report),
                      struct error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    if (f)
        write(f, report);
    if (!f || fclose(f)) {
        free(text);
        return error_set(err, -ENOMEM, NULL, "out of memory writing %s", name);
    }
    int rc = file_write(dir_fd, name, text, bytes, err);
    free(text);
    return rc;
}

static void write_json(FILE *f, const json_t *report)
{
    json_dumpf(report, f, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
    fputc('\n', f);
}

int report_write(int dir_fd, const json_t *report, struct error *err)
{
    uint8_t *png = NULL;
    size_t bytes = 0;
    int rc = write_text(dir_fd, REPORT_JSON_NAME, report, write_json, err);
    if (rc == 0)
        rc = write_text(dir_fd, REPORT_MARKDOWN_NAME, report, write_markdown, err);
    if (rc == 0)
        rc = write_text(dir_fd, REPORT_CSV_NAME, report, write_csv, err);
    if (rc < 0)
        return rc;
    rc = report_chart(json_object_get(report, "points"), &png, &bytes);
    if (rc == 0)
        rc = file_write(dir_fd, REPORT_CHART_NAME, png, bytes, err);
    else
        rc = rc == -ENODATA ? 0 : error_set(err, rc, NULL, "the chart cannot be drawn");
    free(png);
    return rc;
}
