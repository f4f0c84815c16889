/* client.h: requests to ddimd, several at once, tried again where that helps.
 *
 * A call is tried again where the daemon could not be reached, the connection broke, or it said 429 or 503 with a
 * Retry-After (without one it means: never). Every attempt of a POST has the same Idempotency-Key, unless its
 * answer is a function of the request. A stream of events
 * that broke goes on after the last event that arrived; each event that arrives makes the count of attempts begin anew.
 * One thread. *interrupted is set by a signal handler: then all calls end at once.
 */
#ifndef DDIMCTL_CLIENT_H
#define DDIMCTL_CLIENT_H

#include "clients/ddimctl/events.h"
#include "clients/ddimctl/outcome.h"
#include "clients/ddimctl/settings.h"

#include <curl/curl.h>
#include <signal.h>

enum { CALL_ERROR_BYTES = 512 };

struct client;

struct call {
    /* the request; borrowed */
    const char *method, *path; // path with its query
    const void *body;          // NULL: none
    size_t body_bytes;
    const char *content_type, *accept;
    bool pure;             // the same request gets the same answer: no key is needed
    bool once;             // an answer of 429 or 503 is what was asked for
    bool detached;         // Prefer: respond-async
    struct events *events; // where the answer is a stream of them; its status other than 200 comes as a body

    /* the answer */
    enum outcome outcome; // OK with a 2xx
    long status;          // 0: there was none
    struct buffer body_in;
    char error[CALL_ERROR_BYTES]; // why there was no answer
    double seconds;

    /* inside */
    CURL *easy;
    struct curl_slist *headers;
    char key[40];
    int attempts;
    uint64_t seen; // events at the last attempt's start
    double wait_until_s;
    bool running, ended;
};

int client_create(const struct settings *s, const volatile sig_atomic_t *interrupted, bool quiet,
                  struct client **ret_client);
void client_free(struct client *c);

/* Called before a pause: the progress that is drawn has to give way. */
void client_on_notice(struct client *c, void (*before)(void *context), void *context);
/* Called when a call ended, and about ten times a second with NULL. */
void client_on_turn(struct client *c, void (*turn)(void *context, struct call *ended), void *context);

/* From within a turn: client_run() ends soon, with calls that have not ended as interrupted ones. */
void client_stop(struct client *c);

/* Runs calls until all have ended; each call's outcome says how. */
void client_run(struct client *c, struct call *calls, int n);

/* A header of the answer as it is, NULL where there is none; until call_done(). */
const char *call_header(const struct call *call, const char *name);
/* The answer as JSON, new reference; NULL where it is none. */
json_t *call_json(const struct call *call);
/* Says what went wrong; returns the call's outcome. */
enum outcome call_tell(const struct call *call, bool json);
void call_done(struct call *call);

/* "name=value" behind what is there, joined by '&', percent-encoded. 0, -ENOMEM. */
int form_add(struct buffer *form, const char *name, const char *value);

#endif
