/* main.c: ddimd, the program. Exit status: 0 stopped as asked, 1 not started, 2 wrong options, 3 device lost. */
#include "daemon/daemon.h"
#include "daemon/keygen.h"
#include "daemon/notify.h"
#include "daemon/settings.h"
#include "kernels/backend.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <syslog.h>

enum { EXIT_NOT_STARTED = 1, EXIT_WRONG_OPTIONS = 2 };

static int run(struct options *o, int argc, char **argv)
{
    struct daemon d = {.options = o,
                       .argc = argc,
                       .argv = argv,
                       .listener = {.fd = -1},
                       .signal_fd = -1,
                       .lost_fd = -1,
                       .load.fd = -1};
    struct error err = {0};
    log_init(&d.log, log_level_priority(o->log_level), (enum log_format)o->log_format);
    int status = EXIT_NOT_STARTED, rc = daemon_start(&d, &err);
    if (rc == 0) {
        status = daemon_wait(&d);
    } else if (rc == -ECANCELED) {
        status = EXIT_SUCCESS;
        log_line(&d.log, LOG_INFO, "%s", err.message);
    } else {
        log_line(&d.log, LOG_ERR, "%s", err.message);
        notify_failed(-rc, err.message);
        d.failed = true;
    }
    daemon_stop(&d);
    return status;
}

static int complain(const struct error *err)
{
    fprintf(stderr, "ddimd: %s\n", err->message);
    return EXIT_WRONG_OPTIONS;
}

int main(int argc, char **argv)
{
    backend_cpu_settle(argv);
    prctl(PR_SET_NAME, "ddimd"); // it may have executed itself again, as "exe"
    static struct options o;
    struct error err = {0};
    enum command command = COMMAND_RUN;
    if (argc > 1 && strcmp(argv[1], "keygen") == 0)
        return keygen(argc - 2, argv + 2, stdout, &err) ? complain(&err) : EXIT_SUCCESS;
    if (options_parse(argc, argv, &o, &command, &err))
        return complain(&err);
    switch (command) {
    case COMMAND_HELP:
        options_help(stdout);
        return EXIT_SUCCESS;
    case COMMAND_VERSION:
        puts("ddimd " DDIMD_VERSION);
        return EXIT_SUCCESS;
    case COMMAND_PRINT_CONFIG:
        options_reference(stdout);
        return EXIT_SUCCESS;
    case COMMAND_CHECK_CONFIG:
        if (settings_check(&o, &err))
            return complain(&err);
        puts("The configuration is good.");
        return EXIT_SUCCESS;
    case COMMAND_CONFIG_SCHEMA:
        options_schema(stdout);
        return EXIT_SUCCESS;
    case COMMAND_RUN:
        break;
    }
    return run(&o, argc, argv);
}
