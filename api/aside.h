/* aside.h: a few helper threads for what may block: loading a model, reading model files.
 *
 * HTTP threads never wait for them: exchange_aside() suspends the connection.
 */
#ifndef DDIMD_API_ASIDE_H
#define DDIMD_API_ASIDE_H

struct asides;
struct exchange;

int asides_create(int n_threads, struct asides **ret_asides); // 0, -ENOMEM, -EAGAIN
/* Waits until all that was queued is done. NULL is fine. */
void asides_free(struct asides *a);

/* Runs call(x) on a helper thread, in order of arrival; then exchange_wake(x), and drops the reference that this takes.
 * 0, -ENOMEM. */
int asides_add(struct asides *a, struct exchange *x, void (*call)(struct exchange *x));

#endif
