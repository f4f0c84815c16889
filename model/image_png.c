/* image_png.c: PNG out, and its text chunk back in; see image.h.
 *
 * Writing goes through libpng with everything fixed that its output depends on. Reading the text chunk back walks the
 * chunks itself: the pixels of a stranger's file are not decoded for that.
 */
#include "model/image.h"

#include <errno.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    PNG_LEVEL = 4, // of zlib: sampled images have noise in their low bits, and more effort gains about 1 %
    PNG_MAX_TEXT_BYTES = 1 << 20,
};

/* ---- writing ---- */

struct png_sink {
    uint8_t *bytes;
    size_t used, room;
};

static void sink_write(png_structp png, png_bytep data, png_size_t n)
{
    struct png_sink *sink = png_get_io_ptr(png);
    if (n > sink->room - sink->used) {
        size_t room = 2 * sink->room + n;
        uint8_t *bytes = realloc(sink->bytes, room);
        if (!bytes)
            png_error(png, "out of memory");
        sink->bytes = bytes;
        sink->room = room;
    }
    memcpy(sink->bytes + sink->used, data, n);
    sink->used += n;
}

static void sink_flush(png_structp png)
{
}

static void png_fail(png_structp png, png_const_charp message)
{
    png_longjmp(png, 1);
}

static void png_quiet(png_structp png, png_const_charp message)
{
}

static bool is_ascii(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text >= 0x80)
            return false;
    return true;
}

static void png_set_ancillary(png_structp png, png_infop info, const char *keyword, const char *text)
{
    // tEXt is Latin-1, iTXt UTF-8; libpng takes non-const pointers and copies.
    png_text chunk = {.compression = is_ascii(text) ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                      .key = (char *)keyword,
                      .text = (char *)text};
    if (chunk.compression == PNG_TEXT_COMPRESSION_NONE)
        chunk.text_length = strlen(text);
    else
        chunk.itxt_length = strlen(text);
    png_set_text(png, info, &chunk, 1);
}

/* Everything that may longjmp; the sink and the structs belong to the caller. 0, -ENOMEM (all that can fail). */
static int png_write_all(png_structp png, png_infop info, const struct image8 *im, const char *keyword,
                         const char *text)
{
    if (setjmp(png_jmpbuf(png)))
        return -ENOMEM;
    png_set_compression_level(png, PNG_LEVEL);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, PNG_FILTER_SUB | PNG_FILTER_UP);
    png_set_IHDR(png, info, (png_uint_32)im->width, (png_uint_32)im->height, 8,
                 im->channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (keyword)
        png_set_ancillary(png, info, keyword, text);
    png_write_info(png, info);
    for (int32_t y = 0; y < im->height; y++)
        png_write_row(png, im->pixels + (size_t)y * (size_t)im->width * (size_t)im->channels);
    png_write_end(png, NULL);
    return 0;
}

/* A keyword as PNG allows it, in ASCII: 1 to 79 printable characters, no leading, trailing or double space. */
static bool keyword_is_valid(const char *keyword)
{
    size_t n = strlen(keyword);
    if (n < 1 || n > 79 || keyword[0] == ' ' || keyword[n - 1] == ' ' || strstr(keyword, "  "))
        return false;
    for (size_t i = 0; i < n; i++)
        if (keyword[i] < ' ' || keyword[i] > '~')
            return false;
    return true;
}

int image_png_encode(const struct image8 *im, const char *keyword, const char *text, uint8_t **ret_png,
                     size_t *ret_bytes)
{
    if (im->height < 1 || im->width < 1 || (im->channels != 1 && im->channels != 3) || !keyword != !text ||
        (keyword && !keyword_is_valid(keyword)))
        return -EINVAL;
    struct png_sink sink = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, png_fail, png_quiet);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    int rc = -ENOMEM;
    if (info) {
        png_set_user_limits(png, INT32_MAX, INT32_MAX);
        png_set_write_fn(png, &sink, sink_write, sink_flush);
        rc = png_write_all(png, info, im, keyword, text);
    }
    png_destroy_write_struct(&png, &info);
    if (rc) {
        free(sink.bytes);
        return rc;
    }
    *ret_png = sink.bytes;
    *ret_bytes = sink.used;
    return 0;
}

/* ---- reading the text chunk ---- */

static uint32_t read_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The text of an iTXt chunk's data after its keyword: flag, method, language NUL, translated keyword NUL, text. NULL
 * where it is compressed or cut. */
static const uint8_t *itxt_text(const uint8_t *p, const uint8_t *end)
{
    if (end - p < 2 || p[0] != 0)
        return NULL;
    p += 2;
    for (int i = 0; i < 2; i++) {
        p = memchr(p, 0, (size_t)(end - p));
        if (!p)
            return NULL;
        p++;
    }
    return p;
}

/* The text of one chunk: 1 and *ret_text where it is the one, 0 where it is another, negative errno. */
static int chunk_text(const uint8_t *type, const uint8_t *data, size_t n, const char *keyword, char **ret_text,
                      struct error *err)
{
    bool international = !memcmp(type, "iTXt", 4);
    size_t key_bytes = strlen(keyword) + 1;
    if ((!international && memcmp(type, "tEXt", 4)) || n < key_bytes || memcmp(data, keyword, key_bytes))
        return 0;
    const uint8_t *text = data + key_bytes, *end = data + n;
    if (international)
        text = itxt_text(text, end);
    if (!text)
        return error_set(err, -EINVAL, NULL, "the PNG's text chunk \"%s\" is compressed or damaged", keyword);
    size_t bytes = (size_t)(end - text);
    if (bytes > PNG_MAX_TEXT_BYTES || memchr(text, 0, bytes))
        return error_set(err, -EINVAL, NULL, "the PNG's text chunk \"%s\" is too long or not text", keyword);
    char *copy = strndup((const char *)text, bytes);
    if (!copy)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    *ret_text = copy;
    return 1;
}

int image_png_text(const uint8_t *png, size_t bytes, const char *keyword, char **ret_text, struct error *err)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    if (bytes < sizeof(signature) || memcmp(png, signature, sizeof(signature)))
        return error_set(err, -EINVAL, NULL, "not a PNG file");
    size_t at = sizeof(signature);
    while (bytes - at >= 12) { // length, type, data, CRC
        uint32_t n = read_be32(png + at);
        const uint8_t *type = png + at + 4;
        if (n > INT32_MAX || n > bytes - at - 12)
            return error_set(err, -EINVAL, NULL, "the PNG file is cut short");
        if (!memcmp(type, "IEND", 4))
            break;
        if (!memcmp(type, "tEXt", 4) || !memcmp(type, "iTXt", 4)) {
            if (crc32(0, type, n + 4) != read_be32(type + 4 + n))
                return error_set(err, -EINVAL, NULL, "the PNG file is damaged: wrong checksum");
            int rc = chunk_text(type, type + 4, n, keyword, ret_text, err);
            if (rc)
                return rc < 0 ? rc : 0;
        }
        at += 12 + (size_t)n;
    }
    return error_set(err, -ENOENT, NULL, "the PNG file has no text chunk \"%s\"", keyword);
}
