/* negotiate.h: which of the media types on offer a client wants (RFC 9110, 12.5.1).
 *
 * Pure functions.
 */
#ifndef DDIMD_API_NEGOTIATE_H
#define DDIMD_API_NEGOTIATE_H

#include <stdbool.h>

/* offers: NULL-terminated media types ("image/png"), the preferred first. accept: the header's value, NULL where absent
 * (anything goes). Returns the index of the offer with the highest quality, the earlier of equals; -1 where none is
 * acceptable. For each offer the most specific range that matches it gives its quality: type/subtype, type/ *, * / *.
 * Parts that cannot be read are skipped; parameters other than q are ignored. */
int negotiate_accept(const char *accept, const char *const *offers);

/* Whether a Content-Type header names this media type, parameters aside. */
bool negotiate_content_type(const char *header, const char *media_type);

/* Whether a Prefer header (RFC 7240) names this preference, whatever its value; header NULL where absent. */
bool negotiate_prefers(const char *header, const char *preference);

/* Whether an If-None-Match header lists the entity tag (weak comparison, RFC 9110, 13.1.2) or is "*". etag is quoted.
 */
bool negotiate_etag(const char *if_none_match, const char *etag);

#endif
