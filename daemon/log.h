/* log.h: lines to the standard error output, for a person or for the journal.
 *
 * Under systemd (JOURNAL_STREAM is set) a line begins with its priority, "<6>"; else with time and level. Any thread;
 * a line is one write.
 */
#ifndef DDIMD_DAEMON_LOG_H
#define DDIMD_DAEMON_LOG_H

#include <stdbool.h>

struct log {
    int max_priority; // syslog.h: LOG_ERR .. LOG_DEBUG
    bool journal;
};

void log_init(struct log *l, int max_priority);
void log_line(const struct log *l, int priority, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* struct api_options.log; context is a struct log. */
void log_callback(void *context, int priority, const char *line);

#endif
