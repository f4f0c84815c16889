/* replay.c: runs a harness on files, and on the files of folders, given as arguments: the corpus as a test, under
 * whatever sanitizers the build has. Exits 0 when at least one file ran.
 */
#include "tests/fuzz/fuzz.h"

#include "model/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int replay_file(int dir_fd, const char *name)
{
    char *bytes;
    size_t n;
    struct error err = {0};
    if (file_read(dir_fd, name, 64 << 20, &bytes, &n, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    uint8_t *exact = malloc(n ? n : 1); // without the reader's NUL, so that a read past the end is seen
    if (exact) {
        memcpy(exact, bytes, n);
        LLVMFuzzerTestOneInput(exact, n);
    }
    free(exact);
    free(bytes);
    return exact ? 1 : -1;
}

/* Files run, or -1. */
static int replay(const char *path)
{
    DIR *d = opendir(path);
    if (!d)
        return replay_file(AT_FDCWD, path);
    int n = 0;
    for (struct dirent *e = readdir(d); e && n >= 0; e = readdir(d)) {
        if (e->d_name[0] == '.')
            continue;
        n = replay_file(dirfd(d), e->d_name) < 0 ? -1 : n + 1;
    }
    closedir(d);
    return n;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        int n = replay(argv[i]);
        if (n < 0)
            return EXIT_FAILURE;
        total += n;
    }
    printf("%d inputs\n", total);
    return total > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
