/* What the C programs of these tests begin with. */
#ifndef GEM_H
#define GEM_H

#include <drm.h>
#include <errno.h>
#include <fcntl.h>
#include <i915_drm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define NODE "/dev/dri/renderD128"
#define CHECK(that) \
    do { \
        if (!(that)) { \
            fprintf(stderr, "%s:%d: %s: errno %d (%s)\n", __FILE__, __LINE__, #that, errno, \
                    strerror(errno)); \
            exit(1); \
        } \
    } while (0)

static inline int opened(void) {
    int fd = open(NODE, O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static inline uint32_t created(int fd, uint64_t size) {
    struct drm_i915_gem_create create = {.size = size};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_CREATE, &create) == 0);
    return create.handle;
}

static inline volatile uint32_t *mapped(int fd, uint32_t handle, size_t size) {
    struct drm_i915_gem_mmap_offset where = {.handle = handle, .flags = I915_MMAP_OFFSET_WB};
    CHECK(ioctl(fd, DRM_IOCTL_I915_GEM_MMAP_OFFSET, &where) == 0);
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, where.offset);
    CHECK(at != MAP_FAILED);
    return at;
}

#endif
