/* picture.c: see picture.h. */
#include "clients/ddimctl/picture.h"

#include <ctype.h>
#include <errno.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SIDE = 32768, CELL_WIDTH = 6 };

int picture_create(int width, int height, struct picture *ret_picture)
{
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return -EINVAL;
    struct picture p = {width, height, calloc((size_t)width * (size_t)height, 3)};
    if (!p.rgb)
        return -ENOMEM;
    *ret_picture = p;
    return 0;
}

void picture_done(struct picture *p)
{
    free(p->rgb);
    *p = (struct picture){0};
}

int picture_decode(const void *png, size_t n, struct picture *ret_picture)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    struct picture p = {0};
    if (!png_image_begin_read_from_memory(&image, png, n))
        return -EBADMSG;
    image.format = PNG_FORMAT_RGB;
    int rc = picture_create((int)image.width, (int)image.height, &p);
    if (rc == 0 && !png_image_finish_read(&image, NULL, p.rgb, 0, NULL))
        rc = -EBADMSG;
    png_image_free(&image);
    if (rc)
        picture_done(&p);
    else
        *ret_picture = p;
    return rc;
}

/* ---- writing ---- */

static void on_write(png_structp png, png_bytep bytes, size_t n)
{
    if (buffer_add(png_get_io_ptr(png), bytes, n))
        png_error(png, "no memory");
}

static void on_flush(png_structp png)
{
}

static void write_text(png_structp png, png_infop info, const char *keyword, const char *text)
{
    png_text chunk = {.compression = PNG_TEXT_COMPRESSION_NONE,
                      .key = (png_charp)keyword,
                      .text = (png_charp)text,
                      .text_length = strlen(text)};
    png_set_text(png, info, &chunk, 1);
}

int picture_encode(const struct picture *p, const char *keyword, const char *text, struct buffer *png_out)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info || setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return -ENOMEM;
    }
    png_set_write_fn(png, png_out, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)p->width, (png_uint_32)p->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (text)
        write_text(png, info, keyword, text);
    png_write_info(png, info);
    for (int y = 0; y < p->height; y++)
        png_write_row(png, p->rgb + (size_t)y * (size_t)p->width * 3);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return 0;
}

/* ---- drawing ---- */

void picture_paste(struct picture *p, const struct picture *from, int x, int y)
{
    for (int row = 0; row < from->height; row++)
        memcpy(p->rgb + ((size_t)(y + row) * (size_t)p->width + (size_t)x) * 3,
               from->rgb + (size_t)row * (size_t)from->width * 3, (size_t)from->width * 3);
}

/* Rows from the top, five pixels each, the leftmost in bit 4. */
static const struct glyph {
    char c;
    uint8_t rows[PICTURE_TEXT_HEIGHT];
} glyphs[] = {
    {'0', {14, 17, 19, 21, 25, 17, 14}}, {'1', {4, 12, 4, 4, 4, 4, 14}},      {'2', {14, 17, 1, 6, 8, 16, 31}},
    {'3', {14, 17, 1, 6, 1, 17, 14}},    {'4', {2, 6, 10, 18, 31, 2, 2}},     {'5', {31, 16, 30, 1, 1, 17, 14}},
    {'6', {6, 8, 16, 30, 17, 17, 14}},   {'7', {31, 1, 2, 4, 8, 8, 8}},       {'8', {14, 17, 17, 14, 17, 17, 14}},
    {'9', {14, 17, 17, 15, 1, 2, 12}},   {'a', {14, 17, 17, 31, 17, 17, 17}}, {'b', {30, 17, 17, 30, 17, 17, 30}},
    {'c', {14, 17, 16, 16, 16, 17, 14}}, {'d', {30, 17, 17, 17, 17, 17, 30}}, {'e', {31, 16, 16, 30, 16, 16, 31}},
    {'f', {31, 16, 16, 30, 16, 16, 16}}, {'g', {14, 17, 16, 23, 17, 17, 15}}, {'h', {17, 17, 17, 31, 17, 17, 17}},
    {'i', {14, 4, 4, 4, 4, 4, 14}},      {'j', {7, 2, 2, 2, 2, 18, 12}},      {'k', {17, 18, 20, 24, 20, 18, 17}},
    {'l', {16, 16, 16, 16, 16, 16, 31}}, {'m', {17, 27, 21, 21, 17, 17, 17}}, {'n', {17, 25, 21, 19, 17, 17, 17}},
    {'o', {14, 17, 17, 17, 17, 17, 14}}, {'p', {30, 17, 17, 30, 16, 16, 16}}, {'q', {14, 17, 17, 17, 21, 18, 13}},
    {'r', {30, 17, 17, 30, 20, 18, 17}}, {'s', {15, 16, 16, 14, 1, 1, 30}},   {'t', {31, 4, 4, 4, 4, 4, 4}},
    {'u', {17, 17, 17, 17, 17, 17, 14}}, {'v', {17, 17, 17, 17, 17, 10, 4}},  {'w', {17, 17, 17, 21, 21, 27, 17}},
    {'x', {17, 17, 10, 4, 10, 17, 17}},  {'y', {17, 17, 10, 4, 4, 4, 4}},     {'z', {31, 1, 2, 4, 8, 16, 31}},
    {'.', {0, 0, 0, 0, 0, 12, 12}},      {',', {0, 0, 0, 0, 12, 4, 8}},       {'-', {0, 0, 0, 31, 0, 0, 0}},
    {'_', {0, 0, 0, 0, 0, 0, 31}},       {'=', {0, 0, 31, 0, 31, 0, 0}},      {'+', {0, 4, 4, 31, 4, 4, 0}},
    {'/', {1, 1, 2, 4, 8, 16, 16}},      {':', {0, 12, 12, 0, 12, 12, 0}},
};

static const uint8_t *glyph_rows(char c)
{
    static const uint8_t blank[PICTURE_TEXT_HEIGHT] = {0};
    c = (char)tolower((unsigned char)c);
    for (size_t i = 0; i < sizeof(glyphs) / sizeof(glyphs[0]); i++)
        if (glyphs[i].c == c)
            return glyphs[i].rows;
    return blank;
}

int picture_text_width(const char *text, int scale)
{
    return ((int)strlen(text) * CELL_WIDTH - 1) * scale;
}

void picture_write(struct picture *p, const char *text, int x, int y, int scale)
{
    for (; *text; text++, x += CELL_WIDTH * scale) {
        const uint8_t *rows = glyph_rows(*text);
        for (int i = 0; i < PICTURE_TEXT_HEIGHT * scale; i++) {
            for (int k = 0; k < 5 * scale; k++) {
                int px = x + k, py = y + i;
                if (rows[i / scale] & (16 >> (k / scale)) && px >= 0 && py >= 0 && px < p->width && py < p->height)
                    memset(p->rgb + ((size_t)py * (size_t)p->width + (size_t)px) * 3, 220, 3);
            }
        }
    }
}

int picture_resize(const struct picture *p, int width, int height, struct picture *ret_picture)
{
    struct picture q;
    int rc = picture_create(width, height, &q);
    if (rc)
        return rc;
    for (int y = 0; y < height; y++) {
        int top = (int)((int64_t)y * p->height / height), bottom = (int)((int64_t)(y + 1) * p->height / height);
        for (int x = 0; x < width; x++) {
            int left = (int)((int64_t)x * p->width / width), right = (int)((int64_t)(x + 1) * p->width / width);
            int64_t sum[3] = {0}, n = 0;
            for (int i = top; i < bottom || i == top; i++)
                for (int k = left; k < right || k == left; k++, n++)
                    for (int c = 0; c < 3; c++)
                        sum[c] += p->rgb[((size_t)i * (size_t)p->width + (size_t)k) * 3 + (size_t)c];
            for (int c = 0; c < 3; c++)
                q.rgb[((size_t)y * (size_t)width + (size_t)x) * 3 + (size_t)c] = (uint8_t)((sum[c] + n / 2) / n);
        }
    }
    *ret_picture = q;
    return 0;
}
