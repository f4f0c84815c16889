/* fuzz_header.c: headers that are taken apart: Accept, Content-Type and If-None-Match, one a line. */
#include "tests/fuzz/fuzz.h"

#include "api/negotiate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    static const char *const offers[] = {"image/png", "application/json", "text/event-stream", NULL};
    char *text = malloc(n + 1), *rest = text;
    if (!text)
        return 0;
    memcpy(text, bytes, n);
    text[n] = '\0';
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
        int offer = negotiate_accept(line, offers);
        if (offer < -1 || offer > 2)
            abort();
        if (negotiate_content_type(line, "image/png") && negotiate_content_type(line, "text/csv"))
            abort();
        negotiate_etag(line, "\"abc\"");
    }
    free(text);
    return 0;
}
