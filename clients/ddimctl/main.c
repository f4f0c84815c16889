/* main.c: ddimctl, the command line of ddimd. Reads the arguments and settings, runs one command, ends with its
 * outcome.
 *
 * Ctrl-C sets a flag; what runs sees it, gives up its requests and ends with 130. A second one ends the program at
 * once.
 */
#include "clients/ddimctl/describe.h"
#include "clients/ddimctl/run.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    if (interrupted)
        _exit(OUTCOME_INTERRUPTED);
    interrupted = 1;
}

static enum outcome usage(const struct error *err, const struct command *c)
{
    outcome_fail(OUTCOME_USAGE, "%s", err->message);
    fprintf(stderr, "  `ddimctl %s%s--help` says what there is\n", c ? c->name : "", c ? " " : "");
    return OUTCOME_USAGE;
}

static enum outcome run(const struct arguments *a)
{
    struct session s = {.json = argument(a, "json"), .quiet = argument(a, "quiet"), .interrupted = &interrupted};
    struct settings settings;
    struct error err = {0};
    terminal_init(&s.out, stdout);
    terminal_init(&s.err, stderr);
    if (settings_read(a, &settings, &err))
        return outcome_fail(OUTCOME_USAGE, "%s", err.message);
    if (settings.key_is_open && !s.quiet)
        outcome_fail(OUTCOME_OK, "the file with the key can be read by others; chmod 600 would mend that");
    if (client_create(&settings, &interrupted, s.quiet, &s.client))
        return outcome_fail(OUTCOME_FAILED, "no memory");
    enum outcome outcome = a->command->run(&s, a);
    terminal_clear(&s.err);
    client_free(s.client);
    return outcome;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct error err = {0};
    setlocale(LC_CTYPE, "");
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    if (arguments_read(argc, argv, &a, &err))
        return usage(&err, argc > 1 ? command_find(argv[1]) : NULL);
    enum outcome outcome = OUTCOME_OK;
    if (a.version)
        puts("ddimctl " DDIMD_VERSION);
    else if (a.command && argument(&a, "help"))
        describe_command(a.command, stdout);
    else if (argument(&a, "help"))
        describe_program(stdout);
    else if (!a.command)
        describe_program(stderr), outcome = OUTCOME_USAGE;
    else
        outcome = run(&a);
    if (fflush(stdout) || ferror(stdout))
        return outcome_fail(OUTCOME_FAILED, "standard output cannot be written: %s", strerror(errno));
    return outcome;
}
