/* page.c: GET / and the files that it refers to. The page is a client like others: it uses the documented interface,
 * and nothing of it is secret. Its policy lets it load and ask nothing but this origin, and run no text as a script.
 */
#include "api/page.h"

#include "api/negotiate.h"
#include "api/private.h"

#include <string.h>

static void answer_file(struct exchange *x, const struct page_file *f)
{
    struct text t = {0};
    bool known = negotiate_etag(exchange_request_header(x, "If-None-Match"), f->etag);
    if (!known)
        text_append(&t, f->bytes, f->n);
    exchange_answer(x, known ? 304 : 200, known ? NULL : f->media_type, &t);
    exchange_header(x, "Cache-Control", "no-cache");
    exchange_header(x, "ETag", f->etag);
}

void handle_page(struct exchange *x)
{
    answer_file(x, &page_files[0]);
    exchange_header(x, "Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
                    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
                    "require-trusted-types-for 'script'; trusted-types 'none'");
    exchange_header(x, "Referrer-Policy", "no-referrer");
}

void handle_page_file(struct exchange *x)
{
    for (const struct page_file *f = page_files + 1; f->name; f++) {
        if (strcmp(f->name, x->name) == 0) {
            answer_file(x, f);
            return;
        }
    }
    exchange_fail(x, PROBLEM_NOT_FOUND, "the page has no file \"%s\"", x->name);
}
