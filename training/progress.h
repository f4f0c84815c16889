/* progress.h: what a person sees of a run: a bar that is redrawn on a terminal, plain lines elsewhere.
 *
 * One thread. Writes to one FILE, which it does not own.
 */
#ifndef DDIMD_TRAINING_PROGRESS_H
#define DDIMD_TRAINING_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct progress {
    FILE *out;
    bool terminal;
    double last;   // monotonic seconds of the last drawing
    int32_t drawn; // columns of the bar that is on the screen
};

struct progress_view {
    int64_t epoch, epochs;     // present one, from 1
    int64_t batch, batches;    // done in it
    int64_t step, steps;       // done and in all
    double loss, images_per_s; // loss NAN: none yet
    double seconds_left;       // negative: not known yet
};

void progress_init(struct progress *p, FILE *out);

/* Draws the bar, at most ten times a second; elsewhere a line, at most every ten seconds. */
void progress_show(struct progress *p, const struct progress_view *v);

/* A line of text that stays, the bar below it goes on. */
void progress_line(struct progress *p, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "1:02:03", "2:03" minutes and seconds, "--:--" where negative. Returns buffer. */
const char *progress_duration(double seconds, char *buffer, size_t bytes);

#endif
