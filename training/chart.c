/* chart.c: the chart of report.h: Frechet distance over the number of steps (logarithmic), a line for each other
 * choice.
 *
 * Drawn pixel by pixel into an image of its own, with a font of the letters that it needs.
 */
#include "training/report.h"

#include "model/image.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 960,
    HEIGHT = 600,
    LEFT = 90,
    RIGHT = 380, // room for the legend
    TOP = 40,
    BOTTOM = 70,
    SCALE = 2, // of the font
    GLYPH_W = 6 * SCALE,
    GLYPH_H = 7 * SCALE,
    MAX_LINES = 64,
};

struct glyph {
    char c;
    uint8_t rows[7]; // five bits each, the left one highest
};

// clang-format off
static const struct glyph font[] = {
    {'0', {0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e}},
    {'1', {0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e}},
    {'2', {0x0e, 0x11, 0x01, 0x06, 0x08, 0x10, 0x1f}},
    {'3', {0x1e, 0x01, 0x01, 0x0e, 0x01, 0x01, 0x1e}},
    {'4', {0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02}},
    {'5', {0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e}},
    {'6', {0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e}},
    {'7', {0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08}},
    {'8', {0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e}},
    {'9', {0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c}},
    {'.', {0x00, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x0c}},
    {'-', {0x00, 0x00, 0x00, 0x1f, 0x00, 0x00, 0x00}},
    {'_', {0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1f}},
    {'a', {0x00, 0x00, 0x0e, 0x01, 0x0f, 0x11, 0x0f}},
    {'b', {0x10, 0x10, 0x1e, 0x11, 0x11, 0x11, 0x1e}},
    {'c', {0x00, 0x00, 0x0e, 0x10, 0x10, 0x11, 0x0e}},
    {'d', {0x01, 0x01, 0x0f, 0x11, 0x11, 0x11, 0x0f}},
    {'e', {0x00, 0x00, 0x0e, 0x11, 0x1f, 0x10, 0x0e}},
    {'f', {0x06, 0x09, 0x08, 0x1c, 0x08, 0x08, 0x08}},
    {'g', {0x00, 0x0f, 0x11, 0x11, 0x0f, 0x01, 0x0e}},
    {'h', {0x10, 0x10, 0x16, 0x19, 0x11, 0x11, 0x11}},
    {'i', {0x04, 0x00, 0x0c, 0x04, 0x04, 0x04, 0x0e}},
    {'k', {0x10, 0x10, 0x12, 0x14, 0x18, 0x14, 0x12}},
    {'l', {0x0c, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e}},
    {'m', {0x00, 0x00, 0x1a, 0x15, 0x15, 0x15, 0x15}},
    {'n', {0x00, 0x00, 0x16, 0x19, 0x11, 0x11, 0x11}},
    {'o', {0x00, 0x00, 0x0e, 0x11, 0x11, 0x11, 0x0e}},
    {'p', {0x00, 0x00, 0x1e, 0x11, 0x1e, 0x10, 0x10}},
    {'q', {0x00, 0x00, 0x0d, 0x13, 0x0f, 0x01, 0x01}},
    {'r', {0x00, 0x00, 0x16, 0x19, 0x10, 0x10, 0x10}},
    {'s', {0x00, 0x00, 0x0e, 0x10, 0x0e, 0x01, 0x1e}},
    {'t', {0x08, 0x08, 0x1c, 0x08, 0x08, 0x09, 0x06}},
    {'u', {0x00, 0x00, 0x11, 0x11, 0x11, 0x13, 0x0d}},
    {'v', {0x00, 0x00, 0x11, 0x11, 0x11, 0x0a, 0x04}},
    {'w', {0x00, 0x00, 0x11, 0x15, 0x15, 0x15, 0x0a}},
    {'x', {0x00, 0x00, 0x11, 0x0a, 0x04, 0x0a, 0x11}},
    {'y', {0x00, 0x00, 0x11, 0x11, 0x0f, 0x01, 0x0e}},
    {'z', {0x00, 0x00, 0x1f, 0x02, 0x04, 0x08, 0x1f}},
    {'F', {0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x10}},
    {'D', {0x1c, 0x12, 0x11, 0x11, 0x11, 0x12, 0x1c}},
};
// clang-format on

static const uint8_t colours[][3] = {{31, 119, 180}, {214, 39, 40},   {44, 160, 44},   {255, 127, 14}, {148, 103, 189},
                                     {140, 86, 75},  {227, 119, 194}, {127, 127, 127}, {188, 189, 34}, {23, 190, 207}};
enum { N_COLOURS = sizeof colours / sizeof colours[0] };
static const uint8_t black[3] = {30, 30, 30}, grey[3] = {221, 221, 221};

/* ---- drawing ---- */

static void dot(struct image8 *im, int x, int y, const uint8_t colour[3])
{
    if (x >= 0 && x < im->width && y >= 0 && y < im->height)
        memcpy(im->pixels + 3 * ((size_t)y * (size_t)im->width + (size_t)x), colour, 3);
}

static void square(struct image8 *im, int x, int y, int radius, const uint8_t colour[3])
{
    for (int dy = -radius; dy <= radius; dy++)
        for (int dx = -radius; dx <= radius; dx++)
            dot(im, x + dx, y + dy, colour);
}

static void line(struct image8 *im, double x0, double y0, double x1, double y1, int radius, const uint8_t colour[3])
{
    int n = (int)fmax(fabs(x1 - x0), fabs(y1 - y0)) + 1;
    for (int i = 0; i <= n; i++)
        square(im, (int)lround(x0 + (x1 - x0) * i / n), (int)lround(y0 + (y1 - y0) * i / n), radius, colour);
}

static void text(struct image8 *im, int x, int y, const char *s)
{
    for (; *s; s++, x += GLYPH_W)
        for (size_t g = 0; g < sizeof font / sizeof font[0]; g++)
            for (int k = 0; font[g].c == *s && k < 7 * 5; k++)
                if (font[g].rows[k / 5] >> (4 - k % 5) & 1)
                    for (int p = 0; p < SCALE * SCALE; p++)
                        dot(im, x + k % 5 * SCALE + p % SCALE, y + k / 5 * SCALE + p / SCALE, black);
}

/* ---- the data ---- */

/* NAN where it is null. */
static double number(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static const char *string_of(const json_t *p, const char *key)
{
    const char *s = json_string_value(json_object_get(p, key));
    return s ? s : "";
}

static void name_line(const json_t *p, char name[64])
{
    snprintf(name, 64, "%.8s %.9s eta %g g %g", string_of(p, "sampler"), string_of(p, "method"), number(p, "eta"),
             number(p, "guidance"));
}

struct axes {
    double steps[2], fd[2]; // least, most
};

static double place_x(const struct axes *a, double steps)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * log(steps / a->steps[0]) / log(a->steps[1] / a->steps[0]);
}

static double place_y(const struct axes *a, double fd)
{
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (fd - a->fd[0]) / (a->fd[1] - a->fd[0]);
}

static bool drawable(const json_t *p)
{
    return isfinite(number(p, "fd")) && number(p, "steps") > 0 && strcmp(string_of(p, "sampler"), "ddpm") != 0;
}

static bool find_axes(const json_t *points, struct axes *ret_axes)
{
    struct axes a = {{INFINITY, 0}, {0, 0}};
    size_t i;
    json_t *p;
    json_array_foreach((json_t *)points, i, p) if (drawable(p))
    {
        a.steps[0] = fmin(a.steps[0], number(p, "steps"));
        a.steps[1] = fmax(a.steps[1], number(p, "steps"));
        a.fd[1] = fmax(a.fd[1], number(p, "fd") * 1.05);
    }
    *ret_axes = a;
    return a.steps[0] < a.steps[1] && a.fd[1] > 0;
}

/* 1, 2 or 5 times a power of ten, for about five lines. */
static double round_step(double range)
{
    double power = pow(10, floor(log10(range / 5))), rest = range / 5 / power;
    return power * (rest < 1.5 ? 1 : rest < 3.5 ? 2 : rest < 7.5 ? 5 : 10);
}

static void draw_axes(struct image8 *im, const struct axes *a, const json_t *points)
{
    char label[32];
    size_t i;
    json_t *p;
    double step = round_step(a->fd[1]);
    for (double fd = 0; fd <= a->fd[1]; fd += step) {
        int y = (int)place_y(a, fd);
        line(im, LEFT, y, WIDTH - RIGHT, y, 0, grey);
        snprintf(label, sizeof label, "%g", fd);
        text(im, LEFT - 10 - GLYPH_W * (int)strlen(label), y - GLYPH_H / 2, label);
    }
    json_array_foreach((json_t *)points, i, p) if (drawable(p))
    {
        int x = (int)place_x(a, number(p, "steps"));
        line(im, x, TOP, x, HEIGHT - BOTTOM, 0, grey);
        snprintf(label, sizeof label, "%g", number(p, "steps"));
        text(im, x - GLYPH_W * (int)strlen(label) / 2, HEIGHT - BOTTOM + 10, label);
    }
    line(im, LEFT, TOP, LEFT, HEIGHT - BOTTOM, 0, black);
    line(im, LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, 0, black);
    text(im, LEFT, TOP - 26, "FD");
    text(im, (LEFT + WIDTH - RIGHT) / 2 - 3 * GLYPH_W, HEIGHT - 32, "steps");
}

/* All points of one name, joined in their order, and the name beside them. */
static void draw_line(struct image8 *im, const struct axes *a, const json_t *points, const char *name, int32_t nth)
{
    const uint8_t *colour = colours[nth % N_COLOURS];
    double last_x = NAN, last_y = NAN;
    int y = TOP + nth * (GLYPH_H + 8);
    char other[64];
    size_t i;
    json_t *p;
    json_array_foreach((json_t *)points, i, p)
    {
        name_line(p, other);
        if (!drawable(p) || strcmp(other, name) != 0)
            continue;
        double px = place_x(a, number(p, "steps")), py = place_y(a, number(p, "fd"));
        square(im, (int)px, (int)py, 4, colour);
        if (isfinite(last_x))
            line(im, last_x, last_y, px, py, 1, colour);
        last_x = px;
        last_y = py;
    }
    square(im, WIDTH - RIGHT + 16, y + GLYPH_H / 2, 5, colour);
    text(im, WIDTH - RIGHT + 28, y, name);
}

int report_chart(const json_t *points, uint8_t **ret_png, size_t *ret_bytes)
{
    struct axes a;
    char names[MAX_LINES][64], name[64];
    int32_t n = 0;
    size_t i;
    json_t *p;
    if (!find_axes(points, &a))
        return -ENODATA;
    struct image8 im = {.height = HEIGHT, .width = WIDTH, .channels = 3, .pixels = malloc(HEIGHT * WIDTH * 3)};
    if (!im.pixels)
        return -ENOMEM;
    memset(im.pixels, 255, HEIGHT * WIDTH * 3);
    draw_axes(&im, &a, points);
    json_array_foreach((json_t *)points, i, p)
    {
        bool known = !drawable(p);
        name_line(p, name);
        for (int32_t k = 0; k < n; k++)
            known = known || !strcmp(names[k], name);
        if (known || n == MAX_LINES)
            continue;
        strcpy(names[n], name);
        draw_line(&im, &a, points, name, n++);
    }
    int rc = image_png_encode(&im, NULL, NULL, ret_png, ret_bytes);
    image8_done(&im);
    return rc;
}
