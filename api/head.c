/* head.c: see head.h. */
#include "api/head.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool is_token_char(char c)
{
    return isalnum((unsigned char)c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int bad(struct problem *p, const char *detail)
{
    return problem_set(p, PROBLEM_BAD_REQUEST, NULL, "%s", detail);
}

/* One line of the head: [at, end) without its CR LF. */
struct line {
    const char *at, *end;
};

static const char *skip_token(const char *p, const char *end)
{
    while (p < end && is_token_char(*p))
        p++;
    return p;
}

/* ---- the request line ---- */

static int version_check(const char *p, const char *end, struct problem *ret_problem)
{
    if (end - p != 8 || memcmp(p, "HTTP/", 5) != 0 || !isdigit((unsigned char)p[5]) || p[6] != '.' ||
        !isdigit((unsigned char)p[7]))
        return bad(ret_problem, "the request line is not METHOD ADDRESS HTTP/1.1");
    if (p[5] != '1')
        return problem_set(ret_problem, PROBLEM_HTTP_VERSION, NULL, "HTTP/%c.%c is not spoken here, HTTP/1.1 is", p[5],
                           p[7]);
    return 0;
}

static int request_line_read(struct line l, const struct head_limits *limits, struct head *h, struct problem *p)
{
    const char *method_end = skip_token(l.at, l.end);
    if (method_end == l.at || method_end == l.end || *method_end != ' ')
        return bad(p, "the request line is not METHOD ADDRESS HTTP/1.1");
    const char *target = method_end + 1, *end = target;
    while (end<l.end && * end> 0x20 && *end < 0x7f)
        end++;
    if ((size_t)(end - target) > limits->max_target_bytes)
        return problem_set(p, PROBLEM_URI_TOO_LONG, NULL, "the address has %zu bytes; the limit is %zu",
                           (size_t)(end - target), limits->max_target_bytes);
    if (end == target || end == l.end || *end != ' ')
        return bad(p, "the address in the request line holds bytes that must be %-encoded, or is missing");
    if (memmem(target, (size_t)(end - target), "%00", 3))
        return bad(p, "the address in the request line holds %00"); // it would end a name early
    if (*target != '/' && *target != '*' && !memchr(target, ':', (size_t)(end - target)))
        return bad(p, "the address in the request line does not begin with /");
    h->method = l.at;
    h->method_bytes = (size_t)(method_end - l.at);
    return version_check(end + 1, l.end, p);
}

/* ---- header lines ---- */

/* What was seen of the lines that decide where the request ends. */
struct seen {
    int hosts, lengths, codings;
    bool http10;
};

static bool value_is(struct line v, const char *word)
{
    return (size_t)(v.end - v.at) == strlen(word) && strncasecmp(v.at, word, strlen(word)) == 0;
}

static int length_read(struct line v, struct seen *seen, struct head *h, struct problem *p)
{
    uint64_t n = 0;
    for (const char *c = v.at; c < v.end; c++) {
        if (!isdigit((unsigned char)*c) || n > UINT64_MAX / 20)
            return bad(p, "Content-Length is not a number of bytes");
        n = 10 * n + (uint64_t)(*c - '0');
    }
    if (v.at == v.end || seen->lengths++)
        return bad(p, v.at == v.end ? "Content-Length is empty" : "Content-Length is there twice");
    h->content_bytes = n;
    return 0;
}

static int field_use(struct line name, struct line v, struct seen *seen, struct head *h, struct problem *p)
{
    if (value_is(name, "Content-Length"))
        return length_read(v, seen, h, p);
    if (value_is(name, "Host"))
        seen->hosts++;
    if (value_is(name, "Expect"))
        h->expects = value_is(v, "100-continue");
    if (value_is(name, "Transfer-Encoding")) {
        if (seen->codings++ || !value_is(v, "chunked"))
            return problem_set(p, PROBLEM_TRANSFER_CODING, NULL, "the only transfer coding read here is \"chunked\"");
        h->chunked = true;
    }
    return 0;
}

static int field_read(struct line l, struct seen *seen, struct head *h, struct problem *p)
{
    const char *colon = skip_token(l.at, l.end);
    if (colon == l.at || colon == l.end || *colon != ':')
        return bad(p, *l.at == ' ' || *l.at == '\t' ? "a header line is folded" : "a header line is not NAME: VALUE");
    struct line value = {colon + 1, l.end};
    for (const char *c = value.at; c < value.end; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f)
            return bad(p, "a header line holds control characters");
    while (value.at < value.end && (*value.at == ' ' || *value.at == '\t'))
        value.at++;
    while (value.end > value.at && (value.end[-1] == ' ' || value.end[-1] == '\t'))
        value.end--;
    return field_use((struct line){l.at, colon}, value, seen, h, p);
}

static int seen_check(const struct seen *seen, const struct head *h, struct problem *p)
{
    if (seen->hosts != 1 && !(seen->http10 && seen->hosts == 0))
        return bad(p, seen->hosts ? "the header Host is there twice" : "the header Host is missing");
    if (h->chunked && seen->lengths)
        return bad(p, "Content-Length and Transfer-Encoding exclude each other");
    if (h->chunked && seen->http10)
        return bad(p, "HTTP/1.0 has no Transfer-Encoding");
    return 0;
}

/* ---- the head ---- */

/* The line at p, which ends with LF before end. */
static int line_take(const char *p, const char *end, struct line *ret_line, struct problem *ret_problem)
{
    const char *lf = memchr(p, '\n', (size_t)(end - p));
    if (lf == p || lf[-1] != '\r')
        return bad(ret_problem, "a line of the head does not end with CR LF");
    *ret_line = (struct line){p, lf - 1};
    return 0;
}

static int too_large(const struct head_limits *limits, struct problem *p)
{
    return problem_set(p, PROBLEM_HEADERS_TOO_LARGE, NULL, "the header has more than %zu bytes or %d lines",
                       limits->max_field_bytes, limits->max_fields);
}

static int fields_read_all(const char *at, const char *end, const struct head_limits *limits, bool http10,
                           struct head *h, struct problem *p)
{
    struct seen seen = {.http10 = http10};
    struct line l = {0};
    int n = 0;
    if ((size_t)(end - at) > limits->max_field_bytes)
        return too_large(limits, p);
    for (; at < end; at = l.end + 2) {
        if (line_take(at, end, &l, p))
            return -EINVAL;
        if (l.at == l.end)
            break;
        if (++n > limits->max_fields)
            return too_large(limits, p);
        if (field_read(l, &seen, h, p))
            return -EINVAL;
    }
    return seen_check(&seen, h, p);
}

/* What can be said of a head that goes on: garbage and endless lines are not waited for. */
static int incomplete_check(const char *data, size_t n, const struct head_limits *limits, struct problem *p)
{
    const char *lf = memchr(data, '\n', n);
    struct head h = {0};
    struct line l = {0};
    if (!lf) {
        const char *end = data + n, *method = skip_token(data, end);
        if (method < end && (*method != ' ' || method == data))
            return bad(p, "this does not begin as a request of HTTP/1.1 does");
        if (n > limits->max_target_bytes + 64)
            return problem_set(p, PROBLEM_URI_TOO_LONG, NULL, "the address has more than %zu bytes",
                               limits->max_target_bytes);
        return 0;
    }
    if (line_take(data, data + n, &l, p) || request_line_read(l, limits, &h, p))
        return -EINVAL;
    return (size_t)(data + n - lf) > limits->max_field_bytes ? too_large(limits, p) : 0;
}

/* The end of the head, its empty line included; NULL where it is not there. Lines that end with LF alone count, to be
 * refused. */
static const char *head_end(const char *data, size_t n, size_t searched)
{
    const char *end = data + n;
    for (const char *p = data + (searched > 3 ? searched - 3 : 0); (p = memchr(p, '\n', (size_t)(end - p))); p++) {
        if (end - p > 1 && p[1] == '\n')
            return p + 2;
        if (end - p > 2 && p[1] == '\r' && p[2] == '\n')
            return p + 3;
    }
    return NULL;
}

int head_read(const char *data, size_t n, size_t searched, const struct head_limits *limits, struct head *ret_head,
              struct problem *ret_problem)
{
    const char *end = head_end(data, n, searched);
    struct head h = {0};
    struct line first = {0};
    if (!end)
        return incomplete_check(data, n, limits, ret_problem);
    if (line_take(data, end, &first, ret_problem) || request_line_read(first, limits, &h, ret_problem))
        return -EINVAL;
    bool http10 = first.end[-1] == '0';
    if (fields_read_all(first.end + 2, end, limits, http10, &h, ret_problem))
        return -EINVAL;
    h.bytes = (size_t)(end - data);
    *ret_head = h;
    return 1;
}

bool head_is_request_id(const char *id, size_t n)
{
    size_t i = 0;
    while (i < n && (isalnum((unsigned char)id[i]) || (id[i] && strchr("-_.", id[i]))))
        i++;
    return n > 0 && n < REQUEST_ID_BYTES && i == n;
}

void head_request_id(const char *data, size_t n, char ret_id[REQUEST_ID_BYTES])
{
    static const char name[] = "\nX-Request-Id:";
    const char *end = data + n;
    ret_id[0] = '\0';
    for (const char *p = data; (p = memchr(p, '\n', (size_t)(end - p))); p++) {
        if ((size_t)(end - p) < sizeof(name) || strncasecmp(p, name, sizeof(name) - 1) != 0)
            continue;
        const char *id = p + sizeof(name) - 1, *stop = memchr(id, '\r', (size_t)(end - id));
        while (stop && id < stop && *id == ' ')
            id++;
        if (stop && head_is_request_id(id, (size_t)(stop - id)))
            snprintf(ret_id, REQUEST_ID_BYTES, "%.*s", (int)(stop - id), id);
        return;
    }
}

/* ---- the body ---- */

enum { MAX_OVERHEAD = 8192, MAX_SIZE_DIGITS = 15 };

void body_begin(const struct head *h, struct body *ret_body)
{
    *ret_body = (struct body){.left = h->content_bytes};
    if (h->chunked)
        ret_body->place = BODY_SIZE;
    else
        ret_body->place = h->content_bytes ? BODY_PLAIN : BODY_END;
}

static int hex_value(char c)
{
    if (isdigit((unsigned char)c))
        return c - '0';
    return isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* The line of a chunk's size has ended. */
static void chunk_begin(struct body *b)
{
    b->place = b->left ? BODY_DATA : BODY_TRAILER;
    b->digits = 0;
    b->line = 0;
}

static int size_take(struct body *b, char c)
{
    int digit = hex_value(c);
    if (digit >= 0) {
        b->left = 16 * b->left + (uint64_t)digit;
        return ++b->digits > MAX_SIZE_DIGITS ? -EINVAL : 0;
    }
    if (b->digits == 0 || (c != ';' && c != '\r'))
        return -EINVAL;
    b->place = c == ';' ? BODY_EXTENSION : BODY_SIZE_LF;
    return 0;
}

static int trailer_take(struct body *b, char c)
{
    if (c == '\r') {
        b->place = BODY_TRAILER_LF;
        return 0;
    }
    b->line++;
    return c == '\n' || (c == ':' && b->line == 1) ? -EINVAL : 0;
}

/* One byte of the framing. */
static int framing_take(struct body *b, char c)
{
    switch (b->place) {
    case BODY_SIZE:
        return size_take(b, c);
    case BODY_EXTENSION:
        if (c == '\r')
            b->place = BODY_SIZE_LF;
        return c == '\n' || ++b->overhead > MAX_OVERHEAD ? -EINVAL : 0;
    case BODY_SIZE_LF:
        chunk_begin(b);
        return c == '\n' ? 0 : -EINVAL;
    case BODY_DATA_CR:
        b->place = BODY_DATA_LF;
        return c == '\r' ? 0 : -EINVAL;
    case BODY_DATA_LF:
        b->place = BODY_SIZE;
        return c == '\n' ? 0 : -EINVAL;
    case BODY_TRAILER:
        return ++b->overhead > MAX_OVERHEAD ? -EINVAL : trailer_take(b, c);
    case BODY_TRAILER_LF:
        b->place = b->line ? BODY_TRAILER : BODY_END;
        b->line = 0;
        return c == '\n' ? 0 : -EINVAL;
    default:
        return -EINVAL;
    }
}

ptrdiff_t body_take(struct body *b, const char *data, size_t n)
{
    size_t used = 0;
    while (used < n && b->place != BODY_END) {
        if (b->place != BODY_PLAIN && b->place != BODY_DATA) {
            if (framing_take(b, data[used++]))
                return -EINVAL;
            continue;
        }
        size_t run = n - used < b->left ? n - used : (size_t)b->left;
        used += run;
        b->left -= run;
        b->content += run;
        if (b->left == 0)
            b->place = b->place == BODY_PLAIN ? BODY_END : BODY_DATA_CR;
    }
    return (ptrdiff_t)used;
}
