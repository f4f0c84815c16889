/* encode.h: finished images as PNG, ZIP of PNGs, or NPY.
 *
 * Pure functions: the bytes depend on the arguments alone. Any thread but the device's.
 */
#ifndef DDIMD_API_ENCODE_H
#define DDIMD_API_ENCODE_H

#include "api/text.h"
#include "model/image.h"

/* Finished states and how they are to be shown. */
struct picture {
    const float *images; // [n, H, W, C], about [-1, 1]
    int32_t n, height, width, channels;
    int32_t nrow, scale;
    bool to_grayscale;
};

/* Each appends to *ret and returns 0, -ENOMEM or -EINVAL (sizes). */

/* One grid as PNG, with `comment` in a text chunk under the keyword "ddimd" (NULL: none). */
int encode_grid(const struct picture *p, const char *comment, struct text *ret);
/* Image i alone as PNG; one channel stays grey. */
int encode_image(const struct picture *p, int32_t i, struct text *ret);
/* One float32 array [n, H, W, C], the states as they are (NPY format 1.0); its head alone. */
int encode_npy_head(const struct picture *p, struct text *ret);
int encode_npy(const struct picture *p, struct text *ret);

/* A ZIP file of stored members (APPNOTE 6.3, no ZIP64): add, then finish. */
struct zip {
    struct text *to;
    struct text directory;
    size_t start;
    uint32_t n;
};
void zip_begin(struct zip *z, struct text *to);
int zip_add(struct zip *z, const char *name, const void *data, size_t bytes);
int zip_finish(struct zip *z); // frees what z holds, also after a failure

#endif
