/* conv.h: shapes and descriptors that conv.c and conv_weights.c share. */
#ifndef DDIMD_CPU_CONV_H
#define DDIMD_CPU_CONV_H

#include "kernels/cpu/cpu.h"

/* A convolution of dense NHWC tensors. */
struct conv_shape {
    int32_t n, h, w, c, k, r, s; // input, output channels, filter
    int32_t out_h, out_w;
    int32_t stride;
    int32_t pad[2][2]; // low, high of rows, of columns
    enum dtype x, y;
};

/* The shape of a convolution node (attr) for an x that is read through its upsampling. Padded, it has R / 2 on the low
 * side and what is left on the high one; valid, none. */
struct conv_shape conv_shape_of(const struct operand *x, enum dtype tx, enum dtype ty, const struct tensor *w,
                                const struct node_attr *attr);
int conv_describe(const struct conv_shape *s, bool bias, dnnl_convolution_desc_t *ret_desc, struct error *err);
/* A backward primitive's descriptor, from its description and, as oneDNN wants for a hint, the forward convolution s.
 * 0, or as conv_unsupported(). The caller destroys *ret_pd. */
int conv_backward_create(struct device *d, const struct conv_shape *s, const dnnl_convolution_desc_t *desc,
                         int n_threads, dnnl_primitive_desc_t *ret_pd, struct error *err);
/* rc; where that is -ENOTSUP, err names the shape. */
int conv_unsupported(const struct conv_shape *s, int rc, struct error *err);

/* ---- conv_weights_tiles.c ---- */

/* Whether loops->conv_weights computes the gradient of these filters. dw: [K, R, S, C]. */
bool conv_weights_tiles_fit(const struct device *d, const struct lowering *l, const struct tensor *dw);
lower_function lower_conv_weights_tiles;

/* ---- winograd.c ---- */

/* y = conv(x, 3x3 filters) + bias + residual, stride 1, one pixel of zeros around, by F(2x2, 3x3). */
struct winograd_conv {
    tensor_id x, y, residual;
    int32_t param;     // the filters
    bool turned;       // as for the gradient of the input
    bool upsample2x;   // x is enlarged first
    const float *bias; // or NULL
};
/* Whether it is faster than the direct convolution of this shape, whatever the batch is. */
bool winograd_wins(const struct device *d, const struct conv_shape *s);
int winograd_create(struct device *d, const struct lowering *l, const struct winograd_conv *conv,
                    struct primitive **ret_primitive, struct error *err);

#endif
