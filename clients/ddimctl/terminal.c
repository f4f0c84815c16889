/* terminal.c: see terminal.h. */
#include "clients/ddimctl/terminal.h"

#include "clients/ddimctl/text.h"

#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

void terminal_init(struct terminal *t, FILE *to)
{
    const char *kind = getenv("TERM");
    *t = (struct terminal){.to = to, .last_s = -1};
    t->is_terminal = isatty(fileno(to)) == 1 && kind && strcmp(kind, "dumb") != 0;
    t->blocks = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
}

int terminal_columns(const struct terminal *t)
{
    struct winsize w;
    if (isatty(fileno(t->to)) == 1 && ioctl(fileno(t->to), TIOCGWINSZ, &w) == 0 && w.ws_col > 0)
        return w.ws_col;
    return 80;
}

double terminal_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void terminal_clear(struct terminal *t)
{
    if (t->drawn == 0)
        return;
    if (t->drawn > 1)
        fprintf(t->to, "\033[%dA", t->drawn - 1);
    fputs("\r\033[J", t->to);
    fflush(t->to);
    t->drawn = 0;
}

void terminal_progress(struct terminal *t, const char *const *lines, int n, bool now)
{
    double s = terminal_now_s();
    if (!t->is_terminal || (!now && t->last_s >= 0 && s - t->last_s < 0.1))
        return;
    int columns = terminal_columns(t) - 1; // the last one would wrap
    if (t->drawn > 1)
        fprintf(t->to, "\033[%dA", t->drawn - 1);
    for (int i = 0; i < n; i++)
        fprintf(t->to, "\r%.*s\033[K%s", (int)text_fit(lines[i], columns), lines[i], i + 1 < n ? "\n" : "");
    fputs("\033[J", t->to); // where fewer lines are drawn than last time
    fflush(t->to);
    t->drawn = n;
    t->last_s = s;
}

void terminal_bar(const struct terminal *t, double fraction, int cells, char *ret_bar)
{
    static const char *const parts[] = {" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"};
    fraction = fraction >= 0 ? fmin(fraction, 1) : 0;
    int eighths = (int)(fraction * cells * 8 + 0.5);
    *ret_bar = '\0';
    for (int i = 0; i < cells; i++) {
        int part = eighths - 8 * i;
        part = part < 0 ? 0 : part > 8 ? 8 : part;
        ret_bar = stpcpy(ret_bar, t->blocks ? parts[part] : part >= 4 ? "#" : ".");
    }
}

/* The mean of values[from..to) that are finite; NAN where none is. */
static double mean(const double *values, int from, int to)
{
    double sum = 0;
    int n = 0;
    for (int i = from; i < to; i++)
        if (isfinite(values[i]))
            sum += values[i], n++;
    return n ? sum / n : NAN;
}

void terminal_curve(const struct terminal *t, const double *values, int n, int cells, char *ret_curve)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const plain[] = {"_", ".", "-", "-", "=", "=", "*", "#"};
    double low = INFINITY, high = -INFINITY;
    cells = n < cells ? n : cells;
    *ret_curve = '\0';
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < cells; i++) {
            double v = mean(values, (int)((long)i * n / cells), (int)((long)(i + 1) * n / cells));
            if (!isfinite(v))
                continue;
            if (pass == 0) {
                low = fmin(low, v), high = fmax(high, v);
            } else {
                int level = high > low ? (int)((v - low) / (high - low) * 7 + 0.5) : 0;
                ret_curve = stpcpy(ret_curve, t->blocks ? blocks[level] : plain[level]);
            }
        }
    }
}

/* ---- tables ---- */

bool table_add(struct table *t, const char *const *cells)
{
    size_t n = (size_t)t->rows * (size_t)t->columns;
    char **grown = realloc(t->cells, (n + (size_t)t->columns) * sizeof(*grown));
    if (!grown)
        return false;
    t->cells = grown;
    for (int i = 0; i < t->columns; i++) {
        grown[n + (size_t)i] = strdup(cells[i] ? cells[i] : "-");
        if (!grown[n + (size_t)i]) {
            while (i--)
                free(grown[n + (size_t)i]);
            return false;
        }
        text_tame(grown[n + (size_t)i]);
    }
    t->rows++;
    return true;
}

/* Widths of the columns, 0: left out. The elastic one gives way down to LEAST, then the spare ones go. */
static void measure(const struct table *t, int columns, int *ret_widths)
{
    enum { GAP = 2, LEAST = 6 };
    int over = -GAP - columns;
    for (int c = 0; c < t->columns; c++) {
        ret_widths[c] = 0;
        for (int r = 0; r < t->rows; r++) {
            int n = text_columns(t->cells[r * t->columns + c]);
            ret_widths[c] = n > ret_widths[c] ? n : ret_widths[c];
        }
        over += ret_widths[c] + GAP;
    }
    int *elastic = &ret_widths[t->elastic], give = *elastic > LEAST ? *elastic - LEAST : 0;
    for (int i = 0; t->spare[i] && over > give; i++) {
        over -= ret_widths[t->spare[i]] + GAP;
        ret_widths[t->spare[i]] = 0;
    }
    if (over > 0)
        *elastic -= over < give ? over : give;
}

static void print_row(const struct table *t, const struct terminal *to, int row, const int *widths)
{
    char *const *cells = t->cells + row * t->columns;
    for (int c = 0; c < t->columns; c++) {
        if (widths[c] == 0)
            continue;
        int n = text_columns(cells[c]), shown = n;
        size_t bytes = strlen(cells[c]);
        const char *mark = "";
        if (n > widths[c]) {
            mark = to->blocks ? "…" : "~";
            bytes = text_fit(cells[c], widths[c] - 1);
            shown = widths[c];
        }
        if (t->right[c])
            fprintf(to->to, "%*s", widths[c] - shown, "");
        fprintf(to->to, "%.*s%s", (int)bytes, cells[c], mark);
        if (c + 1 < t->columns)
            fprintf(to->to, "%*s", 2 + (t->right[c] ? 0 : widths[c] - shown), "");
    }
    fputs("\n", to->to);
}

void table_print(struct table *t, const struct terminal *to)
{
    int widths[TABLE_COLUMNS];
    measure(t, to->is_terminal ? terminal_columns(to) : 1 << 20, widths);
    for (int r = 0; r < t->rows; r++)
        print_row(t, to, r, widths);
    for (int i = 0; i < t->rows * t->columns; i++)
        free(t->cells[i]);
    free(t->cells);
    t->cells = NULL;
    t->rows = 0;
}
