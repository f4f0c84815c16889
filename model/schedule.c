/* schedule.c: see schedule.h.
 *
 * Where the oracle computes in f32 (alpha_bar) the operations are repeated in its order and precision; everything after
 * that is f64 from those f32 values, rounded to f32 once, when a row is written.
 */
#include "model/schedule.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

const char *const step_method_names[STEP_METHOD_COUNT + 1] = {"linear", "quadratic", "trailing", NULL};
const char *const sampler_names[SAMPLER_COUNT + 1] = {"ddim", "ddpm", "dpmpp_2m", NULL};

/* PyTorch's linspace in f32: from the nearer end, one fused multiply-add for each element. */
static float linspace(float first, float last, int32_t n, int32_t i)
{
    if (n == 1)
        return first;
    float step = (last - first) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, first) : fmaf(-step, (float)(n - 1 - i), last);
}

void schedule_alpha_bar(const struct diffusion_config *d, float *ret_alpha_bar)
{
    double product = 1.0; // PyTorch's cumprod keeps the running product of f32 values in f64
    for (int32_t t = 0; t < d->T; t++) {
        float alpha = 1.0f - linspace((float)d->beta[0], (float)d->beta[1], d->T, t);
        product *= (double)alpha;
        ret_alpha_bar[t] = (float)product;
    }
}

void schedule_timesteps(int32_t steps, enum step_method method, int32_t T, int32_t *ret_tau)
{
    int64_t last = steps > 1 ? steps - 1 : 1;
    for (int64_t i = 0; i < steps; i++) {
        int64_t tau;
        if (method == STEP_METHOD_LINEAR)
            tau = i * T / steps;
        else if (method == STEP_METHOD_QUADRATIC)
            tau = 4 * (int64_t)T * i * i / (5 * last * last);
        else
            tau = (i + 1) * T / steps - 1;
        // Where floors collide, the later one moves up ...
        if (i > 0 && tau <= ret_tau[i - 1])
            tau = ret_tau[i - 1] + 1;
        ret_tau[i] = (int32_t)tau;
    }
    // ... and none leaves too little room for those after it.
    for (int32_t i = 0; i < steps; i++)
        if (ret_tau[i] > T - steps + i)
            ret_tau[i] = T - steps + i;
}

/* Row of DDIM from alpha_bar = a to p (Song et al. 2021, equations 12 and 16). */
static struct step_row ddim_row(int32_t t, double a, double p, double eta)
{
    double sigma = eta * sqrt((1 - p) / (1 - a) * (1 - a / p));
    double direction = sqrt(fmax(1 - p - sigma * sigma, 0.0));
    return (struct step_row){
        .t = t,
        .alpha = (float)sqrt(a),
        .sigma = (float)sqrt(1 - a),
        .a = (float)sqrt(p / a),
        .b = (float)(direction - sqrt(p * (1 - a) / a)),
        .s = (float)sigma,
    };
}

/* Row of DPM-Solver++(2M) from alpha_bar = a to p, the step before having gone h_last in lambda (0: none did).
 * x_prev = q/s x - p' expm1(-h) ((1 + k) x0 - k x0_last) with x0 = (x - s eps) / alpha put in, k = h / (2 h_last), so
 * that x_prev is linear in x, eps and x0_last. The last step (p = 1) is x_prev = x0. */
static struct step_row dpmpp_2m_row(int32_t t, double a, double p, double *h_last)
{
    double alpha = sqrt(a), sigma = sqrt(1 - a), alpha_prev = sqrt(p), sigma_prev = sqrt(1 - p);
    struct step_row row = {.t = t, .alpha = (float)alpha, .sigma = (float)sigma};
    if (p == 1.0) {
        row.a = (float)(1 / alpha);
        row.b = (float)(-sigma / alpha);
        return row;
    }
    double h = log(alpha_prev / sigma_prev) - log(alpha / sigma);
    double weight = -alpha_prev * expm1(-h); // of the data prediction
    double k = *h_last != 0 ? h / (2 * *h_last) : 0;
    row.a = (float)(sigma_prev / sigma + weight * (1 + k) / alpha);
    row.b = (float)(-weight * (1 + k) * sigma / alpha);
    row.c = (float)(-weight * k);
    *h_last = h;
    return row;
}

static int check_recipe(const struct diffusion_config *d, const struct sampling_recipe *r, struct error *err)
{
    if (r->sampler == SAMPLER_DDPM)
        return 0;
    if (r->steps < 1 || r->steps > d->T)
        return error_set(err, -EINVAL, "steps", "must be a whole number from 1 to %d, not %d", d->T, r->steps);
    if (!(r->eta >= 0 && r->eta <= 1))
        return error_set(err, -EINVAL, "eta", "must be a number from 0 to 1, not %g", r->eta);
    if (r->sampler == SAMPLER_DPMPP_2M && r->eta != 0)
        return error_set(err, -EINVAL, "eta", "must be 0 with sampler dpmpp_2m, which adds no noise, not %g", r->eta);
    return 0;
}

static void fill_rows(struct step_table *table, const struct sampling_recipe *r, const int32_t *tau,
                      const float *alpha_bar)
{
    double h_last = 0;
    for (int32_t k = 0; k < r->steps; k++) {
        int32_t i = r->steps - 1 - k;
        double a = (double)alpha_bar[tau[i]], p = i > 0 ? (double)alpha_bar[tau[i - 1]] : 1.0;
        if (r->sampler == SAMPLER_DPMPP_2M)
            table->rows[k] = dpmpp_2m_row(tau[i], a, p, &h_last);
        else
            table->rows[k] = ddim_row(tau[i], a, p, r->eta);
    }
}

int schedule_table(const struct diffusion_config *d, const struct sampling_recipe *r, struct step_table **ret_table,
                   struct error *err)
{
    int rc = check_recipe(d, r, err);
    if (rc)
        return rc;
    struct sampling_recipe recipe = *r;
    if (recipe.sampler == SAMPLER_DDPM)
        recipe = (struct sampling_recipe){d->T, STEP_METHOD_LINEAR, SAMPLER_DDPM, 1.0};
    struct step_table *table = malloc(sizeof(*table) + (size_t)recipe.steps * sizeof(table->rows[0]));
    float *alpha_bar = malloc((size_t)d->T * sizeof(*alpha_bar));
    int32_t *tau = malloc((size_t)recipe.steps * sizeof(*tau));
    if (table && alpha_bar && tau) {
        table->n_rows = recipe.steps;
        schedule_alpha_bar(d, alpha_bar);
        schedule_timesteps(recipe.steps, recipe.method, d->T, tau);
        fill_rows(table, &recipe, tau, alpha_bar);
        *ret_table = table;
    } else {
        free(table);
        rc = error_set(err, -ENOMEM, NULL, "out of memory");
    }
    free(alpha_bar);
    free(tau);
    return rc;
}
