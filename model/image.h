/* image.h: pixels, grids, PNG. Pure functions of their arguments, any thread.
 */
#ifndef DDIMD_MODEL_IMAGE_H
#define DDIMD_MODEL_IMAGE_H

#include "kernels/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct image8 {
    int32_t height, width, channels; // channels 1 or 3
    uint8_t *pixels;                 // [height, width, channels], malloc'd
};
void image8_done(struct image8 *im);

/* [-1, 1] -> 0..255: floor(255 (x / 2 + 1 / 2) + 1 / 2), clamped, in f32 as the oracle computes it; NaN -> 0. */
void image_to_uint8(const float *x, size_t n, uint8_t *ret_pixels);
/* The inverse used for data: x = p / 127.5 - 1. */
void image_from_uint8(const uint8_t *p, size_t n, float *ret_x);

/* torchvision.utils.make_grid: n images [n, H, W, C], at most nrow per row, `padding` pixels of value 0 around each,
 * always RGB (one channel is repeated); one image alone has no padding. 0, -EINVAL (sizes), -ENOMEM. */
int image_grid(const uint8_t *images, int32_t n, int32_t height, int32_t width, int32_t channels, int32_t nrow,
               int32_t padding, struct image8 *ret_grid);

/* Whole-pixel enlargement; one channel, luma L = (299 R + 587 G + 114 B + 500) / 1000. The result is a new image.
 * 0, -EINVAL (sizes), -ENOMEM. */
int image_scale(const struct image8 *in, int32_t scale, struct image8 *ret_image);
int image_to_grayscale(const struct image8 *in, struct image8 *ret_image);

/* PNG with up to one tEXt/iTXt chunk (keyword, text; NULL for none). Bytes are a function of the arguments. *ret_png
 * malloc'd. 0, -ENOMEM, -EINVAL. */
int image_png_encode(const struct image8 *im, const char *keyword, const char *text, uint8_t **ret_png,
                     size_t *ret_bytes);

/* Reads back the text of the first tEXt or uncompressed iTXt chunk with this keyword, at most 1 MiB, without decoding
 * the image. The file is not trusted. *ret_text: malloc'd, NUL-terminated, not checked for UTF-8. 0, -ENOENT (no such
 * chunk), -EINVAL (not a PNG file, or damaged), -ENOMEM. */
int image_png_text(const uint8_t *png, size_t bytes, const char *keyword, char **ret_text, struct error *err);

#endif
