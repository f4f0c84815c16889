/* test_checkpoint.c: model files: one that PyTorch wrote (tests/fixtures/make_checkpoint.py) read, written, read again,
 * and spoilt in every way that the reader must notice.
 */
#include "model/checkpoint.h"
#include "model/file.h"
#include "model/safetensors.h"
#include "model/unet.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char fixture[] = FIXTURES "/checkpoint.safetensors";

struct fixture {
    char folder[64];
    struct checkpoint checkpoint;
    struct graph *graph;
    float *values; // read from the fixture
};

static struct graph *record(const struct checkpoint *c)
{
    struct graph *g = graph_create(1, DTYPE_F32, false);
    tensor_id x = graph_input(g, DTYPE_F32, c->data.height, c->data.width, c->model.in_channels);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1), y = graph_input(g, DTYPE_I32, 1, 1, 1);
    assert_true(unet_record(g, &c->model, x, t, y, TENSOR_NONE) != TENSOR_NONE);
    return g;
}

static int set_up(void **state)
{
    static struct fixture f;
    struct error err = {0};
    strcpy(f.folder, "checkpoint_test_XXXXXX");
    if (!mkdtemp(f.folder))
        return -1;
    if (checkpoint_open(AT_FDCWD, fixture, &f.checkpoint, &err)) {
        print_error("%s: %s\n", err.field, err.message);
        return -1;
    }
    f.graph = record(&f.checkpoint);
    f.values = malloc(f.graph->param_floats * sizeof(float));
    memset(f.values, 0xFF, f.graph->param_floats * sizeof(float));
    if (checkpoint_read_params(&f.checkpoint, f.graph, f.values, &err))
        return -1;
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    checkpoint_close(&f->checkpoint);
    checkpoint_close(&f->checkpoint); // a closed one is fine
    graph_free(f->graph);
    free(f->values);
    DIR *d = opendir(f->folder);
    for (struct dirent *e = readdir(d); e; e = readdir(d))
        unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    return rmdir(f->folder);
}

static char *path_in(const struct fixture *f, const char *name, char *buffer)
{
    sprintf(buffer, "%s/%s", f->folder, name);
    return buffer;
}

static void test_configuration_is_read(void **state)
{
    const struct checkpoint *c = &((struct fixture *)*state)->checkpoint;
    assert_int_equal(c->model.in_channels, 1);
    assert_int_equal(c->model.model_channels, 32);
    assert_int_equal(c->model.n_levels, 1);
    assert_int_equal(c->model.n_attention, 0);
    assert_true(c->model.dropout == 0.25f && !c->model.conv_resample);
    assert_int_equal(c->model.residual_block, BLOCK_ORDER_PREACT);
    assert_int_equal(c->diffusion.T, 100);
    assert_true(c->diffusion.beta[0] == 0.001 && c->diffusion.beta[1] == 0.2);
    assert_int_equal(c->data.height, 4);
    assert_int_equal(c->data.width, 6);
    assert_string_equal(c->data.classes[1], "\xC3\xBC"
                                            "ber");
    assert_int_equal(json_integer_value(json_object_get(c->training, "epochs")), 3);
    char digest[FILE_SHA256_CHARS + 1];
    assert_int_equal(file_sha256(AT_FDCWD, fixture, digest, NULL), 0);
    assert_string_equal(c->digest, digest);
}

/* The rule of make_checkpoint.py, on PyTorch's index of the element at [k, r, s, c]. */
static float expected(int32_t number, const struct param *p, int64_t k, int64_t r, int64_t s, int64_t c)
{
    int64_t i = ((k * p->dim[3] + c) * p->dim[1] + r) * p->dim[2] + s;
    return (float)((37 * i + 11 * number) % 255 - 127) / 128;
}

static void assert_rule_holds(const struct graph *g, const float *values)
{
    for (int32_t number = 0; number < g->n_params; number++) {
        const struct param *p = &g->params[number];
        const float *v = values + p->offset;
        for (int32_t k = 0; k < p->dim[0]; k++)
            for (int32_t r = 0; r < p->dim[1]; r++)
                for (int32_t s = 0; s < p->dim[2]; s++)
                    for (int32_t c = 0; c < p->dim[3]; c++)
                        if (*v++ != expected(number, p, k, r, s, c))
                            fail_msg("%s[%d,%d,%d,%d] is %g", p->name, k, r, s, c, (double)v[-1]);
    }
}

static void test_parameters_are_read_in_our_layout(void **state)
{
    const struct fixture *f = *state;
    assert_int_equal(model_config_parameters(&f->checkpoint.model), 162465);
    assert_rule_holds(f->graph, f->values);
    int64_t zeros = 0, elements = 0;
    for (int32_t i = 0; i < f->graph->n_params; i++) {
        const int32_t *d = f->graph->params[i].dim;
        elements += (int64_t)d[0] * d[1] * d[2] * d[3];
    }
    assert_int_equal(elements, model_config_parameters(&f->checkpoint.model));
    for (size_t i = 0; i < f->graph->param_floats; i++) // padding is 0, and elements by the rule
        zeros += f->values[i] == 0;
    assert_true(zeros >= (int64_t)f->graph->param_floats - elements);
}

static void write_as(const struct fixture *f, const char *path, const char *dtype, const json_t *training)
{
    const struct checkpoint *c = &f->checkpoint;
    struct error err = {0};
    int rc = checkpoint_write(path, &c->model, &c->diffusion, &c->data, training, f->graph, f->values, dtype, &err);
    if (rc)
        fail_msg("%s: %s", err.field, err.message);
}

static void assert_same_json(json_t *a, json_t *b)
{
    assert_true(a && json_equal(a, b));
    json_decref(a);
    json_decref(b);
}

static void test_written_files_read_back(void **state)
{
    struct fixture *f = *state;
    static const char *const dtypes[] = {"F32", "BF16", "F16"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        struct checkpoint c;
        write_as(f, path_in(f, dtypes[i], path), dtypes[i], f->checkpoint.training);
        assert_int_equal(checkpoint_open(AT_FDCWD, path, &c, NULL), 0);
        assert_same_json(model_config_json(&c.model), model_config_json(&f->checkpoint.model));
        assert_same_json(diffusion_config_json(&c.diffusion), diffusion_config_json(&f->checkpoint.diffusion));
        assert_int_equal(c.data.n_classes, 2);
        assert_memory_equal(c.data.classes, f->checkpoint.data.classes, sizeof(c.data.classes[0]) * 2);
        assert_true(json_equal(c.training, f->checkpoint.training));
        assert_string_equal(safetensors_dtype_names[safetensors_at(c.tensors, 0)->dtype], dtypes[i]);
        float *values = malloc(f->graph->param_floats * sizeof(float));
        assert_int_equal(checkpoint_read_params(&c, f->graph, values, NULL), 0);
        assert_memory_equal(values, f->values, f->graph->param_floats * sizeof(float));
        free(values);
        for (int32_t k = 0; k < f->graph->n_params; k++) // the state_dict's order
            assert_string_equal(safetensors_at(c.tensors, (size_t)k)->name, f->graph->params[k].name);
        checkpoint_close(&c);
    }
}

static void test_bytes_are_a_function_of_the_arguments(void **state)
{
    struct fixture *f = *state;
    char a[128], b[128], digest_a[FILE_SHA256_CHARS + 1], digest_b[FILE_SHA256_CHARS + 1];
    write_as(f, path_in(f, "a", a), "F32", NULL);
    write_as(f, path_in(f, "b", b), "F32", NULL);
    assert_int_equal(file_sha256(AT_FDCWD, a, digest_a, NULL), 0);
    assert_int_equal(file_sha256(AT_FDCWD, b, digest_b, NULL), 0);
    assert_string_equal(digest_a, digest_b);
    struct checkpoint c;
    assert_int_equal(checkpoint_open(AT_FDCWD, a, &c, NULL), 0);
    assert_null(c.training);
    checkpoint_close(&c);
}

static void test_write_names_what_does_not_fit(void **state)
{
    struct fixture *f = *state;
    const struct checkpoint *c = &f->checkpoint;
    char path[128];
    struct error err = {0};
    path_in(f, "big", path);
    const struct param *p = &f->graph->params[5];
    float *element = &f->values[p->offset + 1], saved = *element;
    *element = 65520;
    assert_int_equal(checkpoint_write(path, &c->model, &c->diffusion, &c->data, NULL, f->graph, f->values, "F16", &err),
                     -ERANGE);
    assert_string_equal(err.field, p->name);
    assert_int_equal(access(path, F_OK), -1);
    *element = saved;
    assert_int_equal(checkpoint_write(path, &c->model, &c->diffusion, &c->data, NULL, f->graph, f->values, "F23", &err),
                     -EINVAL);
    assert_string_equal(err.nearest, "F32");
    assert_int_equal(checkpoint_write("no/such/folder/x", &c->model, &c->diffusion, &c->data, NULL, f->graph, f->values,
                                      "F32", &err),
                     -ENOENT);
}

static void test_values_that_are_not_finite_are_refused(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct checkpoint c;
    struct error err = {0};
    const struct param *p = &f->graph->params[f->graph->n_params - 2];
    float *element = &f->values[p->offset + 7], saved = *element;
    *element = NAN;
    write_as(f, path_in(f, "nan", path), "BF16", NULL);
    *element = saved;
    assert_int_equal(checkpoint_open(AT_FDCWD, path, &c, NULL), 0);
    float *values = malloc(f->graph->param_floats * sizeof(float));
    assert_int_equal(checkpoint_read_params(&c, f->graph, values, &err), -EINVAL);
    assert_string_equal(err.field, p->name);
    free(values);
    checkpoint_close(&c);
}

/* ---- spoilt files: the fixture's tensors under other metadata, or other tensors ---- */

enum { MAX_TENSORS = 200 };

/* Writes the fixture's tensors, with one left out, changed or added, and opens that. */
static int open_variant(struct fixture *f, const char *metadata, struct safetensor *tensors, size_t n,
                        struct error *err)
{
    char path[128];
    struct safetensors_entry entry = {"ddimd", metadata};
    assert_int_equal(
        safetensors_write(AT_FDCWD, path_in(f, "variant", path), tensors, n, &entry, metadata ? 1 : 0, err), 0);
    struct checkpoint c;
    *err = (struct error){0};
    int rc = checkpoint_open(AT_FDCWD, path, &c, err);
    if (!rc)
        checkpoint_close(&c);
    return rc;
}

static size_t copy_tensors(const struct fixture *f, struct safetensor *ret_tensors)
{
    size_t n = safetensors_count(f->checkpoint.tensors);
    assert_in_range(n, 1, MAX_TENSORS - 1);
    for (size_t i = 0; i < n; i++)
        ret_tensors[i] = *safetensors_at(f->checkpoint.tensors, i);
    return n;
}

static void test_the_tensors_must_be_the_networks(void **state)
{
    struct fixture *f = *state;
    struct safetensor t[MAX_TENSORS];
    struct error err;
    const char *good = safetensors_metadata(f->checkpoint.tensors, "ddimd");
    size_t n = copy_tensors(f, t);
    assert_int_equal(open_variant(f, good, t, n, &err), 0);
    assert_int_equal(open_variant(f, good, t, n - 1, &err), -EINVAL); // one is missing
    assert_string_equal(err.field, t[n - 1].name);
    assert_non_null(strstr(err.message, "missing"));
    t[n] = t[0];
    t[n].name = "ghost";
    assert_int_equal(open_variant(f, good, t, n + 1, &err), -EINVAL); // one too many
    assert_string_equal(err.field, "ghost");
    for (size_t i = 0; i < n; i++) {
        struct safetensor saved = t[i];
        t[i].dim[t[i].rank++] = 1; // the same bytes, another rank
        assert_int_equal(open_variant(f, good, t, n, &err), -EINVAL);
        assert_string_equal(err.field, saved.name);
        t[i] = saved;
    }
    for (size_t i = 0; i < n; i++)
        if (t[i].dtype == SAFETENSORS_F32) {
            t[i].dtype = SAFETENSORS_I32;
            assert_int_equal(open_variant(f, good, t, n, &err), -EINVAL);
            assert_string_equal(err.field, t[i].name);
            t[i].dtype = SAFETENSORS_F32;
        }
}

static void test_bad_metadata_names_the_key(void **state)
{
#define MODEL                                                                                                          \
    "\"model\":{\"in_channels\":1,\"out_channels\":1,\"model_channels\":32,\"channel_mult\":[1],"                      \
    "\"num_res_blocks\":1,\"attention_resolutions\":[],\"num_classes\":2,\"residual_block\":\"preact\"}"
#define REST "\"diffusion\":{},\"data\":{\"image_size\":[4,6]}"
    static const struct {
        const char *metadata, *field;
        int rc;
    } cases[] = {
        {"{\"version\":1," MODEL "," REST "}", "", 0},
        {NULL, "", -EINVAL},
        {"", "", -EINVAL},
        {"[]", "version", -EINVAL},
        {"{" MODEL "," REST "}", "version", -EINVAL},
        {"{\"version\":2,\"news\":1}", "version", -EINVAL},
        {"{\"version\":1," MODEL "," REST ",\"trainin\":1}", "trainin", -EINVAL},
        {"{\"version\":1," REST "}", "model", -EINVAL},
        {"{\"version\":1," MODEL ",\"diffusion\":{}}", "data", -EINVAL},
        {"{\"version\":1," MODEL ",\"diffusion\":{\"T\":0},\"data\":{}}", "diffusion.T", -EINVAL},
        {"{\"version\":1," MODEL ",\"diffusion\":{},\"data\":{\"mode\":\"RGB\"}}", "data.mode", -EINVAL},
        {"{\"version\":1,\"model\":{\"channel_mult\":[1,0]}," REST "}", "model.channel_mult[1]", -EINVAL},
        {"{\"version\":1," MODEL "," REST "}x", "", -EINVAL},
        {"{\"version\":1,\"version\":1," MODEL "," REST "}", "", -EINVAL},
        {"{\"version\":1," MODEL "," REST ",\"training\":null}", "", 0},
    };
    struct fixture *f = *state;
    struct safetensor t[MAX_TENSORS];
    size_t n = copy_tensors(f, t);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err;
        int rc = open_variant(f, cases[i].metadata, t, n, &err);
        if (rc != cases[i].rc || strcmp(err.field, cases[i].field))
            fail_msg("case %zu: %d, field \"%s\": %s", i, rc, err.field, err.message);
    }
#undef MODEL
#undef REST
}

static void test_files_that_are_none(void **state)
{
    struct fixture *f = *state;
    struct checkpoint c;
    struct error err = {0};
    char path[128];
    assert_int_equal(checkpoint_open(AT_FDCWD, path_in(f, "absent", path), &c, &err), -ENOENT);
    assert_int_equal(checkpoint_open(AT_FDCWD, f->folder, &c, &err), -EINVAL); // a folder
    assert_int_equal(mkfifo(path_in(f, "fifo", path), 0600), 0);
    assert_int_equal(checkpoint_open(AT_FDCWD, path, &c, &err), -EINVAL); // and does not block
    assert_int_equal(file_write(AT_FDCWD, path_in(f, "text", path), "hello, world", 12, &err), 0);
    assert_int_equal(checkpoint_open(AT_FDCWD, path, &c, &err), -EINVAL);
    assert_int_equal(file_write(AT_FDCWD, path_in(f, "empty", path), "", 0, &err), 0);
    assert_int_equal(checkpoint_open(AT_FDCWD, path, &c, &err), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configuration_is_read),
        cmocka_unit_test(test_parameters_are_read_in_our_layout),
        cmocka_unit_test(test_written_files_read_back),
        cmocka_unit_test(test_bytes_are_a_function_of_the_arguments),
        cmocka_unit_test(test_write_names_what_does_not_fit),
        cmocka_unit_test(test_values_that_are_not_finite_are_refused),
        cmocka_unit_test(test_the_tensors_must_be_the_networks),
        cmocka_unit_test(test_bad_metadata_names_the_key),
        cmocka_unit_test(test_files_that_are_none),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
