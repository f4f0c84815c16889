/* log.c: see log.h. */
#include "daemon/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

void log_init(struct log *l, int max_priority)
{
    const char *stream = getenv("JOURNAL_STREAM");
    *l = (struct log){.max_priority = max_priority, .journal = stream && *stream};
}

static const char *level_name(int priority)
{
    return priority <= LOG_ERR       ? "error"
           : priority == LOG_WARNING ? "warning"
           : priority == LOG_DEBUG   ? "debug"
                                     : "info";
}

static int prefix(const struct log *l, int priority, char *to, size_t bytes)
{
    if (l->journal)
        return snprintf(to, bytes, "<%d>", priority);
    struct timeval now;
    struct tm local;
    char clock[32];
    gettimeofday(&now, NULL);
    localtime_r(&now.tv_sec, &local);
    strftime(clock, sizeof(clock), "%Y-%m-%dT%H:%M:%S", &local);
    return snprintf(to, bytes, "%s.%03d %s ", clock, (int)(now.tv_usec / 1000), level_name(priority));
}

void log_callback(void *context, int priority, const char *line)
{
    const struct log *l = context;
    char out[1200];
    if (priority > l->max_priority)
        return;
    int n = prefix(l, priority, out, sizeof(out));
    n += snprintf(out + n, sizeof(out) - (size_t)n - 1, "%s", line);
    if (n > (int)sizeof(out) - 2)
        n = (int)sizeof(out) - 2;
    for (int i = 0; i < n; i++)
        if (out[i] == '\n')
            out[i] = ' ';
    out[n++] = '\n';
    if (write(STDERR_FILENO, out, (size_t)n) < 0)
        return; // nowhere to say it
}

void log_line(const struct log *l, int priority, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    log_callback((void *)l, priority, line);
}
