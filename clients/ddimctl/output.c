/* output.c: see output.h. */
#include "clients/ddimctl/output.h"

#include "clients/ddimctl/show.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *output_name(const struct arguments *a, const char *model, const char *seed, const char *suffix,
                        char *buffer, size_t bytes)
{
    const char *given = argument(a, "output");
    if (given)
        return given;
    snprintf(buffer, bytes, "%s-%s.%s", model, seed, suffix);
    for (char *c = buffer; *c; c++) // the names come from the daemon
        *c = *c == '/' ? '_' : *c;
    return buffer;
}

static enum outcome write_stdout(const void *data, size_t n)
{
    if (isatty(STDOUT_FILENO))
        return outcome_fail(OUTCOME_USAGE, "standard output is a terminal; give a file with --output, or --show");
    fwrite(data, 1, n, stdout); // main looks at what became of it
    return OUTCOME_OK;
}

/* Pipes, devices and links are written through. */
static bool is_replaceable(const char *path)
{
    struct stat s;
    return lstat(path, &s) != 0 || S_ISREG(s.st_mode);
}

enum outcome output_write(const char *path, const void *data, size_t n)
{
    if (strcmp(path, "-") == 0)
        return write_stdout(data, n);
    struct buffer part = {0};
    bool whole = is_replaceable(path);
    if (buffer_printf(&part, "%s%s", path, whole ? ".part" : ""))
        return outcome_fail(OUTCOME_FAILED, "no memory");
    FILE *f = fopen(part.data, "we");
    int rc = f ? 0 : errno;
    if (f) {
        fwrite(data, 1, n, f);
        rc = ferror(f) ? errno ? errno : EIO : 0;
        if (fclose(f) && rc == 0)
            rc = errno;
        if (rc == 0 && whole && rename(part.data, path))
            rc = errno;
        if (rc && whole)
            unlink(part.data);
    }
    free(part.data);
    return rc ? outcome_fail(OUTCOME_FAILED, "%s cannot be written: %s", path, strerror(rc)) : OUTCOME_OK;
}

enum outcome output_picture(struct session *s, const struct arguments *a, const char *path, const void *png, size_t n)
{
    const char *how = argument(a, "show");
    enum outcome outcome = output_write(path, png, n);
    if (outcome || !how)
        return outcome;
    return show_png(png, n, how, strcmp(path, "-") ? path : NULL,
                    s->json || strcmp(path, "-") == 0 ? &s->err : &s->out);
}
