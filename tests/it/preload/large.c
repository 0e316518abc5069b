/* Submits 8190 objects and 10000 relocations with ioctls, and one object more than can be answered;
 * run with the preload library. */
#define _GNU_SOURCE
#include "gem.h"

#include <unistd.h>

#define OBJECTS 8190u
#define RELOCATIONS 10000u
#define TARGET 0x200000u

static struct drm_i915_gem_exec_object2 objects[OBJECTS + 1];
static struct drm_i915_gem_relocation_entry relocations[RELOCATIONS];

/* The last object is the batch, which stores into the one before it. */
static int submitted(int fd, uint32_t count, uint64_t flags) {
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)(objects + (OBJECTS + 1 - count)),
        .buffer_count = count,
        .flags = I915_EXEC_RENDER | flags,
    };
    return ioctl(fd, DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf);
}

int main(void) {
    int fd = opened();
    for (unsigned at = 0; at <= OBJECTS; at++) {
        objects[at].handle = created(fd, at == OBJECTS ? 128 * 1024 : 4096);
        objects[at].flags = EXEC_OBJECT_SUPPORTS_48B_ADDRESS;
    }
    objects[OBJECTS - 1].flags |= EXEC_OBJECT_PINNED | EXEC_OBJECT_WRITE;
    objects[OBJECTS - 1].offset = TARGET;
    volatile uint32_t *target = mapped(fd, objects[OBJECTS - 1].handle, 4096);
    volatile uint32_t *batch = mapped(fd, objects[OBJECTS].handle, 128 * 1024);
    batch[0] = 0x10000002, batch[1] = TARGET, batch[2] = 0, batch[3] = 0x11;
    batch[4] = 0x05000000, batch[5] = 0;
    CHECK(submitted(fd, OBJECTS, I915_EXEC_NO_RELOC) == 0);
    struct drm_i915_gem_wait wait = {.bo_handle = objects[OBJECTS].handle, .timeout_ns = -1};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0);
    CHECK(target[0] == 0x11);
    for (unsigned at = 2; at <= OBJECTS; at++)
        CHECK(objects[at].offset != 0 && objects[at].offset != objects[at - 1].offset);

    for (unsigned at = 0; at < RELOCATIONS; at++) {
        relocations[at].target_handle = objects[1 + at % OBJECTS].handle;
        relocations[at].offset = 4096 + at * 8;
        relocations[at].delta = at;
        relocations[at].presumed_offset = -1;
    }
    objects[OBJECTS].relocs_ptr = (uintptr_t)relocations;
    objects[OBJECTS].relocation_count = RELOCATIONS;
    batch[3] = 0x22;
    CHECK(submitted(fd, OBJECTS, 0) == 0);
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_WAIT, &wait) == 0);
    CHECK(target[0] == 0x22);
    for (unsigned at = 0; at < RELOCATIONS; at++)
        CHECK(((volatile uint64_t *)batch)[512 + at] == objects[1 + at % OBJECTS].offset + at);

    /* One more that may lie anywhere is one address too many for the answer. */
    CHECK(submitted(fd, OBJECTS + 1, I915_EXEC_NO_RELOC) == -1 && errno == EINVAL);
    CHECK(close(fd) == 0);
    puts("done");
    return 0;
}
