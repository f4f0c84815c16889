/* resize.c: see resize.h. */
#include "model/resize.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

const char *const resize_names[RESIZE_COUNT + 1] = {"tf1", "pytorch-fid", NULL};

/* Output i of an axis lies between inputs low and high, low (1 - t) + high t. */
struct between {
    int32_t low, high;
    float t;
};

static struct between place_tf1(int32_t i, int32_t in, int32_t out)
{
    float at = (float)i * (float)((double)in / (double)out);
    int32_t low = (int32_t)at;
    return (struct between){low, low + 1 < in ? low + 1 : in - 1, at - (float)low};
}

static struct between place_pytorch(int32_t i, int32_t in, int32_t out)
{
    float at = (float)in / (float)out * ((float)i + 0.5f) - 0.5f;
    at = at > 0 ? at : 0;
    int32_t low = (int32_t)at < in - 1 ? (int32_t)at : in - 1;
    float t = at - (float)low;
    return (struct between){low, low + (low < in - 1), t > 1 ? 1 : t};
}

/* p: the four neighbours, row by row. */
static float blend_tf1(const float p[4], const struct between *y, const struct between *x)
{
    float top = p[0] + (p[1] - p[0]) * x->t, bottom = p[2] + (p[3] - p[2]) * x->t;
    return (top + (bottom - top) * y->t - 128.0f) / 128.0f;
}

static float blend_pytorch(const float p[4], const struct between *y, const struct between *x)
{
    float top = fmaf(p[0], 1.0f - x->t, p[1] * x->t), bottom = fmaf(p[2], 1.0f - x->t, p[3] * x->t);
    return 2.0f * fmaf(top, 1.0f - y->t, bottom * y->t) - 1.0f;
}

void resize_image(enum resize how, const uint8_t *pixels, int32_t h, int32_t w, int32_t c, int32_t out,
                  float *ret_image)
{
    bool tf1 = how == RESIZE_TF1;
    for (int32_t i = 0; i < out; i++) {
        struct between y = tf1 ? place_tf1(i, h, out) : place_pytorch(i, h, out);
        for (int32_t j = 0; j < out; j++) {
            struct between x = tf1 ? place_tf1(j, w, out) : place_pytorch(j, w, out);
            const int32_t from[4] = {y.low * w + x.low, y.low * w + x.high, y.high * w + x.low, y.high * w + x.high};
            float *to = ret_image + 3 * ((int64_t)i * out + j);
            for (int32_t k = 0; k < 3; k++) {
                float p[4];
                for (int n = 0; n < 4; n++) {
                    float v = pixels[from[n] * c + (c == 1 ? 0 : k)];
                    p[n] = tf1 ? v : v / 255.0f;
                }
                to[k] = tf1 ? blend_tf1(p, &y, &x) : blend_pytorch(p, &y, &x);
            }
        }
    }
}
