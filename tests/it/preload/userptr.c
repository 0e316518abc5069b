/* Ordinary memory of a program on the GPU (DRM_IOCTL_I915_GEM_USERPTR), one mode per story; run
 * with the preload library. Each says "done" at its end and exits with 0, or says what went wrong. */
#define _GNU_SOURCE
#include "gem.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define FAILS(call, with) \
    do { \
        errno = 0; \
        CHECK((call) == -1 && errno == (with)); \
    } while (0)

static int fd;
static uint32_t batch;
static volatile uint32_t *commands;

static void begun(void) {
    fd = opened();
    batch = created(fd, PAGE);
    commands = mapped(fd, batch, PAGE);
}

static int userptr(const void *at, uint64_t size, uint32_t flags, uint32_t *handle) {
    struct drm_i915_gem_userptr arg = {
        .user_ptr = (uintptr_t)at, .user_size = size, .flags = flags};
    int result = ioctl(fd, DRM_IOCTL_I915_GEM_USERPTR, &arg);
    *handle = arg.handle;
    return result;
}

static uint32_t made(const void *at, uint64_t size) {
    uint32_t handle;
    CHECK(userptr(at, size, 0, &handle) == 0);
    return handle;
}

static int gem_close(uint32_t handle) {
    struct drm_gem_close arg = {.handle = handle};
    return ioctl(fd, DRM_IOCTL_GEM_CLOSE, &arg);
}

static void waited(uint32_t handle) {
    struct drm_i915_gem_wait wait = {.bo_handle = handle, .timeout_ns = -1};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0);
}

/* Runs commands on the buffers, of which the last is the batch and the first is waited for; a result of
 * -1 is EXECBUF's. */
static int ran(const uint32_t *dwords, size_t count, struct drm_i915_gem_exec_object2 *objects, uint32_t buffers) {
    waited(batch);
    for (size_t n = 0; n < count; n++) commands[n] = dwords[n];
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)objects,
        .buffer_count = buffers,
        .flags = I915_EXEC_RENDER | I915_EXEC_NO_RELOC,
    };
    int result;
    do {
        result = ioctl(fd, DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf);
    } while (result == -1 && errno == EAGAIN);
    if (result == 0) waited(objects[0].handle);
    return result;
}

/* Copies a dword between two buffers, at the same offset. */
static int copied(uint32_t to, uint32_t from, uint64_t offset) {
    const uint32_t copy[] = {0x17000003, 0x10000000 + offset, 0, 0x20000000 + offset, 0, 0x05000000, 0};
    struct drm_i915_gem_exec_object2 objects[] = {
        {.handle = to, .offset = 0x10000000, .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE},
        {.handle = from, .offset = 0x20000000, .flags = EXEC_OBJECT_PINNED},
        {.handle = batch},
    };
    return ran(copy, sizeof copy / sizeof *copy, objects, 3);
}

/* Stores a dword in a buffer. */
static int stored(uint32_t to, uint64_t offset, uint32_t value) {
    const uint32_t store[] = {0x10000002, 0x10000000 + offset, 0, value, 0x05000000, 0};
    struct drm_i915_gem_exec_object2 objects[] = {
        {.handle = to, .offset = 0x10000000, .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE},
        {.handle = batch},
    };
    return ran(store, sizeof store / sizeof *store, objects, 2);
}

static uint32_t *ordinary(size_t size) {
    uint32_t *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* The address of a word, read anew each time. */
#define AT(memory, offset) (*(volatile uint32_t *)((char *)(memory) + (offset)))

/* What the CPU writes the GPU reads, and the other way round, at every address it was malloc'd. */
static void contents(void) {
    const size_t size = 32 << 20;
    char *big = malloc(size + 2 * PAGE);
    char *aligned = (char *)(((uintptr_t)big + PAGE - 1) & ~(PAGE - 1));
    for (size_t at = 0; at < size; at += 4) AT(aligned, at) = at * 2654435761u;
    uint32_t whole = made(aligned, size);
    uint32_t *small = ordinary(PAGE);
    uint32_t other = made(small, PAGE);
    for (uint64_t at = 0; at < size; at += 1021 * PAGE) {
        CHECK(stored(whole, at, at + 1) == 0 && AT(aligned, at) == at + 1);
        AT(aligned, at + 8) = at + 2;
        CHECK(AT(aligned, at + 12) == (uint32_t)((at + 12) * 2654435761u));
    }
    AT(aligned, 16) = 1234;
    CHECK(copied(other, whole, 16) == 0 && small[4] == 1234);
    small[5] = 99;
    CHECK(copied(whole, other, 20) == 0 && AT(aligned, 20) == 99);
    CHECK(gem_close(whole) == 0);
    FAILS(gem_close(whole), EINVAL);
    /* All of it stays, and is the program's own to free. */
    for (size_t at = 32; at < size; at += 4) {
        uint64_t page = at / (1021 * PAGE) * (1021 * PAGE);
        if (at > page + 12) CHECK(AT(aligned, at) == (uint32_t)(at * 2654435761u));
    }
    CHECK(AT(aligned, 16) == 1234 && AT(aligned, 20) == 99);
    free(big);
    CHECK(gem_close(other) == 0);
    /* Small pieces, page by page, among what the C library writes between. */
    void *pieces[64];
    uint32_t handles[64];
    for (int n = 0; n < 64; n++) {
        CHECK(posix_memalign(&pieces[n], PAGE, PAGE) == 0);
        AT(pieces[n], 0) = n;
        handles[n] = made(pieces[n], PAGE);
        CHECK(stored(handles[n], 4, 1000 + n) == 0);
    }
    for (int n = 0; n < 64; n++) {
        CHECK(AT(pieces[n], 0) == (uint32_t)n && AT(pieces[n], 4) == (uint32_t)(1000 + n));
        if (n % 2) CHECK(gem_close(handles[n]) == 0);
        free(pieces[n]);
        if (n % 2 == 0) CHECK(gem_close(handles[n]) == 0);
    }
}

/* Buffers over the same pages see each other's writes, in whichever order they are made and closed. */
static void overlaps(void) {
    uint32_t *memory = ordinary(8 * PAGE);
    uint32_t middle = made(memory + 2048, 4 * PAGE), again;
    CHECK(stored(middle, 0, 5) == 0 && memory[2048] == 5);
    uint32_t whole = made(memory, 8 * PAGE), end = made(memory + 5 * 1024, 3 * PAGE);
    CHECK(stored(whole, 2 * PAGE, 6) == 0 && memory[2048] == 6);
    CHECK(stored(end, 0, 7) == 0 && memory[5 * 1024] == 7);
    CHECK(copied(middle, whole, 4 * PAGE - 4) == 0);
    CHECK(gem_close(middle) == 0);
    CHECK(stored(whole, 3 * PAGE, 8) == 0 && memory[3 * 1024] == 8);
    CHECK(gem_close(whole) == 0);
    CHECK(stored(end, 4, 9) == 0 && memory[5 * 1024 + 1] == 9 && memory[2048] == 6);
    again = made(memory, PAGE);
    CHECK(stored(again, 0, 10) == 0 && memory[0] == 10);
    CHECK(gem_close(end) == 0 && gem_close(again) == 0);
    /* A session that is closed leaves the memory as it is. */
    uint32_t last = made(memory, 8 * PAGE);
    CHECK(stored(last, 12, 11) == 0);
    CHECK(close(fd) == 0);
    CHECK(memory[3] == 11 && memory[2048] == 6);
    memory[3] = 12;
    begun();
    CHECK(stored(made(memory, PAGE), 16, 13) == 0 && memory[3] == 12 && memory[4] == 13);
}

/* The errnos of the kernel, in its order, and what cannot be done with such a buffer. */
static void refusals(void) {
    uint32_t handle, *memory = ordinary(4 * PAGE);
    FAILS(userptr(memory, PAGE, 4, &handle), EINVAL);
    FAILS(userptr(memory, 1ull << 60, 0, &handle), E2BIG);
    FAILS(userptr(memory, 0, 0, &handle), EINVAL);
    FAILS(userptr(memory, PAGE + 1, 0, &handle), EINVAL);
    FAILS(userptr(memory + 1, PAGE, 0, &handle), EINVAL);
    FAILS(userptr((void *)-PAGE, PAGE, 0, &handle), EFAULT);
    FAILS(userptr((void *)0xffff800000000000, PAGE, 0, &handle), EFAULT);
    FAILS(userptr(memory, PAGE, I915_USERPTR_UNSYNCHRONIZED, &handle), ENODEV);
    int value = 0;
    struct drm_i915_getparam probe = {.param = I915_PARAM_HAS_USERPTR_PROBE, .value = &value};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GETPARAM, &probe) == 0 && value == 1);
    CHECK(userptr(memory, 4 * PAGE, I915_USERPTR_PROBE, &handle) == 0);
    struct drm_i915_gem_mmap_offset where = {.handle = handle};
    FAILS(ioctl(fd, DRM_IOCTL_I915_GEM_MMAP_OFFSET, &where), ENODEV);
    struct drm_i915_gem_mmap map = {.handle = handle, .size = PAGE};
    FAILS(ioctl(fd, DRM_IOCTL_I915_GEM_MMAP, &map), ENXIO);
    struct drm_i915_gem_pread read = {.handle = handle, .size = 4, .data_ptr = (uintptr_t)&value};
    FAILS(ioctl(fd, DRM_IOCTL_I915_GEM_PREAD, &read), EINVAL);
    struct drm_i915_gem_pwrite write = {.handle = handle, .size = 4, .data_ptr = (uintptr_t)&value};
    FAILS(ioctl(fd, DRM_IOCTL_I915_GEM_PWRITE, &write), EINVAL);
    struct drm_prime_handle prime = {.handle = handle};
    FAILS(ioctl(fd, DRM_IOCTL_PRIME_HANDLE_TO_FD, &prime), EINVAL);
    struct drm_i915_gem_set_tiling tile = {.handle = handle, .tiling_mode = I915_TILING_X, .stride = 512};
    FAILS(ioctl(fd, DRM_IOCTL_I915_GEM_SET_TILING, &tile), ENXIO);
    struct drm_i915_gem_set_domain domain = {.handle = handle, .read_domains = I915_GEM_DOMAIN_CPU};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &domain) == 0);
    /* A hole: PROBE finds it now, SET_DOMAIN and EXECBUF when they need the pages. */
    CHECK(munmap(memory + 1024, PAGE) == 0);
    uint32_t whole;
    FAILS(userptr(memory, 4 * PAGE, I915_USERPTR_PROBE, &whole), EFAULT);
    CHECK(userptr(memory, 4 * PAGE, 0, &whole) == 0);
    domain.handle = whole;
    FAILS(ioctl(fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &domain), EFAULT);
    FAILS(stored(whole, 0, 1), EFAULT);
    FAILS(stored(handle, 0, 1), EFAULT);
    /* Not for writing: the GPU may read it. */
    memory[0] = 77;
    CHECK(mprotect(memory, PAGE, PROT_READ) == 0);
    uint32_t *target = ordinary(PAGE), reader, writer;
    FAILS(userptr(memory, PAGE, I915_USERPTR_PROBE, &writer), EFAULT);
    CHECK(userptr(memory, PAGE, 0, &writer) == 0);
    FAILS(stored(writer, 0, 1), EFAULT);
    CHECK(userptr(memory, PAGE, I915_USERPTR_READ_ONLY | I915_USERPTR_PROBE, &reader) == 0);
    CHECK(copied(made(target, PAGE), reader, 0) == 0 && target[0] == 77);
    CHECK(gem_close(reader) == 0 && memory[0] == 77);
    /* Others have it too; the kernel could, and this cannot. */
    uint32_t *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    FAILS(userptr(shared, PAGE, I915_USERPTR_PROBE, &handle), EFAULT);
    CHECK(userptr(shared, PAGE, 0, &handle) == 0);
    FAILS(stored(handle, 0, 1), EFAULT);
    FAILS(userptr((void *)commands, PAGE, I915_USERPTR_PROBE, &handle), EFAULT);
}

/* Memory in the place of what a buffer has lost, when it begins in another 64 MiB: the preload has a memfd
 * for each. The new buffer has the memory, and the old one nothing. */
static void lost(uint32_t from) {
    const uintptr_t grain = 64ul << 20;
    char *room = mmap(NULL, 3 * grain, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(room != MAP_FAILED && munmap(room, 3 * grain) == 0);
    char *border = (char *)(((uintptr_t)room + 2 * grain - 1) & ~(grain - 1));
    const int both = PROT_READ | PROT_WRITE, how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    for (int old_first = 0; old_first < 2; old_first++) {
        CHECK(mmap(border, 2 * PAGE, both, how, -1, 0) == border);
        uint32_t old = made(border, 2 * PAGE), new;
        CHECK(stored(old, PAGE, 3) == 0 && AT(border, PAGE) == 3);
        CHECK(munmap(border, 2 * PAGE) == 0);
        CHECK(mmap(border - PAGE, 3 * PAGE, both, how, -1, 0) == border - PAGE);
        new = made(border - PAGE, 3 * PAGE);
        AT(border, 4) = 4;
        CHECK(stored(new, PAGE, 5) == 0 && AT(border, 0) == 5 && AT(border, 4) == 4);
        CHECK(copied(new, from, 0) == 0 && AT(border, -PAGE) == 31 && AT(border, PAGE) == 0);
        CHECK(gem_close(old_first ? old : new) == 0);
        CHECK(AT(border, -PAGE) == 31 && AT(border, 0) == 5 && AT(border, 4) == 4);
        if (old_first) CHECK(stored(new, 2 * PAGE, 6) == 0 && AT(border, PAGE) == 6);
        /* Nobody else has it now, so it is the old one's again. */
        else CHECK(stored(old, PAGE, 6) == 0 && AT(border, PAGE) == 6);
        CHECK(gem_close(old_first ? new : old) == 0);
        CHECK(AT(border, -PAGE) == 31 && AT(border, 4) == 4 && AT(border, PAGE) == 6);
        CHECK(munmap(border - PAGE, 3 * PAGE) == 0);
    }
}

/* Memory that goes and comes under a buffer: the GPU uses what is there when it is told to. */
static void changes(void) {
    uint32_t *memory = ordinary(4 * PAGE), *source = ordinary(PAGE);
    uint32_t handle = made(memory, 4 * PAGE), from = made(source, PAGE);
    source[0] = 31;
    CHECK(copied(handle, from, 0) == 0 && memory[0] == 31);
    /* Unmapped, and something else in its place. */
    CHECK(munmap(memory, 4 * PAGE) == 0);
    FAILS(copied(handle, from, 0), EFAULT);
    uint32_t *same = mmap(memory, 4 * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(same == memory && memory[0] == 0);
    memory[1] = 5;
    CHECK(copied(handle, from, 0) == 0 && memory[0] == 31 && memory[1] == 5);
    /* Replaced in one step, in the middle. */
    CHECK(mmap(memory + 1024, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
               -1, 0) == memory + 1024);
    CHECK(memory[1024] == 0 && stored(handle, PAGE, 6) == 0 && memory[1024] == 6 && memory[1] == 5);
    /* By a system call that nobody sees; what is made anew is looked at. */
    CHECK(syscall(SYS_munmap, memory, 4 * PAGE) == 0 && gem_close(handle) == 0);
    CHECK(mmap(memory, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) == memory);
    CHECK(memory[0] == 0);
    handle = made(memory, 4 * PAGE);
    CHECK(stored(handle, 0, 7) == 0 && memory[0] == 7 && memory[1] == 0);
    /* Without a buffer over it, it is what the kernel thinks the program has. */
    uint32_t beside = made(memory + 3 * 1024, PAGE), *last = memory + 3 * 1024;
    CHECK(stored(beside, 0, 1) == 0 && gem_close(handle) == 0 && gem_close(beside) == 0);
    CHECK(last[0] == 1 && syscall(SYS_madvise, memory, 4 * PAGE, MADV_DONTNEED) == 0);
    CHECK(memory[0] == 0 && last[0] == 0);
    handle = made(memory, 4 * PAGE);
    CHECK(stored(handle, 0, 7) == 0 && memory[0] == 7 && memory[1] == 0);
    /* Given up: zeros, and the GPU has the same page. */
    CHECK(madvise(memory, 2 * PAGE, MADV_DONTNEED) == 0 && memory[0] == 0);
    CHECK(stored(handle, 4, 8) == 0 && memory[0] == 0 && memory[1] == 8);
    CHECK(madvise(memory, PAGE, MADV_FREE) == 0);
    CHECK(stored(handle, 4, 9) == 0 && memory[1] == 9);
    /* Moved: the contents go along, private, and the buffer has lost its memory. */
    memory[2] = 10;
    uint32_t *moved = mremap(memory, 4 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved != memory && moved[1] == 9 && moved[2] == 10);
    for (int n = 0; n < 12 * 1024; n++) CHECK(moved[4 * 1024 + n] == 0);
    FAILS(stored(handle, 0, 1), EFAULT);
    CHECK(gem_close(handle) == 0);
    handle = made(moved, 16 * PAGE);
    CHECK(stored(handle, 15 * PAGE, 11) == 0 && moved[15 * 1024] == 11);
    CHECK(mremap(moved, 16 * PAGE, 32 * PAGE, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(mremap(moved, 16 * PAGE, 2 * PAGE, 0) == moved && moved[2] == 10);
    FAILS(stored(handle, 0, 1), EFAULT);
    uint32_t *place = ordinary(8 * PAGE);
    CHECK(mremap(moved, 2 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
    CHECK(place[1] == 9 && place[4 * 1024] == 0);
    lost(from);
    /* The C library moves memory past the preload. */
    char *big = malloc(1 << 20);
    char *start = (char *)((uintptr_t)big & ~(PAGE - 1));
    uint32_t over = made(start, (1 << 20) + PAGE);
    memset(big, 3, 1 << 20);
    CHECK(stored(over, 2 * PAGE, 0x04040404) == 0);
    for (int round = 0; round < 2; round++) {
        big = realloc(big, (64 + round) << 20);
        memset(big + (1 << 20), 5, (63 + round) << 20);
        for (int n = 0; n < 1 << 20; n++) CHECK(big[n] == 3 || big[n] == 4);
        if (round == 0) CHECK(gem_close(over) == 0);
    }
    free(big);
}

/* Processes have memory of their own. */
static void forks(void) {
    enum { WORDS = 1 << 20 };
    uint32_t *memory = ordinary(4 * WORDS), *heap = malloc(PAGE * 4);
    for (int n = 0; n < WORDS; n++) memory[n] = n;
    uint32_t handle = made(memory, 4 * WORDS);
    uint32_t under = made((void *)(((uintptr_t)heap + PAGE - 1) & ~(PAGE - 1)), 2 * PAGE);
    CHECK(stored(handle, 0, 1000) == 0 && stored(under, 4, 7) == 0);
    for (int round = 0; round < 3; round++) {
        int ends[2];
        CHECK(pipe(ends) == 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            char byte;
            CHECK(close(ends[1]) == 0 && read(ends[0], &byte, 1) == 1);
            /* As it was when the process was made, whatever happened to the parent's. */
            CHECK(memory[0] == 1000u + round && memory[5] == 5 && memory[WORDS - 1] == WORDS - 1);
            for (int n = 0; n < WORDS; n++) memory[n] = 1;
            /* The parent's buffer is not for the child's memory. */
            FAILS(stored(handle, 0, 3), EFAULT);
            uint32_t own = made(memory, PAGE);
            CHECK(stored(own, 0, 2) == 0 && memory[0] == 2);
            CHECK(gem_close(own) == 0);
            _exit(0);
        }
        CHECK(stored(handle, 0, 1001 + round) == 0 && memory[0] == 1001u + round);
        memory[5] = 6;
        CHECK(write(ends[1], "x", 1) == 1);
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(memory[0] == 1001u + round && memory[5] == 6 && memory[6] == 6);
        memory[5] = 5;
        CHECK(stored(handle, 0, 1001 + round) == 0);
        close(ends[0]);
        close(ends[1]);
    }
    CHECK(system("true") == 0);
    CHECK(gem_close(handle) == 0 && gem_close(under) == 0 && memory[WORDS - 1] == WORDS - 1);
    free(heap);
}

static void *uses(void *at) {
    uint32_t *memory = at;
    for (int n = 0; n < 200; n++) {
        uint32_t handle = made(memory, 4 * PAGE);
        /* One batch for all: the handles are what is tested here. */
        struct drm_i915_gem_set_domain domain = {
            .handle = handle, .read_domains = I915_GEM_DOMAIN_CPU, .write_domain = I915_GEM_DOMAIN_CPU};
        memory[n] = n;
        CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_SET_DOMAIN, &domain) == 0);
        for (int word = 0; word <= n; word++) CHECK(memory[word] == (uint32_t)word);
        CHECK(gem_close(handle) == 0);
        void *other = ordinary(PAGE);
        CHECK(munmap(other, PAGE) == 0);
        void *piece = malloc(n * 1000);
        memset(piece, 1, n * 1000);
        free(piece);
    }
    return NULL;
}

static void *counts(void *at) {
    volatile uint32_t *stop = at;
    volatile uint32_t *count = stop + 1;
    uint32_t expected = 0;
    while (!*stop) {
        /* A reader finds the contents at every moment. */
        CHECK(stop[2] == 4711);
        expected++;
    }
    *count = expected;
    return NULL;
}

/* Threads that make, use and close buffers, over neighbouring memory and the same. */
static void threads(void) {
    uint32_t *memory = ordinary(64 * PAGE), *seen = ordinary(PAGE);
    pthread_t all[8], counter;
    seen[2] = 4711;
    CHECK(pthread_create(&counter, NULL, counts, seen) == 0);
    for (int n = 0; n < 8; n++) CHECK(pthread_create(&all[n], NULL, uses, memory + n * 4096) == 0);
    for (int n = 0; n < 300; n++) {
        uint32_t handle = made(seen, PAGE);
        CHECK(stored(handle, 16, n) == 0 && seen[4] == (uint32_t)n);
        CHECK(gem_close(handle) == 0);
    }
    for (int n = 0; n < 8; n++) CHECK(pthread_join(all[n], NULL) == 0);
    seen[0] = 1;
    CHECK(pthread_join(counter, NULL) == 0 && seen[1] > 0);
}

/* A buffer that is closed while the GPU waits to use it: the work still reaches the memory. */
static void closes(void) {
    uint32_t *memory = ordinary(PAGE);
    uint32_t handle = made(memory, PAGE);
    waited(batch);
    /* MI_SEMAPHORE_WAIT until the first dword is 1, by polling, then a store. */
    const uint32_t wait[] = {0x0e00c002, 1, 0x10000000, 0, 0x10000002, 0x10000004, 0, 9, 0x05000000, 0};
    for (size_t n = 0; n < sizeof wait / sizeof *wait; n++) commands[n] = wait[n];
    struct drm_i915_gem_exec_object2 objects[2] = {
        {.handle = handle, .offset = 0x10000000, .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE},
        {.handle = batch},
    };
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)objects, .buffer_count = 2, .flags = I915_EXEC_NO_RELOC};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf) == 0);
    CHECK(gem_close(handle) == 0);
    FAILS(gem_close(handle), EINVAL);
    CHECK(AT(memory, 4) == 0);
    AT(memory, 0) = 1;
    waited(batch);
    CHECK(AT(memory, 4) == 9);
    /* The next one over it goes on where the last one was. */
    uint32_t next = made(memory, PAGE);
    CHECK(stored(next, 8, 10) == 0 && memory[2] == 10 && memory[1] == 9);
    CHECK(gem_close(next) == 0 && memory[2] == 10);
}

static void *stores(void *handle) {
    CHECK(stored(*(uint32_t *)handle, 8, 3) == 0);
    return NULL;
}

/* Work on pages that were unmapped does not reach what is mapped there now. */
static void waits(void) {
    uint32_t *memory = ordinary(PAGE), spin = batch;
    volatile uint32_t *spins = commands;
    uint32_t handle = made(memory, PAGE);
    /* MI_SEMAPHORE_WAIT until the batch's own last dword is 1, then a store. */
    const uint32_t wait[] = {0x0e00c002, 1, 0x20000ffc, 0, 0x10000002, 0x10000004, 0, 9, 0x05000000, 0};
    for (size_t n = 0; n < sizeof wait / sizeof *wait; n++) spins[n] = wait[n];
    struct drm_i915_gem_exec_object2 objects[2] = {
        {.handle = handle, .offset = 0x10000000, .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE},
        {.handle = spin, .offset = 0x20000000, .flags = EXEC_OBJECT_PINNED},
    };
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)objects, .buffer_count = 2, .flags = I915_EXEC_NO_RELOC};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf) == 0);
    CHECK(munmap(memory, PAGE) == 0);
    CHECK(mmap(memory, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
               -1, 0) == memory);
    AT(memory, 4) = 77;
    struct drm_i915_gem_create create = {.size = PAGE};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_CREATE, &create) == 0);
    struct drm_i915_gem_mmap_offset where = {.handle = create.handle, .flags = I915_MMAP_OFFSET_WB};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_MMAP_OFFSET, &where) == 0);
    batch = create.handle;
    commands = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, where.offset);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, stores, &handle) == 0);
    /* Long enough for it to go wrong, if it did not wait. */
    usleep(200000);
    spins[1023] = 1;
    CHECK(pthread_join(other, NULL) == 0);
    waited(spin);
    CHECK(AT(memory, 4) == 77 && AT(memory, 8) == 3);
}

/* Calls itself until the stack is so many bytes deeper. */
static __attribute__((noinline)) unsigned deeper(size_t bytes) {
    volatile char block[2 * PAGE];
    for (size_t n = 0; n < sizeof block; n++) block[n] = n;
    unsigned below = bytes > sizeof block ? deeper(bytes - sizeof block) : 0;
    return below + block[5];
}

/* Memory on the stack, also on the page of the calls that are made meanwhile, in this thread's and in
 * another's; and a fork on such a stack. */
static void *on_stack(void *next) {
    volatile uint32_t words[3 * 1024];
    for (int n = 0; n < 3 * 1024; n++) words[n] = n;
    char *low = (char *)((uintptr_t)__builtin_frame_address(0) & ~(PAGE - 1)) - 4 * PAGE;
    uint32_t handle = made(low, 6 * PAGE);
    for (int round = 0; round < 3; round++) {
        for (int n = 0; n < 3 * 1024; n += 100) {
            CHECK(stored(handle, (char *)&words[n] - low, n + round) == 0);
            CHECK(words[n] == (uint32_t)(n + round) && words[n + 1] == (uint32_t)(n + 1));
        }
        CHECK(deeper(1 << 20) > 0);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (int n = 0; n < 3 * 1024; n++) words[n] = 1;
            CHECK(deeper(1 << 20) > 0);
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        CHECK(words[0] == (uint32_t)round && words[100] == (uint32_t)(100 + round));
    }
    CHECK(gem_close(handle) == 0 && words[200] == 202 && words[201] == 201);
    pthread_t other;
    if (next) CHECK(pthread_create(&other, NULL, on_stack, NULL) == 0 && pthread_join(other, NULL) == 0);
    return NULL;
}

static void stacks(void) {
    on_stack(&fd);
}

static void protects(void) {
    uint32_t *memory = ordinary(2 * PAGE);
    uint32_t handle = made(memory, 2 * PAGE);
    CHECK(stored(handle, 0, 1) == 0);
    CHECK(mprotect(memory + 1024, PAGE, PROT_READ) == 0);
    FAILS(stored(handle, 0, 2), EFAULT);
    CHECK(mprotect(memory + 1024, PAGE, PROT_READ | PROT_WRITE) == 0);
    CHECK(stored(handle, 0, 3) == 0 && memory[0] == 3);
}

/* One page here and there: as many as there may be memfds, and then no more until some are closed. */
static void scattered(void) {
    enum { STEP = 64 << 20, MANY = 300, MOST = 256 };
    uint32_t handles[MANY];
    int count = 0;
    char *room = mmap(NULL, (size_t)STEP * MANY, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(room != MAP_FAILED);
    /* What is refused takes up nothing. */
    for (int n = 0; n < MANY; n++) {
        FAILS(userptr(room + (size_t)STEP * n, PAGE, I915_USERPTR_PROBE, &handles[n]), EFAULT);
    }
    for (; count < MANY; count++) {
        char *page = room + (size_t)STEP * count;
        CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
        if (userptr(page, PAGE, 0, &handles[count]) == -1) break;
        CHECK(stored(handles[count], 0, count + 1) == 0 && AT(page, 0) == (uint32_t)count + 1);
    }
    CHECK(errno == ENOMEM && count == MOST);
    /* None of them is the program's to close. */
    close_range(300, ~0u, 0);
    CHECK(stored(handles[9], 4, 5) == 0 && AT(room + 9ul * STEP, 4) == 5);
    for (int n = 0; n < count; n++) CHECK(gem_close(handles[n]) == 0);
    for (int n = 0; n < count; n++) CHECK(AT(room + (size_t)STEP * n, 0) == (uint32_t)n + 1);
    char *last = room + (size_t)STEP * (MANY - 1);
    CHECK(mprotect(last, PAGE, PROT_READ | PROT_WRITE) == 0);
    CHECK(stored(made(last, PAGE), 0, 6) == 0 && AT(last, 0) == 6);
}

/* A child closes its parent's buffer, and makes another one with the same number. */
static void numbers(void) {
    uint32_t *memory = ordinary(PAGE);
    uint32_t handle = made(memory, PAGE);
    CHECK(stored(handle, 0, 1) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct drm_i915_gem_create create = {.size = PAGE};
        FAILS(stored(handle, 0, 2), EFAULT);
        CHECK(gem_close(handle) == 0);
        CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_CREATE, &create) == 0 && create.handle == handle);
    } else {
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    struct drm_i915_gem_mmap_offset where = {.handle = handle, .flags = I915_MMAP_OFFSET_WB};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_MMAP_OFFSET, &where) == 0);
    uint32_t *word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, where.offset);
    CHECK(word != MAP_FAILED && stored(handle, 0, 3) == 0 && word[0] == 3 && memory[0] == 1);
    if (child == 0) _exit(0);
    memory[0] = 4;
    CHECK(gem_close(handle) == 0 && memory[0] == 4);
}

int main(int count, char **arguments) {
    const char *mode = count > 1 ? arguments[1] : "";
    begun();
    if (!strcmp(mode, "contents")) contents();
    else if (!strcmp(mode, "overlaps")) overlaps();
    else if (!strcmp(mode, "refusals")) refusals();
    else if (!strcmp(mode, "changes")) changes();
    else if (!strcmp(mode, "forks")) forks();
    else if (!strcmp(mode, "threads")) threads();
    else if (!strcmp(mode, "closes")) closes();
    else if (!strcmp(mode, "waits")) waits();
    else if (!strcmp(mode, "stacks")) stacks();
    else if (!strcmp(mode, "protects")) protects();
    else if (!strcmp(mode, "scattered")) scattered();
    else if (!strcmp(mode, "numbers")) numbers();
    else return 2;
    puts("done");
    return 0;
}
