/* dataset_image.c: one image file to pixels of the wanted size: libpng, libjpeg, stb_image_resize.
 *
 * Files are not trusted: sizes are bounded before anything is allocated, and a decoder's complaint is a failure.
 */
#include "model/dataset_readers.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jpeglib.h>
#include <png.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wshadow"
#define STB_IMAGE_RESIZE_STATIC
#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb/stb_image_resize.h>
#pragma GCC diagnostic pop

enum { MAX_SIDE = 16384, MAX_PIXELS = 1 << 26 };

static bool size_allowed(uint64_t h, uint64_t w)
{
    return h > 0 && w > 0 && h <= MAX_SIDE && w <= MAX_SIDE && h * w <= MAX_PIXELS;
}

static int read_file(const struct dataset *d, const char *name, uint8_t **ret_bytes, size_t *ret_n)
{
    int fd = dataset_openat(d, name, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return fd;
    struct stat st;
    int r = fstat(fd, &st) < 0                    ? -errno
            : !S_ISREG(st.st_mode)                ? -EINVAL
            : st.st_size > DATASET_MAX_FILE_BYTES ? -EFBIG
                                                  : 0;
    uint8_t *bytes = r == 0 ? malloc((size_t)st.st_size + 1) : NULL;
    if (r == 0 && !bytes)
        r = -ENOMEM;
    size_t n = 0;
    while (r == 0 && n < (size_t)st.st_size) {
        ssize_t got = read(fd, bytes + n, (size_t)st.st_size - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            r = -errno;
        if (got <= 0)
            break;
        n += (size_t)got;
    }
    close(fd);
    if (r < 0) {
        free(bytes);
        return r;
    }
    *ret_bytes = bytes;
    *ret_n = n;
    return 0;
}

static int decode_png(const uint8_t *bytes, size_t n, uint8_t **ret_rgb, int32_t *ret_h, int32_t *ret_w)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    if (!png_image_begin_read_from_memory(&image, bytes, n))
        return -EINVAL;
    if (!size_allowed(image.height, image.width)) {
        png_image_free(&image);
        return -EINVAL;
    }
    image.format = PNG_FORMAT_RGB;
    uint8_t *rgb = malloc(PNG_IMAGE_SIZE(image));
    if (!rgb) {
        png_image_free(&image);
        return -ENOMEM;
    }
    const png_color black = {0, 0, 0};
    if (!png_image_finish_read(&image, &black, rgb, 0, NULL) || PNG_IMAGE_FAILED(image)) {
        png_image_free(&image);
        free(rgb);
        return -EINVAL;
    }
    *ret_h = (int32_t)image.height;
    *ret_w = (int32_t)image.width;
    *ret_rgb = rgb;
    return 0;
}

struct jpeg_failure {
    struct jpeg_error_mgr mgr; // first: libjpeg's handle
    jmp_buf jump;
};

static void jpeg_fail(j_common_ptr info)
{
    longjmp(((struct jpeg_failure *)info->err)->jump, 1);
}

/* libjpeg goes on after warnings with grey where data was missing; here that is a failure. */
static void jpeg_message(j_common_ptr info, int level)
{
    if (level < 0)
        jpeg_fail(info);
}

/* The part that longjmp may leave: info and *rgb belong to the caller, so that nothing is lost. */
static int jpeg_run(struct jpeg_decompress_struct *info, const uint8_t *bytes, size_t n, uint8_t **rgb)
{
    struct jpeg_failure *failure = (struct jpeg_failure *)info->err;
    if (setjmp(failure->jump))
        return -EINVAL;
    jpeg_create_decompress(info);
    jpeg_mem_src(info, bytes, n);
    jpeg_read_header(info, TRUE);
    if (!size_allowed(info->image_height, info->image_width))
        return -EINVAL;
    info->out_color_space = JCS_RGB;
    info->dct_method = JDCT_ISLOW;
    jpeg_start_decompress(info);
    *rgb = malloc((size_t)info->output_height * info->output_width * 3);
    if (!*rgb)
        return -ENOMEM;
    while (info->output_scanline < info->output_height) {
        JSAMPROW row = *rgb + (size_t)info->output_scanline * info->output_width * 3;
        jpeg_read_scanlines(info, &row, 1);
    }
    jpeg_finish_decompress(info);
    return 0;
}

static int decode_jpeg(const uint8_t *bytes, size_t n, uint8_t **ret_rgb, int32_t *ret_h, int32_t *ret_w)
{
    struct jpeg_decompress_struct info = {0};
    struct jpeg_failure failure;
    uint8_t *rgb = NULL;
    info.err = jpeg_std_error(&failure.mgr);
    failure.mgr.error_exit = jpeg_fail;
    failure.mgr.emit_message = jpeg_message;
    int r = jpeg_run(&info, bytes, n, &rgb);
    if (r == 0) {
        *ret_h = (int32_t)info.output_height;
        *ret_w = (int32_t)info.output_width;
        *ret_rgb = rgb;
    } else {
        free(rgb);
    }
    jpeg_destroy_decompress(&info);
    return r;
}

static uint8_t luma(const uint8_t *rgb)
{
    return (uint8_t)((299u * rgb[0] + 587u * rgb[1] + 114u * rgb[2] + 500u) / 1000u);
}

/* [n, c] -> [n, C]; c and C are 1 or 3. */
static void convert_channels(const uint8_t *from, size_t n, int32_t c, int32_t C, uint8_t *to)
{
    for (size_t i = 0; i < n; i++) {
        if (c == 3 && C == 1)
            to[i] = luma(from + 3 * i);
        else if (c == 1 && C == 3)
            memset(to + 3 * i, from[i], 3);
        else
            memcpy(to + i * (size_t)C, from + i * (size_t)C, (size_t)C);
    }
}

int dataset_image_fit(const uint8_t *pixels, int32_t h, int32_t w, int32_t c, int32_t H, int32_t W, int32_t C,
                      uint8_t *ret_pixels)
{
    size_t n = (size_t)h * w;
    if (h == H && w == W) {
        convert_channels(pixels, n, c, C, ret_pixels);
        return 0;
    }
    uint8_t *converted = malloc(n * (size_t)C);
    if (!converted)
        return -ENOMEM;
    convert_channels(pixels, n, c, C, converted);
    int ok = stbir_resize_uint8(converted, w, h, 0, ret_pixels, W, H, 0, C);
    free(converted);
    return ok ? 0 : -ENOMEM;
}

int dataset_image_decode(const struct dataset *d, const uint8_t *file, size_t n, uint8_t *ret_pixels)
{
    static const uint8_t png_magic[4] = {0x89, 'P', 'N', 'G'}, jpeg_magic[3] = {0xFF, 0xD8, 0xFF};
    uint8_t *rgb = NULL;
    int32_t h, w;
    int r = -EINVAL;
    if (n >= sizeof png_magic && memcmp(file, png_magic, sizeof png_magic) == 0)
        r = decode_png(file, n, &rgb, &h, &w);
    else if (n >= sizeof jpeg_magic && memcmp(file, jpeg_magic, sizeof jpeg_magic) == 0)
        r = decode_jpeg(file, n, &rgb, &h, &w);
    if (r < 0)
        return r;
    r = dataset_image_fit(rgb, h, w, 3, d->height, d->width, d->channels, ret_pixels);
    free(rgb);
    return r;
}

int dataset_image_load(const struct dataset *d, const char *name, uint8_t *ret_pixels)
{
    uint8_t *file = NULL;
    size_t n = 0;
    int r = read_file(d, name, &file, &n);
    if (r < 0)
        return r;
    r = dataset_image_decode(d, file, n, ret_pixels);
    free(file);
    return r;
}
