/* arguments.c: see arguments.h. */
#include "clients/ddimctl/arguments.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 256 };

/* ---- looking up ---- */

/* "--eta", "--eta=1", "--no-clip": the option and where its value begins (NULL: no '='). */
static const struct option *find_long(const struct command *c, const char *text, const char **ret_value, bool *ret_no)
{
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    for (int i = 0; command_options(c, i); i++) {
        for (const struct option *o = command_options(c, i); o->name; o++) {
            size_t own = strlen(o->name);
            bool no = o->kind == VALUE_SWITCH && n == own + 3 && strncmp(text, "no-", 3) == 0;
            if ((no || n == own) && strncmp(text + (no ? 3 : 0), o->name, own) == 0) {
                *ret_value = equals ? equals + 1 : NULL;
                *ret_no = no;
                return o;
            }
        }
    }
    return NULL;
}

static const struct option *find_letter(const struct command *c, char letter)
{
    for (int i = 0; command_options(c, i); i++)
        for (const struct option *o = command_options(c, i); o->name; o++)
            if (o->letter && o->letter == letter)
                return o;
    return NULL;
}

/* ---- errors ---- */

static int unknown_option(const struct command *c, const char *text, struct error *err)
{
    char name[64];
    const char *names[MAX_NAMES];
    int n = 0;
    for (int i = 0; command_options(c, i); i++)
        for (const struct option *o = command_options(c, i); o->name && n < MAX_NAMES - 1; o++)
            names[n++] = o->name;
    names[n] = NULL;
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(text, "="), text);
    const char *nearest = error_nearest_name(name, names);
    return error_set(err, -EINVAL, NULL, "%s%s has no option --%s%s%s%s", c ? "ddimctl " : "ddimctl", c ? c->name : "",
                     name, nearest ? "; did you mean --" : "", nearest ? nearest : "", nearest ? "?" : "");
}

static int unknown_command(const char *text, struct error *err)
{
    const char *names[MAX_NAMES];
    int n = 0;
    for (const struct command *c = commands; c->name; c++)
        names[n++] = c->name;
    names[n] = NULL;
    const char *nearest = error_nearest_name(text, names);
    return error_set(err, -EINVAL, NULL, "there is no command %.40s%s%s%s", text, nearest ? "; did you mean " : "",
                     nearest ? nearest : "", nearest ? "?" : "");
}

static int check_value(const struct option *o, const char *value, struct error *err)
{
    if (o->kind == VALUE_NUMBER && (!*value || strspn(value, "0123456789") != strlen(value) || strlen(value) > 20))
        return error_set(err, -EINVAL, NULL, "--%s takes a whole number, not \"%.40s\"", o->name, value);
    if (o->kind != VALUE_NAME || (o->optional && !*value))
        return 0;
    char allowed[160] = "";
    for (int i = 0; o->names[i]; i++) {
        if (strcmp(o->names[i], value) == 0)
            return 0;
        snprintf(allowed + strlen(allowed), sizeof(allowed) - strlen(allowed), "%s%s", i ? ", " : "", o->names[i]);
    }
    return error_set(err, -EINVAL, NULL, "--%s is one of %s, not \"%.40s\"", o->name, allowed, value);
}

/* ---- reading ---- */

static int add_option(struct arguments *a, const struct option *o, const char *value, struct error *err)
{
    int rc = check_value(o, value, err);
    if (rc)
        return rc;
    if (a->n_options == ARGUMENTS_MAX)
        return error_set(err, -EINVAL, NULL, "there are more than %d options", ARGUMENTS_MAX);
    for (int i = 0; i < a->n_options && !o->repeats; i++) {
        if (a->options[i].option == o) { // the last one counts
            a->options[i].value = value;
            return 0;
        }
    }
    a->options[a->n_options++] = (struct given_option){o, value};
    return 0;
}

static int add_operand(struct arguments *a, const char *text, struct error *err)
{
    if (!a->command) {
        a->command = command_find(text);
        return a->command ? 0 : unknown_command(text, err);
    }
    if (a->n_operands >= a->command->max_operands)
        return error_set(err, -EINVAL, NULL, "ddimctl %s takes %s%s; \"%.60s\" is one too many", a->command->name,
                         *a->command->operands ? a->command->operands : "no operand", "", text);
    a->operands[a->n_operands++] = text;
    return 0;
}

/* argv[*i] begins with "--". */
static int read_long(struct arguments *a, int argc, char **argv, int *i, struct error *err)
{
    const char *text = argv[*i] + 2, *value = NULL;
    bool no = false;
    if (strcmp(text, "version") == 0) {
        a->version = true;
        return 0;
    }
    const struct option *o = find_long(a->command, text, &value, &no);
    if (!o)
        return unknown_option(a->command, text, err);
    if (o->kind == VALUE_NONE || o->kind == VALUE_SWITCH) {
        if (value)
            return error_set(err, -EINVAL, NULL, "--%s takes no value", o->name);
        value = no ? "false" : "true";
    } else if (!value && o->optional) {
        value = "";
    } else if (!value) {
        if (*i + 1 == argc)
            return error_set(err, -EINVAL, NULL, "--%s needs a value (%s)", o->name, o->value);
        value = argv[++*i];
    }
    return add_option(a, o, value, err);
}

/* argv[*i] is a dash and letters: "-c 3", "-c3", "-fq". */
static int read_letters(struct arguments *a, int argc, char **argv, int *i, struct error *err)
{
    for (const char *c = argv[*i] + 1; *c; c++) {
        const struct option *o = find_letter(a->command, *c);
        if (!o)
            return error_set(err, -EINVAL, NULL, "ddimctl%s%s has no option -%c", a->command ? " " : "",
                             a->command ? a->command->name : "", isprint((unsigned char)*c) ? *c : '?');
        if (o->kind == VALUE_NONE || o->kind == VALUE_SWITCH) {
            int rc = add_option(a, o, "true", err);
            if (rc)
                return rc;
            continue;
        }
        if (c[1])
            return add_option(a, o, c + 1, err);
        if (*i + 1 == argc)
            return error_set(err, -EINVAL, NULL, "-%c needs a value (%s)", *c, o->value);
        return add_option(a, o, argv[++*i], err);
    }
    return 0;
}

int arguments_read(int argc, char **argv, struct arguments *ret_arguments, struct error *err)
{
    struct arguments a = {0};
    bool ended = false;
    int rc = 0;
    for (int i = 1; i < argc && rc == 0; i++) {
        if (!ended && strcmp(argv[i], "--") == 0)
            ended = true;
        else if (!ended && strncmp(argv[i], "--", 2) == 0)
            rc = read_long(&a, argc, argv, &i, err);
        else if (!ended && argv[i][0] == '-' && argv[i][1])
            rc = read_letters(&a, argc, argv, &i, err);
        else
            rc = add_operand(&a, argv[i], err);
    }
    bool help = rc == 0 && (a.version || argument(&a, "help"));
    if (rc == 0 && !help && a.command && a.n_operands < a.command->min_operands)
        rc = error_set(err, -EINVAL, NULL, "ddimctl %s needs %s", a.command->name, a.command->operands);
    if (rc == 0)
        *ret_arguments = a;
    return rc;
}

const char *argument(const struct arguments *a, const char *name)
{
    for (int i = a->n_options - 1; i >= 0; i--)
        if (strcmp(a->options[i].option->name, name) == 0)
            return a->options[i].value;
    return NULL;
}

uint64_t argument_number(const struct arguments *a, const char *name, uint64_t otherwise)
{
    const char *value = argument(a, name);
    return value ? strtoull(value, NULL, 10) : otherwise;
}
