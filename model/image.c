/* image.c: pixels and grids; see image.h. PNG is in image_png.c. */
#include "model/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void image8_done(struct image8 *im)
{
    free(im->pixels);
    im->pixels = NULL;
}

/* Four roundings, as the oracle's four operations; a fused multiply-add would move ties. */
void image_to_uint8(const float *x, size_t n, uint8_t *ret_pixels)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i] * 0.5f;
        v = v + 0.5f;
        v = v * 255.0f;
        v = v + 0.5f;
        v = v > 0.0f ? v : 0.0f; // NaN too
        v = v < 255.0f ? v : 255.0f;
        ret_pixels[i] = (uint8_t)v;
    }
}

void image_from_uint8(const uint8_t *p, size_t n, float *ret_x)
{
    for (size_t i = 0; i < n; i++)
        ret_x[i] = (float)p[i] / 127.5f - 1.0f;
}

/* A zeroed image; sizes are int64 so that callers need not check their products. */
static int image8_init(int64_t height, int64_t width, int32_t channels, struct image8 *ret_image)
{
    if (height < 1 || width < 1 || height > INT32_MAX || width > INT32_MAX || height > INT32_MAX / (width * channels))
        return -EINVAL;
    uint8_t *pixels = calloc((size_t)(height * width), (size_t)channels);
    if (!pixels)
        return -ENOMEM;
    *ret_image = (struct image8){(int32_t)height, (int32_t)width, channels, pixels};
    return 0;
}

/* Copies an image [height, width, channels] into an RGB grid with its first pixel at (y, x). */
static void paste(struct image8 *grid, int64_t y, int64_t x, const uint8_t *image, int32_t height, int32_t width,
                  int32_t channels)
{
    for (int64_t row = 0; row < height; row++) {
        uint8_t *to = grid->pixels + ((y + row) * grid->width + x) * 3;
        const uint8_t *from = image + row * width * channels;
        if (channels == 3)
            memcpy(to, from, (size_t)width * 3);
        else
            for (int32_t i = 0; i < width; i++)
                memset(to + 3 * (size_t)i, from[i], 3);
    }
}

int image_grid(const uint8_t *images, int32_t n, int32_t height, int32_t width, int32_t channels, int32_t nrow,
               int32_t padding, struct image8 *ret_grid)
{
    if (n < 1 || nrow < 1 || padding < 0 || height < 1 || width < 1 || (channels != 1 && channels != 3))
        return -EINVAL;
    int64_t columns = nrow < n ? nrow : n, rows = (n + columns - 1) / columns;
    int64_t pad = n == 1 ? 0 : padding; // make_grid returns a single image as it is
    int64_t pitch_y = height + pad, pitch_x = width + pad;
    struct image8 grid;
    int rc = image8_init(rows * pitch_y + pad, columns * pitch_x + pad, 3, &grid);
    if (rc)
        return rc;
    for (int32_t i = 0; i < n; i++)
        paste(&grid, i / columns * pitch_y + pad, i % columns * pitch_x + pad,
              images + (size_t)i * (size_t)height * (size_t)width * (size_t)channels, height, width, channels);
    *ret_grid = grid;
    return 0;
}

int image_scale(const struct image8 *in, int32_t scale, struct image8 *ret_image)
{
    if (scale < 1)
        return -EINVAL;
    struct image8 out;
    int rc = image8_init((int64_t)in->height * scale, (int64_t)in->width * scale, in->channels, &out);
    if (rc)
        return rc;
    size_t c = (size_t)in->channels, row_bytes = (size_t)out.width * c;
    for (size_t y = 0; y < (size_t)in->height; y++) {
        uint8_t *row = out.pixels + y * (size_t)scale * row_bytes;
        const uint8_t *from = in->pixels + y * (size_t)in->width * c;
        for (size_t x = 0; x < (size_t)out.width; x++)
            memcpy(row + x * c, from + x / (size_t)scale * c, c);
        for (size_t i = 1; i < (size_t)scale; i++)
            memcpy(row + i * row_bytes, row, row_bytes);
    }
    *ret_image = out;
    return 0;
}

int image_to_grayscale(const struct image8 *in, struct image8 *ret_image)
{
    struct image8 out;
    int rc = image8_init(in->height, in->width, 1, &out);
    if (rc)
        return rc;
    size_t n = (size_t)in->height * (size_t)in->width;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *p = in->pixels + i * (size_t)in->channels;
        out.pixels[i] = in->channels == 1 ? p[0] : (uint8_t)((299 * p[0] + 587 * p[1] + 114 * p[2] + 500) / 1000);
    }
    *ret_image = out;
    return 0;
}
