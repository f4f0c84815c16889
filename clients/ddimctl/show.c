/* show.c: see show.h.
 *
 * Which way: kitty's graphics where the environment names a terminal that has them; sixels where the terminal itself
 * says so (device attributes, 4); else half blocks. Inside tmux and screen only what they pass on is tried.
 */
#include "clients/ddimctl/show.h"

#include "clients/ddimctl/picture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

extern char **environ;

enum way { WAY_NONE, WAY_BLOCKS, WAY_SIXEL, WAY_KITTY, WAY_VIEWER };

/* ---- which way ---- */

static bool environment_has(const char *name, const char *part)
{
    const char *value = getenv(name);
    return value && *value && (!part || strstr(value, part));
}

static bool has_kitty(void)
{
    if (environment_has("TMUX", NULL) || environment_has("STY", NULL))
        return false;
    return environment_has("KITTY_WINDOW_ID", NULL) || environment_has("TERM", "kitty") ||
           environment_has("TERM", "ghostty") || environment_has("TERM_PROGRAM", "WezTerm");
}

/* Whether "\033[?64;4;9c" lists attribute 4. */
static bool lists_sixel(const char *answer)
{
    const char *p = strstr(answer, "\033[?");
    for (p = p ? p + 2 : NULL; p && (*p == '?' || *p == ';'); p += strspn(p, "0123456789"))
        if (strtol(++p, NULL, 10) == 4)
            return true;
    return false;
}

/* Asks the terminal and waits a moment for its answer. */
static bool has_sixel(void)
{
    struct termios before, raw;
    char answer[128] = "";
    size_t n = 0;
    int fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || tcgetattr(fd, &before)) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    raw = before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = raw.c_cc[VTIME] = 0;
    tcsetattr(fd, TCSADRAIN, &raw);
    bool asked = write(fd, "\033[c", 3) == 3;
    while (asked && n < sizeof(answer) - 1 && !strchr(answer, 'c') &&
           poll(&(struct pollfd){fd, POLLIN, 0}, 1, 250) == 1) {
        ssize_t got = read(fd, answer + n, sizeof(answer) - 1 - n);
        if (got <= 0)
            break;
        answer[n += (size_t)got] = '\0';
    }
    tcsetattr(fd, TCSADRAIN, &before);
    close(fd);
    return lists_sixel(answer);
}

static bool has_desktop(void)
{
    return environment_has("WAYLAND_DISPLAY", NULL) || environment_has("DISPLAY", NULL);
}

static enum way choose(const char *how, const struct terminal *to)
{
    static const char *const names[] = {"blocks", "sixel", "kitty", "viewer", NULL};
    for (int i = 0; names[i]; i++)
        if (strcmp(how, names[i]) == 0)
            return (enum way)(WAY_BLOCKS + i);
    if (to->is_terminal)
        return has_kitty() ? WAY_KITTY : has_sixel() ? WAY_SIXEL : WAY_BLOCKS;
    return has_desktop() ? WAY_VIEWER : WAY_NONE;
}

/* ---- half blocks ---- */

/* The nearest of xterm's 256 colours: the cube of 6 levels, or the ramp of greys. */
static int nearest_256(const uint8_t *c)
{
    static const int levels[] = {0, 95, 135, 175, 215, 255};
    int cube[3], error_cube = 0, grey = (c[0] + c[1] + c[2]) / 3, error_grey = 0;
    int step = grey < 8 ? 0 : grey > 238 ? 23 : (grey - 3) / 10;
    for (int i = 0; i < 3; i++) {
        cube[i] = 0;
        for (int k = 1; k < 6; k++)
            if (abs(levels[k] - c[i]) < abs(levels[cube[i]] - c[i]))
                cube[i] = k;
        error_cube += abs(levels[cube[i]] - c[i]);
        error_grey += abs(8 + 10 * step - c[i]);
    }
    return error_grey < error_cube ? 232 + step : 16 + 36 * cube[0] + 6 * cube[1] + cube[2];
}

static void write_colour(FILE *to, bool foreground, const uint8_t *c)
{
    if (environment_has("COLORTERM", "truecolor") || environment_has("COLORTERM", "24bit"))
        fprintf(to, "\033[%d;2;%d;%d;%dm", foreground ? 38 : 48, c[0], c[1], c[2]);
    else
        fprintf(to, "\033[%d;5;%dm", foreground ? 38 : 48, nearest_256(c));
}

/* A cell is two pixels above each other; without UTF-8 a pixel is two spaces. */
static void write_blocks(const struct picture *p, const struct terminal *to)
{
    int tall = to->blocks ? 2 : 1;
    for (int y = 0; y < p->height; y += tall) {
        for (int x = 0; x < p->width; x++) {
            const uint8_t *top = p->rgb + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
            const uint8_t *bottom = top + (size_t)p->width * 3;
            if (!to->blocks) {
                write_colour(to->to, false, top);
                fputs("  ", to->to);
                continue;
            }
            write_colour(to->to, true, top);
            if (y + 1 < p->height)
                write_colour(to->to, false, bottom);
            fputs("▀", to->to);
        }
        fputs("\033[0m\n", to->to);
    }
}

static int show_blocks(const struct picture *p, const struct terminal *to)
{
    int room = terminal_columns(to) / (to->blocks ? 1 : 2);
    struct picture small;
    if (p->width <= room) {
        write_blocks(p, to);
        return 0;
    }
    int height = (int)((int64_t)p->height * room / p->width);
    int rc = picture_resize(p, room, height ? height : 1, &small);
    if (rc == 0) {
        write_blocks(&small, to);
        picture_done(&small);
    }
    return rc;
}

/* ---- sixels ---- */

enum { REDS = 6, GREENS = 7, BLUES = 6, SIXEL_WIDTH = 256 };

/* A level of the palette, chosen by the pixel's place so that the mean over 4 x 4 is right (ordered dither). */
static int dither(int value, int levels, int x, int y)
{
    static const uint8_t bayer[4][4] = {{0, 8, 2, 10}, {12, 4, 14, 6}, {3, 11, 1, 9}, {15, 7, 13, 5}};
    return (value * (levels - 1) * 16 + 255 * bayer[y & 3][x & 3] + 128) / (255 * 16);
}

static int sixel_colour(const struct picture *p, int x, int y)
{
    const uint8_t *c = p->rgb + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    return (dither(c[0], REDS, x, y) * GREENS + dither(c[1], GREENS, x, y)) * BLUES + dither(c[2], BLUES, x, y);
}

static void write_run(FILE *to, int bits, int n)
{
    if (n > 3)
        fprintf(to, "!%d%c", n, 63 + bits);
    else
        while (n-- > 0)
            fputc(63 + bits, to);
}

/* Six rows, one pass for each colour that is in them. colours: [6][width]. */
static void write_band(const struct picture *p, int y, int16_t *colours, FILE *to)
{
    bool used[REDS * GREENS * BLUES] = {false};
    int rows = p->height - y < 6 ? p->height - y : 6;
    for (int i = 0; i < rows; i++)
        for (int x = 0; x < p->width; x++)
            used[colours[i * p->width + x] = (int16_t)sixel_colour(p, x, y + i)] = true;
    for (int c = 0; c < REDS * GREENS * BLUES; c++) {
        int run = 0, last = 0;
        if (!used[c])
            continue;
        fprintf(to, "#%d", c);
        for (int x = 0; x < p->width; x++, run++) {
            int bits = 0;
            for (int i = 0; i < rows; i++)
                bits |= (colours[i * p->width + x] == c) << i;
            if (bits != last)
                write_run(to, last, run), run = 0;
            last = bits;
        }
        write_run(to, last, run);
        fputs("$", to);
    }
    fputs("-", to);
}

static int show_sixel(const struct picture *p, const struct terminal *to)
{
    struct picture large;
    int times = p->width < SIXEL_WIDTH ? (SIXEL_WIDTH + p->width - 1) / p->width : 1;
    int rc = picture_resize(p, p->width * times, p->height * times, &large);
    if (rc)
        return rc;
    int16_t *colours = malloc(6 * (size_t)large.width * sizeof(*colours));
    if (colours) {
        fprintf(to->to, "\033Pq\"1;1;%d;%d", large.width, large.height);
        for (int c = 0; c < REDS * GREENS * BLUES; c++)
            fprintf(to->to, "#%d;2;%d;%d;%d", c, c / (GREENS * BLUES) * 100 / (REDS - 1),
                    c / BLUES % GREENS * 100 / (GREENS - 1), c % BLUES * 100 / (BLUES - 1));
        for (int y = 0; y < large.height; y += 6)
            write_band(&large, y, colours, to->to);
        fputs("\033\\\n", to->to);
    }
    rc = colours ? 0 : -ENOMEM;
    free(colours);
    picture_done(&large);
    return rc;
}

/* ---- kitty ---- */

static void write_base64(const uint8_t *bytes, size_t n, FILE *to)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v =
            (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
        fputc(digits[v >> 18], to);
        fputc(digits[v >> 12 & 63], to);
        fputc(i + 1 < n ? digits[v >> 6 & 63] : '=', to);
        fputc(i + 2 < n ? digits[v & 63] : '=', to);
    }
}

/* The file itself, in pieces of 4096 characters; small pictures are enlarged to a column for each pixel. */
static void show_kitty(const uint8_t *png, size_t n, int width, const struct terminal *to)
{
    enum { PIECE_BYTES = 3072, PIXELS_OF_A_COLUMN = 10, LEAST_COLUMNS = 36 };
    int columns = width / PIXELS_OF_A_COLUMN > LEAST_COLUMNS ? width / PIXELS_OF_A_COLUMN : LEAST_COLUMNS;
    if (columns > terminal_columns(to) - 1)
        columns = terminal_columns(to) - 1;
    for (size_t at = 0; at < n; at += PIECE_BYTES) {
        size_t piece = n - at < PIECE_BYTES ? n - at : PIECE_BYTES;
        fputs("\033_G", to->to);
        if (at == 0)
            fprintf(to->to, "a=T,f=100,c=%d,", columns);
        fprintf(to->to, "m=%d;", at + piece < n);
        write_base64(png + at, piece, to->to);
        fputs("\033\\", to->to);
    }
    fputs("\n", to->to);
}

/* ---- the desktop's viewer ---- */

static enum outcome show_viewer(const char *file)
{
    char *argv[] = {"xdg-open", (char *)file, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    if (!file)
        return outcome_fail(OUTCOME_FAILED, "the viewer needs a file; give one with --output");
    if (!has_desktop())
        return outcome_fail(OUTCOME_FAILED, "there is no desktop here (DISPLAY and WAYLAND_DISPLAY are not set)");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    int rc = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    return rc ? outcome_fail(OUTCOME_FAILED, "xdg-open cannot be started: %s", strerror(rc)) : OUTCOME_OK;
}

enum outcome show_png(const void *png, size_t n, const char *how, const char *file, const struct terminal *to)
{
    struct picture p;
    enum way way = choose(how, to);
    if (way == WAY_NONE)
        return outcome_fail(OUTCOME_FAILED,
                            "the picture cannot be shown: this is no terminal, and there is no desktop");
    if (way == WAY_VIEWER)
        return show_viewer(file);
    int rc = picture_decode(png, n, &p);
    if (rc == 0) {
        rc = way == WAY_SIXEL ? show_sixel(&p, to) : way == WAY_BLOCKS ? show_blocks(&p, to) : 0;
        if (way == WAY_KITTY)
            show_kitty(png, n, p.width, to);
        picture_done(&p);
    }
    return rc ? outcome_fail(OUTCOME_FAILED, "the picture cannot be shown: %s", strerror(-rc)) : OUTCOME_OK;
}
