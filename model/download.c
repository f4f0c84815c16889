/* download.c: see download.h. */
#include "model/download.h"

#include "model/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <curl/curl.h>

enum { ATTEMPTS = 5, PAUSE_MS = 1000, CONNECT_SECONDS = 30, STALL_SECONDS = 60, MAX_REDIRECTS = 5, NAME_BYTES = 256 };

struct transfer {
    const struct download *d;
    int fd;         // of the .part file
    int64_t length; // bytes in it
    int failure;    // negative errno of writing it, or -EFBIG
    char message[CURL_ERROR_SIZE];
};

static void note(const struct download *d, const char *format, const char *text)
{
    char message[512];
    if (!d->note)
        return;
    snprintf(message, sizeof message, format, text);
    d->note(d->context, message);
}

static size_t on_bytes(char *bytes, size_t one, size_t n, void *context)
{
    struct transfer *t = context;
    size_t done = 0;
    (void)one;
    if (t->d->max_bytes && t->length + (int64_t)n > t->d->max_bytes) {
        t->failure = -EFBIG;
        return CURL_WRITEFUNC_ERROR;
    }
    while (done < n) {
        ssize_t written = pwrite(t->fd, bytes + done, n - done, t->length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            t->failure = -errno;
            return CURL_WRITEFUNC_ERROR;
        }
        done += (size_t)written;
        t->length += written;
    }
    return n;
}

static int on_progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up_total, curl_off_t up)
{
    const struct transfer *t = context;
    (void)total, (void)now, (void)up_total, (void)up;
    return t->d->stop && *t->d->stop;
}

static void set_options(CURL *curl, struct transfer *t)
{
    curl_easy_setopt(curl, CURLOPT_URL, t->d->url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)MAX_REDIRECTS);
    curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_SECONDS);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "ddimd/" DDIMD_VERSION);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, t->message);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
    if (t->length)
        curl_easy_setopt(curl, CURLOPT_RESUME_FROM_LARGE, (curl_off_t)t->length);
}

/* Throws away what is there: the server cannot go on from it. */
static int start_over(struct transfer *t)
{
    t->length = 0;
    return ftruncate(t->fd, 0) < 0 ? -errno : 0;
}

/* What a transfer's end means. 0: whole; 1: another attempt may do; negative errno: none will. */
static int judge(struct transfer *t, CURLcode code, long status)
{
    if (t->failure)
        return t->failure;
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_ABORTED_BY_CALLBACK:
        return -ECANCELED;
    case CURLE_OUT_OF_MEMORY:
        return -ENOMEM;
    case CURLE_RANGE_ERROR: // it does not know ranges
    case CURLE_BAD_DOWNLOAD_RESUME:
        return start_over(t) < 0 ? -EIO : 1;
    case CURLE_HTTP_RETURNED_ERROR:
        if (status == 416)
            return start_over(t) < 0 ? -EIO : 1;
        return status == 404 || status == 410 ? -ENOENT : status >= 500 || status == 429 ? 1 : -EIO;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_TOO_MANY_REDIRECTS:
        return -EIO;
    default:
        return 1;
    }
}

static int attempt(struct transfer *t)
{
    long status = 0;
    CURL *curl = curl_easy_init();
    if (!curl)
        return -ENOMEM;
    t->message[0] = 0;
    set_options(curl, t);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    if (!t->message[0])
        snprintf(t->message, sizeof t->message, "%s", curl_easy_strerror(code));
    curl_easy_cleanup(curl);
    return judge(t, code, status);
}

static void pause_for(const struct download *d, int ms)
{
    for (int slept = 0; slept < ms && !(d->stop && *d->stop); slept += 50)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
}

static int transfer(struct transfer *t, struct error *err)
{
    const struct download *d = t->d;
    int attempts = d->attempts ? d->attempts : ATTEMPTS, pause_ms = d->pause_ms ? d->pause_ms : PAUSE_MS;
    int r = attempt(t);
    for (int i = 1; r == 1 && i < attempts; i++, pause_ms *= 2) {
        note(d, "download interrupted, going on: %s", t->message);
        pause_for(d, pause_ms);
        r = attempt(t);
    }
    if (r == 0)
        return 0;
    if (r == -ENOSPC || r == -EDQUOT)
        return error_set(err, r, NULL, "%s: %s; what has arrived is kept", d->url, strerror(-r));
    if (r == -EFBIG)
        return error_set(err, r, NULL, "%s: is larger than %lld bytes", d->url, (long long)d->max_bytes);
    return error_set(err, r == 1 ? -EIO : r, NULL, "%s: %s", d->url, r == -ECANCELED ? "stopped" : t->message);
}

/* The digest is right: the file gets its name. Else it is removed, so that the next call begins anew. */
static int accept_part(const struct download *d, int dir_fd, int fd, const char *part, const char *name,
                       struct error *err)
{
    char digest[FILE_SHA256_CHARS + 1];
    int r = file_sha256(dir_fd, part, digest, err);
    if (r < 0)
        return r;
    if (strcmp(digest, d->sha256) != 0) {
        unlinkat(dir_fd, part, 0);
        return error_set(err, -EINVAL, NULL, "%s: is not the expected file: SHA-256 %s instead of %s", d->url, digest,
                         d->sha256);
    }
    if (fsync(fd) < 0 || renameat(dir_fd, part, dir_fd, name) < 0 || fsync(dir_fd) < 0)
        return error_set(err, -errno, NULL, "cannot keep %s: %s", name, strerror(errno));
    return 0;
}

static int fetch(const struct download *d, int dir_fd, int fd, const char *part, const char *name, struct error *err)
{
    struct transfer t = {.d = d, .fd = fd};
    struct stat st;
    if (flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0)
        return error_set(err, -errno, NULL, "%s: %s", part, strerror(errno));
    if (st.st_nlink == 0 || faccessat(dir_fd, name, F_OK, 0) == 0)
        return faccessat(dir_fd, name, F_OK, 0) == 0 ? 0 : 1; // another one was at it while this one waited
    t.length = st.st_size;
    note(d, t.length ? "going on with %s" : "fetching %s", d->url);
    int r = transfer(&t, err);
    return r == 0 ? accept_part(d, dir_fd, fd, part, name, err) : r;
}

int download_file(const struct download *d, int dir_fd, const char *name, struct error *err)
{
    char part[NAME_BYTES];
    int r;
    if (snprintf(part, sizeof part, "%s.part", name) >= (int)sizeof part)
        return error_set(err, -ENAMETOOLONG, NULL, "the file's name is too long");
    if (faccessat(dir_fd, name, F_OK, 0) == 0)
        return 0;
    do {
        int fd = openat(dir_fd, part, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (fd < 0)
            return error_set(err, -errno, NULL, "cannot write %s: %s", part, strerror(errno));
        r = fetch(d, dir_fd, fd, part, name, err);
        close(fd);
    } while (r == 1);
    return r;
}
