/* negotiate.c: see negotiate.h. */
#include "api/negotiate.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* One element of an Accept header: a media range and its quality in thousandths. */
struct range {
    const char *type;
    size_t type_bytes;
    int quality;
};

static bool is_token(char c)
{
    return isalnum((unsigned char)c) || (c && strchr("!#$%&'*+-.^_`|~/", c));
}

static const char *skip_space(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* "0", "1", "0.5", "0.123", "1.000" -> thousandths; -1 where it is none of those. */
static int quality_parse(const char *p, const char **ret_end)
{
    if (*p != '0' && *p != '1')
        return -1;
    int q = (*p++ - '0') * 1000;
    if (*p == '.') {
        p++;
        for (int unit = 100; isdigit((unsigned char)*p) && unit; unit /= 10)
            q += (*p++ - '0') * unit;
    }
    *ret_end = p;
    return q > 1000 ? -1 : q;
}

/* The parameters of one element up to the comma; a quality among them replaces *ret_quality. */
static const char *parameters_parse(const char *p, int *ret_quality)
{
    while (*p && *p != ',') {
        p = skip_space(p);
        if (*p == ';') {
            p = skip_space(p + 1);
            if ((*p == 'q' || *p == 'Q') && p[1] == '=') {
                const char *end = p + 2;
                int q = quality_parse(p + 2, &end);
                if (q >= 0)
                    *ret_quality = q;
                p = end;
            }
        }
        if (*p == '"') { // a quoted value may hold commas
            for (p++; *p && *p != '"'; p++)
                if (*p == '\\' && p[1])
                    p++;
        }
        if (*p && *p != ',' && *p != ';')
            p++;
    }
    return p;
}

static const char *range_parse(const char *p, struct range *ret_range)
{
    p = skip_space(p);
    const char *type = p;
    while (is_token(*p))
        p++;
    *ret_range = (struct range){type, (size_t)(p - type), 1000};
    p = parameters_parse(p, &ret_range->quality);
    return *p == ',' ? p + 1 : p;
}

/* 3: exact, 2: type / *, 1: anything, 0: no match. */
static int range_specificity(const struct range *r, const char *offer)
{
    size_t major = (size_t)(strchr(offer, '/') - offer) + 1;
    if (r->type_bytes == strlen(offer) && strncasecmp(r->type, offer, r->type_bytes) == 0)
        return 3;
    if (r->type_bytes == 3 && memcmp(r->type, "*/*", 3) == 0)
        return 1;
    if (r->type_bytes == major + 1 && r->type[major] == '*' && strncasecmp(r->type, offer, major) == 0)
        return 2;
    return 0;
}

static int offer_quality(const char *accept, const char *offer)
{
    int best = 0, quality = 0;
    for (const char *p = accept; *p;) {
        struct range r;
        p = range_parse(p, &r);
        int specificity = range_specificity(&r, offer);
        if (specificity > best) {
            best = specificity;
            quality = r.quality;
        }
    }
    return quality;
}

int negotiate_accept(const char *accept, const char *const *offers)
{
    if (!accept || !*skip_space(accept))
        return 0;
    int best = -1, best_quality = 0;
    for (int i = 0; offers[i]; i++) {
        int q = offer_quality(accept, offers[i]);
        if (q > best_quality) {
            best_quality = q;
            best = i;
        }
    }
    return best;
}

bool negotiate_content_type(const char *header, const char *media_type)
{
    if (!header)
        return false;
    header = skip_space(header);
    size_t n = strlen(media_type);
    if (strncasecmp(header, media_type, n) != 0)
        return false;
    header = skip_space(header + n);
    return *header == '\0' || *header == ';';
}

bool negotiate_etag(const char *if_none_match, const char *etag)
{
    if (!if_none_match)
        return false;
    const char *p = skip_space(if_none_match);
    if (*p == '*')
        return true;
    if (etag[0] == 'W' && etag[1] == '/')
        etag += 2;
    size_t n = strlen(etag);
    while (*p) {
        p = skip_space(p);
        if (p[0] == 'W' && p[1] == '/')
            p += 2;
        if (strncmp(p, etag, n) == 0)
            return true;
        const char *close = *p == '"' ? strchr(p + 1, '"') : NULL;
        p = strchr(close ? close : p, ',');
        if (!p)
            return false;
        p++;
    }
    return false;
}

bool negotiate_prefers(const char *header, const char *preference)
{
    size_t n = strlen(preference);
    for (const char *p = header; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        p += strspn(p, " \t,");
        if (strncasecmp(p, preference, n) == 0 && strchr(" \t,;=", p[n]))
            return true;
    }
    return false;
}
