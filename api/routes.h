/* routes.h: the paths, as one table.
 *
 * A path whose methods differ in their fields or answers has a row for each; they follow each other. It drives
 * dispatch, 404, 405 with Allow, 406, 415 and the OpenAPI document. Every path is there under /v1 too.
 */
#ifndef DDIMD_API_ROUTES_H
#define DDIMD_API_ROUTES_H

#include "api/fields.h"

struct exchange;

/* Who may use a route where there are keys; a row that says nothing is for admins. */
enum access { ACCESS_ADMIN, ACCESS_OPEN, ACCESS_ANY, ACCESS_GENERATE, ACCESS_TRAIN };

enum { METHOD_GET = 1, METHOD_POST = 2, METHOD_DELETE = 4 };

struct route {
    const char *path; // "{name}" stands for one segment, or for a segment's beginning
    unsigned methods; // METHOD_*; GET answers HEAD too
    void (*handle)(struct exchange *x);
    const char *const *offers;         // media types of the answer, the preferred first; NULL-terminated
    const char *const *bodies;         // media types of a POST's body; NULL: it takes none
    const struct json_field *fields;   // of the query and the body; NULL: the handler reads the query itself
    const char *operation, *summary;   // for the OpenAPI document
    const enum problem_kind *problems; // besides those that every route has; ends with PROBLEM_NONE
    const void *defaults;              // of fields; NULL: fields_defaults
    const char *schema;                // name of a JSON body's schema; NULL: "Generate"
    int status;                        // of a good answer; 0: 200
    enum access access;
};
extern const struct route route_table[]; // ends with a NULL path
enum { ROUTE_MAX_COUNT = 48 };

/* The route of a decoded path; what stands for {name} goes into ret_name[MODEL_NAME_BYTES], "" where there is nothing
 * of the kind; of two of them, "first/second". NULL: no such path, or a name that no model can have. */
const struct route *route_find(const char *path, char *ret_name);
/* Of the rows with r's path, which follow each other, the one for the method; r where there is none. */
const struct route *route_choose(const struct route *r, const char *method);
/* Whether a name could stand for {name}: letters, digits, '.', '_', '-', not too long. */
bool route_is_name(const char *name);
/* "GET, HEAD, OPTIONS": of all rows with r's path. */
void route_allow(const struct route *r, char *ret_allow, size_t bytes);
/* The bit of a method that the table knows, 0 for others. HEAD counts as GET. */
unsigned route_method(const char *method);

/* "generate", ...; "any" for ACCESS_ANY, NULL for ACCESS_OPEN. */
const char *access_role(enum access access);

#endif
