/* server.h: libmicrohttpd's part: requests as exchanges (exchange.h), on the gate's thread.
 *
 * A daemon without a listening socket and without threads: the gate gives it connections and turns it.
 */
#ifndef DDIMD_API_SERVER_H
#define DDIMD_API_SERVER_H

#include "api/private.h"

struct MHD_Daemon;
struct gate;

/* One HTTP thread. Outlives the daemon. */
struct front {
    struct api *api;
    struct gate *gate;
    struct MHD_Daemon *http;
};

/* NULL without descriptors or memory. The gate is there before the first connection. */
struct MHD_Daemon *server_start(struct front *f);

#endif
