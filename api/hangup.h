/* hangup.h: notices clients that hang up while their request waits.
 *
 * libmicrohttpd does not look at a suspended connection, so a thread with an epoll set of its own does. A client that
 * only closes its sending side counts as gone too.
 */
#ifndef DDIMD_API_HANGUP_H
#define DDIMD_API_HANGUP_H

#include <stdint.h>

struct hangup;
struct exchange;

/* gone(x) runs on the watching thread, once for each watch at most; x is referenced meanwhile. 0, -ENOMEM, -EMFILE,
 * -EAGAIN. */
int hangup_create(void (*gone)(struct exchange *x), struct hangup **ret_hangup);
void hangup_free(struct hangup *h); // NULL is fine; whatever is still watched is let go

/* Watches a socket; takes a reference to x until hangup_unwatch(). Returns the watch, or WATCH_NONE (then a hang-up is
 * only noticed when the answer is written). */
int64_t hangup_watch(struct hangup *h, int fd, struct exchange *x);
/* Before the socket is closed. Afterwards gone(x) does not begin any more. WATCH_NONE is fine. */
void hangup_unwatch(struct hangup *h, int64_t watch);

#endif
