/* crowd.c: see crowd.h. A list, since connections are few (thousands) and accepting is rare (thousands a second). */
#include "api/crowd.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct member {
    uint64_t address;
    int n;
};

struct crowd {
    pthread_mutex_t lock;
    int max_all, max_each, n_all;
    struct member *members; // addresses with at least one connection
    int n_members, room;
};

int crowd_create(int max_all, int max_each, struct crowd **ret_crowd)
{
    struct crowd *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    pthread_mutex_init(&c->lock, NULL);
    c->max_all = max_all;
    c->max_each = max_each;
    *ret_crowd = c;
    return 0;
}

void crowd_free(struct crowd *c)
{
    if (!c)
        return;
    pthread_mutex_destroy(&c->lock);
    free(c->members);
    free(c);
}

void crowd_limit(struct crowd *c, int max_all, int max_each)
{
    pthread_mutex_lock(&c->lock);
    c->max_all = max_all;
    c->max_each = max_each;
    pthread_mutex_unlock(&c->lock);
}

/* The member of an address, made where it is missing; NULL without memory. Locked. */
static struct member *member_get(struct crowd *c, uint64_t address)
{
    for (int i = 0; i < c->n_members; i++)
        if (c->members[i].address == address)
            return &c->members[i];
    if (c->n_members == c->room) {
        int room = c->room ? 2 * c->room : 16;
        struct member *more = realloc(c->members, (size_t)room * sizeof(*more));
        if (!more)
            return NULL;
        c->members = more;
        c->room = room;
    }
    c->members[c->n_members] = (struct member){address, 0};
    return &c->members[c->n_members++];
}

int crowd_enter(struct crowd *c, uint64_t address)
{
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    struct member *m = member_get(c, address);
    if (!m) {
        rc = -ENOMEM;
    } else {
        m->n++;
        c->n_all++;
        if (c->n_all > c->max_all)
            rc = -EMFILE;
        else if (address && c->max_each && m->n > c->max_each)
            rc = -EDQUOT;
    }
    pthread_mutex_unlock(&c->lock);
    return rc;
}

void crowd_leave(struct crowd *c, uint64_t address)
{
    pthread_mutex_lock(&c->lock);
    struct member *m = member_get(c, address);
    c->n_all--;
    if (m && --m->n <= 0)
        *m = c->members[--c->n_members];
    pthread_mutex_unlock(&c->lock);
}
