/* terminal.h: progress, tables and little curves on a stream that may be a terminal, narrow, or a file.
 *
 * A terminal redraws its lines in place, cut to its width as it is at that moment. On anything else nothing is drawn
 * over: terminal_progress() is silent there, and callers print whole lines now and then instead. Block characters only
 * where the locale is UTF-8. One thread.
 */
#ifndef DDIMCTL_TERMINAL_H
#define DDIMCTL_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

enum { TERMINAL_LINES = 4, TERMINAL_LINE_BYTES = 1024 };

struct terminal {
    FILE *to;
    bool is_terminal; // can be drawn over
    bool blocks;      // UTF-8
    int drawn;        // lines that stand there to be drawn over
    double last_s;    // monotonic time of the last drawing
};

void terminal_init(struct terminal *t, FILE *to);
/* Columns now; 80 where it is no terminal. */
int terminal_columns(const struct terminal *t);
double terminal_now_s(void); // monotonic

/* Draws n lines over those of the last call; at most ten times a second unless `now`. Nothing where it is no terminal.
 */
void terminal_progress(struct terminal *t, const char *const *lines, int n, bool now);
/* Removes them. */
void terminal_clear(struct terminal *t);

/* A bar of so many cells, into a buffer of 4 * cells + 1 bytes. */
void terminal_bar(const struct terminal *t, double fraction, int cells, char *ret_bar);
/* The values as a curve of at most `cells` cells, each the mean of its share; not finite ones are left out. Same size
 * of buffer. */
void terminal_curve(const struct terminal *t, const double *values, int n, int cells, char *ret_curve);

/* ---- tables ---- */

enum { TABLE_COLUMNS = 8 };

/* Rows of cells, printed with aligned columns. */
struct table {
    int columns, elastic; // elastic: the column that is cut where the terminal is narrow
    bool right[TABLE_COLUMNS];
    int spare[TABLE_COLUMNS]; // columns to leave out where that is not enough, in this order; 0 ends it
    char **cells;             // rows * columns
    int rows;
};

/* Takes copies; a NULL cell is "-". false: no memory. */
bool table_add(struct table *t, const char *const *cells);
/* Prints and empties it. */
void table_print(struct table *t, const struct terminal *to);

#endif
