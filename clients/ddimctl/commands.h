/* commands.h: every command and option of ddimctl, as one table.
 *
 * A row makes the parser (arguments.h), --help, the completion for bash and the manual page (describe.h). An option
 * that is a field goes to the daemon as it was written, under the field's name; the daemon's own table says what is
 * wrong with it, so no limit is kept here a second time.
 */
#ifndef DDIMCTL_COMMANDS_H
#define DDIMCTL_COMMANDS_H

#include "clients/ddimctl/outcome.h"

#include <stdbool.h>

struct arguments;
struct session;

enum value_kind {
    VALUE_NONE,   // a flag
    VALUE_SWITCH, // a flag that is a field: true, or with --no-NAME false
    VALUE_TEXT,
    VALUE_NUMBER, // a whole number from 0 up
    VALUE_NAME,   // one of names
    VALUE_FILE,
    VALUE_MODEL,
    VALUE_JOB,
};

struct option {
    const char *name; // without its dashes; NULL ends a table
    char letter;      // '\0': none
    enum value_kind kind;
    const char *value; // what help calls it
    bool is_field;     // sent to the daemon, '_' in place of '-'
    bool repeats;
    bool optional; // the value is written with '=' or left out
    const char *const *names;
    const char *help;
};

enum { COMMAND_OPTION_TABLES = 3 };

struct command {
    const char *name;     // NULL ends the table
    const char *operands; // as help writes them
    enum value_kind operand;
    int min_operands, max_operands;
    const char *summary;
    const char *details; // paragraphs for help and manual, parted by an empty line; or NULL
    const struct option *options[COMMAND_OPTION_TABLES]; // besides common_options; NULL-terminated if fewer
    enum outcome (*run)(struct session *s, const struct arguments *a);
};

extern const struct command commands[];
extern const struct option common_options[];
extern const struct option no_options[];

/* The command of that name, NULL if there is none. */
const struct command *command_find(const char *name);

/* The i-th table of options that a command takes, the common ones last; NULL past the end. */
const struct option *command_options(const struct command *c, int i);

#endif
