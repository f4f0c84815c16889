/* model_folder.c: see model_folder.h. */
#include "model_folder.h"

#include "model/unet.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct model_config tiny_model = {
    .in_channels = 1,
    .out_channels = 1,
    .model_channels = 32,
    .n_levels = 2,
    .channel_mult = {1, 1},
    .num_res_blocks = 1,
    .n_attention = 1,
    .attention_resolutions = {2},
    .conv_resample = true,
    .num_heads = 2,
    .num_classes = TINY_CLASSES,
    .residual_block = BLOCK_ORDER_FUSED,
};

static void check(int rc, const struct error *err)
{
    if (rc < 0)
        fail_msg("%s: %s (%d)", err->field, err->message, rc);
}

void model_folder_open(struct model_folder *f)
{
    struct error err = {0};
    const char *tmp = getenv("TMPDIR");
    memset(f, 0, sizeof(*f));
    snprintf(f->path, sizeof(f->path), "%s/ddimd-models.XXXXXX", tmp ? tmp : P_tmpdir);
    assert_non_null(mkdtemp(f->path));
    check(backend_cpu.open("1", &f->device, &err), &err);
    check(scheduler_create(&(struct scheduler_options){0}, &f->scheduler, &err), &err);
}

void model_folder_store(struct model_folder *f, const struct model_store_options *options)
{
    struct error err = {0};
    struct model_store_options o = options ? *options : (struct model_store_options){.precision = DTYPE_F32};
    o.folder = f->path;
    model_store_close(f->store);
    f->store = NULL;
    check(model_store_open(&o, &f->device, f->scheduler, &f->store, &err), &err);
}

void model_folder_close(struct model_folder *f)
{
    DIR *dir = opendir(f->path);
    model_store_close(f->store);
    scheduler_free(f->scheduler); // waits for what is freed on the worker
    /* Every model went with its references; the device keeps a little scratch of its own. */
    assert_in_range(((struct device_base *)f->device)->bytes_in_use, 0, 64 << 10);
    backend_cpu.close(f->device);
    for (struct dirent *e; (e = readdir(dir));)
        unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    rmdir(f->path);
}

static void path_of(const struct model_folder *f, const char *name, char path[512])
{
    snprintf(path, 512, "%s/%s.safetensors", f->path, name);
}

void model_folder_write(struct model_folder *f, const char *name, uint64_t seed, float scale)
{
    char path[512];
    struct error err = {0};
    struct data_config data;
    json_t *json = json_pack("{s:[i,i], s:s}", "image_size", TINY_SIZE, TINY_SIZE, "mode", "L");
    struct graph *g = graph_create(1, DTYPE_F32, false);
    tensor_id x = graph_input(g, DTYPE_F32, TINY_SIZE, TINY_SIZE, 1);
    tensor_id t = graph_input(g, DTYPE_F32, 1, 1, 1), y = graph_input(g, DTYPE_I32, 1, 1, 1);
    unet_record(g, &tiny_model, x, t, y, TENSOR_NONE);
    check(graph_error(g, &err), &err);
    float *values = calloc(g->param_floats, sizeof(*values));
    unet_initialise(g, seed, values);
    for (size_t i = 0; i < g->param_floats; i++)
        values[i] *= scale;
    check(data_config_parse(json, "data", &tiny_model, &data, &err), &err);
    path_of(f, name, path);
    check(checkpoint_write(path, &tiny_model, &diffusion_config_default, &data, NULL, g, values, "F32", &err), &err);
    data_config_done(&data);
    free(values);
    graph_free(g);
    json_decref(json);
}

void model_folder_write_garbage(struct model_folder *f, const char *name)
{
    char path[512], temporary[600];
    path_of(f, name, path);
    snprintf(temporary, sizeof(temporary), "%s.new", path);
    FILE *file = fopen(temporary, "w");
    fputs("this is not a model", file);
    fclose(file);
    assert_int_equal(rename(temporary, path), 0);
}

void model_folder_remove(struct model_folder *f, const char *name)
{
    char path[512];
    path_of(f, name, path);
    assert_int_equal(unlink(path), 0);
}

static void on_done(struct generation *g, void *context)
{
    struct answer *a = context;
    pthread_mutex_lock(&a->lock);
    a->status = g->status;
    a->images = g->images;
    a->done = true;
    g->images = NULL;
    pthread_cond_signal(&a->ended);
    pthread_mutex_unlock(&a->lock);
    generation_free(g);
}

void answer_begin(struct answer *a, struct model_folder *f, struct resident_model *model, const struct question *q)
{
    struct error err = {0};
    struct generation *g = calloc(1, sizeof(*g));
    struct sampling_recipe recipe = {.steps = q->steps, .method = q->method, .sampler = q->sampler, .eta = q->eta};
    memset(a, 0, sizeof(*a));
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->ended, NULL);
    g->model = model->lane;
    g->n_images = q->images;
    g->class_index = calloc((size_t)q->images, sizeof(*g->class_index));
    for (int32_t i = 0; i < q->images; i++)
        g->class_index[i] = (q->class_index + i) % (TINY_CLASSES + 1);
    check(schedule_table(&model->diffusion, &recipe, &g->table, &err), &err);
    g->seed = q->seed;
    g->guidance = q->guidance;
    g->clip = q->clip;
    g->interval = q->interval;
    g->priority = PRIORITY_NORMAL;
    g->client = q->client;
    g->on.done = on_done;
    g->context = a;
    a->floats = (size_t)q->images * (size_t)generation_frames(g->table->n_rows, q->interval) * TINY_SIZE * TINY_SIZE;
    check(scheduler_submit(f->scheduler, g, NULL, &err), &err);
}

void answer_wait(struct answer *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done)
        pthread_cond_wait(&a->ended, &a->lock);
    pthread_mutex_unlock(&a->lock);
    assert_int_equal(a->status, 0);
}

void answer_done(struct answer *a)
{
    free(a->images);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->ended);
}
