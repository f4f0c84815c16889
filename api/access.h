/* access.h: whether a request may be served at all: by its Host, its Origin and its key.
 *
 * Three dangers, three answers. A stranger's page whose name leads to this machine (DNS rebinding): without keys only
 * known hosts are served. A stranger's page that sends requests from its visitor's browser: other origins are refused,
 * and none may read an answer unless it is listed (CORS). A stranger: with keys, every route says who may use it.
 * HTTP thread; answers the problem itself.
 */
#ifndef DDIMD_API_ACCESS_H
#define DDIMD_API_ACCESS_H

#include "api/exchange.h"

/* True where the exchange, whose route is known, may go on; else it is answered. Sets x->key. */
bool access_check(struct exchange *x);
/* Headers that every answer has: what a listed origin may read, what a browser may not do. */
void access_headers(struct exchange *x);
/* For OPTIONS: what a listed origin may send. */
void access_preflight(struct exchange *x, const char *allow);

/* Whether this Host is one's own machine: an address, localhost, or a name without a dot, which nobody on the Internet
 * can own. */
bool access_host_is_local(const char *host);

#endif
