/* engine_cache.c: the choices of engines in a file, a line each: the numbers of the shape, of images, of the engine,
 * and its knobs. A line that cannot be read counts as none. The file may be removed at any time.
 */
#include "kernels/cuda/engine_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* struct dnn_shape is numbers of one kind. */
enum { SHAPE_NUMBERS = sizeof(struct dnn_shape) / sizeof(int32_t), MOST_LINE = 2048 };

/* One number off the text, false at its end. */
static bool take_number(char **text, int64_t *ret_number)
{
    char *end;
    *ret_number = strtoll(*text, &end, 10);
    bool found = end != *text;
    *text = end;
    return found;
}

static bool parse_line(char *text, struct dnn_shape *ret_shape, int64_t *ret_images, struct configuration *ret_c)
{
    int32_t shape[SHAPE_NUMBERS];
    int64_t number, knobs;
    for (int i = 0; i < SHAPE_NUMBERS; i++) {
        if (!take_number(&text, &number))
            return false;
        shape[i] = (int32_t)number;
    }
    if (!take_number(&text, ret_images) || !take_number(&text, &ret_c->engine) || !take_number(&text, &knobs) ||
        knobs < 0 || knobs > MAX_KNOBS)
        return false;
    ret_c->n_knobs = (int)knobs;
    for (int i = 0; i < ret_c->n_knobs; i++) {
        if (!take_number(&text, &number) || !take_number(&text, &ret_c->value[i]))
            return false;
        ret_c->knob[i] = (cudnnBackendKnobType_t)number;
    }
    memcpy(ret_shape, shape, sizeof(*ret_shape));
    return true;
}

bool engine_cache_find(const struct engines *e, struct choice *c)
{
    char line[MOST_LINE];
    bool found = false;
    FILE *f = *e->cache ? fopen(e->cache, "re") : NULL;
    while (f && !found && fgets(line, sizeof(line), f)) {
        struct dnn_shape shape;
        int64_t images;
        found = parse_line(line, &shape, &images, &c->offered[0]) && images == c->images &&
                !memcmp(&shape, &c->shape, sizeof(shape));
    }
    if (f)
        fclose(f);
    c->n = found ? 1 : 0;
    return found;
}

/* One write at the end of the file, so that processes that share it do not tear each other's lines. */
void engine_cache_add(const struct engines *e, const struct choice *c)
{
    struct choice known = {.shape = c->shape, .images = c->images};
    struct configuration ignored;
    int32_t shape[SHAPE_NUMBERS];
    known.offered = &ignored;
    if (engine_cache_find(e, &known))
        return;
    char line[MOST_LINE];
    int n = 0;
    memcpy(shape, &c->shape, sizeof(shape));
    for (int i = 0; i < SHAPE_NUMBERS; i++)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "%d ", shape[i]);
    const struct configuration *chosen = &c->offered[c->chosen];
    n += snprintf(line + n, sizeof(line) - (size_t)n, "%" PRId64 " %" PRId64 " %d", c->images, chosen->engine,
                  chosen->n_knobs);
    for (int i = 0; i < chosen->n_knobs && n < MOST_LINE - 64; i++)
        n += snprintf(line + n, sizeof(line) - (size_t)n, " %d %" PRId64, (int)chosen->knob[i], chosen->value[i]);
    FILE *f = fopen(e->cache, "ae");
    if (!f)
        return;
    fprintf(f, "%s\n", line);
    fclose(f);
}
