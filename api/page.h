/* page.h: the page's files, embedded when the program is built (clients/web/embed.py makes the table). */
#ifndef DDIMD_API_PAGE_H
#define DDIMD_API_PAGE_H

#include <stddef.h>

struct page_file {
    const char *name, *media_type;
    const char *etag; // quoted: a digest of the bytes
    const unsigned char *bytes;
    size_t n;
};
/* "index.html" is first; ends with a NULL name. */
extern const struct page_file page_files[];

#endif
