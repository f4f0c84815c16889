/* hangup.c: see hangup.h. An event carries the number of its slot and how often the slot was used, not a pointer: what
 * epoll_wait() returned may be over by the time that it is looked at. */
#include "api/hangup.h"

#include "api/exchange.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct slot {
    struct exchange *x; // NULL: free
    int fd;
    uint32_t uses;
    int32_t next_free;
};

struct hangup {
    void (*gone)(struct exchange *x);
    int epoll_fd, stop_fd;
    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    struct slot *slots;
    int32_t n_slots, first_free;
};

static const uint64_t STOP = UINT64_MAX;

static uint64_t watch_id(const struct hangup *h, int32_t i)
{
    return (uint64_t)(h->slots[i].uses & 0x7fffffff) << 32 | (uint32_t)i;
}

/* The exchange of an event, referenced; NULL where the watch is over. */
static struct exchange *slot_lookup(struct hangup *h, uint64_t id)
{
    struct exchange *x = NULL;
    pthread_mutex_lock(&h->lock);
    int32_t i = (int32_t)(uint32_t)id;
    if (h->slots[i].x && watch_id(h, i) == id) {
        x = h->slots[i].x;
        exchange_retain(x);
    }
    pthread_mutex_unlock(&h->lock);
    return x;
}

static void *watch_main(void *context)
{
    struct hangup *h = context;
    struct epoll_event events[64];
    for (;;) {
        int n = epoll_wait(h->epoll_fd, events, 64, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == STOP)
                return NULL;
            struct exchange *x = slot_lookup(h, events[i].data.u64);
            if (x) {
                h->gone(x);
                exchange_release(x);
            }
        }
    }
}

int hangup_create(void (*gone)(struct exchange *x), struct hangup **ret_hangup)
{
    struct hangup *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    h->gone = gone;
    h->first_free = -1;
    pthread_mutex_init(&h->lock, NULL);
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    h->stop_fd = eventfd(0, EFD_CLOEXEC);
    struct epoll_event stop = {.events = EPOLLIN, .data.u64 = STOP};
    int rc = 0;
    if (h->epoll_fd < 0 || h->stop_fd < 0 || epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, h->stop_fd, &stop))
        rc = -errno;
    else
        rc = -pthread_create(&h->thread, NULL, watch_main, h);
    h->running = rc == 0;
    if (rc) {
        hangup_free(h);
        return rc;
    }
    *ret_hangup = h;
    return 0;
}

void hangup_free(struct hangup *h)
{
    if (!h)
        return;
    if (h->running) {
        eventfd_write(h->stop_fd, 1);
        pthread_join(h->thread, NULL);
    }
    for (int32_t i = 0; i < h->n_slots; i++)
        if (h->slots[i].x)
            exchange_release(h->slots[i].x);
    if (h->epoll_fd >= 0)
        close(h->epoll_fd);
    if (h->stop_fd >= 0)
        close(h->stop_fd);
    pthread_mutex_destroy(&h->lock);
    free(h->slots);
    free(h);
}

/* A free slot, -1 without memory. Locked. */
static int32_t slot_take(struct hangup *h)
{
    if (h->first_free < 0) {
        int32_t n = h->n_slots ? 2 * h->n_slots : 64;
        struct slot *slots = realloc(h->slots, (size_t)n * sizeof(*slots));
        if (!slots)
            return -1;
        h->slots = slots;
        for (int32_t i = n - 1; i >= h->n_slots; i--) {
            slots[i] = (struct slot){.fd = -1, .next_free = h->first_free};
            h->first_free = i;
        }
        h->n_slots = n;
    }
    int32_t i = h->first_free;
    h->first_free = h->slots[i].next_free;
    return i;
}

/* Locked. Returns the exchange, whose reference is the caller's now. */
static struct exchange *slot_give(struct hangup *h, int32_t i)
{
    struct exchange *x = h->slots[i].x;
    h->slots[i].x = NULL;
    h->slots[i].uses++;
    h->slots[i].next_free = h->first_free;
    h->first_free = i;
    return x;
}

int64_t hangup_watch(struct hangup *h, int fd, struct exchange *x)
{
    int64_t watch = WATCH_NONE;
    pthread_mutex_lock(&h->lock);
    int32_t i = slot_take(h);
    if (i >= 0) {
        h->slots[i].x = x;
        h->slots[i].fd = fd;
        struct epoll_event e = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLONESHOT, .data.u64 = watch_id(h, i)};
        if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0) {
            exchange_retain(x);
            watch = (int64_t)e.data.u64;
        } else {
            slot_give(h, i);
        }
    }
    pthread_mutex_unlock(&h->lock);
    return watch;
}

void hangup_unwatch(struct hangup *h, int64_t watch)
{
    if (watch == WATCH_NONE)
        return;
    pthread_mutex_lock(&h->lock);
    int32_t i = (int32_t)(uint32_t)watch;
    epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, h->slots[i].fd, NULL);
    struct exchange *x = slot_give(h, i);
    pthread_mutex_unlock(&h->lock);
    exchange_release(x);
}
