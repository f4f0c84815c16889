/* account.c: clients, and the device time that each used lately.
 *
 * Use decays with a half-life, so a fair share is a share of the last half minute or so: a client that comes once in a
 * while finds itself with less use than those who load the device all the time, and is served first; nobody saves up
 * claims for longer than that.
 */
#include "sampling/internal.h"

#include <math.h>
#include <stdlib.h>

double account_seconds(struct account *a, int64_t now_ns)
{
    if (now_ns > a->stamp_ns) {
        a->seconds *= exp2((double)(now_ns - a->stamp_ns) / (-1e9 * ACCOUNT_HALF_LIFE_S));
        a->stamp_ns = now_ns;
    }
    return a->seconds;
}

int32_t account_level(const struct account *a)
{
    return (int32_t)(a->seconds / ACCOUNT_LEVEL_S);
}

static void forget_idle(struct account **list, int64_t now_ns)
{
    while (*list) {
        struct account *a = *list;
        if (a->requests == 0 && account_seconds(a, now_ns) < 1e-3) {
            *list = a->next;
            free(a);
        } else {
            list = &a->next;
        }
    }
}

struct account *account_get(struct account **list, uint64_t client, int64_t now_ns)
{
    for (struct account *a = *list; a; a = a->next)
        if (a->client == client)
            return a;
    forget_idle(list, now_ns);
    struct account *a = calloc(1, sizeof(*a));
    if (a) {
        a->client = client;
        a->stamp_ns = now_ns;
        a->next = *list;
        *list = a;
    }
    return a;
}

void accounts_mark_over(struct account *list, int64_t now_ns)
{
    double sum = 0;
    int32_t n = 0;
    for (struct account *a = list; a; a = a->next)
        if (a->requests > 0) {
            sum += account_seconds(a, now_ns);
            n++;
        }
    for (struct account *a = list; a; a = a->next)
        a->over = a->requests > 0 && n > 1 && a->seconds * n > 1.5 * sum;
}

void accounts_free(struct account *list)
{
    while (list) {
        struct account *a = list;
        list = a->next;
        free(a);
    }
}
