/* shim.c: a library to preload that makes calls fail, as full disks, dying devices and empty machines do.
 *
 * A test arms it through a file that both have mapped (FAULTS names it), at any time. One kind of call is armed at
 * once:
 *
 *     error  what the call fails with: an errno, or -1: the process is killed in it (SIGKILL)
 *     skip   so many calls go through first
 *     times  so many fail; 0: none, that is, disarmed
 *     own    only calls from the program itself, not from libraries
 *     sites  only calls from a place that has not failed yet, each remembered in the file
 *
 * Whatever happens is counted there, too.
 */
#undef _FILE_OFFSET_BITS // open and open64 are two names here, both to be caught
#undef _TIME_BITS
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum kind {
    KIND_NONE,
    KIND_MEMORY,
    KIND_OPEN,
    KIND_WRITE,
    KIND_READ,
    KIND_DESCRIPTOR,
    KIND_THREAD,
    KIND_DEVICE,
    N_KINDS
};
enum { MAX_SITES = 4000 };

/* The file; faults.py has the same layout. */
struct faults {
    atomic_int kind, error, skip, times, own, sites;
    atomic_int fired;      // calls that failed
    atomic_int n_sites;    // places that have failed
    atomic_int leak_bytes; // lost with every 16th allocation of the program's own; 0: none
    atomic_int leak_descriptors;
    atomic_int calls[N_KINDS]; // that came, whether armed or not
    atomic_uint_least64_t site[MAX_SITES];
};

static struct faults *faults;
static uintptr_t program_begin, program_end;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int find_program(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
            program_begin = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            program_end = program_begin + info->dlpi_phdr[i].p_memsz;
        }
    return 1; // the first one is the program
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    dl_iterate_phdr(find_program, NULL);
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    faults = at == MAP_FAILED ? NULL : at;
}

/* True where this place has not failed before: it is noted. */
static bool site_is_new(enum kind kind, uintptr_t from)
{
    uint64_t site = (uint64_t)kind << 56 | (from - program_begin);
    pthread_mutex_lock(&lock);
    int n = atomic_load(&faults->n_sites);
    bool known = n == MAX_SITES;
    for (int i = 0; i < n && !known; i++)
        known = atomic_load(&faults->site[i]) == site;
    if (!known) {
        atomic_store(&faults->site[n], site);
        atomic_store(&faults->n_sites, n + 1);
    }
    pthread_mutex_unlock(&lock);
    return !known;
}

void *__libc_malloc(size_t bytes);

/* The planted leak. */
static void leak(void)
{
    static atomic_uint turn;
    int bytes = atomic_load(&faults->leak_bytes);
    if (atomic_fetch_add(&turn, 1) % 16)
        return;
    if (bytes > 0)
        memset(__libc_malloc((size_t)bytes), 1, (size_t)bytes);
    if (atomic_load(&faults->leak_descriptors) && dup(STDERR_FILENO) < 0)
        return;
}

/* True where the call is to fail; errno is set. */
static bool fails(enum kind kind, const void *caller)
{
    uintptr_t from = (uintptr_t)caller;
    if (!faults)
        return false;
    atomic_fetch_add(&faults->calls[kind], 1);
    if (kind == KIND_MEMORY && from >= program_begin && from < program_end)
        leak();
    if (atomic_load(&faults->kind) != (int)kind || atomic_load(&faults->times) <= 0)
        return false;
    if (atomic_load(&faults->own) && (from < program_begin || from >= program_end))
        return false;
    if (atomic_load(&faults->skip) > 0 && atomic_fetch_sub(&faults->skip, 1) > 0)
        return false;
    if (atomic_load(&faults->sites) && !site_is_new(kind, from))
        return false;
    if (atomic_fetch_sub(&faults->times, 1) <= 0)
        return false;
    atomic_fetch_add(&faults->fired, 1);
    if (atomic_load(&faults->error) < 0)
        kill(getpid(), SIGKILL);
    errno = atomic_load(&faults->error);
    return true;
}

#define CALLER __builtin_return_address(0)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* ---- memory: glibc's own entries, since dlsym() itself allocates ---- */

void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes)
{
    return fails(KIND_MEMORY, CALLER) ? NULL : __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    return fails(KIND_MEMORY, CALLER) ? NULL : __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    return fails(KIND_MEMORY, CALLER) ? NULL : __libc_realloc(p, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return fails(KIND_MEMORY, CALLER) ? NULL : __libc_memalign(alignment, bytes);
}

int posix_memalign(void **ret, size_t alignment, size_t bytes)
{
    void *p = fails(KIND_MEMORY, CALLER) ? NULL : __libc_memalign(alignment, bytes);
    if (!p)
        return ENOMEM;
    *ret = p;
    return 0;
}

char *strdup(const char *text)
{
    size_t n = strlen(text) + 1;
    char *copy = fails(KIND_MEMORY, CALLER) ? NULL : __libc_malloc(n);
    return copy ? memcpy(copy, text, n) : NULL;
}

/* ---- files ---- */

/* One function that returns -1 where it fails: its parameters, and their names for the call. */
#define INTEGER_CALL(kind, type, name, parameters, arguments)                                                          \
    type name parameters                                                                                               \
    {                                                                                                                  \
        if (fails(kind, CALLER))                                                                                       \
            return -1;                                                                                                 \
        static __typeof__(&name) real;                                                                                 \
        real = real ? real : REAL(name);                                                                               \
        return real arguments;                                                                                         \
    }

#define OPEN_CALL(name, before, pass)                                                                                  \
    int name(before, int flags, ...)                                                                                   \
    {                                                                                                                  \
        va_list args;                                                                                                  \
        va_start(args, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(args, mode_t) : 0;                                      \
        va_end(args);                                                                                                  \
        if (fails(KIND_OPEN, CALLER))                                                                                  \
            return -1;                                                                                                 \
        static int (*real)(before, int, ...);                                                                          \
        real = real ? real : (__typeof__(real))dlsym(RTLD_NEXT, #name);                                                \
        return real(pass, flags, mode);                                                                                \
    }
#define TWO(a, b) a, b
OPEN_CALL(open, const char *path, path)
OPEN_CALL(open64, const char *path, path)
OPEN_CALL(openat, TWO(int at, const char *path), TWO(at, path))
OPEN_CALL(openat64, TWO(int at, const char *path), TWO(at, path))

/* Only files have disks: not descriptors of events, pipes and sockets, and not the log. */
static bool is_file(int fd)
{
    struct stat st;
    return fd != STDERR_FILENO && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

#define FILE_CALL(kind, type, name, parameters, arguments)                                                             \
    type name parameters                                                                                               \
    {                                                                                                                  \
        if (is_file(fd) && fails(kind, CALLER))                                                                        \
            return -1;                                                                                                 \
        static __typeof__(&name) real;                                                                                 \
        real = real ? real : REAL(name);                                                                               \
        return real arguments;                                                                                         \
    }
FILE_CALL(KIND_WRITE, ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n))
FILE_CALL(KIND_WRITE, ssize_t, pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n, at))
FILE_CALL(KIND_WRITE, ssize_t, pwrite64, (int fd, const void *p, size_t n, off64_t at), (fd, p, n, at))
FILE_CALL(KIND_WRITE, int, ftruncate, (int fd, off_t n), (fd, n))
FILE_CALL(KIND_WRITE, int, ftruncate64, (int fd, off64_t n), (fd, n))
FILE_CALL(KIND_READ, ssize_t, read, (int fd, void *p, size_t n), (fd, p, n))
FILE_CALL(KIND_READ, ssize_t, pread, (int fd, void *p, size_t n, off_t at), (fd, p, n, at))
FILE_CALL(KIND_READ, ssize_t, pread64, (int fd, void *p, size_t n, off64_t at), (fd, p, n, at))
INTEGER_CALL(KIND_WRITE, int, fsync, (int fd), (fd))
INTEGER_CALL(KIND_WRITE, int, fdatasync, (int fd), (fd))
INTEGER_CALL(KIND_WRITE, int, rename, (const char *a, const char *b), (a, b))
INTEGER_CALL(KIND_WRITE, int, renameat, (int i, const char *a, int j, const char *b), (i, a, j, b))
INTEGER_CALL(KIND_WRITE, int, unlinkat, (int at, const char *path, int flags), (at, path, flags))
INTEGER_CALL(KIND_WRITE, int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode))

/* ---- descriptors and threads ---- */

INTEGER_CALL(KIND_DESCRIPTOR, int, socket, (int a, int b, int c), (a, b, c))
INTEGER_CALL(KIND_DESCRIPTOR, int, socketpair, (int a, int b, int c, int d[2]), (a, b, c, d))
INTEGER_CALL(KIND_DESCRIPTOR, int, accept4, (int s, __SOCKADDR_ARG a, socklen_t *n, int f), (s, a, n, f))
INTEGER_CALL(KIND_DESCRIPTOR, int, eventfd, (unsigned n, int flags), (n, flags))
INTEGER_CALL(KIND_DESCRIPTOR, int, epoll_create1, (int flags), (flags))
INTEGER_CALL(KIND_DESCRIPTOR, int, dup, (int fd), (fd))
INTEGER_CALL(KIND_DESCRIPTOR, int, pipe2, (int fds[2], int flags), (fds, flags))

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *context)
{
    static __typeof__(&pthread_create) real;
    if (fails(KIND_THREAD, CALLER))
        return EAGAIN;
    real = real ? real : REAL(pthread_create);
    return real(thread, attributes, run, context);
}

/* ---- the CPU as a device: oneDNN's one way to run anything ---- */

int dnnl_primitive_execute(const void *primitive, void *stream, int n, const void *arguments)
{
    static int (*real)(const void *, void *, int, const void *);
    enum { DNNL_RUNTIME_ERROR = 5 };
    if (fails(KIND_DEVICE, CALLER))
        return DNNL_RUNTIME_ERROR;
    real = real ? real : (__typeof__(real))dlsym(RTLD_NEXT, "dnnl_primitive_execute");
    return real(primitive, stream, n, arguments);
}
