/* crowd.h: how many connections there are, in all and from each address.
 *
 * Shared by the threads that accept; any thread. An address is a number that its owner chose, 0 for what is not counted
 * by address.
 */
#ifndef DDIMD_API_CROWD_H
#define DDIMD_API_CROWD_H

#include <stdint.h>

struct crowd;
/* At most max_all connections, of which at most max_each (0: no limit) from one address; both can be changed later.
 * 0, -ENOMEM. */
int crowd_create(int max_all, int max_each, struct crowd **ret_crowd);
void crowd_free(struct crowd *c); // NULL is fine
void crowd_limit(struct crowd *c, int max_all, int max_each);

/* One more; also where it is over a limit, since a refusal is a connection, too. Returns 0, -EMFILE (over max_all),
 * -EDQUOT (over max_each), -ENOMEM: only then it is not counted. */
int crowd_enter(struct crowd *c, uint64_t address);
void crowd_leave(struct crowd *c, uint64_t address);

#endif
