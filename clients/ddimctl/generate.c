/* generate.c: ddimctl generate and replay.
 *
 * A picture comes as the last of a stream of events, so that its progress can be shown; other forms come as they are.
 */
#include "clients/ddimctl/output.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct form {
    const char *name, *media_type;
} forms[] = {
    {"png", "image/png"}, {"json", "application/json"}, {"zip", "application/zip"}, {"npy", "application/x-npy"}, {0}};

/* By --format, else by the name of the file, else png. */
static const struct form *choose_form(const struct arguments *a)
{
    const char *name = argument(a, "format"), *output = argument(a, "output");
    const char *dot = !name && output ? strrchr(output, '.') : NULL;
    for (const struct form *f = forms; f->name; f++)
        if (strcmp(f->name, name ? name : dot ? dot + 1 : "") == 0)
            return f;
    return forms;
}

/* ---- the stream ---- */

struct watch {
    struct session *session;
    struct events events;
    const char *seed; // as given, NULL: the daemon's choice
    double done, total, first_s, first_done;
    json_t *result, *problem;
};

/* A seed beyond 2^63 is no integer for jansson: where the answer repeats the one that was given, it becomes a string.
 */
static json_t *parse_answer(const char *text, size_t n, const char *seed)
{
    static const char member[] = "\"seed\":";
    struct buffer quoted = {0};
    const char *end = text + n, *at;
    json_t *json = json_loadb(text, n, 0, NULL);
    if (json || !seed)
        return json;
    while ((at = memmem(text, (size_t)(end - text), member, sizeof(member) - 1))) {
        at += sizeof(member) - 1;
        size_t digits = strspn(at, "0123456789");
        buffer_add(&quoted, text, (size_t)(at - text));
        buffer_printf(&quoted, digits ? "\"%.*s\"" : "%.*s", (int)digits, at);
        text = at + digits;
    }
    if (buffer_add(&quoted, text, (size_t)(end - text)) == 0)
        json = json_loadb(quoted.data, quoted.n, 0, NULL);
    free(quoted.data);
    return json;
}

static void draw(struct watch *w)
{
    char line[TERMINAL_LINE_BYTES], bar[4 * 24 + 1], left[TEXT_NUMBER_BYTES] = "", *text = line;
    double rate = (w->done - w->first_done) / (terminal_now_s() - w->first_s);
    if (w->session->quiet || w->session->json)
        return;
    if (!(w->total > 0)) {
        text = "waiting for a place in the batch ...";
    } else {
        int cells = terminal_columns(&w->session->err) >= 60 ? 24 : 10;
        terminal_bar(&w->session->err, w->done / w->total, cells, bar);
        if (rate > 0 && w->done < w->total)
            text_duration((w->total - w->done) / rate, left);
        snprintf(line, sizeof(line), "%3.0f%% %s %.0f/%.0f steps%s%s%s", 100 * w->done / w->total, bar, w->done,
                 w->total, *left ? "  " : "", left, *left ? " left" : "");
    }
    terminal_progress(&w->session->err, &(const char *){text}, 1, false);
}

static void on_event(void *context, const char *name, const char *data)
{
    struct watch *w = context;
    json_t *json = parse_answer(data, strlen(data), w->seed);
    if (strcmp(name, "progress") == 0) {
        w->done = json_number_of(json, "done");
        w->total = json_number_of(json, "total");
        if (w->first_s == 0)
            w->first_s = terminal_now_s(), w->first_done = w->done;
    } else if (strcmp(name, "result") == 0 || strcmp(name, "error") == 0) {
        json_t **to = *name == 'r' ? &w->result : &w->problem;
        json_decref(*to);
        *to = json_incref(json);
        w->events.finished = true;
    }
    json_decref(json);
}

static void on_turn(void *context, struct call *ended)
{
    if (!ended)
        draw(context);
}

static void on_notice(void *context)
{
    struct watch *w = context;
    w->done = w->total = w->first_s = 0;
    terminal_clear(&w->session->err);
}

/* ---- base64 ---- */

static int digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static int decode_base64(const char *text, struct buffer *ret)
{
    uint32_t bits = 0;
    int n_bits = 0;
    for (; *text && *text != '='; text++) {
        int d = digit(*text);
        if (d < 0)
            return -EINVAL;
        bits = bits << 6 | (uint32_t)d;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            if (buffer_add(ret, &(char){(char)(bits >> n_bits)}, 1))
                return -ENOMEM;
        }
    }
    return 0;
}

/* ---- the result ---- */

static uint32_t big_endian(const char *p)
{
    const unsigned char *b = (const unsigned char *)p;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* "three.png  100 x 36, digits, seed 7, 0.35 s" */
static void tell_result(struct session *s, const char *path, const json_t *result, const struct buffer *png,
                        double seconds)
{
    char time[TEXT_NUMBER_BYTES], size[64] = "";
    const json_t *seed = json_object_get(result, "seed");
    char *seed_text = json_is_string(seed) ? strdup(json_string_value(seed)) : json_dumps(seed, JSON_ENCODE_ANY);
    if (strcmp(path, "-") == 0 || s->quiet) {
        free(seed_text);
        return;
    }
    if (png && png->n > 24)
        snprintf(size, sizeof(size), "%u x %u, ", big_endian(png->data + 16), big_endian(png->data + 20));
    const char *model = json_text_of(result, "model");
    printf("%s: %s%s, seed %s, %s\n", path, size, model ? model : "?", seed_text ? seed_text : "?",
           text_duration(seconds, time));
    free(seed_text);
}

/* What a script wants to know: the answer without its pictures, with the file. */
static void print_result(struct session *s, const char *path, json_t *result)
{
    static const char *const pictures[] = {"images", "png", NULL};
    for (int i = 0; pictures[i]; i++)
        json_object_del(result, pictures[i]);
    json_object_set_new(result, "file", json_string(path));
    if (strcmp(path, "-") != 0)
        session_print_json(result, true);
}

static enum outcome keep_picture(struct session *s, const struct arguments *a, json_t *result, double seconds)
{
    char buffer[512], seed[32];
    struct buffer png = {0};
    const char *text = json_text_of(result, "png"), *model = json_text_of(result, "model");
    const char *seed_text = json_text_of(result, "seed");
    if (!text || !model || decode_base64(text, &png)) {
        free(png.data);
        return outcome_fail(OUTCOME_SERVER, "the answer holds no picture: is this ddimd?");
    }
    snprintf(seed, sizeof(seed), "%lld", (long long)json_integer_value(json_object_get(result, "seed")));
    const char *path = output_name(a, model, seed_text ? seed_text : seed, "png", buffer, sizeof(buffer));
    enum outcome outcome = output_picture(s, a, path, png.data, png.n);
    if (outcome == OUTCOME_OK && s->json)
        print_result(s, path, result);
    else if (outcome == OUTCOME_OK)
        tell_result(s, path, result, &png, seconds);
    free(png.data);
    return outcome;
}

/* An answer that is a file as it came. */
static enum outcome keep_file(struct session *s, const struct arguments *a, const struct call *call,
                              const struct form *form)
{
    char buffer[512], model[256], seed[64];
    snprintf(model, sizeof(model), "%s", call_header(call, "X-Model") ? call_header(call, "X-Model") : "images");
    snprintf(seed, sizeof(seed), "%s", call_header(call, "X-Seed") ? call_header(call, "X-Seed") : "0");
    const char *path = output_name(a, model, seed, form->name, buffer, sizeof(buffer));
    if (argument(a, "show") && form != forms)
        return outcome_fail(OUTCOME_USAGE, "--show shows pictures, not %s files", form->name);
    enum outcome outcome = output_picture(s, a, path, call->body_in.data ? call->body_in.data : "", call->body_in.n);
    json_t *result = json_pack("{s:s, s:s, s:f}", "model", model, "seed", seed, "seconds", call->seconds);
    if (outcome == OUTCOME_OK && s->json)
        print_result(s, path, result);
    else if (outcome == OUTCOME_OK)
        tell_result(s, path, result, form == forms ? &call->body_in : NULL, call->seconds);
    json_decref(result);
    return outcome;
}

/* ---- ddimctl generate ---- */

static enum outcome tell_dry_run(struct session *s, const json_t *answer)
{
    char wait[TEXT_NUMBER_BYTES];
    const char *name;
    json_t *value;
    if (s->json) {
        session_print_json(answer, true);
        return OUTCOME_OK;
    }
    json_object_foreach(json_object_get(answer, "parameters"), name, value)
    {
        char *text = json_is_string(value) ? strdup(json_string_value(value))
                                           : json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
        printf("%-14s %s\n", name, text ? text : "?");
        free(text);
    }
    printf("%-14s %.0f images, %.0f lane-steps, %.0f rows of the network\n", "cost", json_number_of(answer, "images"),
           json_number_of(answer, "lane_steps"), json_number_of(answer, "row_steps"));
    printf("%-14s %s\n", "expected", text_duration(json_number_of(answer, "expected_ms") / 1e3, wait));
    return OUTCOME_OK;
}

static enum outcome run_call(struct session *s, struct call *call, struct watch *w)
{
    client_on_notice(s->client, on_notice, w);
    client_on_turn(s->client, on_turn, w);
    client_run(s->client, call, 1);
    client_on_notice(s->client, NULL, NULL);
    client_on_turn(s->client, NULL, NULL);
    terminal_clear(&s->err);
    if (w->problem)
        return outcome_tell(w->problem, (long)json_number_of(w->problem, "status"), s->json);
    return call_tell(call, s->json);
}

static enum outcome keep_answer(struct session *s, const struct arguments *a, const struct watch *w,
                                const struct call *call)
{
    if (call->events)
        return keep_picture(s, a, w->result, call->seconds);
    if (!argument(a, "dry-run") && !call->detached)
        return keep_file(s, a, call, choose_form(a));
    json_t *answer = parse_answer(call->body_in.data ? call->body_in.data : "", call->body_in.n, w->seed);
    long long id = (long long)json_integer_value(json_object_get(answer, "id"));
    if (argument(a, "dry-run"))
        tell_dry_run(s, answer);
    else if (s->json)
        session_print_json(answer, true);
    else if (s->quiet)
        printf("%lld\n", id);
    else
        printf("job %lld; `ddimctl result %lld` fetches its images\n", id, id);
    json_decref(answer);
    return OUTCOME_OK;
}

enum outcome run_generate(struct session *s, const struct arguments *a)
{
    const struct form *form = choose_form(a);
    bool dry_run = argument(a, "dry-run"), detached = argument(a, "detach") && !dry_run;
    bool streams = form == forms && !dry_run && !detached;
    char seed[24];
    struct watch w = {.session = s, .seed = argument(a, "seed")};
    struct buffer fields = {0};
    w.events.on_event = on_event;
    w.events.context = &w;
    int rc = session_form(a, &fields);
    if (rc == 0 && dry_run)
        rc = form_add(&fields, "dry_run", "true");
    if (rc == 0 && !w.seed)
        rc = form_add(&fields, "seed", session_seed(seed));
    struct call call = {.method = "POST",
                        .path = "/generate",
                        .body = fields.data,
                        .body_bytes = fields.n,
                        .content_type = "application/x-www-form-urlencoded",
                        .detached = detached,
                        .pure = !detached,
                        .accept = streams               ? "text/event-stream"
                                  : dry_run || detached ? NULL
                                                        : form->media_type,
                        .events = streams ? &w.events : NULL};
    enum outcome outcome = rc ? outcome_fail(OUTCOME_FAILED, "no memory for the request") : run_call(s, &call, &w);
    if (outcome == OUTCOME_OK)
        outcome = keep_answer(s, a, &w, &call);
    json_decref(w.result);
    json_decref(w.problem);
    events_done(&w.events);
    call_done(&call);
    free(fields.data);
    return outcome;
}

/* ---- ddimctl result ---- */

enum outcome run_result(struct session *s, const struct arguments *a)
{
    char path[256];
    const struct form *form = choose_form(a);
    struct call call = {.method = "GET",
                        .accept = form->media_type,
                        .path = session_path(path, sizeof(path), "/jobs/", a->operands[0], "/result")};
    client_run(s->client, &call, 1);
    enum outcome outcome = call_tell(&call, s->json);
    if (outcome == OUTCOME_OK)
        outcome = keep_file(s, a, &call, form);
    call_done(&call);
    return outcome;
}

/* ---- ddimctl replay ---- */

static enum outcome read_file(const char *path, struct buffer *ret)
{
    char piece[65536];
    size_t n;
    FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
    if (!f)
        return outcome_fail(OUTCOME_FAILED, "%s cannot be opened: %s", path, strerror(errno));
    while ((n = fread(piece, 1, sizeof(piece), f)) > 0 && buffer_add(ret, piece, n) == 0)
        ;
    bool failed = ferror(f);
    if (f != stdin)
        fclose(f);
    return failed ? outcome_fail(OUTCOME_FAILED, "%s cannot be read", path) : OUTCOME_OK;
}

static enum outcome tell_replay(struct session *s, const char *path, const json_t *answer)
{
    const json_t *part;
    size_t i;
    bool identical = json_is_true(json_object_get(answer, "identical"));
    if (s->json) {
        session_print_json(answer, true);
    } else if (identical) {
        printf("%s: identical\n", path);
    } else {
        const json_t *differs = json_object_get(answer, "differs");
        printf("%s: not identical; %s\n", path,
               json_array_size(differs) ? "what differs:"
                                        : "model, build and device are the same: the file was changed");
        json_array_foreach(differs, i, part)
        {
            const char *name = json_string_value(part);
            const char *key = name && strcmp(name, "model") == 0 ? "digest" : name ? name : "";
            const char *then = json_text_of(json_object_get(answer, "then"), key);
            const char *now = json_text_of(json_object_get(answer, "now"), key);
            printf("  %-7s then %.40s, now %.40s\n", name ? name : "?", then ? then : "?", now ? now : "?");
        }
    }
    return identical ? OUTCOME_OK : OUTCOME_DIFFERS;
}

enum outcome run_replay(struct session *s, const struct arguments *a)
{
    struct buffer png = {0};
    enum outcome outcome = read_file(a->operands[0], &png);
    struct call call = {.method = "POST",
                        .path = "/replay",
                        .body = png.data,
                        .body_bytes = png.n,
                        .content_type = "image/png",
                        .pure = true};
    if (outcome == OUTCOME_OK && png.n == 0)
        outcome = outcome_fail(OUTCOME_FAILED, "%s is empty", a->operands[0]);
    if (outcome == OUTCOME_OK) {
        client_run(s->client, &call, 1);
        outcome = call_tell(&call, s->json);
    }
    if (outcome == OUTCOME_OK) {
        json_t *answer = parse_answer(call.body_in.data ? call.body_in.data : "", call.body_in.n, "?");
        outcome = tell_replay(s, a->operands[0], answer);
        json_decref(answer);
    }
    call_done(&call);
    free(png.data);
    return outcome;
}
