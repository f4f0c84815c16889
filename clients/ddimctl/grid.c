/* grid.c: ddimctl grid: one or two fields swept over their values, each pair a request, all under way at once; their
 * pictures become one, with the values beside its rows and columns.
 */
#include "clients/ddimctl/output.h"
#include "clients/ddimctl/picture.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VALUES = 64, MAX_CELLS = 1024, VALUE_BYTES = 64, GAP = 6 };

struct axis {
    char field[32]; // "": the axis has one cell
    char values[MAX_VALUES][VALUE_BYTES];
    int n;
};

struct grid {
    struct axis across, down;
    char seed[24];
    struct buffer *forms; // [down][across]
    struct call *calls;
    struct session *session;
    int ended;
};

/* ---- "eta=0..1:0.25" ---- */

static const struct option *find_field(const struct command *c, const char *name)
{
    for (int i = 0; command_options(c, i); i++)
        for (const struct option *o = command_options(c, i); o->name; o++)
            if (o->is_field && strcmp(o->name, name) == 0)
                return o;
    return NULL;
}

static int add_value(struct axis *x, const char *text, size_t n, struct error *err)
{
    if (n == 0 || n >= VALUE_BYTES)
        return error_set(err, -EINVAL, NULL, "a value of %s is %s", x->field, n ? "too long" : "empty");
    if (x->n == MAX_VALUES)
        return error_set(err, -EINVAL, NULL, "%s has more than %d values", x->field, MAX_VALUES);
    snprintf(x->values[x->n++], VALUE_BYTES, "%.*s", (int)n, text);
    return 0;
}

/* A number that ends where `end` is; NAN where it does not. */
static double number_until(const char *text, const char *end)
{
    char copy[VALUE_BYTES], *stop;
    size_t n = (size_t)(end - text);
    if (n == 0 || n >= sizeof(copy))
        return NAN;
    memcpy(copy, text, n);
    copy[n] = '\0';
    double value = strtod(copy, &stop);
    return *stop ? NAN : value;
}

/* from..to:step. 1: it is none. */
static int add_range(struct axis *x, const char *text, struct error *err)
{
    char value[VALUE_BYTES];
    const char *dots = strstr(text, ".."), *end = text + strlen(text);
    if (!dots)
        return 1;
    const char *colon = strchr(dots, ':');
    double from = number_until(text, dots), to = number_until(dots + 2, colon ? colon : end);
    double step = colon ? number_until(colon + 1, end) : 1;
    if (!isfinite(from) || !(step > 0) || !(to >= from))
        return error_set(err, -EINVAL, NULL, "\"%.60s\" is no range; FROM..TO:STEP is one", text);
    int n = (int)fmin((to - from) / step + 1 + 1e-9, MAX_VALUES + 1), rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        snprintf(value, sizeof(value), "%.10g", from + i * step);
        rc = add_value(x, value, strlen(value), err);
    }
    return rc;
}

static int read_axis(const struct command *c, const char *text, struct axis *x, struct error *err)
{
    static const char *const no_sweeps[] = {"nrow", "priority", "timeout-ms"};
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof(x->field))
        return error_set(err, -EINVAL, NULL, "\"%.60s\" is no sweep; FIELD=VALUE,VALUE,... is one", text);
    snprintf(x->field, sizeof(x->field), "%.*s", (int)(equals - text), text);
    for (char *p = x->field; *p; p++)
        *p = *p == '_' ? '-' : *p;
    if (!find_field(c, x->field))
        return error_set(err, -EINVAL, NULL, "there is no field %s to sweep; `ddimctl grid --help` lists them",
                         x->field);
    for (size_t i = 0; i < sizeof(no_sweeps) / sizeof(no_sweeps[0]); i++)
        if (strcmp(x->field, no_sweeps[i]) == 0)
            return error_set(err, -EINVAL, NULL, "%s changes nothing that a picture shows", x->field);
    int rc = add_range(x, equals + 1, err);
    for (const char *p = equals; rc == 1 && p; p = strchr(p + 1, ',')) {
        int added = add_value(x, p + 1, strcspn(p + 1, ","), err);
        if (added)
            return added;
    }
    return rc == 1 ? 0 : rc;
}

/* ---- requests ---- */

static int cell_form(const struct arguments *a, const struct grid *g, int i, struct buffer *form)
{
    const struct axis *axes[] = {&g->across, &g->down};
    const int places[] = {i % g->across.n, i / g->across.n};
    int rc = session_form(a, form);
    for (int k = 0; k < 2 && rc == 0; k++) {
        char name[32];
        if (!axes[k]->field[0])
            continue;
        snprintf(name, sizeof(name), "%s", axes[k]->field);
        for (char *c = name; *c; c++)
            *c = *c == '-' ? '_' : *c;
        rc = form_add(form, name, axes[k]->values[places[k]]);
    }
    bool swept = strcmp(g->across.field, "seed") == 0 || strcmp(g->down.field, "seed") == 0;
    if (rc == 0 && !swept && !argument(a, "seed"))
        rc = form_add(form, "seed", g->seed);
    return rc;
}

static void on_turn(void *context, struct call *ended)
{
    struct grid *g = context;
    char line[128], bar[4 * 24 + 1];
    int n = g->across.n * g->down.n;
    g->ended += ended != NULL;
    if (ended && ended->outcome)
        client_stop(g->session->client); // the others would be for nothing
    if (g->session->quiet || g->session->json)
        return;
    terminal_bar(&g->session->err, (double)g->ended / n, terminal_columns(&g->session->err) >= 48 ? 24 : 10, bar);
    snprintf(line, sizeof(line), "%3d%% %s %d/%d cells", 100 * g->ended / n, bar, g->ended, n);
    terminal_progress(&g->session->err, &(const char *){line}, 1, false);
}

static void on_notice(void *context)
{
    struct grid *g = context;
    terminal_clear(&g->session->err);
}

/* Runs all cells; the first that failed is told. */
static enum outcome run_cells(struct session *s, const struct arguments *a, struct grid *g)
{
    int n = g->across.n * g->down.n;
    for (int i = 0; i < n; i++) {
        if (cell_form(a, g, i, &g->forms[i]))
            return outcome_fail(OUTCOME_FAILED, "no memory for the requests");
        g->calls[i] = (struct call){.method = "POST",
                                    .path = "/generate",
                                    .pure = true,
                                    .body = g->forms[i].data,
                                    .body_bytes = g->forms[i].n,
                                    .accept = "image/png",
                                    .content_type = "application/x-www-form-urlencoded"};
    }
    client_on_turn(s->client, on_turn, g);
    client_on_notice(s->client, on_notice, g);
    client_run(s->client, g->calls, n);
    client_on_turn(s->client, NULL, NULL);
    client_on_notice(s->client, NULL, NULL);
    terminal_clear(&s->err);
    for (int i = 0; i < n; i++)
        if (g->calls[i].outcome && g->calls[i].outcome != OUTCOME_INTERRUPTED)
            return call_tell(&g->calls[i], s->json);
    return *s->interrupted ? OUTCOME_INTERRUPTED : OUTCOME_OK;
}

/* ---- the picture ---- */

static int label(const struct axis *x, int i, char *to, size_t bytes)
{
    return snprintf(to, bytes, "%s=%s", x->field, x->values[i]);
}

static int widest_label(const struct axis *x, int scale)
{
    char text[128];
    int widest = 0;
    for (int i = 0; x->field[0] && i < x->n; i++) {
        label(x, i, text, sizeof(text));
        int width = picture_text_width(text, scale);
        widest = width > widest ? width : widest;
    }
    return widest;
}

/* Where everything lies: columns as wide as the widest cell or label. */
struct layout {
    int scale, left, top, width, height; // of the letters; of the margins; of a cell
};

static struct layout plan_layout(const struct grid *g, const struct picture *cells)
{
    struct layout l = {.scale = 1};
    for (int i = 0; i < g->across.n * g->down.n; i++) {
        l.width = cells[i].width > l.width ? cells[i].width : l.width;
        l.height = cells[i].height > l.height ? cells[i].height : l.height;
    }
    l.scale = l.width >= 256 ? 2 : 1;
    int widest = widest_label(&g->across, l.scale);
    l.width = widest > l.width ? widest : l.width;
    l.left = g->down.field[0] ? widest_label(&g->down, l.scale) + 2 * GAP : GAP;
    l.top = PICTURE_TEXT_HEIGHT * l.scale + 2 * GAP;
    return l;
}

static int compose(const struct grid *g, const struct picture *cells, struct picture *ret_picture)
{
    char text[128];
    struct layout l = plan_layout(g, cells);
    struct picture p;
    int rc = picture_create(l.left + g->across.n * (l.width + GAP), l.top + g->down.n * (l.height + GAP), &p);
    if (rc)
        return rc;
    for (int i = 0; i < g->across.n * g->down.n; i++) {
        int x = l.left + i % g->across.n * (l.width + GAP), y = l.top + i / g->across.n * (l.height + GAP);
        picture_paste(&p, &cells[i], x + (l.width - cells[i].width) / 2, y + (l.height - cells[i].height) / 2);
    }
    for (int i = 0; i < g->across.n; i++) {
        label(&g->across, i, text, sizeof(text));
        int x = l.left + i * (l.width + GAP) + (l.width - picture_text_width(text, l.scale)) / 2;
        picture_write(&p, text, x, GAP, l.scale);
    }
    for (int i = 0; g->down.field[0] && i < g->down.n; i++) {
        label(&g->down, i, text, sizeof(text));
        picture_write(&p, text, GAP, l.top + i * (l.height + GAP) + (l.height - PICTURE_TEXT_HEIGHT * l.scale) / 2,
                      l.scale);
    }
    *ret_picture = p;
    return 0;
}

static int decode_cells(const struct grid *g, struct picture *cells)
{
    int rc = 0;
    for (int i = 0; i < g->across.n * g->down.n && rc == 0; i++)
        rc = picture_decode(g->calls[i].body_in.data, g->calls[i].body_in.n, &cells[i]);
    return rc;
}

/* ---- the text beside it ---- */

static json_t *axis_json(const struct axis *x)
{
    json_t *values = json_array();
    for (int i = 0; i < x->n; i++)
        json_array_append_new(values, json_string(x->values[i]));
    return json_pack("{s:s, s:o}", "field", x->field, "values", values);
}

/* What was swept, and what all cells have in common. */
static json_t *describe(const struct arguments *a, const struct grid *g)
{
    json_t *all = json_pack("{s:o}", "across", axis_json(&g->across)), *common = json_object();
    if (g->down.field[0])
        json_object_set_new(all, "down", axis_json(&g->down));
    for (int i = 0; i < a->n_options; i++)
        if (a->options[i].option->is_field)
            json_object_set_new(common, a->options[i].option->name, json_string(a->options[i].value));
    json_object_set_new(common, "seed", json_string(argument(a, "seed") ? argument(a, "seed") : g->seed));
    json_object_set_new(all, "fields", common);
    return all;
}

static enum outcome keep(struct session *s, const struct arguments *a, const struct grid *g, const struct picture *p)
{
    char buffer[256], model[128];
    struct buffer png = {0};
    const char *named = call_header(&g->calls[0], "X-Model"),
               *seed = argument(a, "seed") ? argument(a, "seed") : g->seed;
    json_t *about = describe(a, g);
    char *text = about ? json_dumps(about, JSON_COMPACT) : NULL;
    enum outcome outcome = OUTCOME_FAILED;
    if (!text || picture_encode(p, "ddimd-grid", text, &png)) {
        outcome_fail(outcome, "no memory for the picture");
    } else {
        snprintf(model, sizeof(model), "%s", named ? named : "grid");
        const char *path = output_name(a, model, seed, "grid.png", buffer, sizeof(buffer));
        outcome = output_picture(s, a, path, png.data, png.n);
        if (outcome == OUTCOME_OK && s->json && strcmp(path, "-")) {
            json_object_set_new(about, "file", json_string(path));
            json_object_set_new(about, "model", json_string(model));
            session_print_json(about, true);
        } else if (outcome == OUTCOME_OK && strcmp(path, "-") && !s->quiet) {
            char time[TEXT_NUMBER_BYTES];
            printf("%s: %d x %d, %d x %d cells, %s, seed %s, %s\n", path, p->width, p->height, g->across.n, g->down.n,
                   model, seed, text_duration(g->calls[0].seconds, time));
        }
    }
    free(text);
    free(png.data);
    json_decref(about);
    return outcome;
}

static enum outcome run_and_keep(struct session *s, const struct arguments *a, struct grid *g, struct picture *cells)
{
    struct picture all;
    enum outcome outcome = run_cells(s, a, g);
    if (outcome)
        return outcome;
    int rc = decode_cells(g, cells);
    if (rc == 0)
        rc = compose(g, cells, &all);
    if (rc)
        return outcome_fail(OUTCOME_FAILED, "the cells make no picture: %s", strerror(-rc));
    outcome = keep(s, a, g, &all);
    picture_done(&all);
    return outcome;
}

enum outcome run_grid(struct session *s, const struct arguments *a)
{
    struct error err = {0};
    struct grid *g = calloc(1, sizeof(*g));
    if (!g)
        return outcome_fail(OUTCOME_FAILED, "no memory");
    g->session = s;
    session_seed(g->seed);
    int rc = read_axis(a->command, a->operands[0], &g->across, &err);
    g->down.n = 1;
    if (rc == 0 && a->n_operands == 2) {
        g->down.n = 0;
        rc = read_axis(a->command, a->operands[1], &g->down, &err);
    }
    if (rc == 0 && strcmp(g->across.field, g->down.field) == 0)
        rc = error_set(&err, -EINVAL, NULL, "both sweeps are of %s", g->across.field);
    size_t n = (size_t)g->across.n * (size_t)g->down.n;
    if (rc == 0 && n > MAX_CELLS)
        rc = error_set(&err, -EINVAL, NULL, "there are %zu cells; at most %d fit into a grid", n, MAX_CELLS);
    enum outcome outcome = OUTCOME_OK;
    struct picture *cells = calloc(n ? n : 1, sizeof(*cells));
    g->forms = calloc(n ? n : 1, sizeof(*g->forms));
    g->calls = calloc(n ? n : 1, sizeof(*g->calls));
    if (rc)
        outcome = outcome_fail(OUTCOME_USAGE, "%s", err.message);
    else if (!cells || !g->forms || !g->calls)
        outcome = outcome_fail(OUTCOME_FAILED, "no memory");
    else
        outcome = run_and_keep(s, a, g, cells);
    for (size_t i = 0; i < n && cells && g->forms && g->calls; i++) {
        picture_done(&cells[i]);
        call_done(&g->calls[i]);
        free(g->forms[i].data);
    }
    free(cells);
    free(g->forms);
    free(g->calls);
    free(g);
    return outcome;
}
