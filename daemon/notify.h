/* notify.h: what the service manager is told. Any thread; nothing happens where nobody listens (NOTIFY_SOCKET). */
#ifndef DDIMD_DAEMON_NOTIFY_H
#define DDIMD_DAEMON_NOTIFY_H

#include <stdint.h>

void notify_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A request can be served from now on; also ends a reload. The status is set with it. */
void notify_ready(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Until notify_ready(). With the time, by which a manager of Type=notify-reload tells this reload from earlier ones. */
void notify_reloading(void);
void notify_stopping(const char *status);
/* Start or stop may take so long from now on, whatever the unit's timeout says. */
void notify_extend(int64_t ns);
/* The process will end with an error: the reason, for `systemctl status`. error: an errno. */
void notify_failed(int error, const char *status);

/* The watchdog's ping, and how often it is wanted; 0: not at all. */
void notify_alive(void);
int64_t notify_alive_interval_ns(void);

#endif
