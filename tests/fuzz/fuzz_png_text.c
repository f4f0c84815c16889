/* fuzz_png_text.c: any bytes as a PNG file that a client sends to be generated again. */
#include "tests/fuzz/fuzz.h"

#include "model/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    char *text = NULL;
    struct error err = {0};
    int rc = image_png_text(bytes, n, "ddimd", &text, &err);
    if (rc == 0 ? strlen(text) >= n : text || err.code != rc || !err.message[0])
        abort();
    free(text);
    return 0;
}
