/* fuzz_options.c: any bytes as the daemon's configuration file. A refusal says why, on one line. */
#include "tests/fuzz/fuzz.h"

#include "daemon/options.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    char path[64];
    static struct options o;
    enum command command;
    struct error err = {0};
    int fd = memfd_create("ddimd.json", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    char *argv[] = {"ddimd", "--check-config", "--config", path, NULL};
    int rc = options_parse(4, argv, &o, &command, &err);
    if (rc ? err.code != rc || !err.message[0] || strchr(err.message, '\n')
           : command != COMMAND_CHECK_CONFIG)
        abort();
    close(fd);
    return 0;
}
