/* page.h: the page at "/", embedded when the program is built (embed.py makes page.c from page.html). */
#ifndef DDIMD_API_PAGE_H
#define DDIMD_API_PAGE_H

#include <stddef.h>

extern const unsigned char page_html[];
extern const size_t page_html_bytes;

#endif
