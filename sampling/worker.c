/* worker.c: the thread that owns the device, and calls onto it.
 *
 * The alive hook is called from its loop, not from a timer: a worker that hangs in the device is silent.
 */
#include "sampling/internal.h"

#include <errno.h>
#include <time.h>

/* True on the worker, and where there is none, so that calls run in the caller. */
static bool on_worker(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    bool here = !s->worker_exists || (s->worker_known && pthread_equal(s->worker, pthread_self()));
    pthread_mutex_unlock(&s->lock);
    return here;
}

bool worker_run_post(struct scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    struct scheduler_post *post = s->posts;
    if (post) {
        s->posts = post->next;
        if (!s->posts)
            s->posts_end = &s->posts;
    }
    pthread_mutex_unlock(&s->lock);
    if (post)
        post->call(post);
    return post != NULL;
}

void scheduler_post(struct scheduler *s, struct scheduler_post *post)
{
    pthread_mutex_lock(&s->lock);
    bool queue = s->worker_exists;
    if (queue) {
        post->next = NULL;
        *s->posts_end = post;
        s->posts_end = &post->next;
        pthread_cond_signal(&s->wake);
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
    bool always, done; // always: also when the device is lost or the scheduler stopped
};

static int run_call(struct waited_call *w)
{
    pthread_mutex_lock(&w->s->lock);
    bool lost = w->s->stats.device_lost, refused = (lost || w->s->stopping) && !w->always;
    pthread_mutex_unlock(&w->s->lock);
    return !refused ? w->call(w->context) : lost ? -EIO : -ESHUTDOWN;
}

static void run_waited(struct scheduler_post *post)
{
    struct waited_call *w = (struct waited_call *)post;
    struct scheduler *s = w->s;
    int result = run_call(w);
    pthread_mutex_lock(&s->lock);
    w->result = result;
    w->done = true;
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
}

int worker_call(struct scheduler *s, int (*call)(void *context), void *context, bool always)
{
    struct waited_call w = {{run_waited, NULL}, s, call, context, 0, always, false};
    if (on_worker(s)) {
        pthread_mutex_lock(&s->inline_lock);
        int result = run_call(&w);
        pthread_mutex_unlock(&s->inline_lock);
        return result;
    }
    scheduler_post(s, &w.post);
    pthread_mutex_lock(&s->lock);
    while (!w.done)
        pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return w.result;
}

int scheduler_call(struct scheduler *s, int (*call)(void *context), void *context)
{
    return worker_call(s, call, context, false);
}

/* Waits until there is something to do, a second at most. False: stop. */
static bool wait_for_work(struct scheduler *s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    pthread_mutex_lock(&s->lock);
    while (!s->stopping && !s->posts && !s->oldest)
        if (pthread_cond_timedwait(&s->wake, &s->lock, &until) == ETIMEDOUT)
            break;
    bool stop = s->stopping && !s->posts;
    pthread_mutex_unlock(&s->lock);
    return !stop;
}

void *scheduler_worker(void *context)
{
    struct scheduler *s = context;
    pthread_mutex_lock(&s->lock);
    s->worker = pthread_self();
    s->worker_known = true;
    pthread_mutex_unlock(&s->lock);
    while (wait_for_work(s)) {
        while (worker_run_post(s))
            continue;
        scheduler_turn(s);
        pthread_mutex_lock(&s->lock);
        bool lost = s->stats.device_lost;
        pthread_mutex_unlock(&s->lock);
        if (s->o.alive && !lost)
            s->o.alive(s->o.context);
    }
    return NULL;
}
