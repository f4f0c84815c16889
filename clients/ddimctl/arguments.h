/* arguments.h: the command line, read by the table of commands. Plain data that points into argv and the table. */
#ifndef DDIMCTL_ARGUMENTS_H
#define DDIMCTL_ARGUMENTS_H

#include "clients/ddimctl/commands.h"
#include "kernels/error.h"

#include <stdint.h>

enum { ARGUMENTS_MAX = 128 };

struct given_option {
    const struct option *option;
    const char *value; // "true" or "false" for flags, "" where an optional value was left out
};

struct arguments {
    const struct command *command; // NULL: none was given (--help or --version)
    bool version;
    struct given_option options[ARGUMENTS_MAX];
    const char *operands[ARGUMENTS_MAX];
    int n_options, n_operands;
};

/* Options may stand anywhere behind the command; "--" ends them. 0, -EINVAL: err says what is wrong, with the nearest
 * name where there is one. */
int arguments_read(int argc, char **argv, struct arguments *ret_arguments, struct error *err);

/* The last value of an option, NULL where it was not given. */
const char *argument(const struct arguments *a, const char *name);
/* Of VALUE_NUMBER; otherwise where it was not given. */
uint64_t argument_number(const struct arguments *a, const char *name, uint64_t otherwise);

#endif
