/* fuzz_request.c: what a client asks for: query, form and JSON body, with the tables that the routes use. The first
 * byte says which; the rest is the query, and behind a NUL the body.
 *
 * What is accepted is resolved against a model and keeps every limit; what is refused gives a whole problem document.
 */
#include "tests/fuzz/fuzz.h"

#include "api/recipe.h"

#include <stdlib.h>
#include <string.h>

static void require(bool holds)
{
    if (!holds)
        abort();
}

static const struct resident_model *a_model(void)
{
    static const struct data_config data = {.height = 8, .width = 8, .channels = 1, .n_classes = 3};
    static struct resident_model m = {.name = "tiny", .max_rows = 8, .capacity = 16};
    static char classes[3][MODEL_CLASS_NAME_BYTES] = {"zero", "one", "cat"};
    m.model.num_classes = 3;
    m.model.in_channels = m.model.out_channels = 1;
    m.diffusion = (struct diffusion_config){.T = 100, .beta = {1e-4, 0.02}};
    m.data = data;
    m.data.classes = classes;
    return &m;
}

static void check_problem(const struct problem *p)
{
    struct text t = {0};
    require(p->kind != PROBLEM_NONE);
    problem_write(p, "id", &t);
    json_t *json = json_loadb(t.data, t.length, 0, NULL);
    require(json && json_string_length(json_object_get(json, "detail")) > 0);
    json_decref(json);
    text_done(&t);
}

static void resolve(const struct fields *f)
{
    static const struct request_limits limits = {
        .max_images = 64, .max_row_steps = 10000, .max_result_bytes = 1 << 20, .max_picture_bytes = 1 << 20};
    struct recipe r;
    struct problem p = {0};
    struct text t = {0};
    if (recipe_resolve(f, a_model(), &limits, &r, &p)) {
        check_problem(&p);
        return;
    }
    require(r.n_images > 0 && r.n_images <= limits.max_images && recipe_row_steps(&r) <= limits.max_row_steps);
    require(r.table && r.table->n_rows > 0 && r.table->n_rows <= 100);
    for (int32_t i = 0; i < r.n_images; i++)
        require(recipe_class_of(&r, i) >= 0 && recipe_class_of(&r, i) <= 3);
    text_puts(&t, "{");
    recipe_write(&r, "build", "device", &t);
    text_done(&t);
    recipe_done(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const struct json_field *const tables[] = {generate_fields, schedule_fields, replay_fields, no_fields};
    if (n < 1)
        return 0;
    uint8_t how = bytes[0];
    const char *text = (const char *)bytes + 1, *nul = memchr(text, 0, n - 1);
    struct field_source s = {.body_is_json = how & 4};
    size_t length = n - 1;
    if (how & 8) {
        s.query = text;
        s.query_bytes = nul ? (size_t)(nul - text) : length;
    }
    if (!s.query || nul) {
        s.body = s.query ? nul + 1 : text;
        s.body_bytes = s.query ? length - s.query_bytes - 1 : length;
    }
    struct fields f;
    struct problem p = {0};
    if (fields_read(tables[how & 3], &s, &f, &p)) {
        check_problem(&p);
        return 0;
    }
    resolve(&f);
    fields_done(&f);
    return 0;
}
