/* unpack.c: see unpack.h. */
#include "model/unpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

enum { BLOCK_BYTES = 1 << 16, MAX_FILES = 10000000 };

struct unpacker {
    struct archive *archive;
    int64_t files;
    char name[256];
};

static int damaged(const struct unpacker *u, struct error *err)
{
    const char *why = archive_error_string(u->archive);
    if (archive_errno(u->archive) == ENOMEM)
        return error_set(err, -ENOMEM, NULL, "out of memory");
    return error_set(err, -EINVAL, NULL, "%.200s: not an archive, or damaged (%.200s)", u->name, why ? why : "");
}

int unpack_open(int fd, const char *name, struct unpacker **ret_unpacker, struct error *err)
{
    struct unpacker *u = calloc(1, sizeof *u);
    if (u)
        u->archive = archive_read_new();
    if (!u || !u->archive) {
        free(u);
        return error_set(err, -ENOMEM, NULL, "out of memory");
    }
    strncpy(u->name, name, sizeof u->name - 1);
    archive_read_support_filter_all(u->archive);
    archive_read_support_format_all(u->archive);
    if (lseek(fd, 0, SEEK_SET) < 0 || archive_read_open_fd(u->archive, fd, BLOCK_BYTES) != ARCHIVE_OK) {
        int r = damaged(u, err);
        unpack_close(u);
        return r;
    }
    *ret_unpacker = u;
    return 0;
}

void unpack_close(struct unpacker *u)
{
    if (!u)
        return;
    archive_read_free(u->archive);
    free(u);
}

int unpack_next(struct unpacker *u, const char **ret_name, struct error *err)
{
    struct archive_entry *entry;
    for (;;) {
        int r = archive_read_next_header(u->archive, &entry);
        if (r == ARCHIVE_EOF)
            return 0;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
            return damaged(u, err);
        const char *name = archive_entry_pathname(entry);
        if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) || !name)
            continue;
        if (++u->files > MAX_FILES)
            return error_set(err, -EINVAL, NULL, "%.200s holds more than %d files", u->name, MAX_FILES);
        *ret_name = strncmp(name, "./", 2) == 0 ? name + 2 : name;
        return 1;
    }
}

int unpack_read(struct unpacker *u, size_t max_bytes, uint8_t **ret_bytes, size_t *ret_n, struct error *err)
{
    size_t n = 0, room = BLOCK_BYTES;
    uint8_t *bytes = NULL;
    for (;;) {
        uint8_t *grown = bytes && n < room ? bytes : realloc(bytes, bytes ? (room *= 2) : room);
        if (!grown) {
            free(bytes);
            return error_set(err, -ENOMEM, NULL, "out of memory");
        }
        bytes = grown;
        la_ssize_t got = archive_read_data(u->archive, bytes + n, room - n);
        int r = got < 0 ? damaged(u, err) : n + (size_t)got > max_bytes ? -EFBIG : 0;
        if (r < 0) {
            free(bytes);
            return r == -EFBIG
                       ? error_set(err, r, NULL, "%.200s holds a file of more than %zu bytes", u->name, max_bytes)
                       : r;
        }
        n += (size_t)got;
        if (got == 0)
            break;
    }
    *ret_bytes = bytes;
    *ret_n = n;
    return 0;
}
