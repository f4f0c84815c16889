/* picture.h: PNG files to pixels and back. Pure functions. */
#ifndef DDIMCTL_PICTURE_H
#define DDIMCTL_PICTURE_H

#include "clients/ddimctl/text.h"

#include <stdint.h>

struct picture {
    int width, height;
    uint8_t *rgb; // [height][width][3], malloc'd
};

/* *ret_picture: black. 0, -ENOMEM, -EINVAL (sizes). */
int picture_create(int width, int height, struct picture *ret_picture);
void picture_done(struct picture *p);
/* Any PNG as RGB. 0, -EBADMSG (no PNG, or a damaged one), -ENOMEM, -EINVAL. */
int picture_decode(const void *png, size_t n, struct picture *ret_picture);
/* text: a text chunk under that keyword, NULL for none. Appends to *png. 0, -ENOMEM. */
int picture_encode(const struct picture *p, const char *keyword, const char *text, struct buffer *png);

/* Copies all of `from` to (x, y), where it must fit. */
void picture_paste(struct picture *p, const struct picture *from, int x, int y);
/* Text in a font of 5 x 7 pixels, `scale` times that; lower and upper case look alike, other characters are blank. */
void picture_write(struct picture *p, const char *text, int x, int y, int scale);
int picture_text_width(const char *text, int scale);
enum { PICTURE_TEXT_HEIGHT = 7 };

/* To width x height, each pixel the mean of the area that it covers. 0, -ENOMEM, -EINVAL. */
int picture_resize(const struct picture *p, int width, int height, struct picture *ret_picture);

#endif
