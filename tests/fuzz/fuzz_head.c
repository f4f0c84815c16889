/* fuzz_head.c: what arrives on a connection, as api/conn.c looks at it: heads and bodies, one after the other. The
 * first byte says how many bytes come at once.
 *
 * However the bytes are cut, the same requests are found, at the same places.
 */
#include "tests/fuzz/fuzz.h"

#include "api/head.h"

#include <stdlib.h>
#include <string.h>

static void require(bool holds)
{
    if (!holds)
        abort();
}

static const struct head_limits limits = {.max_target_bytes = 256, .max_field_bytes = 512, .max_fields = 8};

/* What of the data is one request; *ret_end: whether it ended. Cut into pieces of `step` bytes. */
static size_t request_take(const char *data, size_t n, size_t step, bool *ret_end)
{
    struct head h = {0};
    struct problem p = {0};
    struct body b;
    size_t searched = 0, have = 0;
    int rc = 0;
    while (rc == 0 && have < n) {
        have = n - have < step ? n : have + step;
        rc = head_read(data, have, searched, &limits, &h, &p);
        searched = have;
    }
    *ret_end = false;
    if (rc <= 0) {
        require(rc == 0 || (p.kind != PROBLEM_NONE && p.detail[0]));
        return 0;
    }
    require(h.bytes <= n && h.method == data && h.method_bytes > 0 && h.method_bytes < h.bytes);
    require(memcmp(data + h.bytes - 4, "\r\n\r\n", 4) == 0 && !(h.chunked && h.content_bytes));
    body_begin(&h, &b);
    size_t used = h.bytes;
    while (b.place != BODY_END && used < n) {
        size_t piece = n - used < step ? n - used : step;
        ptrdiff_t took = body_take(&b, data + used, piece);
        if (took < 0)
            return 0;
        require((size_t)took == piece || (b.place == BODY_END && (size_t)took < piece));
        used += (size_t)took;
    }
    require(h.chunked || b.content <= h.content_bytes);
    *ret_end = b.place == BODY_END;
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    char id[REQUEST_ID_BYTES];
    size_t step = n ? (size_t)bytes[0] + 1 : 1;
    const char *data = (const char *)bytes + 1;
    n = n ? n - 1 : 0;
    head_request_id(data, n, id);
    require(!id[0] || head_is_request_id(id, strlen(id)));
    for (bool end = true; end && n;) {
        bool whole_end = false;
        size_t used = request_take(data, n, step, &end), whole = request_take(data, n, n, &whole_end);
        require(!end || (whole_end && whole == used)); // a piece may be refused sooner: as too long
        data += used;
        n -= used;
    }
    return 0;
}
