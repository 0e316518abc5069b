/* Polls GEM_BUSY, GEM_WAIT and GET_RESET_STATS as drivers do, and then shares the device with a child, whose
 * work and whose hang the parent must hear of; run with the preload library. */
#define _GNU_SOURCE
#include "gem.h"

#include <sys/wait.h>
#include <unistd.h>

#define POLLS 100000
#define BATCH 0x100000u
#define GATE 0x200000u

static int fd;

static uint32_t busy(uint32_t handle) {
    struct drm_i915_gem_busy busy = {.handle = handle, .busy = 77};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_BUSY, &busy) == 0);
    return busy.busy;
}

static int waited(uint32_t handle, int64_t ns) {
    struct drm_i915_gem_wait wait = {.bo_handle = handle, .timeout_ns = ns};
    return ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait);
}

static uint32_t hangs(void) {
    struct drm_i915_reset_stats stats = {.batch_active = 77};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GET_RESET_STATS, &stats) == 0);
    CHECK(stats.reset_count == 0 && stats.batch_pending == 0);
    return stats.batch_active;
}

/* Runs the commands; the gate is used beside them. */
static void submit(uint32_t batch, uint32_t gate) {
    struct drm_i915_gem_exec_object2 objects[2] = {
        {.handle = gate, .offset = GATE, .flags = EXEC_OBJECT_PINNED},
        {.handle = batch, .offset = BATCH, .flags = EXEC_OBJECT_PINNED},
    };
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)objects,
        .buffer_count = 2,
        .flags = I915_EXEC_RENDER | I915_EXEC_NO_RELOC,
    };
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf) == 0);
}

int main(void) {
    fd = opened();
    uint32_t batch = created(fd, 4096), gate = created(fd, 4096);
    volatile uint32_t *commands = mapped(fd, batch, 4096), *open_gate = mapped(fd, gate, 4096);
    commands[0] = 0x05000000, commands[1] = 0;
    submit(batch, gate);
    CHECK(waited(gate, -1) == 0);
    for (int poll = 0; poll < POLLS; poll++) {
        CHECK(busy(batch) == 0 && busy(gate) == 0 && hangs() == 0);
        CHECK(waited(gate, 0) == 0);
    }
    struct drm_i915_gem_busy unknown = {.handle = 99};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_BUSY, &unknown) == -1 && errno == ENOENT);

    /* MI_SEMAPHORE_WAIT until the gate is 1, and then what is no command. */
    commands[0] = 0x0e00c002, commands[1] = 1, commands[2] = GATE, commands[3] = 0;
    commands[4] = 0xe0000000, commands[5] = 0;
    int told[2];
    CHECK(pipe(told) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        submit(batch, gate);
        CHECK(write(told[1], "x", 1) == 1);
        CHECK(waited(gate, -1) == 0 && hangs() == 1);
        _exit(0);
    }
    char byte;
    CHECK(read(told[0], &byte, 1) == 1);
    CHECK(busy(gate) != 0 && busy(batch) != 0 && hangs() == 0);
    CHECK(waited(gate, 0) == -1 && errno == ETIME);
    open_gate[0] = 1;
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(busy(gate) == 0 && busy(batch) == 0 && hangs() == 1);
    puts("done");
    return 0;
}
