/* fuzz_config.c: any text as the JSON of a configuration. What is accepted must be written and accepted again, the
 * same, and its network and schedule must be countable.
 */
#include "tests/fuzz/fuzz.h"

#include "model/config.h"
#include "model/json.h"
#include "model/schedule.h"

#include <stdlib.h>

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* A message goes into an answer: it must be UTF-8. */
static void check_error(const struct error *err)
{
    json_t *field = json_string(err->field), *message = json_string(err->message);
    require(err->code < 0 && err->message[0] && field && message);
    json_decref(field);
    json_decref(message);
}

static void check_model(const json_t *json, const json_t *data_json)
{
    struct model_config c, again;
    struct error err = {0};
    if (model_config_parse(json, "model", &c, &err)) {
        check_error(&err);
        return;
    }
    json_t *written = model_config_json(&c);
    require(model_config_parse(written, "", &again, &err) == 0);
    json_t *twice = model_config_json(&again);
    require(json_equal(written, twice));
    json_decref(written);
    json_decref(twice);
    require(model_config_parameters(&c) > 0 && model_config_flop(&c, 64, 64) > 0);
    struct data_config d;
    if (data_config_parse(data_json, "data", &c, &d, &err)) {
        check_error(&err);
        return;
    }
    require(d.n_classes == c.num_classes && d.channels == c.in_channels);
    json_decref(data_config_json(&d));
    data_config_done(&d);
}

static void check_diffusion(const json_t *json)
{
    struct diffusion_config d;
    struct error err = {0};
    if (diffusion_config_parse(json, "diffusion", &d, &err)) {
        check_error(&err);
        return;
    }
    struct sampling_recipe r = {.steps = d.T < 50 ? d.T : 50, .method = STEP_METHOD_QUADRATIC};
    struct step_table *table;
    require(schedule_table(&d, &r, &table, &err) == 0);
    for (int32_t k = 0; k < table->n_rows; k++) {
        const struct step_row *row = &table->rows[k];
        require(row->alpha > 0 && row->sigma > 0 && row->a - row->a == 0 && row->b - row->b == 0);
    }
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    json_t *json;
    struct error err = {0};
    if (json_parse((const char *)bytes, n, &json, &err)) {
        check_error(&err);
        return 0;
    }
    check_model(json_object_get(json, "model"), json_object_get(json, "data"));
    check_diffusion(json_object_get(json, "diffusion"));
    json_decref(json);
    return 0;
}
