/* events.c: see events.h. */
#include "clients/ddimctl/events.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An event counts once it is whole: where it was cut, the next connection brings it again. */
static void end_event(struct events *e)
{
    memcpy(e->last_id, e->id, sizeof(e->last_id));
    if (e->data.n) {
        e->data.data[--e->data.n] = '\0'; // the last line's newline
        e->n++;
        e->on_event(e->context, e->name[0] ? e->name : "message", e->data.data);
    }
    e->name[0] = '\0';
    e->data.n = 0;
}

static int end_line(struct events *e)
{
    char *line = e->line.data;
    size_t n = e->line.n;
    e->line.n = 0;
    if (n == 0) {
        end_event(e);
        return 0;
    }
    size_t field = strcspn(line, ":");
    const char *value = line + field + (line[field] == ':') + (line[field] == ':' && line[field + 1] == ' ');
    line[field] = '\0';
    if (strcmp(line, "event") == 0)
        snprintf(e->name, sizeof(e->name), "%s", value);
    else if (strcmp(line, "id") == 0)
        snprintf(e->id, sizeof(e->id), "%s", value);
    else if (strcmp(line, "data") == 0 && (buffer_add(&e->data, value, strlen(value)) || buffer_add(&e->data, "\n", 1)))
        return -ENOMEM;
    return 0; // others and comments (an empty field) say nothing
}

int events_feed(struct events *e, const char *bytes, size_t n)
{
    int rc = 0;
    while (n && rc == 0) {
        if (e->after_cr && *bytes == '\n') // CR LF is one end
            bytes++, n--;
        e->after_cr = false;
        size_t span = 0;
        while (span < n && bytes[span] != '\n' && bytes[span] != '\r')
            span++;
        if (e->line.n + e->data.n + span > EVENT_MAX_BYTES)
            return -EMSGSIZE;
        rc = buffer_add(&e->line, bytes, span);
        if (rc == 0 && span < n) {
            e->after_cr = bytes[span] == '\r';
            rc = end_line(e);
            span++;
        }
        bytes += span;
        n -= span;
    }
    return rc;
}

void events_restart(struct events *e)
{
    e->name[0] = '\0';
    memcpy(e->id, e->last_id, sizeof(e->id));
    e->line.n = e->data.n = 0;
    e->after_cr = false;
}

void events_done(struct events *e)
{
    free(e->line.data);
    free(e->data.data);
    *e = (struct events){0};
}
