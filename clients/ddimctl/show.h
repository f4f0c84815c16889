/* show.h: a picture where a person sees it: in the terminal as kitty's graphics, sixels or half blocks, or in the
 * desktop's viewer.
 */
#ifndef DDIMCTL_SHOW_H
#define DDIMCTL_SHOW_H

#include "clients/ddimctl/outcome.h"
#include "clients/ddimctl/terminal.h"

#include <stddef.h>

/* how: the value of --show, "" as "auto". file: where the picture was written, for the viewer; NULL: nowhere. Says what
 * is in the way. */
enum outcome show_png(const void *png, size_t n, const char *how, const char *file, const struct terminal *to);

#endif
