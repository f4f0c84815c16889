/* plan.h: where every tensor of a graph lies during a run: offsets in one arena, by lifetime.
 *
 * Pure functions of a graph, any thread. A tensor lives from the node that writes it to the last node that reads it;
 * two tensors share memory only if they never live together, or where graph.h allows an output in place of an input.
 * Views lie inside their base. Inputs, outputs and parameter gradients are bound by the caller; parameters have no
 * place.
 */
#ifndef DDIMD_PLAN_H
#define DDIMD_PLAN_H

#include "kernels/backend.h"

enum { PLAN_ALIGN_BYTES = 64 };

struct plan {
    struct place *places; // [n_tensors]; base -1: no place (parameters, tensors of no node)
    size_t arena_bytes;
};

/* Plans g as it stands. *ret_plan is the caller's, to plan_done(). Returns 0, -ENOMEM. */
int plan_init(struct plan *ret_plan, const struct graph *g);
void plan_done(struct plan *p);

#endif
