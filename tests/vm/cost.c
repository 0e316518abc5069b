// What the broker costs beside the driver itself, in one guest: the same calls once as ioctls on the
// render node and once through the broker, in turns, so that both meet the same machine.
//
//   cost NODE     GPU_BROKER_SOCKET says where the broker is; prints rows of a Markdown table
#include <gpu_broker.h>

#include <drm.h>
#include <errno.h>
#include <fcntl.h>
#include <i915_drm.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 31
#define BATCH UINT64_C(0x00100000)
#define MI_BATCH_BUFFER_END (0x0au << 23)

static int node;
static uint32_t direct_context, direct_batch;
static struct gpu_broker_connection *broker;
static struct gpu_broker_context *proto, *context;
static struct gpu_broker_buffer *batch;

static void must(int result, const char *what)
{
    if (result < 0) {
        printf("FAILED: %s: %d, errno %d, %s\n", what, result, errno, gpu_broker_last_error());
        exit(1);
    }
}

static void call(unsigned long request, void *argument, const char *what)
{
    int result;

    do
        result = ioctl(node, request, argument);
    while (result < 0 && (errno == EINTR || errno == EAGAIN));
    must(result, what);
}

static uint32_t direct_create(void)
{
    struct drm_i915_gem_context_create_ext create = {0};
    call(DRM_IOCTL_I915_GEM_CONTEXT_CREATE_EXT, &create, "CONTEXT_CREATE_EXT");
    return create.ctx_id;
}

static void direct_destroy(uint32_t id)
{
    struct drm_i915_gem_context_destroy destroy = {.ctx_id = id};
    call(DRM_IOCTL_I915_GEM_CONTEXT_DESTROY, &destroy, "CONTEXT_DESTROY");
}

static void direct_contexts(void) { direct_destroy(direct_create()); }

static void broker_contexts(void)
{
    struct gpu_broker_context *made;
    must(gpu_broker_context_create(broker, &made), "context_create");
    gpu_broker_context_destroy(made);
}

static uint32_t direct_proto;

static void direct_set(void)
{
    struct drm_i915_gem_context_param param = {
        .ctx_id = direct_proto, .param = I915_CONTEXT_PARAM_PRIORITY, .value = (uint64_t)-5};
    call(DRM_IOCTL_I915_GEM_CONTEXT_SETPARAM, &param, "CONTEXT_SETPARAM");
}

static void broker_set(void)
{
    must(gpu_broker_context_set_param(proto, GPU_BROKER_PARAM_PRIORITY, (uint64_t)-5), "set_param");
}

static void direct_get(void)
{
    struct drm_i915_gem_context_param param = {
        .ctx_id = direct_context, .param = I915_CONTEXT_PARAM_PRIORITY};
    call(DRM_IOCTL_I915_GEM_CONTEXT_GETPARAM, &param, "CONTEXT_GETPARAM");
}

static void broker_get(void)
{
    uint64_t value;
    must(gpu_broker_context_get_param(context, GPU_BROKER_PARAM_PRIORITY, &value), "get_param");
}

static void direct_buffers(void)
{
    struct drm_i915_gem_create create = {.size = 4096};
    call(DRM_IOCTL_I915_GEM_CREATE, &create, "GEM_CREATE");
    struct drm_gem_close close = {.handle = create.handle};
    call(DRM_IOCTL_GEM_CLOSE, &close, "GEM_CLOSE");
}

static void broker_buffers(void)
{
    struct gpu_broker_buffer *made;
    must(gpu_broker_buffer_create(broker, 4096, &made), "buffer_create");
    gpu_broker_buffer_close(made);
}

static void direct_submit(void)
{
    struct drm_i915_gem_exec_object2 object = {
        .handle = direct_batch,
        .offset = BATCH,
        .flags = EXEC_OBJECT_PINNED | EXEC_OBJECT_SUPPORTS_48B_ADDRESS,
    };
    struct drm_i915_gem_execbuffer2 execbuf = {
        .buffers_ptr = (uintptr_t)&object,
        .buffer_count = 1,
        .flags = I915_EXEC_RENDER | I915_EXEC_NO_RELOC,
        .rsvd1 = direct_context,
    };
    call(DRM_IOCTL_I915_GEM_EXECBUFFER2, &execbuf, "EXECBUFFER2");
}

static void broker_submit(void)
{
    struct gpu_broker_object objects[] = {{batch, BATCH, GPU_BROKER_OBJECT_PINNED}};
    const struct gpu_broker_execbuf work = {.objects = objects, .object_count = 1, .in_fence = -1};
    must(gpu_broker_submit(context, &work), "submit");
}

static void direct_wait(void)
{
    struct drm_i915_gem_wait wait = {.bo_handle = direct_batch, .timeout_ns = -1};
    call(DRM_IOCTL_I915_GEM_WAIT, &wait, "GEM_WAIT");
}

static void broker_wait(void) { must(gpu_broker_buffer_wait(batch, -1), "buffer_wait"); }

static void direct_work(void)
{
    direct_submit();
    direct_wait();
}

static void broker_work(void)
{
    broker_submit();
    broker_wait();
}

static void nothing(void) {}

static double once(void (*what)(void), void (*then)(void), unsigned calls)
{
    struct timespec begun, done;

    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (unsigned i = 0; i < calls; i++)
        what();
    clock_gettime(CLOCK_MONOTONIC, &done);
    then();
    return ((double)(done.tv_sec - begun.tv_sec) * 1e6 + (double)(done.tv_nsec - begun.tv_nsec) / 1e3) / calls;
}

static int compare(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static const struct row {
    const char *name;
    void (*direct)(void), (*direct_end)(void), (*broker)(void), (*broker_end)(void);
    unsigned calls;
} rows[] = {
    {"CONTEXT_CREATE and DESTROY, unused", direct_contexts, nothing, broker_contexts, nothing, 20},
    {"CONTEXT_SETPARAM of a proto-context", direct_set, nothing, broker_set, nothing, 40},
    {"CONTEXT_GETPARAM of a live context", direct_get, nothing, broker_get, nothing, 40},
    {"GEM_CREATE and CLOSE, 4 KiB", direct_buffers, nothing, broker_buffers, nothing, 20},
    {"EXECBUFFER2, empty batch, not waited for", direct_submit, direct_wait, broker_submit, broker_wait, 16},
    {"EXECBUFFER2, empty batch, and its end", direct_work, nothing, broker_work, nothing, 10},
};

static void measure(const struct row *row)
{
    double direct[ROUNDS], through[ROUNDS], ratios[ROUNDS];

    once(row->direct, row->direct_end, row->calls);
    once(row->broker, row->broker_end, row->calls);
    for (unsigned i = 0; i < ROUNDS; i++) {
        direct[i] = once(row->direct, row->direct_end, row->calls);
        through[i] = once(row->broker, row->broker_end, row->calls);
        ratios[i] = through[i] / direct[i];
    }
    qsort(direct, ROUNDS, sizeof direct[0], compare);
    qsort(through, ROUNDS, sizeof through[0], compare);
    qsort(ratios, ROUNDS, sizeof ratios[0], compare);
    printf("| %s | %.0f | %.0f | %.1f |\n", row->name, direct[ROUNDS / 2], through[ROUNDS / 2], ratios[ROUNDS / 2]);
}

int main(int argc, char **argv)
{
    const uint32_t end[] = {MI_BATCH_BUFFER_END, 0};
    struct drm_i915_gem_create create = {.size = 4096};
    void *memory;

    if (argc < 2)
        return 2;
    must(node = open(argv[1], O_RDWR | O_CLOEXEC), argv[1]);
    direct_context = direct_create();
    direct_proto = direct_create();
    call(DRM_IOCTL_I915_GEM_CREATE, &create, "GEM_CREATE");
    direct_batch = create.handle;
    struct drm_i915_gem_pwrite write = {
        .handle = direct_batch, .size = sizeof end, .data_ptr = (uintptr_t)end};
    call(DRM_IOCTL_I915_GEM_PWRITE, &write, "GEM_PWRITE");
    must(gpu_broker_connect(NULL, "cost", &broker), "connect");
    must(gpu_broker_context_create(broker, &proto), "context_create");
    must(gpu_broker_context_create(broker, &context), "context_create");
    must(gpu_broker_buffer_create(broker, 4096, &batch), "buffer_create");
    must(gpu_broker_buffer_map(batch, &memory), "buffer_map");
    memcpy(memory, end, sizeof end);
    printf("| call | ioctl, us | broker, us | ratio |\n|---|--:|--:|--:|\n");
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++)
        measure(&rows[i]);
    gpu_broker_close(broker);
    return 0;
}
