/* test_config.c: configurations of model, diffusion and data: defaults, every refusal, what is written, sizes. */
#include "model/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static json_t *parse(const char *text)
{
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (!json)
        fail_msg("%s", text);
    return json;
}

static int parse_model(const char *text, struct model_config *ret_config, struct error *err)
{
    json_t *json = parse(text);
    int rc = model_config_parse(json, "model", ret_config, err);
    json_decref(json);
    return rc;
}

static void test_model_defaults_are_the_references(void **state)
{
    struct model_config c;
    assert_int_equal(parse_model("{}", &c, NULL), 0);
    assert_int_equal(c.in_channels, 3);
    assert_int_equal(c.out_channels, 3);
    assert_int_equal(c.model_channels, 128);
    assert_int_equal(c.n_levels, 4);
    static const int32_t mult[] = {1, 2, 2, 2, 0, 0, 0, 0};
    assert_memory_equal(c.channel_mult, mult, sizeof(mult));
    assert_int_equal(c.num_res_blocks, 2);
    assert_int_equal(c.n_attention, 1);
    assert_int_equal(c.attention_resolutions[0], 2);
    assert_true(c.dropout == 0.1f);
    assert_true(c.conv_resample);
    assert_int_equal(c.num_heads, 4);
    assert_int_equal(c.num_classes, 10);
    assert_int_equal(c.residual_block, BLOCK_ORDER_FUSED);
}

static void test_model_is_read(void **state)
{
    struct model_config c;
    struct error err = {0};
    assert_int_equal(parse_model("{\"in_channels\":1,\"out_channels\":1,\"model_channels\":64,\"channel_mult\":[1,3],"
                                 "\"num_res_blocks\":1,\"attention_resolutions\":[],\"dropout\":0,"
                                 "\"conv_resample\":false,\"num_heads\":6,\"num_classes\":7,"
                                 "\"residual_block\":\"preact\"}",
                                 &c, &err),
                     0);
    static const int32_t mult[] = {1, 3, 0, 0, 0, 0, 0, 0};
    assert_int_equal(c.n_levels, 2);
    assert_memory_equal(c.channel_mult, mult, sizeof(mult)); // nothing is left of the default
    assert_int_equal(c.n_attention, 0);
    assert_int_equal(c.attention_resolutions[0], 0);
    assert_true(c.dropout == 0 && !c.conv_resample);
    assert_int_equal(c.num_heads, 6);
    assert_int_equal(c.residual_block, BLOCK_ORDER_PREACT);
    assert_false(model_config_attends(&c, 0));
    assert_false(model_config_attends(&c, 1));
}

static void test_bad_models_name_the_field(void **state)
{
    static const struct {
        const char *json, *field, *word, *nearest;
    } cases[] = {
        {"[]", "model", "object", ""},
        {"{\"chanel_mult\":[1]}", "model.chanel_mult", "unknown key", "channel_mult"},
        {"{\"in_channels\":2,\"out_channels\":2}", "model.in_channels", "1 or 3", ""},
        {"{\"in_channels\":4}", "model.in_channels", "from 1 to 3", ""},
        {"{\"in_channels\":1}", "model.out_channels", "must equal in_channels (1), not 3", ""},
        {"{\"model_channels\":48}", "model.model_channels", "multiple of 32", ""},
        {"{\"model_channels\":0}", "model.model_channels", "from 32", ""},
        {"{\"model_channels\":4096}", "model.model_channels", "to 2048", ""},
        {"{\"channel_mult\":[]}", "model.channel_mult", "1 to 8", ""},
        {"{\"channel_mult\":[1,2,0]}", "model.channel_mult[2]", "from 1", ""},
        {"{\"channel_mult\":[1,1,1,1,1,1,1,1,1]}", "model.channel_mult", "1 to 8", ""},
        {"{\"model_channels\":1024,\"channel_mult\":[1,9]}", "model.channel_mult[1]", "above 8192", ""},
        {"{\"num_res_blocks\":0}", "model.num_res_blocks", "from 1", ""},
        {"{\"num_res_blocks\":1.5}", "model.num_res_blocks", "whole number", ""},
        {"{\"attention_resolutions\":[2,0]}", "model.attention_resolutions[1]", "from 1", ""},
        {"{\"dropout\":1}", "model.dropout", "from 0", ""},
        {"{\"dropout\":-0.1}", "model.dropout", "from 0", ""},
        {"{\"conv_resample\":1}", "model.conv_resample", "true or false", ""},
        {"{\"num_heads\":5}", "model.num_heads", "must divide the 256 channels of level 1", ""},
        {"{\"num_heads\":3,\"attention_resolutions\":[],\"channel_mult\":[1,1]}", "model.num_heads", "of level 1", ""},
        {"{\"num_heads\":0}", "model.num_heads", "from 1", ""},
        {"{\"num_classes\":0}", "model.num_classes", "from 1", ""},
        {"{\"num_classes\":1001}", "model.num_classes", "to 1000", ""},
        {"{\"residual_block\":\"preakt\"}", "model.residual_block", "\"fused\" or \"preact\"", "preact"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct model_config c = {.in_channels = -7}, untouched = c;
        struct error err = {0};
        int rc = parse_model(cases[i].json, &c, &err);
        if (rc != -EINVAL || strcmp(err.field, cases[i].field) || !strstr(err.message, cases[i].word) ||
            strcmp(err.nearest, cases[i].nearest))
            fail_msg("%s: %d, \"%s\": %s (%s)", cases[i].json, rc, err.field, err.message, err.nearest);
        assert_memory_equal(&c, &untouched, sizeof(c));
    }
}

static void test_diffusion(void **state)
{
    static const struct {
        const char *json, *field, *word;
    } cases[] = {
        {"{}", NULL, NULL},
        {"{\"T\":1}", NULL, NULL},
        {"{\"T\":10000,\"beta\":[1e-5,0.01]}", NULL, NULL},
        {"{\"T\":4,\"beta\":[0.5,0.5]}", NULL, NULL},
        {"{\"T\":0}", "diffusion.T", "from 1 to 10000"},
        {"{\"T\":10001}", "diffusion.T", "from 1 to 10000"},
        {"{\"t\":10}", "diffusion.t", "unknown key"},
        {"{\"beta\":0.1}", "diffusion.beta", "list of 2"},
        {"{\"beta\":[0,0.1]}", "diffusion.beta[0]", "above 0"},
        {"{\"beta\":[0.1,1.1]}", "diffusion.beta[1]", "up to 1"},
        {"{\"beta\":[0.02,0.0001]}", "diffusion.beta", "descend"},
        {"{\"beta\":[1e-9,0.02]}", "diffusion.beta", "too small"},
        {"{\"beta\":[1e-8,1e-8]}", "diffusion.beta", "too small"},
        {"{\"beta\":[0.5,0.9]}", "diffusion.beta", "too large"},
        {"{\"T\":2,\"beta\":[0.5,1]}", "diffusion.beta", "too large"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct diffusion_config d = {.T = -1};
        struct error err = {0};
        json_t *json = parse(cases[i].json);
        int rc = diffusion_config_parse(json, "diffusion", &d, &err);
        if (cases[i].field
                ? rc != -EINVAL || d.T != -1 || strcmp(err.field, cases[i].field) || !strstr(err.message, cases[i].word)
                : rc != 0)
            fail_msg("%s: %d, \"%s\": %s", cases[i].json, rc, err.field, err.message);
        json_decref(json);
    }
    struct diffusion_config d;
    json_t *empty = json_object();
    assert_int_equal(diffusion_config_parse(empty, "", &d, NULL), 0);
    assert_true(d.T == 1000 && d.beta[0] == 1e-4 && d.beta[1] == 0.02);
    json_decref(empty);
}

static void test_data(void **state)
{
    static const struct {
        const char *json, *field, *word;
    } cases[] = {
        {"{}", NULL, NULL},
        {"{\"image_size\":[8,16],\"mode\":\"RGB\",\"classes\":[\"a\",\"b\",\"\xC3\xA4\"]}", NULL, NULL},
        {"{\"classes\":null}", NULL, NULL},
        {"{\"imagesize\":[8,8]}", "data.imagesize", "image_size"},
        {"{\"image_size\":8}", "data.image_size", "list of 2"},
        {"{\"image_size\":[8,12]}", "data.image_size[1]", "multiple of 8"},
        {"{\"image_size\":[4,8]}", "data.image_size[0]", "multiple of 8"},
        {"{\"image_size\":[8,2048]}", "data.image_size[1]", "to 1024"},
        {"{\"mode\":\"L\"}", "data.mode", "\"RGB\" for 3"},
        {"{\"mode\":\"rgb\"}", "data.mode", "\"L\" or \"RGB\""},
        {"{\"classes\":[\"a\",\"b\"]}", "data.classes", "num_classes (3)"},
        {"{\"classes\":\"a\"}", "data.classes", "num_classes (3)"},
        {"{\"classes\":[\"a\",\"b\",\"\"]}", "data.classes[2]", "1 to 63"},
        {"{\"classes\":[\"a\",7,\"c\"]}", "data.classes[1]", "string"},
        {"{\"classes\":[\"a\",\"b\",\"a\"]}", "data.classes[2]", "name of class 0"},
        {"{\"classes\":[\"a\\n\",\"b\",\"c\"]}", "data.classes[0]", "control"},
        {"{\"classes\":[\"0123456789012345678901234567890123456789012345678901234567890123\",\"b\",\"c\"]}",
         "data.classes[0]", "1 to 63"},
    };
    struct model_config model;
    assert_int_equal(parse_model("{\"num_classes\":3}", &model, NULL), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct data_config d = {.height = -1};
        struct error err = {0};
        json_t *json = parse(cases[i].json);
        int rc = data_config_parse(json, "data", &model, &d, &err);
        if (cases[i].field ? rc != -EINVAL || d.height != -1 || strcmp(err.field, cases[i].field) ||
                                 !strstr(err.message, cases[i].word)
                           : rc != 0)
            fail_msg("%s: %d, \"%s\": %s", cases[i].json, rc, err.field, err.message);
        data_config_done(&d);
        json_decref(json);
    }
}

static void test_data_defaults(void **state)
{
    struct model_config grey;
    struct data_config d;
    json_t *empty = json_object();
    assert_int_equal(parse_model("{\"in_channels\":1,\"out_channels\":1,\"num_classes\":12}", &grey, NULL), 0);
    assert_int_equal(data_config_parse(empty, "data", &grey, &d, NULL), 0);
    assert_true(d.height == 32 && d.width == 32 && d.channels == 1 && d.n_classes == 12);
    assert_string_equal(d.classes[0], "0");
    assert_string_equal(d.classes[11], "11");
    data_config_done(&d);
    assert_null(d.classes);
    json_decref(empty);
}

/* What is written has every key, and reads back the same. */
static void test_written_configurations_read_back(void **state)
{
    struct model_config c;
    assert_int_equal(parse_model("{\"model_channels\":32,\"channel_mult\":[1,2,3],\"attention_resolutions\":[1,4],"
                                 "\"dropout\":0.3,\"num_classes\":2}",
                                 &c, NULL),
                     0);
    json_t *model = model_config_json(&c), *diffusion = diffusion_config_json(&diffusion_config_default);
    assert_int_equal(json_object_size(model), 11);
    assert_int_equal(json_object_size(diffusion), 2);
    struct model_config c2;
    struct diffusion_config d2;
    assert_int_equal(model_config_parse(model, "model", &c2, NULL), 0);
    assert_int_equal(diffusion_config_parse(diffusion, "diffusion", &d2, NULL), 0);
    json_t *model2 = model_config_json(&c2);
    assert_true(json_equal(model, model2));
    assert_true(c2.dropout == c.dropout);
    assert_true(d2.T == 1000 && d2.beta[0] == 1e-4 && d2.beta[1] == 0.02);
    json_t *text = parse("{\"image_size\":[4,8],\"mode\":\"RGB\",\"classes\":[\"cat\",\"dog\"]}");
    struct data_config data;
    assert_int_equal(data_config_parse(text, "data", &c, &data, NULL), 0);
    json_t *data2 = data_config_json(&data);
    assert_true(json_equal(text, data2));
    data_config_done(&data);
    json_decref(model);
    json_decref(model2);
    json_decref(diffusion);
    json_decref(text);
    json_decref(data2);
}

/* As PyTorch 2.15 counts them on the oracle: sum(p.numel() for p in UNet(...).parameters()), and FlopCounterMode. */
static void test_sizes(void **state)
{
    static const struct {
        const char *json;
        int64_t parameters, flop; // of a 32x32 image
    } cases[] = {
        {"{}", 35742211, 12443713536},
        {"{\"in_channels\":1,\"out_channels\":1,\"model_channels\":32,\"channel_mult\":[1,2,3],\"num_res_blocks\":1,"
         "\"attention_resolutions\":[1,4],\"conv_resample\":false,\"num_classes\":3,\"residual_block\":\"preact\"}",
         1650913, 911187968},
        {"{\"model_channels\":64,\"channel_mult\":[1,2],\"num_res_blocks\":3,\"attention_resolutions\":[],\"residual_"
         "block\":\"preact\"}",
         4727363, 3558539264},
        {"{\"model_channels\":64,\"channel_mult\":[2,1,4],\"attention_resolutions\":[1,2,4],\"num_heads\":8,\"conv_"
         "resample\":false}",
         14807555, 8958640128},
        {"{\"model_channels\":32,\"channel_mult\":[1],\"num_res_blocks\":1,\"attention_resolutions\":[1],\"num_"
         "classes\":1000}",
         303811, 808927232},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct model_config c;
        assert_int_equal(parse_model(cases[i].json, &c, NULL), 0);
        assert_int_equal(model_config_parameters(&c), cases[i].parameters);
        assert_int_equal(model_config_flop(&c, 32, 32), cases[i].flop);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_defaults_are_the_references),
        cmocka_unit_test(test_model_is_read),
        cmocka_unit_test(test_bad_models_name_the_field),
        cmocka_unit_test(test_diffusion),
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_data_defaults),
        cmocka_unit_test(test_written_configurations_read_back),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
