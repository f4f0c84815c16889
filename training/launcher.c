/* launcher.c: see launcher.h.
 *
 * The leader reads one line from a socket, then runs the program. End of file instead of the line (the daemon died, or
 * changed its mind) ends it, and it says so. SIGTERM to the group reaches the program too, and the leader outlives it
 * to say how it ended; a trap, unlike an ignored signal, is not inherited.
 */
#include "training/launcher.h"

#include "training/job_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_ARGS = 64, MAX_ENVIRONMENT = 1024 };

extern char **environ;

static const char leader_script[] = "read -r go || { echo -1 >\"$0\"; exit 1; }\n"
                                    "trap : TERM INT HUP\n"
                                    "\"$@\" </dev/null\n"
                                    "end=$?\n"
                                    "echo $end >\"$0\"\n"
                                    "exit $end";

// What the daemon was told by the service manager, and what is set for the program anew.
static const char *const withheld[] = {"NOTIFY_SOCKET=", "WATCHDOG_", "LISTEN_", "OMP_WAIT_POLICY="};

// The program's environment: the daemon's without `withheld`, OpenMP's setting after it. Strings are borrowed.
static void fill_environment(char **to)
{
    int n = 0;
    for (char **e = environ; *e && n < MAX_ENVIRONMENT; e++) {
        size_t i = 0, n_withheld = sizeof withheld / sizeof withheld[0];
        while (i < n_withheld && strncmp(*e, withheld[i], strlen(withheld[i])) != 0)
            i++;
        if (i == n_withheld)
            to[n++] = *e;
    }
    // Waiting threads sleep: a spinning one would take the core that a generating daemon wants.
    to[n++] = "OMP_WAIT_POLICY=passive";
    to[n] = NULL;
}

static int read_boot_id(char boot_id[JOB_BOOT_ID_BYTES])
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f)
        return -errno;
    int n = fscanf(f, "%39s", boot_id);
    fclose(f);
    return n == 1 ? 0 : -EIO;
}

// Start time and state letter of a process, from /proc/PID/stat (its second field may hold spaces and brackets).
static int read_stat(int32_t pid, int64_t *ret_start_ticks, char *ret_state)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -ESRCH;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return -ESRCH;
    text[n] = 0;
    char *rest = strrchr(text, ')'), state;
    long long start;
    if (!rest || sscanf(rest + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %lld",
                        &state, &start) != 2)
        return -EIO;
    *ret_start_ticks = start;
    *ret_state = state;
    return 0;
}

static int prepare_spawn(posix_spawn_file_actions_t *files, posix_spawnattr_t *attributes, int stdin_fd,
                         const struct launch *launch)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int rc = posix_spawn_file_actions_init(files);
    if (rc != 0)
        return -rc;
    rc = posix_spawnattr_init(attributes);
    if (rc != 0) {
        posix_spawn_file_actions_destroy(files);
        return -rc;
    }
    rc = posix_spawn_file_actions_adddup2(files, stdin_fd, STDIN_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, launch->log_fd, STDOUT_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(files, launch->log_fd, STDERR_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_addclosefrom_np(files, STDERR_FILENO + 1);
    if (rc == 0 && launch->directory)
        rc = posix_spawn_file_actions_addchdir_np(files, launch->directory);
    posix_spawnattr_setpgroup(attributes, 0);
    posix_spawnattr_setsigmask(attributes, &none);
    posix_spawnattr_setsigdefault(attributes, &all);
    posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    if (rc != 0) {
        posix_spawn_file_actions_destroy(files);
        posix_spawnattr_destroy(attributes);
    }
    return -rc;
}

static int spawn(const struct launch *launch, int stdin_fd, pid_t *ret_pid)
{
    char end_path[PATH_MAX];
    const char *argv[MAX_ARGS + 6] = {"sh", "-c", leader_script, end_path, launch->program};
    char *environment[MAX_ENVIRONMENT + 2];
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    int n = 0;
    if (snprintf(end_path, sizeof end_path, "%s/" LAUNCH_EXIT_NAME, launch->folder) >= (int)sizeof end_path)
        return -ENAMETOOLONG;
    for (; launch->args[n]; n++) {
        if (n == MAX_ARGS)
            return -E2BIG;
        argv[5 + n] = launch->args[n];
    }
    int rc = prepare_spawn(&files, &attributes, stdin_fd, launch);
    if (rc < 0)
        return rc;
    fill_environment(environment);
    rc = -posix_spawn(ret_pid, "/bin/sh", &files, &attributes, (char **)argv, environment);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return rc;
}

// Before the gate opens, so that all threads of the program inherit it. Best effort: a job that is less polite is
// better than none.
static void lower_priority(pid_t pid, const struct launch *launch)
{
    struct sched_param zero = {0};
    if (launch->nice > 0)
        setpriority(PRIO_PROCESS, pid, launch->nice);
    if (launch->idle)
        sched_setscheduler(pid, SCHED_IDLE, &zero);
}

int launcher_start(const struct launch *launch, struct launched *ret_launched, struct error *err)
{
    struct launched l = {.launcher = &launcher_processes, .pidfd = -1, .gate = -1, .is_child = true};
    int ends[2];
    char state;
    pid_t pid;
    if (access(launch->program, X_OK) < 0)
        return error_set(err, -errno, NULL, "cannot run %s: %s", launch->program, strerror(errno));
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set(err, -errno, NULL, "cannot start a process: %s", strerror(errno));
    int rc = spawn(launch, ends[1], &pid);
    close(ends[1]);
    if (rc < 0) {
        close(ends[0]);
        return error_set(err, rc, NULL, "cannot start a process: %s", strerror(-rc));
    }
    l.gate = ends[0];
    l.identity.pid = pid;
    l.pidfd = pidfd_open(pid, 0);
    rc = l.pidfd < 0 ? -errno : read_stat(pid, &l.identity.start_ticks, &state);
    if (rc == 0)
        rc = read_boot_id(l.identity.boot_id);
    if (rc < 0) {
        launcher_forget(&l);
        return error_set(err, rc, NULL, "cannot look at a process that was started: %s", strerror(-rc));
    }
    lower_priority(pid, launch);
    *ret_launched = l;
    return 0;
}

void launcher_release(struct launched *l)
{
    // Fails only where the process is gone, which launcher_ended then tells.
    (void)!send(l->gate, "go\n", 3, MSG_NOSIGNAL);
    close(l->gate);
    l->gate = -1;
}

int launcher_gone(const struct job_process *identity)
{
    char boot_id[JOB_BOOT_ID_BYTES];
    if (identity->pid > 0 && read_boot_id(boot_id) == 0 && strcmp(boot_id, identity->boot_id) != 0)
        return -ENODATA;
    return -ESRCH;
}

int launcher_self(struct job_process *ret_identity)
{
    struct job_process self = {.pid = getpid()};
    char state;
    int rc = read_stat(self.pid, &self.start_ticks, &state);
    if (rc == 0)
        rc = read_boot_id(self.boot_id);
    if (rc == 0)
        *ret_identity = self;
    return rc;
}

int launcher_find(const struct job_process *identity, struct launched *ret_launched)
{
    int64_t start_ticks;
    char state;
    if (identity->pid <= 0 || launcher_gone(identity) == -ENODATA)
        return launcher_gone(identity);
    // The descriptor first: once it is held, what is read of that pid is read of this process or not at all.
    int pidfd = pidfd_open(identity->pid, 0);
    if (pidfd < 0)
        return -ESRCH;
    if (read_stat(identity->pid, &start_ticks, &state) < 0 || start_ticks != identity->start_ticks || state == 'Z' ||
        state == 'X') {
        close(pidfd);
        return -ESRCH;
    }
    *ret_launched =
        (struct launched){.launcher = &launcher_processes, .identity = *identity, .pidfd = pidfd, .gate = -1};
    return 0;
}

int launcher_signal(const struct launched *l, int signal)
{
    // A child that has ended keeps its number until it is collected. Of another, the descriptor tells whether it lives.
    if (!l->is_child && pidfd_send_signal(l->pidfd, 0, NULL, 0) < 0)
        return -errno;
    return kill(-l->identity.pid, signal) < 0 ? -errno : 0;
}

// Not a child: the descriptor takes signals as long as the process has not ended and been collected by its parent.
static bool stranger_ended(const struct launched *l)
{
    int64_t start_ticks;
    char state;
    if (pidfd_send_signal(l->pidfd, 0, NULL, 0) < 0)
        return true;
    // Where nobody collects orphans it stays a zombie.
    return read_stat(l->identity.pid, &start_ticks, &state) < 0 || start_ticks != l->identity.start_ticks ||
           state == 'Z' || state == 'X';
}

// What the shell's $? says: above 128, the program died of a signal.
static int end_from_status(int status)
{
    return status > 128 ? -(status - 128) : status;
}

int launcher_write_end(int folder_fd, int exit_code)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%d\n", exit_code), fd;
    int rc = job_file_open(folder_fd, LAUNCH_EXIT_NAME, O_WRONLY | O_CREAT | O_TRUNC, &fd);
    if (rc < 0)
        return rc;
    ssize_t written = write(fd, text, (size_t)n);
    rc = written == n ? 0 : written < 0 ? -errno : -ENOSPC;
    close(fd);
    return rc;
}

int launcher_read_end(int folder_fd)
{
    char text[16] = "";
    int fd, status;
    if (folder_fd < 0 || job_file_open(folder_fd, LAUNCH_EXIT_NAME, O_RDONLY, &fd) < 0)
        return LAUNCH_UNKNOWN;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0 || sscanf(text, "%d", &status) != 1)
        return LAUNCH_UNKNOWN;
    return status < 0 ? LAUNCH_NEVER : end_from_status(status);
}

bool launcher_ended(struct launched *l, int folder_fd, int *ret_end)
{
    siginfo_t info = {0};
    int status;
    if (!l->is_child) {
        if (!stranger_ended(l))
            return false;
        kill(-l->identity.pid, SIGKILL); // a group that has members keeps its number
        *ret_end = launcher_read_end(folder_fd);
        return true;
    }
    if (waitid(P_PID, l->identity.pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0)
        return false;
    kill(-l->identity.pid, SIGKILL); // until it is collected, the number is its own
    if (waitpid(l->identity.pid, &status, WNOHANG) != l->identity.pid)
        *ret_end = launcher_read_end(folder_fd);
    else
        *ret_end = WIFSIGNALED(status) ? -WTERMSIG(status) : end_from_status(WEXITSTATUS(status));
    return true;
}

void launcher_forget(struct launched *l)
{
    if (l->gate >= 0) {
        close(l->gate);
        l->gate = -1;
        waitpid(l->identity.pid, NULL, 0);
    }
    if (l->pidfd >= 0)
        close(l->pidfd);
    l->pidfd = -1;
}

int64_t launcher_oom_kills(void)
{
    char line[128];
    long long kills = -1;
    FILE *f = fopen("/proc/vmstat", "re");
    if (!f)
        return -1;
    while (kills < 0 && fgets(line, sizeof line, f))
        (void)!sscanf(line, "oom_kill %lld", &kills);
    fclose(f);
    return kills;
}

static int start_process(const struct job_launcher *self, const struct launch *launch, struct launched *ret_launched,
                         struct error *err)
{
    (void)self;
    return launcher_start(launch, ret_launched, err);
}

static int find_process(const struct job_launcher *self, const struct job_process *identity,
                        struct launched *ret_launched)
{
    (void)self;
    return launcher_find(identity, ret_launched);
}

const struct job_launcher launcher_processes = {.start = start_process,
                                                .release = launcher_release,
                                                .find = find_process,
                                                .signal = launcher_signal,
                                                .ended = launcher_ended,
                                                .forget = launcher_forget};
