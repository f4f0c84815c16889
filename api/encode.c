/* encode.c: see encode.h. Pixels and PNG are model/image.h's; here is what stands around them. */
#include "api/encode.h"

#include "api/recipe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* ---- PNG ---- */

/* Grey and enlarged as asked, then appended as PNG. Takes im over. */
static int finish_png(struct image8 *im, const struct picture *p, const char *comment, struct text *ret)
{
    struct image8 next = {0};
    uint8_t *png = NULL;
    size_t bytes = 0;
    int rc = 0;
    if (p->to_grayscale && im->channels == 3) {
        rc = image_to_grayscale(im, &next);
        if (rc == 0) {
            image8_done(im);
            *im = next;
        }
    }
    if (rc == 0 && p->scale > 1) {
        rc = image_scale(im, p->scale, &next);
        if (rc == 0) {
            image8_done(im);
            *im = next;
        }
    }
    if (rc == 0)
        rc = image_png_encode(im, comment ? "ddimd" : NULL, comment, &png, &bytes);
    if (rc == 0)
        text_append(ret, png, bytes);
    free(png);
    image8_done(im);
    return rc ? rc : ret->failed ? -ENOMEM : 0;
}

int encode_grid(const struct picture *p, const char *comment, struct text *ret)
{
    struct image8 grid = {0};
    size_t n = (size_t)p->n * p->height * p->width * p->channels;
    uint8_t *pixels = malloc(n ? n : 1);
    if (!pixels)
        return -ENOMEM;
    image_to_uint8(p->images, n, pixels);
    int rc = image_grid(pixels, p->n, p->height, p->width, p->channels, p->nrow, PICTURE_PADDING, &grid);
    free(pixels);
    return rc ? rc : finish_png(&grid, p, comment, ret);
}

int encode_image(const struct picture *p, int32_t i, struct text *ret)
{
    size_t n = (size_t)p->height * p->width * p->channels;
    struct image8 im = {p->height, p->width, p->channels, malloc(n)};
    if (!im.pixels)
        return -ENOMEM;
    image_to_uint8(p->images + (size_t)i * n, n, im.pixels);
    return finish_png(&im, p, NULL, ret);
}

/* ---- NPY ---- */

int encode_npy_head(const struct picture *p, struct text *ret)
{
    enum { PREFIX = 10, ALIGN = 64 };
    struct text header = {0};
    text_printf(&header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d, %d), }", p->n, p->height,
                p->width, p->channels);
    while ((PREFIX + header.length + 1) % ALIGN && !header.failed)
        text_puts(&header, " ");
    text_puts(&header, "\n");
    uint8_t prefix[PREFIX] = "\x93NUMPY\x01\x00";
    prefix[8] = (uint8_t)header.length;
    prefix[9] = (uint8_t)(header.length >> 8);
    text_append(ret, prefix, PREFIX);
    text_append(ret, header.data, header.length);
    int rc = ret->failed || header.failed ? -ENOMEM : 0;
    text_done(&header);
    return rc;
}

int encode_npy(const struct picture *p, struct text *ret)
{
    int rc = encode_npy_head(p, ret);
    text_append(ret, p->images, (size_t)p->n * p->height * p->width * p->channels * sizeof(float)); // little endian
    return rc ? rc : ret->failed ? -ENOMEM : 0;
}

/* ---- ZIP ---- */

enum { ZIP_DATE = 1 << 5 | 1, ZIP_VERSION = 20, ZIP_UTF8 = 1 << 11 }; // 1980-01-01: the bytes depend on no clock

static void put16(struct text *t, uint32_t v)
{
    uint8_t b[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    text_append(t, b, sizeof(b));
}

static void put32(struct text *t, uint32_t v)
{
    put16(t, v & 0xffff);
    put16(t, v >> 16);
}

/* What the local header and the directory's entry have in common: version needed to extra length. */
static void zip_put_member(struct text *t, uint32_t crc, size_t bytes, size_t name_bytes)
{
    put16(t, ZIP_VERSION);
    put16(t, ZIP_UTF8);
    put16(t, 0); // stored
    put16(t, 0); // time
    put16(t, ZIP_DATE);
    put32(t, crc);
    put32(t, (uint32_t)bytes);
    put32(t, (uint32_t)bytes);
    put16(t, (uint32_t)name_bytes);
    put16(t, 0); // extra field
}

void zip_begin(struct zip *z, struct text *to)
{
    *z = (struct zip){.to = to, .start = to->length};
}

int zip_add(struct zip *z, const char *name, const void *data, size_t bytes)
{
    size_t offset = z->to->length - z->start, name_bytes = strlen(name);
    if (offset + bytes > INT32_MAX || z->n == UINT16_MAX)
        return -EINVAL;
    uint32_t crc = (uint32_t)crc32(0, data, (uInt)bytes);
    put32(z->to, 0x04034b50);
    zip_put_member(z->to, crc, bytes, name_bytes);
    text_puts(z->to, name);
    text_append(z->to, data, bytes);
    put32(&z->directory, 0x02014b50);
    put16(&z->directory, ZIP_VERSION); // made by
    zip_put_member(&z->directory, crc, bytes, name_bytes);
    put16(&z->directory, 0); // comment
    put16(&z->directory, 0); // disk
    put16(&z->directory, 0); // internal attributes
    put32(&z->directory, 0); // external attributes
    put32(&z->directory, (uint32_t)offset);
    text_puts(&z->directory, name);
    z->n++;
    return z->to->failed || z->directory.failed ? -ENOMEM : 0;
}

int zip_finish(struct zip *z)
{
    size_t offset = z->to->length - z->start;
    text_append(z->to, z->directory.data, z->directory.length);
    put32(z->to, 0x06054b50);
    put16(z->to, 0); // this disk
    put16(z->to, 0); // the directory's disk
    put16(z->to, z->n);
    put16(z->to, z->n);
    put32(z->to, (uint32_t)z->directory.length);
    put32(z->to, (uint32_t)offset);
    put16(z->to, 0); // comment
    int rc = z->to->failed || z->directory.failed ? -ENOMEM : 0;
    text_done(&z->directory);
    return rc;
}
