/* log.c: see log.h. */
#include "daemon/log.h"

#include <ctype.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024, MAX_FIELDS = 24 };

/* Whether the standard error output is what the service manager connected to the journal: by device and inode, since
 * the variable is inherited also by those whose output goes elsewhere. */
static bool is_journal_stream(void)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;
    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == device && st.st_ino == inode;
}

void log_init(struct log *l, int max_priority, enum log_format format)
{
    bool stream = is_journal_stream();
    l->format = format;
    l->stream = stream;
    l->journal = stream && access("/run/systemd/journal/socket", W_OK) == 0;
    log_set_level(l, max_priority);
}

void log_set_level(struct log *l, int max_priority)
{
    atomic_store(&l->max_priority, max_priority);
}

static const char *level_name(int priority)
{
    return priority <= LOG_ERR       ? "error"
           : priority == LOG_WARNING ? "warning"
           : priority == LOG_DEBUG   ? "debug"
                                     : "info";
}

static int clock_text(char *to, size_t bytes, const char *format_of_zone)
{
    struct timeval now;
    struct tm local;
    char seconds[32], zone[16] = "";
    gettimeofday(&now, NULL);
    localtime_r(&now.tv_sec, &local);
    strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &local);
    if (*format_of_zone)
        strftime(zone, sizeof(zone), format_of_zone, &local);
    return snprintf(to, bytes, "%s.%03d%s", seconds, (int)(now.tv_usec / 1000), zone);
}

/* ---- to the standard error output ---- */

static void text_write(const struct log *l, int priority, const char *line)
{
    char out[LINE_BYTES + 64];
    int n = 0;
    if (l->stream) {
        n = snprintf(out, sizeof(out), "<%d>", priority);
    } else {
        n = clock_text(out, sizeof(out), "");
        n += snprintf(out + n, sizeof(out) - (size_t)n, " %s ", level_name(priority));
    }
    n += snprintf(out + n, sizeof(out) - (size_t)n - 1, "%s", line);
    out[n++] = '\n';
    if (write(STDERR_FILENO, out, (size_t)n) < 0)
        return; // nowhere to say it
}

/* A value that reads as a number is one, but for names and ids. */
static json_t *value_json(const struct log_field *f)
{
    char *end;
    double number = strtod(f->value, &end);
    size_t n = strlen(f->value);
    bool plain = n && strspn(f->value, "0123456789.-") == n && *end == '\0';
    if (plain && strcmp(f->key, "id") && strcmp(f->key, "name") && strcmp(f->key, "model"))
        return strchr(f->value, '.') ? json_real(number) : json_integer(strtoll(f->value, NULL, 10));
    return json_string(f->value);
}

static void json_write(int priority, const char *line)
{
    char copy[LINE_BYTES], clock[64];
    struct log_field fields[MAX_FIELDS];
    snprintf(copy, sizeof(copy), "%s", line);
    int n = log_fields_split(copy, fields, MAX_FIELDS);
    clock_text(clock, sizeof(clock), "%z");
    json_t *json = json_pack("{s:s, s:s, s:s}", "time", clock, "level", level_name(priority), "message", line);
    for (int i = 0; json && i < n; i++)
        json_object_set_new_nocheck(json, fields[i].key, value_json(&fields[i]));
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(12)) : NULL;
    if (text) {
        struct iovec parts[] = {{text, strlen(text)}, {"\n", 1}};
        if (writev(STDERR_FILENO, parts, 2) < 0)
            clock[0] = '\0'; // nowhere to say it
    }
    free(text);
    json_decref(json);
}

/* ---- to the journal ---- */

/* "status", "200" -> "DDIMD_STATUS=200" */
static size_t journal_field(char *to, size_t bytes, const struct log_field *f)
{
    int n = snprintf(to, bytes, "DDIMD_%s=%s", f->key, f->value);
    for (char *c = to + strlen("DDIMD_"); *c && *c != '='; c++)
        *c = (char)toupper((unsigned char)*c);
    return n < (int)bytes ? (size_t)n : bytes - 1;
}

static bool journal_write(int priority, const char *line)
{
    char copy[LINE_BYTES], message[LINE_BYTES + 16], level[16], texts[MAX_FIELDS][LINE_BYTES / 2];
    struct log_field fields[MAX_FIELDS];
    struct iovec parts[MAX_FIELDS + 3];
    snprintf(copy, sizeof(copy), "%s", line);
    snprintf(message, sizeof(message), "MESSAGE=%s", line);
    snprintf(level, sizeof(level), "PRIORITY=%d", priority);
    int n = log_fields_split(copy, fields, MAX_FIELDS), k = 0;
    parts[k++] = (struct iovec){message, strlen(message)};
    parts[k++] = (struct iovec){level, strlen(level)};
    parts[k++] = (struct iovec){"SYSLOG_IDENTIFIER=ddimd", strlen("SYSLOG_IDENTIFIER=ddimd")};
    for (int i = 0; i < n; i++, k++)
        parts[k] = (struct iovec){texts[i], journal_field(texts[i], sizeof(texts[i]), &fields[i])};
    return sd_journal_sendv(parts, k) >= 0;
}

/* ---- both ---- */

void log_callback(void *context, int priority, const char *line)
{
    const struct log *l = context;
    char clean[LINE_BYTES];
    if (priority > atomic_load(&l->max_priority))
        return;
    snprintf(clean, sizeof(clean), "%s", line);
    for (char *c = clean; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = ' ';
    if (l->format == LOG_FORMAT_JSON)
        json_write(priority, clean);
    else if (!l->journal || !journal_write(priority, clean))
        text_write(l, priority, clean);
}

void log_line(const struct log *l, int priority, const char *format, ...)
{
    char line[LINE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    log_callback((void *)l, priority, line);
}
