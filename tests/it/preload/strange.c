/* Programs that do with the device what few do, one per mode; run with the preload library.
 * Each says "done" at its end and exits with 0, or says what went wrong. */
#define _GNU_SOURCE
#include "gem.h"

#include <linux/dma-buf.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What batches run on. */
static uint64_t engine = I915_EXEC_BLT;

/* Submits a batch, whose dwords are in `batch`, that may write `target` at 0x100000. */
static void submitted(int fd, uint32_t batch, uint32_t target) {
    struct drm_i915_gem_exec_object2 objects[2] = {
        {.handle = target, .offset = 0x100000, .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE},
        {.handle = batch},
    };
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)objects,
        .buffer_count = 2,
        .flags = engine | I915_EXEC_NO_RELOC,
    };
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf) == 0);
}

/* Stores `value` through the GPU, and sees it. */
static void stored(int fd, uint32_t value) {
    uint32_t target = created(fd, 4096), batch = created(fd, 4096);
    const uint32_t commands[] = {0x10000002, 0x00100000, 0, value, 0x05000000, 0};
    struct drm_i915_gem_pwrite write = {
        .handle = batch, .size = sizeof commands, .data_ptr = (uintptr_t)commands};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_PWRITE, &write) == 0);
    submitted(fd, batch, target);
    struct drm_i915_gem_wait wait = {.bo_handle = target, .timeout_ns = -1};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0);
    CHECK(mapped(fd, target, 4096)[0] == value);
    for (uint32_t handle = batch;; handle = target) {
        struct drm_gem_close close = {.handle = handle};
        CHECK(ioctl(fd, DRM_IOCTL_GEM_CLOSE, &close) == 0);
        if (handle == target) break;
    }
}

static void succeeds(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Child and parent share the open file: handles and memory of the one are the other's. */
static void forks(void) {
    int fd = opened();
    uint32_t shared = created(fd, 4096);
    volatile uint32_t *word = mapped(fd, shared, 4096);
    for (int round = 0; round < 3; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        for (int n = 0; n < 100; n++) stored(fd, n);
        if (child == 0) {
            mapped(fd, shared, 4096)[round] = 7;
            _exit(0);
        }
        succeeds(child);
        CHECK(word[round] == 7);
    }
    /* A child that outlives nobody's patience: the session goes on without it. */
    pid_t child = fork();
    if (child == 0) {
        for (;;) stored(fd, 1);
    }
    for (int n = 0; n < 50; n++) stored(fd, n);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    for (int n = 0; n < 50; n++) stored(fd, n);
}

/* A process that never opened the device gets it over a socket. */
static void passes(void) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    pid_t child = fork();
    if (child == 0) {
        CHECK(recvmsg(ends[1], &message, 0) == 1);
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        for (int n = 0; n < 100; n++) stored(fd, n);
        CHECK(mapped(fd, 1, 4096)[0] == 5);
        _exit(0);
    }
    int fd = opened();
    CHECK(created(fd, 4096) == 1);
    mapped(fd, 1, 4096)[0] = 5;
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    CHECK(sendmsg(ends[0], &message, 0) == 1);
    for (int n = 0; n < 100; n++) stored(fd, n);
    succeeds(child);
}

static _Atomic int stop;

static void *stores(void *fd) {
    for (int n = 0; !stop; n++) stored((int)(intptr_t)fd, n);
    return NULL;
}

static void *closes(void *fd) {
    while (!stop) {
        int again = dup((int)(intptr_t)fd), other = dup(again);
        CHECK(again >= 0 && other >= 0);
        CHECK(dup2(again, other) == other && close(again) == 0 && close(other) == 0);
    }
    return NULL;
}

static void waited(int seconds) {
    for (time_t end = time(NULL) + seconds; time(NULL) < end;) usleep(10000);
    stop = 1;
}

/* Fds of a shared device file are opened and closed while others use it. */
static void closed(void) {
    int fd = opened();
    pid_t child = fork();
    CHECK(child >= 0);
    pthread_t threads[3];
    void *(*const bodies[3])(void *) = {stores, closes, closes};
    for (int n = 0; n < 3; n++)
        CHECK(pthread_create(&threads[n], NULL, bodies[n], (void *)(intptr_t)fd) == 0);
    waited(5);
    for (int n = 0; n < 3; n++) CHECK(pthread_join(threads[n], NULL) == 0);
    if (child == 0) _exit(0);
    succeeds(child);
}

/* A process sends the device to itself, and uses it by both names at once. */
static void itself(void) {
    int ends[2], fd = opened(), other;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    CHECK(sendmsg(ends[0], &message, 0) == 1 && recvmsg(ends[1], &message, 0) == 1);
    memcpy(&other, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof other);
    CHECK(created(fd, 4096) == 1 && created(other, 4096) == 2);
    pthread_t threads[2];
    CHECK(pthread_create(&threads[0], NULL, stores, (void *)(intptr_t)fd) == 0);
    CHECK(pthread_create(&threads[1], NULL, stores, (void *)(intptr_t)other) == 0);
    waited(3);
    for (int n = 0; n < 2; n++) CHECK(pthread_join(threads[n], NULL) == 0);
    CHECK(close(fd) == 0);
    stored(other, 3);
}

/* Others that share the file are stopped, and killed, wherever they happen to be. */
static void struck(unsigned seed) {
    int fd = opened();
    for (int round = 0; round < 40; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (;;) stored(fd, 1);
        }
        usleep(rand_r(&seed) % 20000);
        if (round % 2) {
            CHECK(kill(child, SIGSTOP) == 0 && waitpid(child, NULL, WUNTRACED) == child);
            pid_t waker = fork();
            CHECK(waker >= 0);
            if (waker == 0) {
                /* Perhaps nobody comes past one that was stopped in its turn, until this. */
                usleep(50000);
                _exit(kill(child, SIGCONT) != 0);
            }
            stored(fd, round);
            succeeds(waker);
        }
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
        for (int n = 0; n < 5; n++) stored(fd, n);
    }
}

/* Two hundred sessions at once, by path and by /proc, each with its own handles. */
static void many(void) {
    int fds[200];
    struct stat node, by_fd;
    CHECK(stat(NODE, &node) == 0 && S_ISCHR(node.st_mode) && major(node.st_rdev) == 226);
    for (int n = 0; n < 200; n++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", n ? fds[n - 1] : 0);
        fds[n] = n % 2 ? open(path, O_RDWR) : opened();
        CHECK(fds[n] >= 0 && fstat(fds[n], &by_fd) == 0);
        CHECK(by_fd.st_rdev == node.st_rdev && by_fd.st_ino == node.st_ino);
        CHECK(created(fds[n], 4096) == 1);
    }
    int again = dup(fds[0]), other = fcntl(fds[0], F_DUPFD_CLOEXEC, 300);
    CHECK(created(again, 4096) == 2 && created(other, 4096) == 3);
    CHECK(close(fds[0]) == 0 && close(again) == 0 && created(other, 4096) == 4);
    CHECK(dup2(fds[1], other) == other && created(other, 4096) == 2);
    close_range(3, ~0u, 0);
    CHECK(fcntl(fds[1], F_GETFD) == -1 && errno == EBADF);
    stored(opened(), 3);
}

/* A buffer that a batch is said to write, which spins until the buffer's first dword is 1. */
static uint32_t spinning(int fd) {
    uint32_t target = created(fd, 4096), batch = created(fd, 4096);
    volatile uint32_t *commands = mapped(fd, batch, 4096);
    /* MI_SEMAPHORE_WAIT, by polling. */
    const uint32_t spin[] = {0x0e00c002, 1, 0x00100000, 0, 0x05000000, 0};
    for (size_t n = 0; n < sizeof spin / sizeof *spin; n++) commands[n] = spin[n];
    submitted(fd, batch, target);
    return target;
}

/* Waits for ever for a batch that spins, to be killed meanwhile. */
static void hangs(void) {
    int fd = opened();
    uint32_t target = spinning(fd);
    puts("running");
    fflush(stdout);
    struct drm_i915_gem_wait wait = {.bo_handle = target, .timeout_ns = -1};
    ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait);
}

static volatile sig_atomic_t handled;

static void handler(int number) {
    (void)number;
    handled++;
}

/* A thread that strikes another with one signal whenever it is told to: after that one has begun to sleep,
   at any moment of the time that a few looks take. */
static struct {
    pthread_t whom;
    pid_t tid;
    unsigned seed;
    int within_us;
    sem_t now, over;
} striker;

/* The number of the call in which a thread of this process sleeps; 0 if it runs. */
static int sleeps_in(pid_t tid) {
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)tid);
    FILE *file = fopen(path, "r");
    CHECK(file && fgets(line, sizeof line, file) && fclose(file) == 0);
    return atoi(line);
}

static void *striking(void *unused) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    for (unsigned round = 0;; round++) {
        while (sem_wait(&striker.now) != 0) {}
        /* What signals end sleeps there; before, they came before the call. */
        while (sleeps_in(striker.tid) != SYS_ppoll) usleep(100);
        usleep(rand_r(&striker.seed) % striker.within_us);
        /* To the thread, or to the process, in which only that one lets it in. */
        if (round % 2) pthread_kill(striker.whom, SIGUSR1);
        else kill(getpid(), SIGUSR1);
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec += 20;
        while (sem_timedwait(&striker.over, &end) != 0) {
            if (errno != ETIMEDOUT) continue;
            fprintf(stderr, "strike %u was missed\n", round);
            exit(1);
        }
    }
    return unused;
}

static void strikes(int forked, unsigned seed) {
    struct sigaction ends = {.sa_handler = handler}, restarts = {.sa_handler = handler, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGUSR1, &ends, NULL) == 0 && sigaction(SIGALRM, &restarts, NULL) == 0);
    striker.whom = pthread_self();
    striker.tid = gettid();
    striker.seed = seed;
    striker.within_us = forked ? 3000 : 60000;
    CHECK(sem_init(&striker.now, 0, 0) == 0 && sem_init(&striker.over, 0, 0) == 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, striking, NULL) == 0);
}

/* One signal ends the call. */
static void is_ended(int fd, unsigned long request, void *argument) {
    sigset_t before, after;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    handled = 0;
    sem_post(&striker.now);
    CHECK(ioctl(fd, request, argument) == -1 && errno == EINTR && handled == 1);
    sem_post(&striker.over);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK(memcmp(&before, &after, sizeof(uint64_t)) == 0);
}

/* Signals end what waits, unless the calls are to be begun anew; `forked` has company. */
static void interrupted(int forked, unsigned seed) {
    const int64_t second = 1000000000;
    int fd = opened();
    uint32_t target = spinning(fd);
    volatile uint32_t *word = mapped(fd, target, 4096);
    struct drm_prime_handle prime = {.handle = target, .flags = DRM_RDWR | DRM_CLOEXEC};
    CHECK(ioctl(fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) == 0);
    if (forked) {
        pid_t child = fork();
        if (child == 0) _exit(0);
        succeeds(child);
    }
    strikes(forked, seed);
    for (int round = 0; round < (forked ? 100 : 12); round++) {
        struct drm_i915_gem_wait wait = {.bo_handle = target, .timeout_ns = -1};
        is_ended(fd, DRM_IOCTL_I915_GEM_WAIT, &wait);
        CHECK(wait.timeout_ns == -1);
        wait.timeout_ns = 100 * second;
        is_ended(fd, DRM_IOCTL_I915_GEM_WAIT, &wait);
        CHECK(wait.timeout_ns > 0 && wait.timeout_ns < 100 * second);
        struct drm_syncobj_create syncobj = {};
        CHECK(ioctl(fd, DRM_IOCTL_SYNCOBJ_CREATE, &syncobj) == 0);
        struct drm_syncobj_wait late = {.handles = (uintptr_t)&syncobj.handle, .count_handles = 1,
                                        .timeout_nsec = INT64_MAX,
                                        .flags = DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT};
        is_ended(fd, DRM_IOCTL_SYNCOBJ_WAIT, &late);
        struct drm_syncobj_destroy destroy = {.handle = syncobj.handle};
        CHECK(ioctl(fd, DRM_IOCTL_SYNCOBJ_DESTROY, &destroy) == 0);
    }
    uint32_t copy;
    for (int round = 0; round < (forked ? 30 : 4); round++) {
        struct drm_i915_gem_set_domain reads = {.handle = target, .read_domains = I915_GEM_DOMAIN_CPU};
        is_ended(fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &reads);
        struct drm_i915_gem_set_domain writes = {.handle = target, .read_domains = I915_GEM_DOMAIN_CPU,
                                                 .write_domain = I915_GEM_DOMAIN_CPU};
        is_ended(fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &writes);
        struct drm_i915_gem_pread pread = {.handle = target, .size = 4, .data_ptr = (uintptr_t)&copy};
        is_ended(fd, DRM_IOCTL_I915_GEM_PREAD, &pread);
        struct drm_i915_gem_pwrite pwrite = {.handle = target, .size = 4, .data_ptr = (uintptr_t)&copy};
        is_ended(fd, DRM_IOCTL_I915_GEM_PWRITE, &pwrite);
        struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
        is_ended(prime.fd, DMA_BUF_IOCTL_SYNC, &sync);
    }
    /* Those after which calls are begun anew end none, many as they are, though others would. */
    struct itimerval often = {.it_value.tv_usec = 3000, .it_interval.tv_usec = 3000};
    struct drm_i915_gem_wait wait = {.bo_handle = target, .timeout_ns = second / 2};
    handled = 0;
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == -1 && errno == ETIME && handled > 0);
    CHECK(wait.timeout_ns == 0);
    const struct itimerval never = {};
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    /* Nothing of it is left: the batch ends, and the next wait is an ordinary one. */
    *word = 1;
    wait.timeout_ns = -1;
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0);
    stored(fd, 5);
}

/* A wait without end, in a thread of its own. */
struct endless {
    int fd, kind;
    uint32_t target;
    _Atomic pid_t tid;
};

enum { KINDS = 5 };

static void *endless(void *argument) {
    struct endless *one = argument;
    uint32_t word = 0;
    one->tid = gettid();
    struct drm_i915_gem_wait wait = {.bo_handle = one->target, .timeout_ns = -1};
    struct drm_i915_gem_set_domain reads = {.handle = one->target, .read_domains = I915_GEM_DOMAIN_CPU};
    struct drm_i915_gem_set_domain writes = {.handle = one->target, .read_domains = I915_GEM_DOMAIN_CPU,
                                             .write_domain = I915_GEM_DOMAIN_CPU};
    struct drm_i915_gem_pread pread = {.handle = one->target, .size = 4, .data_ptr = (uintptr_t)&word};
    struct drm_prime_handle prime = {.handle = one->target, .flags = DRM_RDWR | DRM_CLOEXEC};
    struct dma_buf_sync sync = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_RW};
    switch (one->kind) {
    case 0: CHECK(ioctl(one->fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0); break;
    case 1: CHECK(ioctl(one->fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &reads) == 0); break;
    case 2: CHECK(ioctl(one->fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &writes) == 0); break;
    case 3: CHECK(ioctl(one->fd, DRM_IOCTL_I915_GEM_PREAD, &pread) == 0 && word == 1); break;
    case 4:
        CHECK(ioctl(one->fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) == 0);
        CHECK(ioctl(prime.fd, DMA_BUF_IOCTL_SYNC, &sync) == 0);
        break;
    }
    return NULL;
}

/* A process forks while a thread of it waits without end. Child and parent go on, and so does the wait, which
   no other request has got the answer of. */
static void forks_waiting(void) {
    for (int kind = 0; kind < KINDS; kind++) {
        engine = I915_EXEC_BLT;
        struct endless one = {.fd = opened(), .kind = kind};
        one.target = spinning(one.fd);
        /* Beside the batch that spins. */
        engine = I915_EXEC_RENDER;
        volatile uint32_t *word = mapped(one.fd, one.target, 4096);
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, endless, &one) == 0);
        while (one.tid == 0 || sleeps_in(one.tid) == 0) usleep(1000);
        for (int round = 0; round < 3; round++) {
            pid_t child = fork();
            CHECK(child >= 0);
            for (int n = 0; n < 10; n++) stored(one.fd, n);
            if (child == 0) _exit(0);
            succeeds(child);
        }
        struct drm_i915_gem_busy busy = {.handle = one.target};
        CHECK(ioctl(one.fd, DRM_IOCTL_I915_GEM_BUSY, &busy) == 0 && busy.busy != 0);
        *word = 1;
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK(close(one.fd) == 0);
    }
}

/* A buffer's fd is as long as the buffer. */
static void exported(void) {
    int fd = opened();
    struct drm_prime_handle prime = {.handle = created(fd, 3 * 4096), .flags = DRM_RDWR | DRM_CLOEXEC};
    CHECK(ioctl(fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime) == 0);
    struct stat stat;
    CHECK(lseek(prime.fd, 0, SEEK_END) == 3 * 4096 && lseek(prime.fd, 0, SEEK_SET) == 0);
    CHECK(fstat(prime.fd, &stat) == 0 && stat.st_size == 3 * 4096);
    CHECK(fcntl(prime.fd, F_GETFD) == FD_CLOEXEC);
    int again = dup(prime.fd);
    struct drm_prime_handle back = {.fd = again};
    CHECK(ioctl(fd, DRM_IOCTL_PRIME_FD_TO_HANDLE, &back) == 0 && back.handle == prime.handle);
}

/* Whether a fence, or what else can be polled, has signalled. */
static int is_ready(int fd, short events) {
    struct pollfd one = {.fd = fd, .events = events};
    CHECK(poll(&one, 1, 0) >= 0);
    return one.revents & events;
}

static int fence_of(int buffer, uint32_t flags) {
    struct dma_buf_export_sync_file fence = {.flags = flags};
    CHECK(ioctl(buffer, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &fence) == 0);
    return fence.fd;
}

/* A buffer's fd gives fences of what uses it, and takes some that what uses it later waits for. */
static void fences(void) {
    int fd = opened(), other = opened();
    uint32_t target = spinning(fd);
    volatile uint32_t *word = mapped(fd, target, 4096);
    struct drm_prime_handle busy = {.handle = target, .flags = DRM_RDWR | DRM_CLOEXEC};
    CHECK(ioctl(fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &busy) == 0);
    int pending = fence_of(busy.fd, DMA_BUF_SYNC_READ);
    CHECK(!is_ready(pending, POLLIN));
    /* A buffer of another session waits for it. */
    struct drm_prime_handle idle = {.handle = created(other, 4096), .flags = DRM_RDWR | DRM_CLOEXEC};
    CHECK(ioctl(other, DRM_IOCTL_PRIME_HANDLE_TO_FD, &idle) == 0);
    CHECK(is_ready(fence_of(idle.fd, DMA_BUF_SYNC_RW), POLLIN) == POLLIN);
    struct dma_buf_import_sync_file import = {.flags = DMA_BUF_SYNC_READ, .fd = pending};
    CHECK(ioctl(idle.fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import) == 0);
    CHECK(is_ready(fence_of(idle.fd, DMA_BUF_SYNC_READ), POLLIN) == POLLIN);
    int users = fence_of(idle.fd, DMA_BUF_SYNC_WRITE);
    CHECK(!is_ready(users, POLLIN));
    struct drm_i915_gem_wait wait = {.bo_handle = idle.handle};
    CHECK(ioctl(other, DRM_IOCTL_I915_GEM_WAIT, &wait) == -1 && errno == ETIME);
    import.flags = DMA_BUF_SYNC_WRITE;
    CHECK(ioctl(idle.fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import) == 0);
    CHECK(!is_ready(fence_of(idle.fd, DMA_BUF_SYNC_READ), POLLIN));
    for (uint32_t flags = 0; flags <= 8; flags += 4) {
        import.flags = flags;
        struct dma_buf_export_sync_file export = {.flags = flags};
        CHECK(ioctl(idle.fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import) == -1 && errno == EINVAL);
        CHECK(ioctl(idle.fd, DMA_BUF_IOCTL_EXPORT_SYNC_FILE, &export) == -1 && errno == EINVAL);
    }
    import.flags = DMA_BUF_SYNC_READ;
    import.fd = idle.fd;
    CHECK(ioctl(idle.fd, DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &import) == -1 && errno == EINVAL);
    *word = 1;
    struct pollfd both[] = {{.fd = pending, .events = POLLIN}, {.fd = users, .events = POLLIN}};
    CHECK(poll(&both[0], 1, -1) == 1 && poll(&both[1], 1, -1) == 1);
    wait.timeout_ns = -1;
    CHECK(ioctl(other, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0);
    CHECK(close(other) == 0 && close(fd) == 0);
}

static uint64_t state;

static uint64_t any(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* A pointer that may be good, bad, or at the edge of both. */
static uint64_t pointer(unsigned char *good, size_t size) {
    switch (any() % 8) {
    case 0: return 0;
    case 1: return any();
    case 2: return (uintptr_t)good + size - any() % 64;
    case 3: return any() % 8192;
    default: return (uintptr_t)good + any() % size / 8 * 8;
    }
}

static void fuzz(int seconds, uint64_t seed) {
    enum { SIZE = 65536 };
    state = seed | 1;
    unsigned char *good = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(good != MAP_FAILED && munmap(good + SIZE - 4096, 4096) == 0);
    size_t size = SIZE - 4096;
    time_t end = time(NULL) + seconds;
    unsigned long calls = 0, worked = 0;
    int fd = opened();
    while (time(NULL) < end) {
        if (any() % 2000 == 0) {
            close(fd);
            fd = opened();
        }
        for (int n = 0; n < 16; n++) {
            uint64_t word = any() % 4 ? any() % 8 : any() % 2 ? any() : pointer(good, size);
            memcpy(good + any() % (size - 8) / 4 * 4, &word, sizeof word);
        }
        uint32_t number = any() % 4 ? 0x40 + any() % 0x3e : any() % 3 ? 0xbf + any() % 16 : any() % 256;
        /* What waits for ever would not be fuzzing for long; WAIT has a mode of its own. */
        uint64_t kind = any() % 16 ? 'd' : any() % 2 ? 'b' : '>';
        uint64_t request = any() % 4 << 30 | any() % 130 << 16 | kind << 8 | number;
        uint64_t argument = pointer(good, size);
        if (argument >= (uintptr_t)good && argument < (uintptr_t)good + size - 64) {
            /* Often something that is almost right. */
            uint64_t inner = pointer(good, size);
            memcpy((void *)(uintptr_t)argument + any() % 8 * 8 % 56, &inner, sizeof inner);
        }
        alarm(10);
        if (number != 0x6c && number != 0xc3 && number != 0xca) {
            int result = ioctl(fd, request, argument);
            CHECK(result >= -1);
            worked += result == 0;
            calls++;
        }
    }
    alarm(0);
    stored(opened(), 9);
    printf("%lu calls, %lu worked\n", calls, worked);
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    if (!strcmp(mode, "forks")) forks();
    else if (!strcmp(mode, "passes")) passes();
    else if (!strcmp(mode, "many")) many();
    else if (!strcmp(mode, "hangs")) hangs();
    else if (!strcmp(mode, "interrupted") && count > 2) interrupted(0, atoi(arguments[2]));
    else if (!strcmp(mode, "interrupted-together") && count > 2) interrupted(1, atoi(arguments[2]));
    else if (!strcmp(mode, "forks-waiting")) forks_waiting();
    else if (!strcmp(mode, "fences")) fences();
    else if (!strcmp(mode, "exported")) exported();
    else if (!strcmp(mode, "closed")) closed();
    else if (!strcmp(mode, "itself")) itself();
    else if (!strcmp(mode, "struck") && count > 2) struck(atoi(arguments[2]));
    else if (!strcmp(mode, "fuzz") && count > 3) fuzz(atoi(arguments[2]), strtoull(arguments[3], NULL, 0));
    else return 2;
    puts("done");
    return 0;
}
