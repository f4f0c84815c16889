/* schedule.h: the noise schedule, and sampling methods as tables of rows.
 *
 * Pure functions of their arguments, f64 inside, any thread. Oracle: reference/ddim_reference.py (alpha_bar, timesteps,
 * ddim_coefficients, dpmpp_2m_sample).
 */
#ifndef DDIMD_MODEL_SCHEDULE_H
#define DDIMD_MODEL_SCHEDULE_H

#include "model/config.h"

enum step_method { STEP_METHOD_LINEAR, STEP_METHOD_QUADRATIC, STEP_METHOD_TRAILING, STEP_METHOD_COUNT };
enum sampler { SAMPLER_DDIM, SAMPLER_DDPM, SAMPLER_DPMPP_2M, SAMPLER_COUNT };
extern const char *const step_method_names[STEP_METHOD_COUNT + 1]; // NULL-terminated
extern const char *const sampler_names[SAMPLER_COUNT + 1];

/* alpha_bar[t] = prod_{s <= t} (1 - beta_s), beta linear, f32 values in the arithmetic of the oracle (Ho et al. 2020,
 * section 2). ret: [T] */
void schedule_alpha_bar(const struct diffusion_config *d, float *ret_alpha_bar);

/* Strictly ascending timesteps, steps of them, 1 <= steps <= T. ret: [steps] */
void schedule_timesteps(int32_t steps, enum step_method method, int32_t T, int32_t *ret_tau);

/* One executed step: x_prev = a x + b eps + c x0_last + s z, with x0 = (x - sigma eps) / alpha the prediction at this
 * timestep (kept as the next x0_last). */
struct step_row {
    int32_t t;
    float alpha, sigma;
    float a, b, c, s;
};

struct step_table {
    int32_t n_rows;
    struct step_row rows[]; // in order of execution: descending timesteps
};

struct sampling_recipe {
    int32_t steps;
    enum step_method method;
    enum sampler sampler;
    double eta;
};

/* The rows of a recipe; ddpm is ddim with all T timesteps, linear, eta 1 (its steps, method and eta are ignored). Song
 * et al. 2021 eq. 12; Lu et al. 2022 (arXiv:2211.01095) algorithm 2. Caller frees with free(). 0, -EINVAL (err names
 * the field), -ENOMEM. */
int schedule_table(const struct diffusion_config *d, const struct sampling_recipe *r, struct step_table **ret_table,
                   struct error *err);

#endif
