/* client.c: see client.h. */
#include "clients/ddimctl/client.h"

#include "clients/ddimctl/terminal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { POLL_MS = 100, CONNECT_SECONDS = 10, SILENT_STREAM_SECONDS = 60, MAX_AT_ONCE = 32, ANSWER_MAX_BYTES = 1 << 30 };
static const double first_pause_s = 0.25, longest_pause_s = 8, longest_asked_pause_s = 120;

struct client {
    struct settings settings;
    const volatile sig_atomic_t *interrupted;
    bool quiet;
    bool reached; // the daemon has answered once
    bool stopped;
    CURLM *multi;
    void (*before)(void *context);
    void *before_context;
    void (*turn)(void *context, struct call *ended);
    void *turn_context;
};

int client_create(const struct settings *s, const volatile sig_atomic_t *interrupted, bool quiet,
                  struct client **ret_client)
{
    struct client *c = calloc(1, sizeof(*c));
    if (!c || curl_global_init(CURL_GLOBAL_DEFAULT) || !(c->multi = curl_multi_init())) {
        free(c);
        return -ENOMEM;
    }
    c->settings = *s;
    c->interrupted = interrupted;
    c->quiet = quiet;
    *ret_client = c;
    return 0;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    curl_multi_cleanup(c->multi);
    curl_global_cleanup();
    free(c);
}

void client_on_notice(struct client *c, void (*before)(void *context), void *context)
{
    c->before = before;
    c->before_context = context;
}

void client_on_turn(struct client *c, void (*turn)(void *context, struct call *ended), void *context)
{
    c->turn = turn;
    c->turn_context = context;
}

/* ---- one attempt ---- */

static size_t on_body(char *bytes, size_t one, size_t n, void *context)
{
    struct call *call = context;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->events && status == 200)
        return events_feed(call->events, bytes, n) == 0 ? n : CURL_WRITEFUNC_ERROR;
    if (call->body_in.n + n > ANSWER_MAX_BYTES)
        return CURL_WRITEFUNC_ERROR;
    return buffer_add(&call->body_in, bytes, n) == 0 ? n : CURL_WRITEFUNC_ERROR;
}

/* Any 122 random bits will do. */
static void make_key(char key[40])
{
    unsigned char b[16];
    if (getrandom(b, sizeof(b), 0) != sizeof(b))
        memset(b, 0, sizeof(b));
    int n = sprintf(key, "ddimctl-");
    for (int i = 0; i < 15; i++)
        n += sprintf(key + n, "%02x", b[i]);
}

static bool add_header(struct call *call, const char *format, const char *value)
{
    char line[SETTINGS_TEXT_BYTES + 64];
    snprintf(line, sizeof(line), format, value);
    struct curl_slist *list = curl_slist_append(call->headers, line);
    call->headers = list ? list : call->headers;
    return list != NULL;
}

static bool set_headers(const struct client *c, struct call *call)
{
    bool ok = add_header(call, "Accept: %s", call->accept ? call->accept : "application/json");
    if (call->body)
        ok = ok && add_header(call, "Content-Type: %s", call->content_type) && add_header(call, "%s", "Expect:");
    if (c->settings.key[0])
        ok = ok && add_header(call, "Authorization: Bearer %s", c->settings.key);
    if (strcmp(call->method, "POST") == 0 && !call->pure)
        ok = ok && add_header(call, "Idempotency-Key: %s", call->key);
    if (call->detached)
        ok = ok && add_header(call, "Prefer: %s", "respond-async");
    if (call->events && call->events->last_id[0])
        ok = ok && add_header(call, "Last-Event-ID: %s", call->events->last_id);
    return ok && curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, call->headers) == CURLE_OK;
}

static void set_method(struct call *call)
{
    if (strcmp(call->method, "POST") == 0) {
        curl_easy_setopt(call->easy, CURLOPT_POST, 1L);
        curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body_bytes);
        curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body ? call->body : "");
    } else if (strcmp(call->method, "GET") != 0) {
        curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, call->method);
    }
}

static bool set_up(const struct client *c, struct call *call)
{
    struct buffer url = {0};
    call->easy = curl_easy_init();
    if (!call->easy || buffer_printf(&url, "%s%s", c->settings.url, call->path))
        return false;
    curl_easy_setopt(call->easy, CURLOPT_URL, url.data);
    free(url.data);
    curl_easy_setopt(call->easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(call->easy, CURLOPT_USERAGENT, "ddimctl/" DDIMD_VERSION);
    curl_easy_setopt(call->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(call->easy, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(call->easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(call->easy, CURLOPT_ERRORBUFFER, call->error);
    curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
    if (c->settings.socket_path[0])
        curl_easy_setopt(call->easy, CURLOPT_UNIX_SOCKET_PATH, c->settings.socket_path);
    if (c->settings.ca[0])
        curl_easy_setopt(call->easy, CURLOPT_CAINFO, c->settings.ca);
    if (call->events && strcmp(call->method, "GET") == 0) { // a job's stream says something every few seconds
        curl_easy_setopt(call->easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        curl_easy_setopt(call->easy, CURLOPT_LOW_SPEED_TIME, (long)SILENT_STREAM_SECONDS);
    }
    set_method(call);
    return set_headers(c, call);
}

static void forget_attempt(struct call *call)
{
    if (call->easy)
        curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    call->easy = NULL;
    call->headers = NULL;
    call->error[0] = '\0';
    call->body_in.n = 0;
    call->status = 0;
    if (call->events)
        events_restart(call->events);
}

static void end_call(struct client *c, struct call *call, enum outcome outcome)
{
    call->outcome = outcome;
    call->ended = true;
    if (c->turn)
        c->turn(c->turn_context, call);
}

static void begin_attempt(struct client *c, struct call *call)
{
    forget_attempt(call);
    if (!call->key[0])
        make_key(call->key);
    call->attempts++;
    call->seen = call->events ? call->events->n : 0;
    if (!set_up(c, call) || curl_multi_add_handle(c->multi, call->easy)) {
        snprintf(call->error, sizeof(call->error), "no memory for a request");
        end_call(c, call, OUTCOME_FAILED);
        return;
    }
    call->running = true;
}

/* ---- between attempts ---- */

/* Fewer where nothing ever answered: perhaps the address is wrong, and that is better said soon. */
static int retries(const struct client *c)
{
    return !c->reached && c->settings.retries > 2 ? 2 : c->settings.retries;
}

/* Seconds to wait before another attempt; negative: there is no point in one. */
static double pause_after(const struct client *c, const struct call *call, CURLcode result)
{
    double pause = first_pause_s;
    for (int i = 1; i < call->attempts && pause < longest_pause_s; i++)
        pause *= 2;
    if (result == CURLE_COULDNT_RESOLVE_HOST || result == CURLE_PEER_FAILED_VERIFICATION ||
        result == CURLE_WRITE_ERROR || result == CURLE_SSL_CACERT_BADFILE || result == CURLE_URL_MALFORMAT)
        return -1;
    if (result == CURLE_OK && (call->status == 429 || call->status == 503)) {
        const char *asked = call_header(call, "Retry-After");
        if (!asked)
            return -1;
        pause = strtod(asked, NULL);
    } else if (result == CURLE_OK && !(call->events && call->status == 200)) {
        return -1;
    }
    return call->attempts > retries(c) || pause > longest_asked_pause_s ? -1 : pause > 0 ? pause : 0;
}

static void tell_pause(struct client *c, const struct call *call, const char *why, double pause)
{
    char text[TEXT_NUMBER_BYTES];
    if (c->quiet || pause < 0.2)
        return;
    if (c->before)
        c->before(c->before_context);
    fprintf(stderr, "ddimctl: %s; again in %s (%d of %d)\n", why, text_duration(pause, text), call->attempts,
            retries(c));
}

static enum outcome outcome_of(struct client *c, struct call *call, CURLcode result)
{
    if (result == CURLE_OK && !(call->events && call->status == 200 && !call->events->finished))
        return outcome_of_status(call->status);
    char why[CURL_ERROR_SIZE];
    snprintf(why, sizeof(why), "%.*s", (int)sizeof(why) - 1,
             result == CURLE_OK ? "the stream of events ended too early"
             : call->error[0]   ? call->error
                                : curl_easy_strerror(result));
    snprintf(call->error, sizeof(call->error), "%.200s: %s",
             c->settings.socket_path[0] ? c->settings.socket_path : c->settings.url, why);
    return OUTCOME_UNREACHABLE;
}

/* Why it is to be tried again: what the daemon says of itself, or what broke. */
static void write_reason(const struct call *call, enum outcome outcome, char *to, size_t bytes)
{
    json_t *problem = outcome == OUTCOME_UNREACHABLE ? NULL : call_json(call);
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    const char *otherwise = call->status == 429 ? "the daemon asks this client to wait" : "the daemon is busy";
    snprintf(to, bytes, "%s", outcome == OUTCOME_UNREACHABLE ? call->error : detail ? detail : otherwise);
    json_decref(problem);
}

static void attempt_ended(struct client *c, struct call *call, CURLcode result)
{
    char why[CALL_ERROR_BYTES];
    double pause = -1;
    call->running = false;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->status);
    c->reached = c->reached || call->status;
    curl_multi_remove_handle(c->multi, call->easy);
    bool finished = call->events && call->events->finished;
    if (call->events && call->events->n > call->seen)
        call->attempts = 1;
    if (!finished && !(call->once && result == CURLE_OK))
        pause = pause_after(c, call, result);
    enum outcome outcome = finished ? OUTCOME_OK : outcome_of(c, call, result);
    if (pause < 0) {
        end_call(c, call, outcome);
        return;
    }
    write_reason(call, outcome, why, sizeof(why));
    tell_pause(c, call, text_tame(why), pause);
    call->wait_until_s = terminal_now_s() + pause;
}

/* ---- all calls ---- */

static void begin_due(struct client *c, struct call *calls, int n)
{
    int running = 0;
    for (int i = 0; i < n; i++)
        running += calls[i].running;
    for (int i = 0; i < n && running < MAX_AT_ONCE; i++) {
        if (!calls[i].ended && !calls[i].running && calls[i].wait_until_s <= terminal_now_s()) {
            begin_attempt(c, &calls[i]);
            running += calls[i].running;
        }
    }
}

static void take_ended(struct client *c)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(c->multi, &left))) {
        struct call *call;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode result = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &call);
        attempt_ended(c, call, result);
    }
}

static bool any_left(const struct call *calls, int n)
{
    for (int i = 0; i < n; i++)
        if (!calls[i].ended)
            return true;
    return false;
}

void client_stop(struct client *c)
{
    c->stopped = true;
}

void client_run(struct client *c, struct call *calls, int n)
{
    double begun = terminal_now_s();
    int running;
    c->stopped = false;
    while (any_left(calls, n) && !*c->interrupted && !c->stopped) {
        begin_due(c, calls, n);
        curl_multi_perform(c->multi, &running);
        take_ended(c);
        if (c->turn)
            c->turn(c->turn_context, NULL);
        if (any_left(calls, n))
            curl_multi_poll(c->multi, NULL, 0, POLL_MS, NULL);
    }
    for (int i = 0; i < n; i++) {
        calls[i].seconds = terminal_now_s() - begun;
        if (calls[i].ended)
            continue;
        if (calls[i].running)
            curl_multi_remove_handle(c->multi, calls[i].easy);
        calls[i].running = false;
        calls[i].ended = true;
        calls[i].outcome = OUTCOME_INTERRUPTED;
    }
}

/* ---- answers ---- */

const char *call_header(const struct call *call, const char *name)
{
    struct curl_header *header;
    if (!call->easy || curl_easy_header(call->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    return header->value;
}

json_t *call_json(const struct call *call)
{
    return call->body_in.n ? json_loadb(call->body_in.data, call->body_in.n, JSON_ALLOW_NUL, NULL) : NULL;
}

enum outcome call_tell(const struct call *call, bool json)
{
    if (call->outcome == OUTCOME_OK || call->outcome == OUTCOME_INTERRUPTED)
        return call->outcome;
    if (call->status < 400)
        outcome_fail(call->outcome, "%s", call->error);
    if (call->outcome == OUTCOME_UNREACHABLE && call->status == 0)
        fputs("  --url, DDIMD_URL or ~/.config/ddimd/client.json say where ddimd is\n", stderr);
    if (call->status < 400)
        return call->outcome;
    json_t *problem = call_json(call);
    outcome_tell(problem, call->status, json);
    if (call->status == 401 && !json)
        fputs("  --key-file, DDIMD_KEY or ~/.config/ddimd/client.json give a key\n", stderr);
    json_decref(problem);
    return call->outcome;
}

void call_done(struct call *call)
{
    forget_attempt(call);
    free(call->body_in.data);
    call->body_in = (struct buffer){0};
}

int form_add(struct buffer *form, const char *name, const char *value)
{
    char *escaped = curl_easy_escape(NULL, value, 0);
    int rc = escaped ? buffer_printf(form, "%s%s=%s", form->n ? "&" : "", name, escaped) : -ENOMEM;
    curl_free(escaped);
    return rc;
}
