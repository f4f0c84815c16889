/* fuzz_checkpoint.c: any bytes as a model file, through the file system as a stranger's file comes. */
#include "tests/fuzz/fuzz.h"

#include "model/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    int fd = memfd_create("checkpoint", MFD_CLOEXEC);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n)
        abort();
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    struct checkpoint c;
    struct error err = {0};
    int rc = checkpoint_open(AT_FDCWD, path, &c, &err);
    if (rc == 0)
        checkpoint_close(&c);
    else if (err.code != rc || !err.message[0])
        abort();
    close(fd);
    return 0;
}
