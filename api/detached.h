/* detached.h: generations that become jobs, by the headers Prefer: respond-async and Idempotency-Key. */
#ifndef DDIMD_API_DETACHED_H
#define DDIMD_API_DETACHED_H

#include <stdbool.h>

struct exchange;

/* HTTP thread, x->work->recipe is resolved. True where a header asks for it: then the rest of the request is in its
 * hands. */
bool detach(struct exchange *x);

#endif
