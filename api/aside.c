/* aside.c: see aside.h. */
#include "api/aside.h"

#include "api/exchange.h"

#include <errno.h>
#include <stdlib.h>

enum { MAX_THREADS = 8 };

struct aside {
    struct exchange *x;
    void (*call)(struct exchange *x);
    struct aside *next;
};

struct asides {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct aside *first, **last;
    bool stopping;
    int n_threads;
    pthread_t threads[MAX_THREADS];
};

/* The next entry, NULL when stopping and empty. */
static struct aside *asides_take(struct asides *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->first && !a->stopping)
        pthread_cond_wait(&a->wake, &a->lock);
    struct aside *e = a->first;
    if (e) {
        a->first = e->next;
        if (!a->first)
            a->last = &a->first;
    }
    pthread_mutex_unlock(&a->lock);
    return e;
}

static void *aside_main(void *context)
{
    struct asides *a = context;
    for (struct aside *e; (e = asides_take(a));) {
        e->call(e->x);
        exchange_wake(e->x);
        exchange_release(e->x);
        free(e);
    }
    return NULL;
}

int asides_create(int n_threads, struct asides **ret_asides)
{
    struct asides *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->wake, NULL);
    a->last = &a->first;
    for (int rc = 0; a->n_threads < n_threads && a->n_threads < MAX_THREADS; a->n_threads++) {
        rc = pthread_create(&a->threads[a->n_threads], NULL, aside_main, a);
        if (rc) {
            asides_free(a);
            return -rc;
        }
    }
    *ret_asides = a;
    return 0;
}

void asides_free(struct asides *a)
{
    if (!a)
        return;
    pthread_mutex_lock(&a->lock);
    a->stopping = true;
    pthread_cond_broadcast(&a->wake);
    pthread_mutex_unlock(&a->lock);
    for (int i = 0; i < a->n_threads; i++)
        pthread_join(a->threads[i], NULL);
    pthread_cond_destroy(&a->wake);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

int asides_add(struct asides *a, struct exchange *x, void (*call)(struct exchange *x))
{
    struct aside *e = malloc(sizeof(*e));
    if (!e)
        return -ENOMEM;
    *e = (struct aside){x, call, NULL};
    exchange_retain(x);
    pthread_mutex_lock(&a->lock);
    *a->last = e;
    a->last = &e->next;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
    return 0;
}
