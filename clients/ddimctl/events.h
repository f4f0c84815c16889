/* events.h: a stream of server-sent events (WHATWG HTML, 9.2), in pieces as they come from the network. Plain parser.
 */
#ifndef DDIMCTL_EVENTS_H
#define DDIMCTL_EVENTS_H

#include "clients/ddimctl/text.h"

#include <stdbool.h>

enum { EVENT_NAME_BYTES = 32, EVENT_ID_BYTES = 32 };
enum { EVENT_MAX_BYTES = 256 << 20 }; // of one event: a result with its pictures

struct events {
    /* Called for each whole event with its name ("message" where it has none) and data. */
    void (*on_event)(void *context, const char *name, const char *data);
    void *context;
    char last_id[EVENT_ID_BYTES]; // "": none was given; where to go on after a break
    bool finished;                // set by on_event: this was the last one, the stream's end is no break
    uint64_t n;                   // events so far

    char name[EVENT_NAME_BYTES], id[EVENT_ID_BYTES];
    struct buffer line, data;
    bool after_cr;
};

/* 0, -ENOMEM, -EMSGSIZE (an event beyond EVENT_MAX_BYTES). */
int events_feed(struct events *e, const char *bytes, size_t n);
/* The connection is a new one: what was cut in the middle is dropped. */
void events_restart(struct events *e);
void events_done(struct events *e);

#endif
