/* exchange.h: one request and its answer, from the first header to the last byte.
 *
 * The handlers of a route run in an HTTP thread. One that must wait calls exchange_wait(), which suspends the
 * connection, then hands the exchange to another thread; that thread calls exchange_wake(), and the continuation runs
 * in the HTTP thread again. References keep the exchange alive: one is the connection's, dropped when libmicrohttpd has
 * done with the request; one belongs to whoever is to wake it. So a client that hangs up, a result and a shutdown may
 * come in any order.
 *
 * lock guards connection, suspended, ticket and what work.h says it does. It is never held while the scheduler or the
 * model store is called.
 */
#ifndef DDIMD_API_EXCHANGE_H
#define DDIMD_API_EXCHANGE_H

#include "api/api.h"
#include "api/head.h"
#include "api/routes.h"

#include <pthread.h>
#include <stdatomic.h>

struct MHD_Connection;
struct MHD_Response;
struct gate;
struct work;     // work.h
struct settings; // private.h

enum { WATCH_NONE = -1, EXCHANGE_ASIDE_HEADERS = 8 };

struct exchange {
    struct api *api;
    struct gate *gate; // whose thread is the HTTP thread
    atomic_int refs;
    pthread_mutex_t lock;
    struct MHD_Connection *connection; // NULL once the request is over
    bool suspended;
    uint64_t ticket;                 // of the generation that is under way, 0: none
    int64_t watch;                   // hangup.h; HTTP thread
    struct exchange *newer, *older;  // of the live ones, guarded by the api's lock
    void (*next)(struct exchange *); // after a wake

    /* the request; HTTP thread */
    char request_id[REQUEST_ID_BYTES];
    char *uri;                   // as sent
    const char *query;           // in uri; "" where there is none
    char method[24];             // cut where it is longer: none that is known is
    const struct route *route;   // NULL: none
    struct settings *settings;   // of when it began
    const struct key *key;       // whose it is, NULL: nobody's; lives in the settings
    char name[MODEL_NAME_BYTES]; // what stands for {name} in the route's path
    int offer;                   // index in route->offers
    bool begun, dispatched, busy;
    struct text body;
    int64_t begun_ns;

    /* the answer; HTTP thread */
    struct MHD_Response *response;
    int status;
    struct work *work; // of a generation, NULL elsewhere
    char note[192];    // for the log line

    /* what exchange_aside() left for its continuation */
    struct {
        struct text text;
        struct problem problem; // kind PROBLEM_NONE: none
        struct resident_model *model;
        const char *content_type; // NULL: JSON
        int status;               // 0: 200
        struct {
            const char *name;
            char value[96];
        } headers[EXCHANGE_ASIDE_HEADERS];
        int n_headers;
        char key[256];      // a header of the request that it needs
        int64_t job, after; // of a stream of events
    } aside;
};

struct exchange *exchange_create(struct api *a, const char *uri);
void exchange_retain(struct exchange *x);
void exchange_release(struct exchange *x);

/* HTTP thread: suspends; next runs after exchange_wake(). Call it before anyone who might wake is told. */
void exchange_wait(struct exchange *x, void (*next)(struct exchange *));
/* Any thread that holds a reference. Not suspended: nothing happens. */
void exchange_wake(struct exchange *x);
/* Runs aside(x) on a helper thread, where it may block, then next(x) in the HTTP thread. */
void exchange_aside(struct exchange *x, void (*aside)(struct exchange *), void (*next)(struct exchange *));

/* A header of the request, NULL where it is absent. */
const char *exchange_request_header(const struct exchange *x, const char *name);
/* A hash of the client's key, or of its address, for the fair share. */
uint64_t exchange_client(const struct exchange *x);

/* One answer for each request. Takes body over. */
void exchange_answer(struct exchange *x, int status, const char *content_type, struct text *body);
/* Another header of the answer, after exchange_answer(). */
void exchange_header(struct exchange *x, const char *name, const char *value);
void exchange_problem(struct exchange *x, const struct problem *p);
/* For handlers: the problem as made by problem_set(). */
void exchange_fail(struct exchange *x, enum problem_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
