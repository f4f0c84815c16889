/* resize.h: 8-bit images enlarged or shrunk to a network's input, as the published evaluations do it, to the bit.
 *
 * Pure functions of their arguments, any thread.
 */
#ifndef DDIMD_MODEL_RESIZE_H
#define DDIMD_MODEL_RESIZE_H

#include <stdint.h>

enum resize {
    RESIZE_TF1,         // TensorFlow 1's bilinear without half-pixel centres, then (x - 128) / 128: FID's own, and
                        // torch-fidelity's
    RESIZE_PYTORCH_FID, // x / 255, PyTorch's bilinear with half-pixel centres, then 2 x - 1: pytorch-fid's
    RESIZE_COUNT
};
extern const char *const resize_names[RESIZE_COUNT + 1]; // "tf1", "pytorch-fid", NULL

/* pixels: [h, w, c], c 1 (repeated three times) or 3. ret_image: [out, out, 3]. No antialiasing, as both do. */
void resize_image(enum resize how, const uint8_t *pixels, int32_t h, int32_t w, int32_t c, int32_t out,
                  float *ret_image);

#endif
