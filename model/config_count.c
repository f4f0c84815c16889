/* config_count.c: parameters and work of a network, counted by walking the reference's constructor (UNet.__init__). */
#include "model/config.h"

/* Sums over the layers met so far; h, w: the image where the walk is. */
struct count {
    const struct model_config *model;
    int64_t parameters, multiply_adds;
    int64_t h, w;
};

static void count_conv(struct count *n, int64_t c_in, int64_t c_out, int64_t side, bool bias)
{
    n->parameters += c_out * c_in * side * side + (bias ? c_out : 0);
    n->multiply_adds += n->h * n->w * c_out * c_in * side * side;
}

static void count_linear(struct count *n, int64_t c_in, int64_t c_out)
{
    n->parameters += c_out * c_in + c_out;
    n->multiply_adds += c_out * c_in;
}

static void count_norm(struct count *n, int64_t channels)
{
    n->parameters += 2 * channels;
}

static void count_block(struct count *n, int64_t c_in, int64_t c_out)
{
    count_norm(n, n->model->residual_block == BLOCK_ORDER_FUSED ? c_out : c_in);
    count_conv(n, c_in, c_out, 3, true);
    count_linear(n, 4 * (int64_t)n->model->model_channels, c_out);
    count_norm(n, c_out);
    count_conv(n, c_out, c_out, 3, true);
    if (c_in != c_out)
        count_conv(n, c_in, c_out, 1, true);
}

static void count_attention(struct count *n, int64_t channels)
{
    int64_t pixels = n->h * n->w;
    count_norm(n, channels);
    count_conv(n, channels, 3 * channels, 1, false);
    n->multiply_adds += 2 * pixels * pixels * channels; // scores, and their product with v
    count_conv(n, channels, channels, 1, true);
}

static void count_resample(struct count *n, int64_t channels)
{
    if (n->model->conv_resample)
        count_conv(n, channels, channels, 3, true);
}

static void count_unet(struct count *n)
{
    const struct model_config *m = n->model;
    int64_t width = m->model_channels, c = width;
    int64_t skips[MODEL_MAX_LEVELS * 32];
    int n_skips = 0;
    count_linear(n, width, 4 * width);
    count_linear(n, 4 * width, 4 * width);
    n->parameters += (m->num_classes + 1) * 4 * width;
    count_conv(n, m->in_channels, width, 3, true);
    skips[n_skips++] = c;
    for (int32_t level = 0; level < m->n_levels; level++) {
        for (int32_t i = 0; i < m->num_res_blocks; i++) {
            count_block(n, c, m->channel_mult[level] * width);
            c = m->channel_mult[level] * width;
            if (model_config_attends(m, level))
                count_attention(n, c);
            skips[n_skips++] = c;
        }
        if (level + 1 < m->n_levels) {
            n->h /= 2;
            n->w /= 2;
            count_resample(n, c);
            skips[n_skips++] = c;
        }
    }
    count_block(n, c, c);
    count_attention(n, c);
    count_block(n, c, c);
    for (int32_t level = m->n_levels - 1; level >= 0; level--) {
        for (int32_t i = 0; i <= m->num_res_blocks; i++) {
            count_block(n, c + skips[--n_skips], m->channel_mult[level] * width);
            c = m->channel_mult[level] * width;
            if (model_config_attends(m, level))
                count_attention(n, c);
        }
        if (level) {
            n->h *= 2;
            n->w *= 2;
            count_resample(n, c);
        }
    }
    count_norm(n, c);
    count_conv(n, c, m->out_channels, 3, true);
}

int64_t model_config_parameters(const struct model_config *c)
{
    struct count n = {.model = c, .h = 1, .w = 1};
    count_unet(&n);
    return n.parameters;
}

int64_t model_config_flop(const struct model_config *c, int32_t height, int32_t width)
{
    struct count n = {.model = c, .h = height, .w = width};
    count_unet(&n);
    return 2 * n.multiply_adds;
}
