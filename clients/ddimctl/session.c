/* session.c: what the commands share; see run.h. */
#include "clients/ddimctl/run.h"

#include "clients/ddimctl/describe.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum outcome session_ask(struct session *s, const char *method, const char *path, const json_t *body, json_t **ret_json)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct call call = {.method = method,
                        .path = path,
                        .body = text,
                        .body_bytes = text ? strlen(text) : 0,
                        .content_type = "application/json"};
    if (body && !text)
        return outcome_fail(OUTCOME_FAILED, "no memory for a request");
    client_run(s->client, &call, 1);
    enum outcome outcome = call_tell(&call, s->json);
    if (outcome == OUTCOME_OK) {
        *ret_json = call.body_in.n ? call_json(&call) : json_null();
        if (!*ret_json)
            outcome = outcome_fail(OUTCOME_SERVER, "the answer to %s %s is no JSON: is this ddimd?", method, path);
    }
    call_done(&call);
    free(text);
    return outcome;
}

const char *session_path(char *buffer, size_t bytes, const char *prefix, const char *operand, const char *suffix)
{
    char *escaped = curl_easy_escape(NULL, operand, 0);
    snprintf(buffer, bytes, "%s%s%s", prefix, escaped ? escaped : "", suffix);
    curl_free(escaped);
    return buffer;
}

void session_print_json(const json_t *value, bool alone)
{
    json_dumpf(value, stdout, (alone ? JSON_INDENT(2) : JSON_COMPACT) | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
    fputs("\n", stdout);
}

int session_form(const struct arguments *a, struct buffer *ret_form)
{
    int rc = 0;
    for (int i = 0; i < a->n_options && rc == 0; i++) {
        char name[64];
        const struct option *o = a->options[i].option;
        snprintf(name, sizeof(name), "%s", o->name);
        for (char *c = name; *c; c++)
            *c = *c == '-' ? '_' : *c;
        if (o->is_field)
            rc = form_add(ret_form, name, a->options[i].value);
    }
    return rc;
}

const char *session_seed(char buffer[24])
{
    uint64_t seed = 0;
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        seed = (uint64_t)(terminal_now_s() * 1e9);
    snprintf(buffer, 24, "%llu", (unsigned long long)(seed >> 11));
    return buffer;
}

const char *json_text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

const char *json_word_of(const json_t *object, const char *name)
{
    const char *text = json_text_of(object, name);
    return text ? text : "?";
}

double json_number_of(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

enum outcome run_completion(struct session *s, const struct arguments *a)
{
    if (strcmp(a->operands[0], "bash") != 0)
        return outcome_fail(OUTCOME_USAGE, "there is completion for bash only, not for %s", a->operands[0]);
    describe_completion(stdout);
    return OUTCOME_OK;
}

enum outcome run_manual(struct session *s, const struct arguments *a)
{
    describe_manual(stdout);
    return OUTCOME_OK;
}
