/* estimate.c: see estimate.h. Activations are planned as the trainer's program would plan them for one image, which
 * holds for n images n times.
 */
#include "training/estimate.h"

#include "kernels/graph.h"
#include "kernels/plan.h"
#include "model/unet.h"

#include <errno.h>
#include <math.h>

// Bytes of f32: weights, average, two moments, gradient, and on the CPU a gradient for each of two strands. Bytes of
// packed copies: forward and backward of the weights, forward of the average.
enum { FLAT_VECTORS = 7, PACKED_VECTORS = 3, STATE_VECTORS = 4 };

// Bytes of the arena that one image's forward and backward pass take.
static int plan_one(const struct train_config *c, enum dtype compute, size_t *ret_bytes, struct error *err)
{
    struct plan plan;
    struct graph *g = graph_create(1, compute, true);
    if (!g)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    int32_t h = c->dataset.image_size[0], w = c->dataset.image_size[1];
    tensor_id x = graph_input(g, DTYPE_F32, h, w, c->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1), y = graph_input(g, DTYPE_I32, 1, 1, 1);
    tensor_id key = graph_input(g, DTYPE_I32, 1, 1, 4);
    tensor_id eps = graph_input(g, DTYPE_F32, h, w, c->model.out_channels);
    tensor_id weight = graph_input(g, DTYPE_F32, 1, 1, 1);
    tensor_id loss = graph_mse(g, graph_cast(g, unet_record(g, &c->model, x, t, y, key), DTYPE_F32), eps);
    graph_output(g, loss, DTYPE_F32);
    int rc = graph_error(g, err);
    if (rc == 0)
        rc = graph_fuse(g);
    if (rc == 0)
        rc = graph_gradient(g, loss, weight);
    if (rc == 0)
        rc = plan_init(&plan, g);
    if (rc == 0) {
        *ret_bytes = plan.arena_bytes;
        plan_done(&plan);
    }
    graph_free(g);
    return rc;
}

static int64_t steps_per_epoch(const struct train_config *c, int64_t n_images)
{
    const struct train_validation *v = &c->validation;
    int64_t held_out = v->images > 0 ? v->images : (int64_t)ceil(v->fraction * (double)n_images);
    int64_t n = n_images - held_out, batch = c->dataset.batch_size;
    if (n <= 0)
        return 0;
    return c->dataset.drop_last ? n / batch : (n + batch - 1) / batch;
}

// Forward passes at the ends of all epochs: validation and grids.
static double passes_at_ends(const struct train_config *c, int64_t n_images)
{
    const struct train_validation *v = &c->validation;
    const struct train_sample *s = &c->sample;
    double held_out = v->images > 0 ? (double)v->images : ceil(v->fraction * (double)n_images);
    double rows = s->guidance == 1.0f ? 1 : 2;
    return c->epochs * (held_out + (s->every ? rows * s->n * s->steps / s->every : 0));
}

// Decoded images that are kept.
static int64_t image_cache_bytes(const struct train_config *c, int64_t n_images)
{
    int64_t bytes = n_images * c->dataset.image_size[0] * c->dataset.image_size[1] * c->model.in_channels;
    bool is_folder = c->dataset.kind == DATASET_FOLDER; // the others are always kept
    return is_folder && bytes > (int64_t)c->dataset.cache_mib << 20 ? 0 : bytes;
}

int train_estimate(const struct train_config *c, int64_t n_images, bool bf16, struct train_estimate *ret_estimate,
                   struct error *err)
{
    size_t image_bytes = 0;
    int32_t at_once = c->micro_batch ? c->micro_batch : c->dataset.batch_size;
    int rc = plan_one(c, bf16 ? DTYPE_BF16 : DTYPE_F32, &image_bytes, err);
    if (rc < 0)
        return rc;
    int64_t parameters = model_config_parameters(&c->model);
    int64_t packed = bf16 ? 2 : 4;
    struct train_estimate e = {
        .parameters = parameters,
        .flop_per_step = 3 * c->dataset.batch_size *
                         model_config_flop(&c->model, c->dataset.image_size[0], c->dataset.image_size[1]),
        .steps_per_epoch = steps_per_epoch(c, n_images),
        .memory_bytes = parameters * (FLAT_VECTORS * 4 + PACKED_VECTORS * packed) + (int64_t)image_bytes * at_once +
                        parameters * 4 * (STATE_VECTORS + 1) + image_cache_bytes(c, n_images),
        .checkpoint_bytes = parameters * 4 * (1 + STATE_VECTORS),
    };
    e.steps = e.steps_per_epoch * c->epochs;
    e.flop = (double)e.steps * (double)e.flop_per_step +
             passes_at_ends(c, n_images) *
                 (double)model_config_flop(&c->model, c->dataset.image_size[0], c->dataset.image_size[1]);
    *ret_estimate = e;
    return 0;
}
