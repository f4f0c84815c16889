/* jobs.c: ddimctl train, jobs, job, and what is done with a job. */
#include "clients/ddimctl/follow.h"
#include "clients/ddimctl/output.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 256 };

/* ---- ddimctl train ---- */

/* "optimizer.lr=1e-3": the text is JSON where it reads as JSON, else a string. */
static enum outcome set_key(json_t *config, const char *text)
{
    char key[128];
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || (size_t)(equals - text) >= sizeof(key))
        return outcome_fail(OUTCOME_USAGE, "--set takes KEY=VALUE, as in optimizer.lr=1e-3, not \"%.60s\"", text);
    snprintf(key, sizeof(key), "%.*s", (int)(equals - text), text);
    json_t *value = json_loads(equals + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!value)
        value = json_string(equals + 1);
    char *name = key, *dot;
    while ((dot = strchr(name, '.'))) {
        *dot = '\0';
        json_t *inner = json_object_get(config, name);
        if (!json_is_object(inner)) {
            inner = json_object();
            json_object_set_new(config, name, inner);
        }
        config = inner;
        name = dot + 1;
    }
    return json_object_set_new(config, name, value) ? outcome_fail(OUTCOME_USAGE, "--set %s: that is not UTF-8", text)
                                                    : OUTCOME_OK;
}

static enum outcome read_config(const struct arguments *a, json_t **ret_config)
{
    json_error_t why;
    const char *path = a->operands[0];
    FILE *f = strcmp(path, "-") ? fopen(path, "re") : stdin;
    if (!f)
        return outcome_fail(OUTCOME_FAILED, "%s cannot be opened: %s", path, strerror(errno));
    json_t *config = json_loadf(f, JSON_REJECT_DUPLICATES, &why);
    if (f != stdin)
        fclose(f);
    if (!json_is_object(config)) {
        json_decref(config);
        return config
                   ? outcome_fail(OUTCOME_FAILED, "%s holds no JSON object", path)
                   : outcome_fail(OUTCOME_FAILED, "%s, line %d, column %d: %s", path, why.line, why.column, why.text);
    }
    enum outcome outcome = OUTCOME_OK;
    for (int i = 0; i < a->n_options && outcome == OUTCOME_OK; i++)
        if (strcmp(a->options[i].option->name, "set") == 0)
            outcome = set_key(config, a->options[i].value);
    if (outcome)
        json_decref(config);
    else
        *ret_config = config;
    return outcome;
}

/* "etc/train/digits.json" -> "digits" */
static void job_name(const struct arguments *a, char *to, size_t bytes)
{
    const char *given = argument(a, "name"), *slash = strrchr(a->operands[0], '/');
    snprintf(to, bytes, "%s", given ? given : slash ? slash + 1 : a->operands[0]);
    char *dot = given ? NULL : strrchr(to, '.');
    if (dot && dot != to)
        *dot = '\0';
}

static void print_estimate(const json_t *answer)
{
    const json_t *e = json_object_get(answer, "estimate");
    char parameters[TEXT_NUMBER_BYTES], flop[TEXT_NUMBER_BYTES], memory[TEXT_NUMBER_BYTES], kept[TEXT_NUMBER_BYTES];
    printf("parameters  %s\n", text_count((int64_t)json_number_of(e, "parameters"), parameters));
    printf("steps       %.0f, %.0f in each epoch\n", json_number_of(e, "steps"), json_number_of(e, "steps_per_epoch"));
    printf("work        %sflop in each step\n", text_count((int64_t)json_number_of(e, "flop_per_step"), flop));
    printf("memory      %s\n", text_bytes((int64_t)json_number_of(e, "memory_bytes"), memory));
    printf("checkpoint  %s\n", text_bytes((int64_t)json_number_of(e, "checkpoint_bytes"), kept));
}

static enum outcome submit(struct session *s, const struct arguments *a, const char *type)
{
    char name[128];
    json_t *config = NULL, *job = NULL;
    bool dry_run = argument(a, "dry-run");
    enum outcome outcome = read_config(a, &config);
    if (outcome)
        return outcome;
    job_name(a, name, sizeof(name));
    json_t *body = json_pack("{s:s, s:s, s:o}", "type", type, "name", name, "config", config);
    outcome = session_ask(s, "POST", dry_run ? "/jobs?dry_run=true" : "/jobs", body, &job);
    json_decref(body);
    if (outcome)
        return outcome;
    bool follow = argument(a, "follow") && !dry_run;
    if ((s->json && !follow) || (dry_run && !json_object_get(job, "estimate")))
        session_print_json(job, true);
    else if (dry_run)
        print_estimate(job);
    else if (s->quiet && !follow)
        printf("%lld\n", (long long)json_integer_value(json_object_get(job, "id")));
    else if (!s->quiet && !s->json)
        fprintf(follow ? stderr : stdout, "job %lld (%s) is %s\n",
                (long long)json_integer_value(json_object_get(job, "id")), name, json_word_of(job, "state"));
    fflush(stdout);
    if (follow)
        outcome = follow_job(s, job);
    json_decref(job);
    return outcome;
}

enum outcome run_train(struct session *s, const struct arguments *a)
{
    return submit(s, a, "train");
}

enum outcome run_evaluate(struct session *s, const struct arguments *a)
{
    return submit(s, a, "evaluate");
}

/* ---- ddimctl jobs ---- */

static const char *short_time(const json_t *job, const char *member, char buffer[32])
{
    const char *time = json_text_of(job, member);
    int month, day, hour, minute;
    if (!time || sscanf(time, "%*d-%d-%dT%d:%d", &month, &day, &hour, &minute) != 4)
        return NULL;
    snprintf(buffer, 32, "%02d-%02d %02d:%02d", month, day, hour, minute);
    return buffer;
}

/* "63%", "3rd in line" */
static const char *progress_text(const json_t *job, char buffer[32])
{
    double fraction = json_number_of(json_object_get(job, "progress"), "fraction");
    double place = json_number_of(job, "queue_position");
    if (isfinite(place))
        snprintf(buffer, 32, "place %.0f", place);
    else if (isfinite(fraction))
        snprintf(buffer, 32, "%.0f%%", 100 * fraction);
    else
        return NULL;
    return buffer;
}

static bool add_job(struct table *t, const json_t *job)
{
    char id[32], progress[32], loss[32], time[32], left[TEXT_NUMBER_BYTES];
    double last = json_number_of(json_object_get(job, "metrics"), "loss"), eta = json_number_of(job, "eta_seconds");
    snprintf(id, sizeof(id), "%lld", (long long)json_integer_value(json_object_get(job, "id")));
    snprintf(loss, sizeof(loss), "%.4f", last);
    bool stopping = json_is_true(json_object_get(job, "cancel_requested"));
    return table_add(t, (const char *const[]){id, stopping ? "stopping" : json_text_of(job, "state"),
                                              progress_text(job, progress), isfinite(last) ? loss : NULL,
                                              isfinite(eta) ? text_duration(eta, left) : NULL,
                                              short_time(job, "created", time), json_text_of(job, "name")});
}

enum outcome run_jobs(struct session *s, const struct arguments *a)
{
    struct buffer path = {0}, fields = {0};
    struct table table = {.columns = 7, .elastic = 6, .right = {true, false, true, true, true}, .spare = {5, 4, 3, 2}};
    json_t *answer = NULL, *jobs, *job;
    size_t i;
    bool ok = session_form(a, &fields) == 0 &&
              buffer_printf(&path, "/jobs%s%s", fields.n ? "?" : "", fields.n ? fields.data : "") == 0;
    enum outcome outcome =
        ok ? session_ask(s, "GET", path.data, NULL, &answer) : outcome_fail(OUTCOME_FAILED, "no memory");
    free(path.data);
    free(fields.data);
    if (outcome)
        return outcome;
    jobs = json_object_get(answer, "jobs");
    if (s->json) {
        session_print_json(answer, true);
    } else if (s->quiet) {
        json_array_foreach(jobs, i, job) printf("%lld\n", (long long)json_integer_value(json_object_get(job, "id")));
    } else if (json_array_size(jobs) == 0) {
        puts(argument(a, "state") ? "There are no such jobs."
                                  : "There are no jobs. `ddimctl train CONFIG` submits one.");
    } else {
        table_add(&table, (const char *const[]){"ID", "STATE", "DONE", "LOSS", "LEFT", "CREATED", "NAME"});
        json_array_foreach(jobs, i, job) add_job(&table, job);
        table_print(&table, &s->out);
    }
    json_decref(answer);
    return OUTCOME_OK;
}

/* ---- ddimctl job ---- */

/* The curve of the loss, as far as it was recorded. */
static void print_curve(struct session *s, const char *id)
{
    char path[PATH_BYTES], curve[4 * 64 + 1];
    double losses[256], logarithms[256];
    int n = 0;
    json_t *answer, *point;
    size_t i;
    if (session_ask(s, "GET", session_path(path, sizeof(path), "/jobs/", id, "/metrics?max_points=256"), NULL, &answer))
        return;
    json_array_foreach(json_object_get(answer, "steps"), i,
                       point) if (n < 256 && isfinite(json_number_of(point, "loss"))) losses[n++] =
        json_number_of(point, "loss");
    int cells = terminal_columns(&s->out) - 36;
    for (int k = 0; k < n; k++)
        logarithms[k] = log(losses[k]);
    terminal_curve(&s->out, logarithms, n, cells > 60 ? 60 : cells > 8 ? cells : 8, curve);
    if (n > 1)
        printf("%-11s %s  %.4f > %.4f\n", "loss", curve, losses[0], losses[n - 1]);
    json_decref(answer);
}

static void print_line(const char *label, const char *text)
{
    char *tame = text && *text ? strdup(text) : NULL;
    if (tame)
        printf("%-11s %s\n", label, text_tame(tame));
    free(tame);
}

static void print_job(struct session *s, const json_t *job, const char *id)
{
    const json_t *progress = json_object_get(job, "progress"), *end = json_object_get(job, "end");
    char bar[4 * 24 + 1], left[TEXT_NUMBER_BYTES], state[64];
    double fraction = json_number_of(progress, "fraction"), eta = json_number_of(job, "eta_seconds");
    double place = json_number_of(job, "queue_position");
    snprintf(state, sizeof(state), "%.20s%s", json_word_of(job, "state"),
             json_is_true(json_object_get(job, "cancel_requested")) ? ", asked to stop" : "");
    if (isfinite(place))
        snprintf(state + strlen(state), sizeof(state) - strlen(state), ", place %.0f", place);
    print_line("name", json_text_of(job, "name"));
    print_line("state", state);
    print_line("created", json_text_of(job, "created"));
    print_line("started", json_text_of(job, "started"));
    print_line("ended", json_text_of(job, "ended"));
    if (isfinite(fraction)) {
        terminal_bar(&s->out, fraction, terminal_columns(&s->out) >= 70 ? 24 : 10, bar);
        printf("%-11s %.0f%% %s step %.0f/%.0f, epoch %.0f\n", "progress", 100 * fraction, bar,
               json_number_of(progress, "step"), json_number_of(progress, "total_steps"),
               json_number_of(progress, "epoch"));
    }
    if (isfinite(eta))
        print_line("left", text_duration(eta, left));
    if (isfinite(json_number_of(progress, "checkpoint_step")))
        printf("%-11s step %.0f\n", "checkpoint", json_number_of(progress, "checkpoint_step"));
    print_curve(s, id);
    print_line("end", json_text_of(end, "message"));
}

/* The newest epoch that has a grid; NULL and said: there is none. */
static enum outcome newest_epoch(struct session *s, const char *id, char buffer[32])
{
    char path[PATH_BYTES];
    json_t *answer;
    enum outcome outcome =
        session_ask(s, "GET", session_path(path, sizeof(path), "/jobs/", id, "/samples"), NULL, &answer);
    if (outcome)
        return outcome;
    const json_t *list = json_object_get(answer, "samples"), *last = json_array_get(list, json_array_size(list) - 1);
    double epoch = json_array_size(list) ? json_number_of(last, "epoch") : NAN;
    snprintf(buffer, 32, "%.0f", epoch);
    json_decref(answer);
    return isfinite(epoch) ? OUTCOME_OK : outcome_fail(OUTCOME_NOT_FOUND, "job %s has no samples yet", id);
}

static enum outcome keep_samples(struct session *s, const struct arguments *a, const char *id)
{
    char path[PATH_BYTES], epoch[32], suffix[64], name[64], buffer[128];
    const char *given = argument(a, "samples");
    enum outcome outcome = *given ? OUTCOME_OK : newest_epoch(s, id, epoch);
    if (outcome)
        return outcome;
    snprintf(epoch, sizeof(epoch), "%s", *given ? given : strdupa(epoch));
    snprintf(suffix, sizeof(suffix), "/samples/%s.png", epoch);
    snprintf(name, sizeof(name), "job-%.40s", id);
    struct call call = {
        .method = "GET", .path = session_path(path, sizeof(path), "/jobs/", id, suffix), .accept = "image/png"};
    client_run(s->client, &call, 1);
    outcome = call_tell(&call, s->json);
    if (outcome == OUTCOME_OK) {
        const char *file = output_name(a, name, epoch, "png", buffer, sizeof(buffer));
        outcome = output_picture(s, a, file, call.body_in.data, call.body_in.n);
        if (outcome == OUTCOME_OK && strcmp(file, "-") && !s->quiet)
            printf("%s: job %s, epoch %s\n", file, id, epoch);
    }
    call_done(&call);
    return outcome;
}

enum outcome run_job(struct session *s, const struct arguments *a)
{
    char path[PATH_BYTES];
    const char *id = a->operands[0];
    json_t *job;
    if (argument(a, "log"))
        return follow_log(s, id, argument(a, "follow"));
    if (argument(a, "samples"))
        return keep_samples(s, a, id);
    enum outcome outcome = session_ask(s, "GET", session_path(path, sizeof(path), "/jobs/", id, ""), NULL, &job);
    if (outcome)
        return outcome;
    if (argument(a, "follow"))
        outcome = follow_job(s, job);
    else if (s->json)
        session_print_json(job, true);
    else if (s->quiet)
        puts(json_word_of(job, "state"));
    else
        print_job(s, job, id);
    json_decref(job);
    return outcome;
}

/* ---- actions ---- */

/* The same with each operand; the first failure ends it. */
static enum outcome each_job(struct session *s, const struct arguments *a, const char *method, const char *suffix)
{
    enum outcome outcome = OUTCOME_OK;
    for (int i = 0; i < a->n_operands && outcome == OUTCOME_OK; i++) {
        char path[PATH_BYTES];
        json_t *answer;
        outcome =
            session_ask(s, method, session_path(path, sizeof(path), "/jobs/", a->operands[i], suffix), NULL, &answer);
        if (outcome)
            break;
        const json_t *job = json_object_get(answer, "job") ? json_object_get(answer, "job") : answer;
        const char *was = json_text_of(answer, "was"), *state = json_text_of(job, "state");
        if (s->json)
            session_print_json(answer, a->n_operands == 1);
        else if (was && state && strcmp(was, state) == 0 && !json_is_true(json_object_get(job, "cancel_requested")))
            printf("job %s was %s already\n", a->operands[i], was);
        else if (was)
            printf("job %s was %s, is %s\n", a->operands[i], was,
                   json_is_true(json_object_get(job, "cancel_requested")) ? "asked to stop"
                   : state                                                ? state
                                                                          : "?");
        else if (state)
            printf("job %lld is %s\n", (long long)json_integer_value(json_object_get(job, "id")), state);
        else
            printf("job %s is gone\n", a->operands[i]);
        json_decref(answer);
    }
    return outcome;
}

enum outcome run_cancel(struct session *s, const struct arguments *a)
{
    return each_job(s, a, "POST", "/cancel");
}

enum outcome run_resume(struct session *s, const struct arguments *a)
{
    return each_job(s, a, "POST", "/resume");
}

enum outcome run_retry(struct session *s, const struct arguments *a)
{
    return each_job(s, a, "POST", "/retry");
}

enum outcome run_delete(struct session *s, const struct arguments *a)
{
    return each_job(s, a, "DELETE", "");
}
