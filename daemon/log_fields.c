/* log_fields.c: an event's line, taken apart. See log.h. */
#include "daemon/log.h"

#include <string.h>

static bool is_key_char(char c)
{
    return (c >= 'a' && c <= 'z') || c == '_';
}

/* One `key=value` at *at, which then is behind it and the space that follows; values in quotes end with a quote that is
 * followed by a space or by nothing. */
static bool pair_cut(char **at, struct log_field *ret_field)
{
    char *key = *at, *end = key;
    while (is_key_char(*end))
        end++;
    if (end == key || *end != '=')
        return false;
    char *value = end + 1, *stop;
    if (*value == '"') {
        for (stop = ++value; *stop && !(*stop == '"' && (stop[1] == ' ' || !stop[1])); stop++)
            ;
        if (!*stop)
            return false;
        *stop++ = '\0';
    } else {
        stop = value + strcspn(value, " ");
    }
    *end = '\0';
    *at = stop;
    if (*stop) {
        *stop = '\0';
        *at = stop + 1;
    }
    *ret_field = (struct log_field){key, value};
    return true;
}

int log_fields_split(char *copy, struct log_field *ret_fields, int max)
{
    char *at = copy;
    int n = 1;
    while (is_key_char(*at))
        at++;
    if (at == copy || *at != ' ' || max < 1)
        return 0;
    *at++ = '\0';
    ret_fields[0] = (struct log_field){"event", copy};
    while (*at && n < max) {
        if (!pair_cut(&at, &ret_fields[n]))
            return 0;
        n++;
    }
    return n > 1 ? n : 0;
}
