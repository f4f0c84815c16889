/* test_launcher.c: what the runner stands on: processes and their gate, folders that nothing leads out of, the record
 * file read by offset, and the judgement of ends.
 */
#include "tests/training/scratch.h"
#include "training/follow.h"
#include "training/job_end.h"
#include "training/job_folder.h"
#include "training/launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    char *folder;
    int fd, log_fd;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->folder = scratch_make();
    f->fd = open(f->folder, O_RDONLY | O_DIRECTORY);
    f->log_fd = openat(f->fd, "log", O_WRONLY | O_CREAT | O_APPEND, 0640);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    close(f->fd);
    close(f->log_fd);
    scratch_remove(f->folder);
    free(f);
    return 0;
}

/* ---- processes ---- */

static struct launched start(const struct fixture *f, const char *script)
{
    const char *args[] = {"-c", script, f->folder, NULL};
    struct launch launch = {.program = "/bin/sh", .args = args, .folder = f->folder, .log_fd = f->log_fd, .nice = 5};
    struct launched l;
    struct error err = {0};
    if (launcher_start(&launch, &l, &err) < 0)
        fail_msg("%s", err.message);
    return l;
}

static int wait_for_end(struct launched *l, int folder_fd)
{
    int end;
    for (int i = 0; i < 100; i++) {
        struct pollfd p = {.fd = l->pidfd, .events = POLLIN};
        poll(&p, 1, 100);
        if (launcher_ended(l, folder_fd, &end))
            return end;
    }
    fail_msg("the process does not end");
    return 0;
}

static bool exists(const struct fixture *f, const char *name)
{
    return faccessat(f->fd, name, F_OK, 0) == 0;
}

static void exit_codes_and_signals_are_told(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *script;
        int end;
    } cases[] = {{"exit 0", 0},        {"exit 3", 3},        {"kill -9 $$", -9},
                 {"kill -11 $$", -11}, {"kill -15 $$", -15}, {"read x; [ -z \"$x\" ] && exit 7", 7}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct launched l = start(f, cases[i].script);
        launcher_release(&l);
        assert_int_equal(wait_for_end(&l, f->fd), cases[i].end);
        assert_int_equal(launcher_read_end(f->fd), cases[i].end); // and a stranger can read it
        launcher_forget(&l);
    }
}

static void nothing_runs_before_the_gate_opens(void **state)
{
    struct fixture *f = *state;
    struct launched l = start(f, "touch $0/ran");
    usleep(100000);
    assert_false(exists(f, "ran"));
    launcher_forget(&l); // as when the daemon dies
    assert_int_equal(kill(l.identity.pid, 0), -1);
    assert_false(exists(f, "ran"));
    assert_int_equal(launcher_read_end(f->fd), LAUNCH_NEVER);
    l = start(f, "touch $0/ran");
    launcher_release(&l);
    assert_int_equal(wait_for_end(&l, f->fd), 0);
    assert_true(exists(f, "ran"));
    launcher_forget(&l);
}

static void a_program_that_is_not_there_is_told(void **state)
{
    struct fixture *f = *state;
    const char *args[] = {NULL};
    struct launch launch = {.program = "/nowhere/ddimd-train", .args = args, .folder = f->folder, .log_fd = f->log_fd};
    struct launched l;
    struct error err = {0};
    assert_int_equal(launcher_start(&launch, &l, &err), -ENOENT);
    assert_non_null(strstr(err.message, "/nowhere/ddimd-train"));
}

static void the_program_starts_clean(void **state)
{
    struct fixture *f = *state;
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    setenv("NOTIFY_SOCKET", "/run/x", 1);
    setenv("LISTEN_FDS", "1", 1);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    int leak = open("/dev/null", O_RDONLY); // without O_CLOEXEC
    struct launched l =
        start(f, "[ -z \"$NOTIFY_SOCKET$LISTEN_FDS\" ] || exit 1; [ $OMP_WAIT_POLICY = passive ] || exit 2;"
                 "for n in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$n ] && exit 3; done;"
                 "grep -q 'SigBlk:.0000000000000000' /proc/self/status || exit 4;"
                 "exit 0");
    sigprocmask(SIG_SETMASK, &before, NULL);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("LISTEN_FDS");
    close(leak);
    assert_int_equal(getpriority(PRIO_PROCESS, l.identity.pid), 5);
    launcher_release(&l);
    assert_int_equal(wait_for_end(&l, f->fd), 0);
    launcher_forget(&l);
}

static void a_signal_reaches_the_group_and_the_end_is_still_told(void **state)
{
    struct fixture *f = *state;
    struct launched l = start(f, "trap 'exit 42' TERM; touch $0/ready; while :; do sleep 0.01; done");
    launcher_release(&l);
    while (!exists(f, "ready"))
        usleep(1000);
    assert_int_equal(launcher_signal(&l, SIGTERM), 0);
    assert_int_equal(wait_for_end(&l, f->fd), 42);
    launcher_forget(&l);
}

static void what_is_left_of_a_group_is_killed(void **state)
{
    struct fixture *f = *state;
    struct launched l = start(f, "sleep 1000 & echo $! >$0/child; exit 0");
    launcher_release(&l);
    assert_int_equal(wait_for_end(&l, f->fd), 0);
    launcher_forget(&l);
    char text[32] = "";
    int fd = openat(f->fd, "child", O_RDONLY);
    assert_true(read(fd, text, sizeof text - 1) > 0);
    close(fd);
    char path[64], stat[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", atoi(text));
    for (int i = 0; i < 500; i++, usleep(10000)) {
        // Gone, or a zombie that nobody here collects.
        fd = open(path, O_RDONLY);
        if (fd < 0)
            return;
        (void)!read(fd, stat, sizeof stat - 1);
        close(fd);
        if (strstr(stat, ") Z"))
            return;
    }
    fail_msg("a child of the job is left");
}

static void a_process_is_found_by_more_than_its_number(void **state)
{
    struct fixture *f = *state;
    struct launched l = start(f, "sleep 1000"), found;
    launcher_release(&l);
    assert_int_equal(launcher_find(&l.identity, &found), 0);
    assert_false(found.is_child);
    int end;
    assert_false(launcher_ended(&found, f->fd, &end));
    struct job_process other = l.identity;
    other.start_ticks--; // the number was given to another process
    assert_int_equal(launcher_find(&other, &(struct launched){0}), -ESRCH);
    other = l.identity;
    other.boot_id[0] ^= 1; // and another boot
    assert_int_equal(launcher_find(&other, &(struct launched){0}), -ENODATA);
    other = (struct job_process){0};
    assert_int_equal(launcher_find(&other, &(struct launched){0}), -ESRCH);
    assert_int_equal(launcher_signal(&found, SIGKILL), 0);
    assert_int_equal(wait_for_end(&l, f->fd), -SIGKILL);
    assert_true(launcher_ended(&found, f->fd, &end));
    assert_int_equal(launcher_find(&l.identity, &(struct launched){0}), -ESRCH);
    launcher_forget(&found);
    launcher_forget(&l);
}

/* ---- folders ---- */

static void nothing_leads_out_of_a_folder(void **state)
{
    struct fixture *f = *state;
    int job, fd;
    struct error err = {0};
    assert_int_equal(job_folder_open(f->fd, 7, 0, &job, &err), -ENOENT);
    assert_int_equal(job_folder_open(f->fd, 7, 1, &job, &err), 0);
    assert_int_equal(mkdirat(job, "inside", 0750), 0);
    assert_int_equal(symlinkat("../log", job, "link"), 0);
    assert_int_equal(symlinkat("/etc", job, "etc"), 0);
    assert_int_equal(mkfifoat(job, "pipe", 0640), 0);
    static const char *const bad[] = {"../log",           "link", "etc/passwd", "/etc/passwd",
                                      "inside/../../log", "pipe", "inside",     "nothing"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_true(job_file_open(job, bad[i], O_RDONLY, &fd) < 0);
    assert_int_equal(job_file_open(job, "inside/file", O_WRONLY | O_CREAT, &fd), 0);
    close(fd);
    assert_int_equal(job_file_open(job, "inside/file", O_RDONLY, &fd), 0);
    close(fd);
    close(job);
    assert_int_equal(job_folder_remove(f->fd, 7, &err), 0);
    assert_false(exists(f, "7"));
    assert_true(exists(f, "log")); // the link's target
    assert_int_equal(access("/etc/passwd", R_OK), 0);
    assert_int_equal(job_folder_remove(f->fd, 7, &err), 0); // again
    assert_int_equal(symlinkat("/etc", f->fd, "8"), 0);
    assert_true(job_folder_open(f->fd, 8, 1, &job, &err) < 0);
}

/* ---- records ---- */

static void append(const struct fixture *f, const char *text)
{
    int fd = openat(f->fd, FOLLOW_RECORDS_NAME, O_WRONLY | O_CREAT | O_APPEND, 0640);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void records_are_read_by_whole_lines(void **state)
{
    struct fixture *f = *state;
    struct follow_batch *b = malloc(sizeof *b);
    assert_int_equal(follow_records(f->fd, 0, b), 0);
    assert_int_equal(b->n, 0);
    append(f, "{\"event\":\"step\",\"step\":1,\"steps\":9,\"epoch\":1,\"loss\":0.5}\n{\"event\":\"st");
    assert_int_equal(follow_records(f->fd, 0, b), 0);
    assert_int_equal(b->n, 1);
    assert_int_equal(b->records[0].step, 1);
    assert_string_equal(b->records[0].kind, "step");
    assert_int_equal(b->progress.total_steps, 9);
    int64_t at = b->to;
    assert_int_equal(follow_records(f->fd, at, b), 0);
    assert_int_equal(b->n, 0);
    assert_int_equal(b->to, at);
    append(f, "ep\",\"step\":2}\nnonsense\n{\"no\":\"event\"}\n[]\n{\"event\":\"end\",\"end\":\"early\",\"step\":3}\n");
    assert_int_equal(follow_records(f->fd, at, b), 0);
    assert_int_equal(b->n, 2);
    assert_int_equal(b->records[0].step, 2);
    assert_string_equal(b->outcome, "early");
    assert_int_equal(b->progress.step, 3);
    assert_string_equal(b->progress.latest, "{\"event\":\"step\",\"step\":2}");
    free(b);
}

static void long_files_and_long_lines_pass(void **state)
{
    struct fixture *f = *state;
    enum { RECORDS = 3000 };
    struct follow_batch *b = malloc(sizeof *b);
    char *text = malloc(RECORDS * 40), *at = text;
    for (int i = 1; i <= RECORDS; i++)
        at += sprintf(at, "{\"event\":\"step\",\"step\":%d}\n", i);
    append(f, text);
    char *huge = malloc(3 * FOLLOW_MAX_BYTES);
    memset(huge, 'x', 3 * FOLLOW_MAX_BYTES - 1);
    huge[3 * FOLLOW_MAX_BYTES - 2] = '\n';
    huge[3 * FOLLOW_MAX_BYTES - 1] = 0;
    append(f, huge);
    append(f, "{\"event\":\"step\",\"step\":3001}\n");
    int64_t offset = 0, step = 0;
    do {
        assert_int_equal(follow_records(f->fd, offset, b), 0);
        for (int i = 0; i < b->n; i++)
            assert_int_equal(b->records[i].step, ++step);
        offset = b->to;
    } while (b->to > b->from);
    assert_int_equal(step, RECORDS + 1);
    free(text);
    free(huge);
    free(b);
}

static void records_after_the_checkpoint_are_cut(void **state)
{
    struct fixture *f = *state;
    int64_t left = -1;
    assert_int_equal(follow_rewind(f->fd, 100, &left, NULL), 0);
    assert_int_equal(left, 0);
    append(f, "0123456789");
    assert_int_equal(follow_rewind(f->fd, 100, &left, NULL), 0);
    assert_int_equal(left, 10);
    assert_int_equal(follow_rewind(f->fd, 4, &left, NULL), 0);
    assert_int_equal(left, 4);
    struct stat s;
    assert_int_equal(fstatat(f->fd, FOLLOW_RECORDS_NAME, &s, 0), 0);
    assert_int_equal(s.st_size, 4);
}

static void a_state_file_that_is_none_is_told(void **state)
{
    struct fixture *f = *state;
    struct follow_state s;
    struct error err = {0};
    assert_int_equal(follow_state(f->fd, &s, &err), -ENOENT);
    assert_int_equal(mkdirat(f->fd, "checkpoints", 0750), 0);
    assert_int_equal(follow_state(f->fd, &s, &err), -ENOENT);
    int fd = openat(f->fd, FOLLOW_STATE_NAME, O_WRONLY | O_CREAT, 0640);
    assert_int_equal(write(fd, "garbage, no header", 18), 18);
    close(fd);
    assert_int_equal(follow_state(f->fd, &s, &err), -EINVAL);
}

static void last_words_are_the_logs_last_line(void **state)
{
    struct fixture *f = *state;
    char words[32];
    follow_last_words(f->fd, words, sizeof words);
    assert_string_equal(words, "");
    dprintf(f->log_fd, "first\nddimd-train: no such data set\n\n");
    follow_last_words(f->fd, words, sizeof words);
    assert_string_equal(words, "ddimd-train: no such data set");
}

/* ---- ends ---- */

static void ends_are_judged(void **state)
{
    enum { CANCEL = 1, REBOOT = 2, MEMORY = 4, KEPT = 8, DIED = 16 };
    static const struct {
        const char *outcome;
        int end, flags;
        enum job_action action;
        enum job_end_kind kind;
        int deaths;
        const char *message;
    } cases[] = {
        {"finished", 0, 0, JOB_ACTION_SUCCEED, JOB_END_EXIT, 0, ""},
        {"early", 0, 0, JOB_ACTION_SUCCEED, JOB_END_EXIT, 0, ""},
        {"", 0, 0, JOB_ACTION_SUCCEED, JOB_END_EXIT, 0, ""},
        {"finished", 0, CANCEL, JOB_ACTION_SUCCEED, JOB_END_EXIT, 0, ""}, // it was quicker
        {"stopped", 0, CANCEL, JOB_ACTION_STOP, JOB_END_KILLED, 0, "checkpoint"},
        {"", -SIGKILL, CANCEL, JOB_ACTION_STOP, JOB_END_KILLED, 0, "in time"},
        {"", -SIGKILL, CANCEL | MEMORY, JOB_ACTION_STOP, JOB_END_KILLED, 0, "in time"},
        {"", LAUNCH_UNKNOWN, CANCEL, JOB_ACTION_STOP, JOB_END_KILLED, 0, "cancelled"},
        {"stopped", 0, DIED, JOB_ACTION_REQUEUE, JOB_END_EXIT, 1, "signal"}, // the machine shuts down
        {"", 1, 0, JOB_ACTION_FAIL, JOB_END_EXIT, 0, "exit code 1: last words"},
        {"", 5, 0, JOB_ACTION_FAIL, JOB_END_OOM, 0, "exit code 5"},
        {"", -SIGSEGV, 0, JOB_ACTION_REQUEUE, JOB_END_SIGNAL, 1, "signal 11"},
        {"", -SIGSEGV, DIED, JOB_ACTION_FAIL, JOB_END_SIGNAL, 2, "died 2 times without a new checkpoint"},
        {"", -SIGSEGV, DIED | KEPT, JOB_ACTION_REQUEUE, JOB_END_SIGNAL, 1, "signal 11"},
        {"", -SIGKILL, 0, JOB_ACTION_REQUEUE, JOB_END_SIGNAL, 1, "signal 9"},
        {"", -SIGKILL, MEMORY, JOB_ACTION_REQUEUE, JOB_END_OOM, 1, "lack of memory"},
        {"", -SIGKILL, MEMORY | DIED, JOB_ACTION_FAIL, JOB_END_OOM, 2, "lack of memory"},
        {"", LAUNCH_UNKNOWN, 0, JOB_ACTION_REQUEUE, JOB_END_LOST, 1, "gone"},
        {"", LAUNCH_NEVER, DIED, JOB_ACTION_REQUEUE, JOB_END_LOST, 1, "before it ran"},
        {"", LAUNCH_UNKNOWN, REBOOT, JOB_ACTION_REQUEUE, JOB_END_REBOOT, 1, "machine"},
        {"", LAUNCH_UNKNOWN, REBOOT | DIED, JOB_ACTION_FAIL, JOB_END_REBOOT, 2, "machine"},
        {"finished", LAUNCH_UNKNOWN, REBOOT, JOB_ACTION_SUCCEED, JOB_END_EXIT, 0, ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int flags = cases[i].flags;
        struct job job = {.state = JOB_STATE_RUNNING,
                          .cancel_requested = flags & CANCEL,
                          .deaths = flags & DIED ? 1 : 0,
                          .start_checkpoint = 10};
        strcpy(job.outcome, cases[i].outcome);
        struct job_ending ending = {cases[i].end, flags & REBOOT, flags & MEMORY, flags & KEPT ? 20 : 10, "last words"};
        struct job_end end;
        int32_t deaths;
        enum job_action action = job_end_judge(&job, &ending, &end, &deaths);
        if (action != cases[i].action || end.kind != cases[i].kind || deaths != cases[i].deaths ||
            !strstr(end.message, cases[i].message))
            fail_msg("case %zu: %s, %s, %d deaths, \"%s\"", i, job_action_name(action), job_end_name(end.kind), deaths,
                     end.message);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(exit_codes_and_signals_are_told),
        TEST(nothing_runs_before_the_gate_opens),
        TEST(a_program_that_is_not_there_is_told),
        TEST(the_program_starts_clean),
        TEST(a_signal_reaches_the_group_and_the_end_is_still_told),
        TEST(what_is_left_of_a_group_is_killed),
        TEST(a_process_is_found_by_more_than_its_number),
        TEST(nothing_leads_out_of_a_folder),
        TEST(records_are_read_by_whole_lines),
        TEST(long_files_and_long_lines_pass),
        TEST(records_after_the_checkpoint_are_cut),
        TEST(a_state_file_that_is_none_is_told),
        TEST(last_words_are_the_logs_last_line),
        cmocka_unit_test(ends_are_judged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
