/* log.h: one line for each thing that happens, for a person, for the journal, or as JSON.
 *
 * A line is a sentence, or an event: a word and key=value pairs (`request id=... status=200 total_ms=1.25`), values
 * with spaces in double quotes. An event's pairs become fields of the journal (DDIMD_STATUS=200) and of JSON lines.
 *
 * text: `2026-01-31T12:00:00.000 info LINE` on the standard error output. Where that is the journal's stream, the line
 * goes to the journal itself with its priority and fields; where the journal cannot be reached so, it goes to the
 * stream with the priority in front (`<6>`).
 * json: one object for each line, on the standard error output.
 *
 * Any thread; a line is one write.
 */
#ifndef DDIMD_DAEMON_LOG_H
#define DDIMD_DAEMON_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

struct log {
    atomic_int max_priority; // syslog.h: LOG_ERR .. LOG_DEBUG
    enum log_format format;
    bool stream;  // the journal reads the standard error output
    bool journal; // and can be talked to directly
};

void log_init(struct log *l, int max_priority, enum log_format format);
void log_set_level(struct log *l, int max_priority);
void log_line(const struct log *l, int priority, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* struct api_options.log; context is a struct log. */
void log_callback(void *context, int priority, const char *line);

/* The pairs of an event's line; 0 where it is a sentence. Keys and values point into `copy`, which begins as a copy of
 * the line and is cut up; the first pair's key is "event". At most max of them, the rest is left out. */
struct log_field {
    const char *key, *value;
};
int log_fields_split(char *copy, struct log_field *ret_fields, int max);

#endif
