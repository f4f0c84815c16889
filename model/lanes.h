/* lanes.h: a resident network and its pool of images in flight ("lanes") on one device.
 *
 * The device runs rows (schedule.h) and knows no method. One lane is one image: its state x, the last x0 prediction,
 * its noise key. A step is one UNet forward over any set of lanes, each with its own timestep, class and row; a lane's
 * bits depend on its own fields alone, not on the set. All calls from the device's worker thread. Nothing is allocated
 * after creation.
 */
#ifndef DDIMD_MODEL_LANES_H
#define DDIMD_MODEL_LANES_H

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "model/schedule.h"

struct network;
struct lane_pool;

/* Uploads weights, compiles plans for every batch size up to max_rows. precision: compute dtype. The checkpoint may be
 * closed afterwards; the device must outlive the network. 0, -EINVAL (the file's tensors, or max_rows < 1), -ENOTSUP
 * (the backend has no primitive for a layer), -ENOMEM. */
int network_create(struct device *d, const struct checkpoint *c, enum dtype precision, int32_t max_rows,
                   struct network **ret_network, struct error *err);
void network_free(struct network *n);              // NULL is fine; its pools first
size_t network_bytes(const struct network *n);     // on the device: weights, activations, inputs
int32_t network_max_rows(const struct network *n); // as given
int32_t network_n_nodes(const struct network *n);  // of the plan for the largest batch, for reports

/* eps = unet(x, t, y), 1 <= n <= max_rows rows; for tests and benchmarks. x, ret_eps: [n, H, W, C] f32 on the device;
 * t, y: [n] on the host. 0, -EIO (device lost). */
int network_forward(struct network *net, int32_t n, const float *x, const float *t, const int32_t *y, float *ret_eps,
                    struct error *err);

/* capacity >= 1: lanes. The network must outlive the pool. 0, -EINVAL (a network whose input and output differ in
 * channels), -ENOMEM. */
int lane_pool_create(struct network *n, int32_t capacity, struct lane_pool **ret_pool, struct error *err);
void lane_pool_free(struct lane_pool *p);          // NULL is fine
size_t lane_pool_bytes(const struct lane_pool *p); // on the device

struct lane_step {
    int32_t slot;
    int32_t class_index; // num_classes is the null class
    float guidance;      // 1: one batch row, else two
    bool clip;
    const struct step_row *row;
    uint64_t seed, image;
    uint32_t draw; // 1 + number of this executed step
};

/* x of the slot = starting noise of (seed, image), x0 prediction = 0: nothing is left of the slot's last lane. 0, -EIO
 * (device lost). */
int lane_pool_start(struct lane_pool *p, int32_t slot, uint64_t seed, uint64_t image);
/* x of the slot = an image [H, W, C], x0 prediction = 0. 0, -EIO (device lost). */
int lane_pool_write(struct lane_pool *p, int32_t slot, const float *image);
/* One step of n lanes, all in different slots (rows, counting two for guidance, <= max_rows). ret_finite[i] = 0: lane
 * i's state is no longer finite. Slots that ascend without gaps, none guided, are read in place, others are gathered
 * first. 0, -EIO (device lost). */
int lane_pool_step(struct lane_pool *p, const struct lane_step *lanes, int32_t n, uint8_t *ret_finite);
/* Copies x (or the last x0 prediction) of a slot to the host: [H, W, C] f32. 0, -EIO (device lost). */
int lane_pool_read(struct lane_pool *p, int32_t slot, bool x0, float *ret_image);

#endif
