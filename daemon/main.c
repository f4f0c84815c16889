/* main.c: ddimd, the program. Exit status: 0 stopped as asked, 1 not started, 2 wrong options, 3 device lost. */
#include "daemon/daemon.h"
#include "daemon/notify.h"
#include "kernels/backend.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <syslog.h>

enum { EXIT_NOT_STARTED = 1, EXIT_WRONG_OPTIONS = 2 };

static int run(const struct options *o, int argc, char **argv)
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

int main(int argc, char **argv)
{
    backend_cpu_settle(argv);
    prctl(PR_SET_NAME, "ddimd"); // it may have executed itself again, as "exe"
    static struct options o;
    struct error err = {0};
    enum command command = COMMAND_RUN;
    if (options_parse(argc, argv, &o, &command, &err)) {
        fprintf(stderr, "ddimd: %s\n", err.message);
        return EXIT_WRONG_OPTIONS;
    }
    switch (command) {
    case COMMAND_HELP:
        options_help(stdout);
        return EXIT_SUCCESS;
    case COMMAND_VERSION:
        puts("ddimd " DDIMD_VERSION);
        return EXIT_SUCCESS;
    case COMMAND_CHECK_CONFIG:
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
