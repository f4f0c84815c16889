/* notify.c: see notify.h. */
#include "daemon/notify.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>
#include <time.h>

enum { STATUS_BYTES = 256 };

static void send_status(const char *state, const char *format, va_list args)
{
    char status[STATUS_BYTES];
    vsnprintf(status, sizeof(status), format, args);
    for (char *c = status; *c; c++)
        if ((unsigned char)*c < 0x20)
            *c = ' '; // a newline would begin another assignment
    sd_notifyf(0, "%sSTATUS=%s", state, status);
}

void notify_status(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    send_status("", format, args);
    va_end(args);
}

void notify_ready(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    send_status("READY=1\n", format, args);
    va_end(args);
}

void notify_reloading(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t usec = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRId64 "\nSTATUS=Reading the configuration again", usec);
}

void notify_stopping(const char *status)
{
    sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

void notify_extend(int64_t ns)
{
    sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRId64, ns / 1000);
}

void notify_failed(int error, const char *status)
{
    sd_notifyf(0, "STOPPING=1\nERRNO=%d\nSTATUS=%s", error, status);
}

void notify_alive(void)
{
    sd_notify(0, "WATCHDOG=1");
}

int64_t notify_alive_interval_ns(void)
{
    uint64_t usec = 0;
    return sd_watchdog_enabled(0, &usec) > 0 ? (int64_t)usec * 1000 / 4 : 0;
}
