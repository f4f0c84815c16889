/* describe.h: the table of commands as text for people and shells. Writes to a stream, nothing else. */
#ifndef DDIMCTL_DESCRIBE_H
#define DDIMCTL_DESCRIBE_H

#include "clients/ddimctl/commands.h"

#include <stdio.h>

void describe_program(FILE *to);
void describe_command(const struct command *c, FILE *to);
void describe_completion(FILE *to); // for bash
void describe_manual(FILE *to);     // ddimctl(1), roff

#endif
