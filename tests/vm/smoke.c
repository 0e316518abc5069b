/*
 * Does the real driver work on the software GPU? Every case is one that the broker depends on; each
 * prints a line, the first that fails ends the program. Runs in the guest, on the render node itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <i915_drm.h>
#include <linux/sync_file.h>

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("FAILED %s:%d: %s (errno %d %s): ", __FILE__, __LINE__, #condition, errno,      \
                   strerror(errno));                                                               \
            printf(__VA_ARGS__);                                                                   \
            printf("\n");                                                                          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static int drm = -1;

static const struct {
    const char *name;
    uint64_t flags;
    uint16_t class, instance;
} engines[] = {
    {"rcs0", I915_EXEC_RENDER, I915_ENGINE_CLASS_RENDER, 0},
    {"bcs0", I915_EXEC_BLT, I915_ENGINE_CLASS_COPY, 0},
    {"vcs0", I915_EXEC_BSD | I915_EXEC_BSD_RING1, I915_ENGINE_CLASS_VIDEO, 0},
    {"vcs1", I915_EXEC_BSD | I915_EXEC_BSD_RING2, I915_ENGINE_CLASS_VIDEO, 1},
    {"vecs0", I915_EXEC_VEBOX, I915_ENGINE_CLASS_VIDEO_ENHANCE, 0},
};
#define ENGINES (sizeof engines / sizeof engines[0])

static int call(unsigned long request, void *argument)
{
    int result;
    do
        result = ioctl(drm, request, argument);
    while (result == -1 && (errno == EINTR || errno == EAGAIN));
    return result == -1 ? -errno : 0;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int getparam(int param, int *value)
{
    struct drm_i915_getparam get = {.param = param, .value = value};
    return call(DRM_IOCTL_I915_GETPARAM, &get);
}

static uint32_t create_context(void)
{
    struct drm_i915_gem_context_create create = {0};
    int result = call(DRM_IOCTL_I915_GEM_CONTEXT_CREATE, &create);
    CHECK(result == 0, "context create: %d", result);
    return create.ctx_id;
}

static int destroy_context(uint32_t context)
{
    struct drm_i915_gem_context_destroy destroy = {.ctx_id = context};
    return call(DRM_IOCTL_I915_GEM_CONTEXT_DESTROY, &destroy);
}

static void set_param(uint32_t context, uint64_t param, uint64_t value)
{
    struct drm_i915_gem_context_param set = {.ctx_id = context, .param = param, .value = value};
    int result = call(DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM, &set);
    CHECK(result == 0, "setparam %llu: %d", (unsigned long long)param, result);
}

static struct drm_i915_reset_stats reset_stats(uint32_t context)
{
    struct drm_i915_reset_stats stats = {.ctx_id = context};
    int result = call(DRM_IOCTL_I915_GET_RESET_STATS, &stats);
    CHECK(result == 0, "reset stats: %d", result);
    return stats;
}

struct buffer {
    uint32_t handle;
    uint64_t size, address;
    uint32_t *map;
};

static void *map_buffer(uint32_t handle, uint64_t size, uint64_t type)
{
    struct drm_i915_gem_mmap_offset offset = {.handle = handle, .flags = type};
    int result = call(DRM_IOCTL_I915_GEM_MMAP_OFFSET, &offset);
    CHECK(result == 0, "mmap offset: %d", result);
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, drm, offset.offset);
    CHECK(map != MAP_FAILED, "mmap");
    return map;
}

static struct buffer create_buffer(uint64_t size, uint64_t address)
{
    struct drm_i915_gem_create create = {.size = size};
    int result = call(DRM_IOCTL_I915_GEM_CREATE, &create);
    CHECK(result == 0, "gem create: %d", result);
    struct buffer buffer = {.handle = create.handle, .size = size, .address = address};
    buffer.map = map_buffer(create.handle, size, I915_MMAP_OFFSET_WB);
    return buffer;
}

static void close_buffer(struct buffer *buffer)
{
    struct drm_gem_close close = {.handle = buffer->handle};
    munmap(buffer->map, buffer->size);
    CHECK(call(DRM_IOCTL_GEM_CLOSE, &close) == 0, "gem close");
}

static int wait_for(uint32_t handle, int64_t nanoseconds)
{
    struct drm_i915_gem_wait wait = {.bo_handle = handle, .timeout_ns = nanoseconds};
    return call(DRM_IOCTL_I915_GEM_WAIT, &wait);
}

/* Runs a batch with a buffer beside it, both at addresses of our own; an out-fence if `fence`. */
static int execute(uint32_t context, uint64_t engine, struct buffer *data, struct buffer *batch, int *fence)
{
    struct drm_i915_gem_exec_object2 objects[2] = {
        {.handle = data->handle,
         .offset = data->address,
         .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE | EXEC_OBJECT_SUPPORTS_48B_ADDRESS},
        {.handle = batch->handle,
         .offset = batch->address,
         .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_SUPPORTS_48B_ADDRESS},
    };
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)objects,
        .buffer_count = 2,
        .flags = engine | I915_EXEC_NO_RELOC | (fence ? I915_EXEC_FENCE_OUT : 0),
        .rsvd1 = context,
    };
    int result = call(fence ? DRM_IOCTL_I915_GEM_EXECBUFFER2_WR : DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf);
    if (result == 0 && fence)
        *fence = execbuf.rsvd2 >> 32;
    return result;
}

static void write_store(struct buffer *batch, uint64_t address, uint32_t value)
{
    const uint32_t commands[] = {0x10000002, address, address >> 32, value, 0x05000000, 0};
    memcpy(batch->map, commands, sizeof commands);
}

static int fence_status(int fence)
{
    struct sync_file_info info = {0};
    CHECK(ioctl(fence, SYNC_IOC_FILE_INFO, &info) == 0, "sync file info");
    return info.status;
}

static void wait_fence(int fence, int seconds)
{
    struct pollfd poll_fd = {.fd = fence, .events = POLLIN};
    int ready = poll(&poll_fd, 1, seconds * 1000);
    CHECK(ready == 1, "the fence did not signal within %d s", seconds);
}

static void identity(void)
{
    int value = 0;
    CHECK(getparam(I915_PARAM_CHIPSET_ID, &value) == 0 && value == 0x5926, "chipset id %#x", value);
    CHECK(getparam(I915_PARAM_HAS_EXEC_SOFTPIN, &value) == 0 && value == 1, "softpin %d", value);
    CHECK(getparam(I915_PARAM_HAS_EXEC_FENCE, &value) == 0 && value == 1, "fences %d", value);
    CHECK(getparam(I915_PARAM_HAS_GPU_RESET, &value) == 0 && value == 2, "reset %d", value);
    CHECK(getparam(I915_PARAM_HAS_CONTEXT_ISOLATION, &value) == 0 && value != 0, "isolation %d", value);
    CHECK(getparam(I915_PARAM_SLICE_MASK, &value) == 0 && value == 3, "slices %#x", value);
    CHECK(getparam(I915_PARAM_EU_TOTAL, &value) == 0 && value == 48, "execution units %d", value);
    CHECK(getparam(I915_PARAM_CS_TIMESTAMP_FREQUENCY, &value) == 0 && value == 12000000, "%d Hz", value);
}

static void contexts(void)
{
    for (int round = 0; round < 20; round++) {
        uint32_t context = create_context();
        struct drm_i915_gem_context_param get = {.ctx_id = context, .param = I915_CONTEXT_PARAM_PRIORITY};
        CHECK(call(DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM, &get) == 0 && get.value == 0, "priority");
        CHECK(destroy_context(context) == 0, "destroy");
        CHECK(destroy_context(context) == -ENOENT, "destroy twice");
    }
}

static void stores(void)
{
    struct buffer data = create_buffer(4096, 0x1000000);
    struct buffer batch = create_buffer(4096, 0x2000000);
    uint32_t context = create_context();
    for (unsigned i = 0; i < ENGINES; i++) {
        int fence = -1;
        write_store(&batch, data.address + 4 * i, 0xc0ffee00 + i);
        int result = execute(context, engines[i].flags, &data, &batch, &fence);
        CHECK(result == 0, "execbuf on %s: %d", engines[i].name, result);
        wait_fence(fence, 60);
        CHECK(fence_status(fence) == 1, "fence of %s: %d", engines[i].name, fence_status(fence));
        CHECK(data.map[i] == 0xc0ffee00 + i, "%s stored %#x", engines[i].name, data.map[i]);
        close(fence);
    }
    uint32_t *through_gtt = map_buffer(data.handle, data.size, I915_MMAP_OFFSET_GTT);
    CHECK(through_gtt[1] == 0xc0ffee01, "through the aperture: %#x", through_gtt[1]);
    munmap(through_gtt, data.size);
    destroy_context(context);
    close_buffer(&data);
    close_buffer(&batch);
}

/* Two contexts on each engine, general purpose registers of one must not show up in the other. */
static void isolation(void)
{
    static const uint32_t bases[ENGINES] = {0x2000, 0x22000, 0x12000, 0x1c000, 0x1a000};
    struct buffer data = create_buffer(4096, 0x1000000);
    struct buffer batch = create_buffer(4096, 0x2000000);
    uint32_t context[2] = {create_context(), create_context()};
    for (unsigned i = 0; i < ENGINES; i++) {
        uint32_t general = bases[i] + 0x600 + 8 * 3;
        for (int turn = 0; turn < 6; turn++) {
            uint64_t to = data.address + 8 * turn;
            /* Turns 0 and 1 write, the others read what turn 0 and 1 left. */
            const uint32_t commands[] = {turn < 2 ? 0x11000001 : 0, turn < 2 ? general : 0,
                                         turn < 2 ? 0xab0 + turn : 0, 0x12000002, general, to, to >> 32,
                                         0x05000000};
            memcpy(batch.map, commands, sizeof commands);
            CHECK(execute(context[turn % 2], engines[i].flags, &data, &batch, NULL) == 0, "execbuf");
            CHECK(wait_for(data.handle, 60000000000) == 0, "wait");
            CHECK(data.map[2 * turn] == 0xab0u + turn % 2, "%s, turn %d: %#x", engines[i].name, turn,
                  data.map[2 * turn]);
        }
    }
    destroy_context(context[0]);
    destroy_context(context[1]);
    close_buffer(&data);
    close_buffer(&batch);
}

static void userptr(void)
{
    uint32_t *memory = aligned_alloc(4096, 8192);
    memset(memory, 0, 8192);
    struct drm_i915_gem_userptr pointer = {.user_ptr = (uintptr_t)memory, .user_size = 8192};
    int result = call(DRM_IOCTL_I915_GEM_USERPTR, &pointer);
    CHECK(result == 0, "userptr: %d", result);
    struct buffer data = {.handle = pointer.handle, .size = 8192, .address = 0x3000000};
    struct buffer batch = create_buffer(4096, 0x2000000);
    write_store(&batch, data.address + 4096, 0x5eed);
    result = execute(0, I915_EXEC_BLT, &data, &batch, NULL);
    CHECK(result == 0, "execbuf: %d", result);
    CHECK(wait_for(batch.handle, 60000000000) == 0, "wait");
    CHECK(memory[1024] == 0x5eed, "%#x", memory[1024]);
    struct drm_gem_close close = {.handle = pointer.handle};
    CHECK(call(DRM_IOCTL_GEM_CLOSE, &close) == 0, "close");
    close_buffer(&batch);
    free(memory);
}

static void interrupts(void)
{
    struct buffer data = create_buffer(4096, 0x1000000);
    struct buffer batch = create_buffer(4096, 0x2000000);
    for (unsigned i = 0; i < ENGINES; i++) {
        double best = 1e9;
        for (int round = 0; round < 10; round++) {
            write_store(&batch, data.address, round);
            double begun = now();
            CHECK(execute(0, engines[i].flags, &data, &batch, NULL) == 0, "execbuf");
            CHECK(wait_for(data.handle, 60000000000) == 0, "wait");
            double took = now() - begun;
            best = took < best ? took : best;
        }
        printf("  %s: execbuf and wait %.2f ms at best\n", engines[i].name, best * 1e3);
        /* Without its interrupt an engine is only looked at when something else comes along. */
        CHECK(best < 0.5, "%s is slow: does its interrupt arrive?", engines[i].name);
    }
    close_buffer(&data);
    close_buffer(&batch);
}

/* A semaphore that only the CPU releases, on one engine, while another context runs. */
static void semaphore(void)
{
    struct buffer data = create_buffer(4096, 0x1000000);
    struct buffer batch = create_buffer(4096, 0x2000000);
    struct buffer other_data = create_buffer(4096, 0x1000000);
    struct buffer other_batch = create_buffer(4096, 0x2000000);
    uint32_t waiting = create_context(), other = create_context();
    for (unsigned i = 0; i < ENGINES; i++) {
        data.map[0] = 0;
        const uint32_t commands[] = {0x0e00c002, 1, data.address, 0, 0x10000002, data.address + 4, 0, 7 + i, 0x05000000};
        memcpy(batch.map, commands, sizeof commands);
        CHECK(execute(waiting, engines[i].flags, &data, &batch, NULL) == 0, "execbuf");
        write_store(&other_batch, other_data.address, 70 + i);
        CHECK(execute(other, engines[i].flags, &other_data, &other_batch, NULL) == 0, "execbuf");
        CHECK(wait_for(other_data.handle, 60000000000) == 0, "%s: the other context does not run", engines[i].name);
        CHECK(other_data.map[0] == 70 + i, "%#x", other_data.map[0]);
        CHECK(wait_for(data.handle, 0) == -ETIME, "%s: the semaphore did not hold", engines[i].name);
        __atomic_store_n(data.map, 1, __ATOMIC_SEQ_CST);
        CHECK(wait_for(data.handle, 60000000000) == 0, "%s: the semaphore was not seen", engines[i].name);
        CHECK(data.map[1] == 7 + i, "%#x", data.map[1]);
    }
    destroy_context(waiting);
    destroy_context(other);
    close_buffer(&data);
    close_buffer(&batch);
    close_buffer(&other_data);
    close_buffer(&other_batch);
}

static void open_node(void)
{
    if (drm != -1)
        close(drm);
    drm = open("/dev/dri/renderD128", O_RDWR | O_CLOEXEC);
    CHECK(drm >= 0, "/dev/dri/renderD128");
}

/*
 * Ends a context by what `commands` do on an engine; sees to it that the driver blames this context
 * and no other, and that the engine goes on. The driver bans a file after three such contexts, so each
 * call has a file of its own.
 */
static void blame(const char *what, unsigned engine, const uint32_t *commands, size_t bytes)
{
    open_node();
    struct buffer data = create_buffer(4096, 0x1000000);
    struct buffer batch = create_buffer(4096, 0x2000000);
    struct buffer good_data = create_buffer(4096, 0x1000000);
    struct buffer good_batch = create_buffer(4096, 0x2000000);
    uint32_t guilty = create_context(), neighbour = create_context();
    set_param(guilty, I915_CONTEXT_PARAM_RECOVERABLE, 0);
    int fence = -1, good_fence = -1;
    memcpy(batch.map, commands, bytes);
    double begun = now();
    CHECK(execute(guilty, engines[engine].flags, &data, &batch, &fence) == 0, "execbuf");
    write_store(&good_batch, good_data.address, 0x900d);
    CHECK(execute(neighbour, engines[engine].flags, &good_data, &good_batch, &good_fence) == 0, "execbuf");
    wait_fence(fence, 120);
    printf("  %s on %s: %.1f s\n", what, engines[engine].name, now() - begun);
    CHECK(fence_status(fence) == -EIO, "%s: fence %d", what, fence_status(fence));
    wait_fence(good_fence, 120);
    CHECK(fence_status(good_fence) == 1, "%s: the neighbour's fence: %d", what, fence_status(good_fence));
    CHECK(good_data.map[0] == 0x900d, "%s: the neighbour stored %#x", what, good_data.map[0]);
    struct drm_i915_reset_stats stats = reset_stats(guilty);
    CHECK(stats.batch_active == 1 && stats.batch_pending == 0, "%s: active %u, pending %u", what,
          stats.batch_active, stats.batch_pending);
    stats = reset_stats(neighbour);
    CHECK(stats.batch_active == 0, "%s: the neighbour is blamed %u times", what, stats.batch_active);
    int result = execute(guilty, engines[engine].flags, &data, &batch, NULL);
    CHECK(result == -EIO, "%s: a banned context may submit: %d", what, result);
    close(fence);
    close(good_fence);
    destroy_context(guilty);
    destroy_context(neighbour);
    close_buffer(&data);
    close_buffer(&batch);
    close_buffer(&good_data);
    close_buffer(&good_batch);
}

static void hangs(void)
{
    /* A loop without an arbitration point. */
    static const uint32_t loop[] = {0, 0, 0, 0, 0x18800101, 0x2000000, 0};
    for (unsigned i = 0; i < ENGINES; i++)
        blame("a hang", i, loop, sizeof loop);
}

static void errors(void)
{
    static const uint32_t unknown[] = {0x1f800000, 0x05000000};
    blame("an unknown command", 0, unknown, sizeof unknown);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"identity", identity}, {"contexts", contexts},     {"stores", stores},
    {"isolation", isolation}, {"userptr", userptr}, {"interrupts", interrupts},
    {"semaphore", semaphore}, {"errors", errors},   {"hangs", hangs},
};

int main(int count, char **names)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int wanted = count < 2;
        for (int name = 1; name < count; name++)
            wanted |= !strcmp(names[name], cases[i].name);
        if (!wanted)
            continue;
        open_node();
        double begun = now();
        cases[i].run();
        printf("ok %s (%.1f s)\n", cases[i].name, now() - begun);
    }
    return 0;
}
