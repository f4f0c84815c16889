/* status.c: ddimctl status and schedule. */
#include "clients/ddimctl/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- ddimctl status ---- */

/* A metric without labels out of the Prometheus text; NAN where it is not there. */
static double metric(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, n) == 0 && line[n] == ' ')
            return strtod(line + n, NULL);
    return NAN;
}

static void print_work(const char *metrics)
{
    static const char *const states[] = {"queued", "running"};
    char up[TEXT_NUMBER_BYTES], name[64];
    double jobs = 0;
    printf("%-10s %s\n", "up", text_duration(metric(metrics, "ddimd_uptime_seconds"), up));
    printf("%-10s %.0f lanes active, %.0f requests wait with %.0f images\n", "batch",
           metric(metrics, "ddimd_lanes_active"), metric(metrics, "ddimd_queue_requests"),
           metric(metrics, "ddimd_queue_images"));
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        snprintf(name, sizeof(name), "ddimd_jobs{state=\"%s\"}", states[i]);
        jobs = metric(metrics, name);
        if (isfinite(jobs))
            printf("%-10s %.0f %s\n", i ? "" : "jobs", jobs, states[i]);
    }
}

static void print_checks(const json_t *ready)
{
    const json_t *check;
    size_t i;
    json_array_foreach(json_object_get(ready, "checks"), i, check)
    {
        const char *detail = json_text_of(check, "detail");
        printf("%-10s %s%s%s\n", json_word_of(check, "name"),
               json_is_true(json_object_get(check, "ok")) ? "ok" : "NOT OK", detail ? ": " : "", detail ? detail : "");
    }
}

/* readyz answers 503 with its reasons: that is what was asked for, so it is not tried again. */
enum outcome run_status(struct session *s, const struct arguments *a)
{
    struct call calls[] = {{.method = "GET", .path = "/version"},
                           {.method = "GET", .path = "/readyz?verbose", .once = true},
                           {.method = "GET", .path = "/metrics", .accept = "text/plain", .once = true}};
    client_run(s->client, calls, 1);
    if (calls[0].outcome == OUTCOME_OK)
        client_run(s->client, calls + 1, 2);
    json_t *version = call_json(&calls[0]), *ready = call_json(&calls[1]);
    bool is_ready = json_is_true(json_object_get(ready, "ready"));
    enum outcome outcome = calls[0].outcome ? call_tell(&calls[0], s->json) : OUTCOME_OK;
    if (outcome == OUTCOME_OK && s->json) {
        json_t *all = json_pack("{s:O*, s:O*}", "version", version, "ready", ready);
        session_print_json(all, true);
        json_decref(all);
    } else if (outcome == OUTCOME_OK) {
        const char *reason = json_text_of(ready, "reason");
        printf("%-10s %s %s on %s\n", "daemon", json_word_of(version, "name"), json_word_of(version, "version"),
               json_word_of(version, "device"));
        printf("%-10s %s%s%s\n", "ready", is_ready ? "yes" : "no", reason ? ": " : "", reason ? reason : "");
        print_checks(ready);
        if (calls[2].status == 200 && calls[2].body_in.n)
            print_work(calls[2].body_in.data);
    }
    json_decref(version);
    json_decref(ready);
    for (int i = 0; i < 3; i++)
        call_done(&calls[i]);
    return outcome ? outcome : is_ready ? OUTCOME_OK : OUTCOME_BUSY;
}

/* ---- ddimctl schedule ---- */

enum outcome run_schedule(struct session *s, const struct arguments *a)
{
    static const char *const names[] = {"t", "alpha", "sigma", "a", "b", "c", "s"};
    struct table table = {.columns = 8, .right = {true, true, true, true, true, true, true, true}};
    struct buffer fields = {0}, path = {0};
    json_t *answer = NULL, *row;
    size_t i;
    bool ok = session_form(a, &fields) == 0 && buffer_printf(&path, "/schedule?%s", fields.n ? fields.data : "") == 0;
    enum outcome outcome =
        ok ? session_ask(s, "GET", path.data, NULL, &answer) : outcome_fail(OUTCOME_FAILED, "no memory");
    free(fields.data);
    free(path.data);
    if (outcome)
        return outcome;
    if (s->json) {
        session_print_json(answer, true);
    } else {
        table_add(&table, (const char *const[]){"STEP", "T", "ALPHA", "SIGMA", "A", "B", "C", "S"});
        json_array_foreach(json_object_get(answer, "rows"), i, row)
        {
            char cells[8][32];
            const char *pointers[8] = {cells[0]};
            snprintf(cells[0], sizeof(cells[0]), "%zu", i + 1);
            for (int k = 0; k < 7; k++) {
                snprintf(cells[k + 1], sizeof(cells[0]), k ? "%.6f" : "%.0f", json_number_of(row, names[k]));
                pointers[k + 1] = cells[k + 1];
            }
            table_add(&table, pointers);
        }
        table_print(&table, &s->out);
        puts("\nx_prev = A x0 + B eps + C x0_last + S z, x0 = (x - SIGMA eps) / ALPHA");
    }
    json_decref(answer);
    return OUTCOME_OK;
}
