/* progress.c: see progress.h.
 */
#include "training/progress.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { BAR_CELLS = 24, LINE_BYTES = 256 };
static const double redraw_seconds = 0.1, line_seconds = 10.0;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void progress_init(struct progress *p, FILE *out)
{
    *p = (struct progress){.out = out, .terminal = isatty(fileno(out)) == 1, .last = -INFINITY};
}

const char *progress_duration(double seconds, char *buffer, size_t bytes)
{
    if (!(seconds >= 0 && seconds < 1e9)) {
        snprintf(buffer, bytes, "--:--");
        return buffer;
    }
    long s = (long)(seconds + 0.5);
    if (s >= 3600)
        snprintf(buffer, bytes, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buffer, bytes, "%ld:%02ld", s / 60, s % 60);
    return buffer;
}

static int32_t columns(const struct progress *p)
{
    struct winsize w;
    return ioctl(fileno(p->out), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static void erase(struct progress *p)
{
    if (p->terminal && p->drawn)
        fputs("\r\033[K", p->out);
    p->drawn = 0;
}

void progress_show(struct progress *p, const struct progress_view *v)
{
    double t = now();
    if (t - p->last < (p->terminal ? redraw_seconds : line_seconds))
        return;
    p->last = t;
    char line[LINE_BYTES], bar[BAR_CELLS + 3] = "", loss[32] = "--", left[32];
    int filled = v->batches > 0 ? (int)(v->batch * BAR_CELLS / v->batches) : 0;
    if (p->terminal) {
        memset(bar, '.', BAR_CELLS + 2);
        memset(bar + 1, '#', (size_t)filled);
        bar[0] = '[';
        bar[BAR_CELLS + 1] = ']';
    }
    if (isfinite(v->loss))
        snprintf(loss, sizeof loss, "%.4f", v->loss);
    snprintf(line, sizeof line, "epoch %lld/%lld %s%s%lld/%lld  loss %s  %.1f images/s  %s left", (long long)v->epoch,
             (long long)v->epochs, bar, p->terminal ? " " : "", (long long)v->batch, (long long)v->batches, loss,
             v->images_per_s, progress_duration(v->seconds_left, left, sizeof left));
    if (!p->terminal) {
        fprintf(p->out, "%s\n", line);
    } else {
        int32_t width = columns(p) - 1;
        erase(p);
        p->drawn = fprintf(p->out, "%.*s", width, line);
    }
    fflush(p->out);
}

void progress_line(struct progress *p, const char *format, ...)
{
    va_list args;
    erase(p);
    va_start(args, format);
    vfprintf(p->out, format, args);
    va_end(args);
    fputc('\n', p->out);
    fflush(p->out);
}
