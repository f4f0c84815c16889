/* scratch.c: see scratch.h. */
#include "tests/training/scratch.h"

#include <assert.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *scratch_make(void)
{
    const char *base = getenv("TMPDIR");
    char *path;
    int n = asprintf(&path, "%s/ddimd-test-XXXXXX", base && *base ? base : "/tmp");
    assert(n > 0 && mkdtemp(path));
    (void)n;
    return path;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *ftw)
{
    (void)s, (void)type, (void)ftw;
    return remove(path);
}

void scratch_remove(char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(path);
}
