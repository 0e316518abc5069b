/* A submission of 8190 objects and one of 10000 relocations, with the C library. */
#include <gpu_broker.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define OBJECTS 8190u
#define RELOCATIONS 10000u
#define TARGET UINT64_C(0x200000)
#define MI_STORE_DATA_IMM (0x20u << 23 | (4u - 2u))
#define MI_BATCH_BUFFER_END (0x0au << 23)
#define CHECK(that) \
    do { \
        int result = (that); \
        if (result < 0) { \
            fprintf(stderr, "%s: %s (%d)\n", #that, gpu_broker_last_error(), result); \
            return 1; \
        } \
    } while (0)

static struct gpu_broker_buffer *buffers[OBJECTS];
static struct gpu_broker_object objects[OBJECTS];
static struct gpu_broker_relocation relocations[RELOCATIONS];

/* The last object is the batch, the one before it what the batch stores into. */
static int submit(struct gpu_broker_context *context, struct gpu_broker_execbuf *work,
                  uint32_t value)
{
    uint32_t *batch, *target;
    int fence = -1;
    CHECK(gpu_broker_buffer_map(buffers[OBJECTS - 1], (void **)&batch));
    CHECK(gpu_broker_buffer_map(buffers[OBJECTS - 2], (void **)&target));
    const uint32_t commands[] = {
        MI_STORE_DATA_IMM, (uint32_t)TARGET, 0, value, MI_BATCH_BUFFER_END, 0};
    for (size_t at = 0; at < sizeof commands / sizeof *commands; at++)
        batch[at] = commands[at];
    work->in_fence = -1;
    work->out_fence = &fence;
    CHECK(gpu_broker_submit(context, work));
    CHECK(gpu_broker_fence_wait(fence, INT64_C(60000000000)));
    close(fence);
    if (*target != value) {
        fprintf(stderr, "stored %u, not %u\n", *target, value);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct gpu_broker_connection *broker = NULL;
    struct gpu_broker_context *context = NULL;
    if (argc != 2)
        return 2;
    CHECK(gpu_broker_connect(argv[1], "many.c", &broker));
    CHECK(gpu_broker_context_create(broker, &context));
    for (unsigned at = 0; at < OBJECTS; at++) {
        CHECK(gpu_broker_buffer_create(broker, at + 1 == OBJECTS ? 128 * 1024 : 4096,
                                       &buffers[at]));
        objects[at].buffer = buffers[at];
    }
    objects[OBJECTS - 2].address = TARGET;
    objects[OBJECTS - 2].flags = GPU_BROKER_OBJECT_PINNED | GPU_BROKER_OBJECT_WRITE;
    struct gpu_broker_execbuf all = {.objects = objects, .object_count = OBJECTS};
    if (submit(context, &all, 0x11))
        return 1;
    for (unsigned at = 1; at < OBJECTS - 2; at++)
        if (objects[at].address == 0 || objects[at].address == objects[at - 1].address) {
            fprintf(stderr, "object %u is at %#llx\n", at,
                    (unsigned long long)objects[at].address);
            return 1;
        }
    for (unsigned at = 0; at < RELOCATIONS; at++) {
        relocations[at].object = OBJECTS - 1;
        relocations[at].target = at % OBJECTS;
        relocations[at].offset = 4096 + at * 8;
        relocations[at].delta = at;
    }
    all.relocations = relocations;
    all.relocation_count = RELOCATIONS;
    if (submit(context, &all, 0x22))
        return 1;
    uint64_t *batch;
    CHECK(gpu_broker_buffer_map(buffers[OBJECTS - 1], (void **)&batch));
    for (unsigned at = 0; at < RELOCATIONS; at++)
        if (batch[512 + at] != objects[at % OBJECTS].address + at) {
            fprintf(stderr, "relocation %u is %#llx\n", at, (unsigned long long)batch[512 + at]);
            return 1;
        }
    printf("%u objects, %u relocations\n", OBJECTS, RELOCATIONS);
    for (unsigned at = 0; at < OBJECTS; at++)
        gpu_broker_buffer_close(buffers[at]);
    gpu_broker_context_destroy(context);
    gpu_broker_close(broker);
    return 0;
}
