/* describe.c: see describe.h. */
#include "clients/ddimctl/describe.h"

#include <string.h>

static const char usage[] = "Usage: ddimctl COMMAND [OPTION]... [OPERAND]...";

static const char *const environment[][2] = {
    {"DDIMD_URL", "where ddimd is, where --url does not say; http://localhost:8080 where nothing does"},
    {"DDIMD_KEY", "the key"},
    {"DDIMD_CA", "as --ca"},
    {NULL, NULL},
};

/* ---- help ---- */

/* "--steps N", "--show[=HOW]", "--[no-]clip" */
static int write_long(const struct option *o, FILE *to)
{
    if (o->kind == VALUE_SWITCH)
        return fprintf(to, "--[no-]%s", o->name);
    if (!o->value)
        return fprintf(to, "--%s", o->name);
    return fprintf(to, o->optional ? "--%s[=%s]" : "--%s %s", o->name, o->value);
}

/* Text broken at spaces, each line behind `indent` spaces; the first goes on at column `at`. */
static void write_wrapped(const char *text, int at, int indent, FILE *to)
{
    enum { COLUMNS = 80 };
    while (*text) {
        size_t n = strcspn(text, " ");
        if (at > indent && at + 1 + (int)n > COLUMNS) {
            fprintf(to, "\n%*s", indent, "");
            at = indent;
        } else if (at > indent) {
            fputc(' ', to);
            at++;
        }
        fwrite(text, 1, n, to);
        at += (int)n;
        text += n + strspn(text + n, " ");
    }
    fputc('\n', to);
}

static void write_entry(const char *text, int used, int indent, FILE *to)
{
    if (used >= indent - 1) {
        fprintf(to, "\n%*s", indent, "");
        used = indent;
    }
    fprintf(to, "%*s", indent - used, "");
    write_wrapped(text, indent, indent, to);
}

static void write_options(const struct option *o, FILE *to)
{
    enum { INDENT = 28 };
    for (; o->name; o++) {
        int used = o->letter ? fprintf(to, "  -%c, ", o->letter) : fprintf(to, "      ");
        used += write_long(o, to);
        write_entry(o->help, used, INDENT, to);
    }
}

void describe_program(FILE *to)
{
    enum { INDENT = 14 };
    fprintf(to, "%s\n\nTalks to ddimd, which serves and trains diffusion models.\n\n", usage);
    for (const struct command *c = commands; c->name; c++)
        write_entry(c->summary, fprintf(to, "  %s", c->name), INDENT, to);
    fputs("\nOptions of every command:\n", to);
    write_options(common_options, to);
    fputs("\nThe environment:\n", to);
    for (int i = 0; environment[i][0]; i++)
        write_entry(environment[i][1], fprintf(to, "  %s", environment[i][0]), INDENT, to);
    fputs("\n`ddimctl COMMAND --help` says what a command takes; ddimctl(1) says all of it.\n", to);
}

void describe_command(const struct command *c, FILE *to)
{
    fprintf(to, "Usage: ddimctl %s [OPTION]...%s%s\n\n", c->name, *c->operands ? " " : "", c->operands);
    fprintf(to, "%c%s.\n", c->summary[0] - 'a' + 'A', c->summary + 1);
    if (c->details) {
        fputc('\n', to);
        write_wrapped(c->details, 0, 0, to);
    }
    for (int i = 0; command_options(c, i); i++) {
        if (!command_options(c, i)->name)
            continue;
        fputs(command_options(c, i) == common_options ? "\nOptions of every command:\n"
              : i                                     ? "\n"
                                                      : "\nOptions:\n",
              to);
        write_options(command_options(c, i), to);
    }
}

/* ---- completion ---- */

static const char completion_head[] = "# bash completion for ddimctl; made by `ddimctl completion bash`\n"
                                      "_ddimctl_list()\n"
                                      "{\n"
                                      "    ddimctl \"$1\" --quiet --retries 0 2>/dev/null\n"
                                      "}\n"
                                      "\n"
                                      "_ddimctl_kind() # what stands for the word after $2 in command $1\n"
                                      "{\n"
                                      "    case $1:$2 in\n";

static const char completion_tail[] =
    "    esac\n"
    "}\n"
    "\n"
    "_ddimctl_values()\n"
    "{\n"
    "    case $1 in\n"
    "    file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- \"$2\") ;;\n"
    "    model) mapfile -t COMPREPLY < <(compgen -W \"$(_ddimctl_list models)\" -- \"$2\") ;;\n"
    "    job) mapfile -t COMPREPLY < <(compgen -W \"$(_ddimctl_list jobs)\" -- \"$2\") ;;\n"
    "    *) mapfile -t COMPREPLY < <(compgen -W \"${1#words:}\" -- \"$2\") ;;\n"
    "    esac\n"
    "}\n"
    "\n"
    "_ddimctl()\n"
    "{\n"
    "    local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} command= kind w\n"
    "    COMPREPLY=()\n"
    "    for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
    "        case \" $(_ddimctl_words commands) \" in *\" $w \"*) command=$w; break ;; esac\n"
    "    done\n"
    "    [ \"$word\" = = ] && word= # of --option=\n"
    "    [ \"$last\" = = ] && last=${COMP_WORDS[COMP_CWORD-2]}\n"
    "    if [ -z \"$command\" ]; then\n"
    "        _ddimctl_values \"words:$(_ddimctl_words commands) --help --version\" \"$word\"\n"
    "        return\n"
    "    fi\n"
    "    kind=$(_ddimctl_kind \"$command\" \"$last\")\n"
    "    if [ \"$kind\" = value ]; then\n"
    "        return # a number or a text: nothing to offer\n"
    "    elif [ -n \"$kind\" ]; then\n"
    "        _ddimctl_values \"$kind\" \"$word\"\n"
    "    elif [[ $word == -* ]]; then\n"
    "        _ddimctl_values \"words:$(_ddimctl_words \"$command\")\" \"$word\"\n"
    "    else\n"
    "        kind=$(_ddimctl_kind \"$command\" operand)\n"
    "        [ -z \"$kind\" ] || _ddimctl_values \"$kind\" \"$word\"\n"
    "    fi\n"
    "}\n"
    "complete -F _ddimctl ddimctl\n";

static void write_kind(enum value_kind kind, const char *const *names, FILE *to)
{
    static const char *const kinds[] = {[VALUE_FILE] = "file", [VALUE_MODEL] = "model", [VALUE_JOB] = "job"};
    if (kind != VALUE_NAME || !names) {
        fputs(kind < sizeof(kinds) / sizeof(kinds[0]) && kinds[kind] ? kinds[kind] : "value", to);
        return;
    }
    fputs("words:", to);
    for (int i = 0; names[i]; i++)
        fprintf(to, "%s%s", i ? " " : "", names[i]);
}

static void write_completed_options(const char *command, const struct option *o, FILE *to)
{
    for (; o->name; o++) {
        if (!o->value || o->optional)
            continue; // no word follows
        fprintf(to, "    %s:--%s", command, o->name);
        if (o->letter)
            fprintf(to, "|%s:-%c", command, o->letter);
        fputs(") echo '", to);
        write_kind(o->kind, o->names, to);
        fputs("' ;;\n", to);
    }
}

static void write_words(const struct command *c, FILE *to)
{
    fprintf(to, "    %s) echo '", c->name);
    for (int i = 0; command_options(c, i); i++) {
        for (const struct option *o = command_options(c, i); o->name; o++) {
            if (o->optional && o->names)
                for (int k = 0; o->names[k]; k++)
                    fprintf(to, "--%s=%s ", o->name, o->names[k]);
            fprintf(to, "--%s%s ", o->kind == VALUE_SWITCH ? "no-" : "", o->name);
            if (o->kind == VALUE_SWITCH)
                fprintf(to, "--%s ", o->name);
        }
    }
    fputs("' ;;\n", to);
}

void describe_completion(FILE *to)
{
    fputs(completion_head, to);
    for (const struct command *c = commands; c->name; c++) {
        for (int i = 0; command_options(c, i) && command_options(c, i) != common_options; i++)
            write_completed_options(c->name, command_options(c, i), to);
        if (c->max_operands && c->operand != VALUE_TEXT) {
            fprintf(to, "    %s:operand) echo '", c->name);
            write_kind(c->operand, strcmp(c->name, "completion") == 0 ? (const char *const[]){"bash", NULL} : NULL, to);
            fputs("' ;;\n", to);
        }
    }
    write_completed_options("*", common_options, to);
    fputs("    esac\n}\n\n_ddimctl_words()\n{\n    case $1 in\n    commands) echo '", to);
    for (const struct command *c = commands; c->name; c++)
        fprintf(to, "%s ", c->name);
    fputs("' ;;\n", to);
    for (const struct command *c = commands; c->name; c++)
        write_words(c, to);
    fputs(completion_tail, to);
}

/* ---- manual ---- */

/* Roff: dashes that are to be typed, and nothing that begins a line with a request. */
static void write_roff(const char *text, FILE *to)
{
    if (*text == '.' || *text == '\'')
        fputs("\\&", to);
    for (; *text; text++) {
        if (*text == '-')
            fputs("\\-", to);
        else if (*text == '\\')
            fputs("\\e", to);
        else if (*text != '`')
            fputc(*text, to);
    }
}

static void write_roff_options(const struct option *o, FILE *to)
{
    for (; o->name; o++) {
        fputs(".TP\n", to);
        if (o->letter)
            fprintf(to, ".BR \\-%c \", \" ", o->letter);
        else
            fputs(".BR ", to);
        fprintf(to, "\"\\-\\-%s", o->kind == VALUE_SWITCH ? "[no\\-]" : "");
        write_roff(o->name, to);
        fputs("\"", to);
        if (o->value)
            fprintf(to, o->optional ? " \"\\fR[=\\fI%s\\fR]\"" : " \" \\fI%s\\fR\"", o->value);
        fputs("\n", to);
        write_roff(o->help, to);
        fputs(".\n", to);
    }
}

static void write_roff_command(const struct command *c, FILE *to)
{
    fprintf(to, ".SS \"ddimctl %s%s%s\"\n", c->name, *c->operands ? " " : "", c->operands);
    fprintf(to, "%c", c->summary[0] - 'a' + 'A');
    write_roff(c->summary + 1, to);
    fputs(".\n", to);
    if (c->details) {
        fputs(".PP\n", to);
        write_roff(c->details, to);
        fputs("\n", to);
    }
    for (int i = 0; command_options(c, i) && command_options(c, i) != common_options; i++)
        write_roff_options(command_options(c, i), to);
}

static const char manual_head[] =
    ".TH DDIMCTL 1 \"\" \"ddimd " DDIMD_VERSION "\" \"User Commands\"\n"
    ".SH NAME\nddimctl \\- talk to ddimd, which serves and trains diffusion models\n"
    ".SH SYNOPSIS\n.B ddimctl\n.I COMMAND\n.RI [ OPTION ]... \" \" [ OPERAND ]...\n"
    ".SH DESCRIPTION\n"
    "Generates images, sweeps parameters, starts and follows training runs, and looks after the models of a\n"
    ".BR ddimd (8)\n"
    "through its HTTP interface. Results go to standard output, progress and errors to standard error. Fields of a "
    "request go to the daemon as they are written; its answer names the one that is wrong.\n"
    ".PP\nWhat failed because the daemon is busy, starting or out of reach is tried again, after the time that the "
    "daemon "
    "asks for. Every attempt has the same Idempotency\\-Key, so nothing is done twice.\n";

static const char manual_files[] = ".SH FILES\n.TP\n.I ~/.config/ddimd/client.json\n"
                                   "A JSON object with the keys url, key and ca, as the options of these names. What "
                                   "the environment or an option says "
                                   "wins over it. It holds a secret: nobody else should be able to read it.\n";

static const char manual_examples[] = ".SH EXAMPLES\n.nf\n"
                                      "ddimctl generate \\-c 3 \\-n 16 \\-s 20 \\-o threes.png \\-\\-show\n"
                                      "ddimctl grid steps=5,10,20,50 eta=0..1:0.25 \\-c 7 \\-o sweep.png\n"
                                      "ddimctl replay threes.png\n"
                                      "ddimctl train etc/train/digits.json \\-\\-set dataset.path=digits \\-\\-follow\n"
                                      "ddimctl publish 1 mine && ddimctl generate \\-m mine\n"
                                      "ddimctl jobs \\-\\-json | jq '.jobs[].state'\n.fi\n"
                                      ".SH SEE ALSO\n.BR ddimd (8)\n";

void describe_manual(FILE *to)
{
    fputs(manual_head, to);
    fputs(".SH OPTIONS OF EVERY COMMAND\n", to);
    write_roff_options(common_options, to);
    fputs(".TP\n.B \\-\\-version\nSay the version.\n.SH COMMANDS\n", to);
    for (const struct command *c = commands; c->name; c++)
        write_roff_command(c, to);
    fputs(".SH EXIT STATUS\n", to);
    for (const struct outcome_info *o = outcome_infos; o->meaning; o++) {
        fprintf(to, ".TP\n.B %d\n", o->code);
        write_roff(o->meaning, to);
        fputs("\n", to);
    }
    fputs(".SH ENVIRONMENT\n", to);
    for (int i = 0; environment[i][0]; i++) {
        fprintf(to, ".TP\n.B %s\n", environment[i][0]);
        write_roff(environment[i][1], to);
        fputs(".\n", to);
    }
    fputs(manual_files, to);
    fputs(manual_examples, to);
}
