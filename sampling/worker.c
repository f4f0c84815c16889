/* worker.c: the thread that owns the device, and calls onto it.
 *
 * The alive hook is called from its loop, not from a timer: a worker that hangs in the device is silent.
 */
#include "sampling/internal.h"

#include <errno.h>
#include <time.h>

void scheduler_changed(struct scheduler *s)
{
    s->changes++;
    pthread_cond_broadcast(&s->wake);
}

/* True on the worker, and where there is none, so that calls run in the caller. */
static bool on_worker(struct worker *w)
{
    pthread_mutex_lock(&w->s->lock);
    bool here = !w->exists || (w->known && pthread_equal(w->thread, pthread_self()));
    pthread_mutex_unlock(&w->s->lock);
    return here;
}

bool worker_run_post(struct worker *w)
{
    struct scheduler *s = w->s;
    pthread_mutex_lock(&s->lock);
    struct scheduler_post *post = w->posts;
    if (post) {
        w->posts = post->next;
        if (!w->posts)
            w->posts_end = &w->posts;
    }
    pthread_mutex_unlock(&s->lock);
    if (post)
        post->call(post);
    return post != NULL;
}

void scheduler_post(struct scheduler *s, int32_t device, struct scheduler_post *post)
{
    struct worker *w = &s->workers[device];
    pthread_mutex_lock(&s->lock);
    bool queue = w->exists;
    if (queue) {
        post->next = NULL;
        *w->posts_end = post;
        w->posts_end = &post->next;
        pthread_cond_broadcast(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (!queue) {
        pthread_mutex_lock(&s->inline_lock);
        post->call(post);
        pthread_mutex_unlock(&s->inline_lock);
    }
}

/* A call that its caller waits for; lies on the caller's stack. */
struct waited_call {
    struct scheduler_post post; // first
    struct scheduler *s;
    int (*call)(void *context);
    void *context;
    int result;
    bool done;
};

static int run_call(struct waited_call *c)
{
    pthread_mutex_lock(&c->s->lock);
    bool lost = c->s->stats.device_lost, refused = lost || c->s->stopping;
    pthread_mutex_unlock(&c->s->lock);
    return !refused ? c->call(c->context) : lost ? -EIO : -ESHUTDOWN;
}

static void run_waited(struct scheduler_post *post)
{
    struct waited_call *c = (struct waited_call *)post;
    struct scheduler *s = c->s;
    int result = run_call(c);
    pthread_mutex_lock(&s->lock);
    c->result = result;
    c->done = true;
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
}

int scheduler_call(struct scheduler *s, int32_t device, int (*call)(void *context), void *context)
{
    struct worker *w = &s->workers[device];
    struct waited_call c = {{run_waited, NULL}, s, call, context, 0, false};
    if (on_worker(w)) {
        pthread_mutex_lock(&s->inline_lock);
        int result = run_call(&c);
        pthread_mutex_unlock(&s->inline_lock);
        return result;
    }
    scheduler_post(s, w->device, &c.post);
    pthread_mutex_lock(&s->lock);
    while (!c.done)
        pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return c.result;
}

/* Whether the worker has something to look for. Lock held. */
static bool has_work(const struct worker *w)
{
    const struct scheduler *s = w->s;
    return w->posts || (s->oldest && !(w->idle && w->seen == s->changes));
}

/* Waits until there is something to do, a second at most. False: stop. */
static bool wait_for_work(struct worker *w)
{
    struct scheduler *s = w->s;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping && !has_work(w))
        if (pthread_cond_timedwait(&s->wake, &s->lock, &until) == ETIMEDOUT)
            break;
    bool stop = s->stopping && !w->posts;
    pthread_mutex_unlock(&s->lock);
    return !stop;
}

/* One that hangs must not be covered up by the others. Lock held. */
static bool note_turn(struct worker *w)
{
    const int64_t longest_ns = INT64_C(30000000000);
    struct scheduler *s = w->s;
    bool all = true;
    w->turned_ns = scheduler_now_ns(s);
    for (int32_t d = 0; d < s->n_devices; d++)
        all = all && w->turned_ns - s->workers[d].turned_ns < longest_ns;
    return all;
}

void *scheduler_worker(void *context)
{
    struct worker *w = context;
    struct scheduler *s = w->s;
    pthread_mutex_lock(&s->lock);
    w->thread = pthread_self();
    w->known = true;
    pthread_mutex_unlock(&s->lock);
    while (wait_for_work(w)) {
        while (worker_run_post(w))
            continue;
        scheduler_turn(s, w->device);
        pthread_mutex_lock(&s->lock);
        bool alive = note_turn(w) && !s->stats.device_lost;
        pthread_mutex_unlock(&s->lock);
        if (s->o.alive && alive)
            s->o.alive(s->o.context);
    }
    return NULL;
}
