/* fuzz_safetensors.c: any bytes as a safetensors file. What the reader accepts must lie inside the file and be
 * findable. */
#include "tests/fuzz/fuzz.h"

#include "model/file.h"
#include "model/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* abort(), not assert(): a build without assertions must fail as well. */
static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check_tensor(const struct safetensors *s, const struct safetensor *t, const uint8_t *file, size_t n)
{
    const uint8_t *data = t->data;
    require(data >= file + 8 && data + t->bytes <= file + n);
    require((uint64_t)safetensor_elements(t) * safetensors_dtype_bytes(t->dtype) == t->bytes);
    require(safetensors_find(s, t->name) == t);
    size_t elements = (size_t)safetensor_elements(t);
    float *values = malloc((elements + 1) * sizeof(*values));
    if (values && safetensor_to_f32(t, 0, elements, values) == 0) {
        char *back = malloc(t->bytes + 1);
        if (back)
            safetensor_from_f32(t->dtype, values, elements, back);
        free(back);
    }
    free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct safetensors *s;
    struct error err = {0};
    if (safetensors_from_memory(bytes, n, &s, &err)) {
        require(err.code < 0 && err.message[0]);
        return 0;
    }
    size_t total = 0;
    for (size_t i = 0; i < safetensors_count(s); i++) {
        check_tensor(s, safetensors_at(s, i), bytes, n);
        total += safetensors_at(s, i)->bytes;
    }
    require(total < n);
    char digest[FILE_SHA256_CHARS + 1];
    safetensors_digest(s, digest);
    safetensors_metadata(s, "ddimd");
    safetensors_close(s);
    return 0;
}
