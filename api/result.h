/* result.h: finished images of a request as the answer that a client wants.
 *
 * Knows nothing of how they were made: a request's own memory or a job's file. Pure functions, any thread but the
 * device's. What depends on the clock is in the JSON form only.
 */
#ifndef DDIMD_API_RESULT_H
#define DDIMD_API_RESULT_H

#include "api/encode.h"

/* In the order of the routes' media types. */
enum result_form { RESULT_PNG, RESULT_JSON, RESULT_ZIP, RESULT_NPY };

enum { ETAG_BYTES = 48 };

struct timing {
    double queue_ms, sample_ms, encode_ms;
};

struct result {
    struct picture picture; // n: images times n_frames
    int32_t n_frames;       // of each image
    int32_t first;          // which image of the request the picture begins with
    int32_t n_each;         // images for each class in the request's list
    const char **classes;   // names, one for each in the list; the array is owned, the names are not
    const char *model;
    const char *recipe; // JSON object; NULL: the picture is only a part of what it describes
    uint64_t seed;
    struct timing timing;
};
void result_done(struct result *r);

/* Appends the whole answer; sets timing.encode_ms. 0, -ENOMEM, -EINVAL (sizes). */
int result_write(struct result *r, enum result_form form, struct text *ret);
/* The members of the JSON answer; with_grid adds "png". */
int result_write_members(struct result *r, bool with_grid, struct text *ret_json);
/* A recipe says model, build and device too; with the media type it fixes the bytes. A JSON answer holds times, so its
 * tag is a weak one. recipe NULL: "". */
void result_etag(const char *recipe, const char *media_type, bool weak, char ret_etag[ETAG_BYTES]);
/* The member "timing". */
void timing_write(const struct timing *ms, struct text *ret_json);

#endif
