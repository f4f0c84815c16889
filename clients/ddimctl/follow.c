/* follow.c: see follow.h.
 *
 * Everything comes from the stream of events, which begins with the job's first one: so the curve is whole however late
 * one begins to watch. The job's own record says how fast it is and how it ended.
 */
#include "clients/ddimctl/follow.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const double line_seconds = 10; // between lines where nothing can be drawn over

struct follow {
    struct session *session;
    struct events events;
    char id[32], name[128], state[16], message[512];
    double step, steps, epoch, epochs, loss, first_loss, val_loss, best, rate;
    double *losses; // their logarithms
    int n_losses, room;
    double pace_step, pace_s, printed_s; // where the present attempt's pace is measured from
    int64_t waiting_s;
};

/* ---- what is drawn ---- */

static void keep_loss(struct follow *f, double loss)
{
    if (f->n_losses == f->room) {
        int room = f->room ? 2 * f->room : 256;
        double *grown = realloc(f->losses, (size_t)room * sizeof(*grown));
        if (!grown)
            return;
        f->losses = grown;
        f->room = room;
    }
    f->losses[f->n_losses++] = loss;
}

/* "1:02:03 left" */
static void write_left(const struct follow *f, char *to, size_t bytes)
{
    char time[TEXT_NUMBER_BYTES];
    double done = f->step - f->pace_step, passed = terminal_now_s() - f->pace_s;
    *to = '\0';
    if (f->pace_s > 0 && done > 0 && passed > 2 && f->steps > f->step)
        snprintf(to, bytes, "  %s left", text_duration((f->steps - f->step) * passed / done, time));
}

static void draw_bar(struct follow *f, char *line, size_t bytes)
{
    char bar[4 * 32 + 1], left[64], rate[48] = "";
    int columns = terminal_columns(&f->session->err);
    double fraction = f->steps > 0 ? f->step / f->steps : 0;
    terminal_bar(&f->session->err, fraction, columns >= 76 ? 32 : 12, bar);
    write_left(f, left, sizeof(left));
    if (isfinite(f->rate) && columns >= 60)
        snprintf(rate, sizeof(rate), "  %.0f images/s", f->rate);
    snprintf(line, bytes, "%3.0f%% %s %.0f/%.0f%s%s", 100 * fraction, bar, f->step, f->steps, rate, left);
}

static void draw_curve(struct follow *f, char *line, size_t bytes)
{
    char curve[4 * 64 + 1], val[48] = "";
    int cells = terminal_columns(&f->session->err) - 44;
    terminal_curve(&f->session->err, f->losses, f->n_losses, cells > 48 ? 48 : cells > 8 ? cells : 8, curve);
    if (isfinite(f->val_loss))
        snprintf(val, sizeof(val), "  val %.4f", f->val_loss);
    snprintf(line, bytes, "loss %s  %.4f > %.4f%s", curve, f->first_loss, f->loss, val);
}

static void draw(struct follow *f)
{
    char head[TERMINAL_LINE_BYTES], bar[TERMINAL_LINE_BYTES], curve[TERMINAL_LINE_BYTES];
    const char *lines[] = {head, bar, curve};
    int n = 1;
    if (f->session->quiet || f->session->json)
        return;
    int used = snprintf(head, sizeof(head), "job %s  %s  %s", f->id, f->name, f->state);
    if (f->epoch > 0)
        snprintf(head + used, sizeof(head) - (size_t)used, "  epoch %.0f", f->epoch);
    if (f->steps > 0)
        draw_bar(f, bar, sizeof(bar)), n = 2;
    if (f->n_losses > 0 && n == 2)
        draw_curve(f, curve, sizeof(curve)), n = 3;
    terminal_progress(&f->session->err, lines, n, false);
}

/* A line that stays: on a terminal above what is drawn. */
static void say(struct follow *f, const char *text)
{
    if (f->session->quiet || f->session->json)
        return;
    terminal_clear(&f->session->err);
    fprintf(stderr, "%s\n", text);
    f->printed_s = terminal_now_s();
}

static void say_step(struct follow *f)
{
    char line[256], left[64];
    if (f->session->err.is_terminal || terminal_now_s() - f->printed_s < line_seconds)
        return;
    write_left(f, left, sizeof(left));
    int n = snprintf(line, sizeof(line), "job %s: step %.0f of %.0f", f->id, f->step, f->steps);
    if (isfinite(f->loss))
        n += snprintf(line + n, sizeof(line) - (size_t)n, ", epoch %.0f, loss %.4f", f->epoch, f->loss);
    if (isfinite(f->rate))
        n += snprintf(line + n, sizeof(line) - (size_t)n, ", %.0f images/s", f->rate);
    snprintf(line + n, sizeof(line) - (size_t)n, "%s", left);
    say(f, line);
}

/* ---- events ---- */

static void on_step(struct follow *f, const json_t *data)
{
    double step = json_number_of(data, "step");
    f->loss = json_number_of(data, "loss");
    f->steps = json_number_of(data, "steps");
    f->epoch = json_number_of(data, "epoch");
    f->rate = json_number_of(data, "images_per_s");
    if (f->n_losses == 0)
        f->first_loss = f->loss;          // NAN where the job is no training
    if (f->pace_s == 0 || step < f->step) // the first, or done again after a restart
        f->pace_s = terminal_now_s(), f->pace_step = step;
    f->step = step;
    if (f->loss > 0)
        keep_loss(f, log(f->loss));
    say_step(f);
}

static void on_epoch(struct follow *f, const json_t *data)
{
    char line[256];
    f->val_loss = json_number_of(data, "val_loss");
    int n = snprintf(line, sizeof(line), "job %s: epoch %.0f done, loss %.4f", f->id, json_number_of(data, "epoch"),
                     json_number_of(data, "loss"));
    if (isfinite(f->val_loss))
        snprintf(line + n, sizeof(line) - (size_t)n, ", validation %.4f%s", f->val_loss,
                 json_is_true(json_object_get(data, "best")) ? ", the best so far" : "");
    if (!f->session->err.is_terminal)
        say(f, line);
}

static bool has_ended(const char *state)
{
    return strcmp(state, "succeeded") == 0 || strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0;
}

static void on_state(struct follow *f, const json_t *data)
{
    char line[1024];
    const char *state = json_text_of(data, "state"), *message = json_text_of(data, "message");
    snprintf(f->state, sizeof(f->state), "%s", state ? state : "?");
    snprintf(f->message, sizeof(f->message), "%s", message ? message : "");
    f->pace_s = 0;
    text_tame(f->state);
    text_tame(f->message);
    f->events.finished = has_ended(f->state);
    if (f->events.finished || f->session->err.is_terminal)
        return; // the end is told at the end
    snprintf(line, sizeof(line), "job %s: %s%s%s", f->id, f->state, *f->message ? ": " : "", f->message);
    say(f, line);
}

static void on_event(void *context, const char *name, const char *text)
{
    struct follow *f = context;
    json_t *data = json_loads(text, 0, NULL);
    if (f->session->json) {
        json_t *line =
            json_pack("{s:s, s:s, s:O}", "id", f->events.last_id, "event", name, "data", data ? data : json_null());
        session_print_json(line, false);
        fflush(stdout);
        json_decref(line);
    }
    if (strcmp(name, "step") == 0)
        on_step(f, data);
    else if (strcmp(name, "epoch") == 0)
        on_epoch(f, data);
    else if (strcmp(name, "state") == 0)
        on_state(f, data);
    json_decref(data);
}

static void on_turn(void *context, struct call *ended)
{
    draw(context);
}

static void on_notice(void *context)
{
    struct follow *f = context;
    terminal_clear(&f->session->err);
}

/* ---- the end ---- */

static enum outcome tell_end(struct follow *f)
{
    enum outcome outcome = strcmp(f->state, "succeeded") == 0 ? OUTCOME_OK
                           : strcmp(f->state, "failed") == 0  ? OUTCOME_JOB_FAILED
                                                              : OUTCOME_JOB_CANCELLED;
    char loss[96] = "";
    if (f->session->quiet || f->session->json)
        return outcome;
    if (isfinite(f->loss))
        snprintf(loss, sizeof(loss), ", loss %.4f", f->loss);
    if (isfinite(f->val_loss))
        snprintf(loss + strlen(loss), sizeof(loss) - strlen(loss), ", validation %.4f", f->val_loss);
    printf("job %s %s after %.0f steps%s%s%s\n", f->id, f->state, f->step, loss, *f->message ? ": " : "", f->message);
    return outcome;
}

static enum outcome tell_left(struct follow *f)
{
    if (!f->session->quiet)
        fprintf(stderr, "ddimctl: job %s goes on; `ddimctl job %s --follow` comes back to it\n", f->id, f->id);
    return OUTCOME_INTERRUPTED;
}

enum outcome follow_job(struct session *s, const json_t *job)
{
    struct follow f = {.session = s, .loss = NAN, .val_loss = NAN, .rate = NAN};
    char path[64];
    const char *name = json_text_of(job, "name"), *state = json_text_of(job, "state");
    snprintf(f.id, sizeof(f.id), "%lld", (long long)json_integer_value(json_object_get(job, "id")));
    snprintf(f.name, sizeof(f.name), "%s", name ? name : "");
    snprintf(f.state, sizeof(f.state), "%s", state ? state : "?");
    text_tame(f.name);
    snprintf(path, sizeof(path), "/jobs/%s/events", f.id);
    f.events.on_event = on_event;
    f.events.context = &f;
    struct call call = {.method = "GET", .path = path, .accept = "text/event-stream", .events = &f.events};
    client_on_turn(s->client, on_turn, &f);
    client_on_notice(s->client, on_notice, &f);
    client_run(s->client, &call, 1);
    client_on_turn(s->client, NULL, NULL);
    client_on_notice(s->client, NULL, NULL);
    terminal_clear(&s->err);
    enum outcome outcome = call.outcome == OUTCOME_INTERRUPTED ? tell_left(&f)
                           : call.outcome                      ? call_tell(&call, s->json)
                                                               : tell_end(&f);
    call_done(&call);
    events_done(&f.events);
    free(f.losses);
    return outcome;
}

/* ---- the log ---- */

static enum outcome job_state(struct session *s, const char *id, bool *ret_ended)
{
    char path[128];
    json_t *job;
    enum outcome outcome = session_ask(s, "GET", session_path(path, sizeof(path), "/jobs/", id, ""), NULL, &job);
    if (outcome == OUTCOME_OK) {
        const char *state = json_text_of(job, "state");
        *ret_ended = state && has_ended(state);
        json_decref(job);
    }
    return outcome;
}

/* One piece from *offset on; *ret_n: its bytes. */
static enum outcome print_piece(struct session *s, const char *id, long long *offset, size_t *ret_n)
{
    char path[160], suffix[64];
    snprintf(suffix, sizeof(suffix), "/log?offset=%lld", *offset);
    struct call call = {
        .method = "GET", .path = session_path(path, sizeof(path), "/jobs/", id, suffix), .accept = "text/plain"};
    client_run(s->client, &call, 1);
    enum outcome outcome = call_tell(&call, s->json);
    *ret_n = outcome == OUTCOME_OK ? call.body_in.n : 0;
    if (*ret_n) {
        const char *next = call_header(&call, "X-Log-Next");
        fwrite(s->out.is_terminal ? text_tame(call.body_in.data) : call.body_in.data, 1, call.body_in.n, stdout);
        fflush(stdout);
        *offset = next ? atoll(next) : *offset + (long long)*ret_n;
    }
    call_done(&call);
    return outcome;
}

enum outcome follow_log(struct session *s, const char *id, bool stay)
{
    long long offset = 0;
    bool ended = !stay;
    enum outcome outcome = OUTCOME_OK;
    size_t n = 0;
    do {
        if (stay)
            outcome = job_state(s, id, &ended); // before its log is read, so that nothing of it is missed
        if (outcome == OUTCOME_OK)
            outcome = print_piece(s, id, &offset, &n);
        if (outcome == OUTCOME_OK && n == 0 && !ended)
            nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    } while (outcome == OUTCOME_OK && (n > 0 || !ended) && !*s->interrupted);
    return *s->interrupted ? OUTCOME_INTERRUPTED : outcome;
}
