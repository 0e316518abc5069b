// Two sessions share a buffer and a timeline: one writes a number, the other reads it afterwards.
//
//   cc -Wall -Wextra -Werror share.c $(pkg-config --cflags --libs gpu_broker) -o share && ./share
//
// The reader is told nothing but the point of the timeline it has to wait for. Prints "read
// 0x600dcafe through point 2", and exits with 0 when that is what it read.
#include <gpu_broker.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NUMBER 0x600dcafeu

// Command headers of Gen9. The low bits count the dwords after the second.
#define MI_STORE_DATA_IMM (0x20u << 23 | (4u - 2u))
#define MI_COPY_MEM_MEM (0x2eu << 23 | (5u - 2u))
#define MI_BATCH_BUFFER_END (0x0au << 23)

// Everything one session has.
struct side {
    struct gpu_broker_connection *broker;
    struct gpu_broker_context *context;
    struct gpu_broker_buffer *shared, *batch;
    struct gpu_broker_syncobj *timeline;
};

static int complain(const char *what, int errno_negative)
{
    fprintf(stderr, "share: %s: %s (%d)\n", what, gpu_broker_last_error(), errno_negative);
    return errno_negative;
}

static int open_side(const char *path, const char *name, struct side *side)
{
    const struct gpu_broker_engine blitter = {GPU_BROKER_CLASS_COPY, 0};
    int result;

    if ((result = gpu_broker_connect(path, name, &side->broker)) < 0)
        return complain("connecting", result);
    if ((result = gpu_broker_context_create(side->broker, &side->context)) < 0 ||
        (result = gpu_broker_context_set_engines(side->context, &blitter, 1)) < 0 ||
        (result = gpu_broker_buffer_create(side->broker, 4096, &side->batch)) < 0)
        return complain("making a context and a batch", result);
    return 0;
}

static void close_side(struct side *side)
{
    gpu_broker_syncobj_destroy(side->timeline);
    gpu_broker_buffer_close(side->batch);
    gpu_broker_buffer_close(side->shared);
    gpu_broker_context_destroy(side->context);
    gpu_broker_close(side->broker);
}

// What the writer has, under handles of the reader's own.
static int import(const struct side *writer, struct side *reader)
{
    int buffer = gpu_broker_buffer_export(writer->shared), result = buffer;
    int timeline = gpu_broker_syncobj_export(writer->timeline);

    if (buffer >= 0 && (result = timeline) >= 0)
        result = gpu_broker_buffer_import(reader->broker, buffer, &reader->shared);
    if (result >= 0)
        result = gpu_broker_syncobj_import(reader->broker, timeline, &reader->timeline);
    if (buffer >= 0)
        close(buffer);
    if (timeline >= 0)
        close(timeline);
    return result < 0 ? complain("sharing", result) : 0;
}

// Submits a batch. The shared buffer lies wherever the daemon puts it; `addresses` says where in
// the batch its address goes.
static int submit(const struct side *side, const uint32_t *commands, size_t bytes,
                  const struct gpu_broker_relocation *addresses, size_t address_count,
                  const struct gpu_broker_sync *syncs, size_t sync_count)
{
    struct gpu_broker_object objects[] = {
        {side->batch, 0, 0},
        {side->shared, 0, GPU_BROKER_OBJECT_WRITE | GPU_BROKER_OBJECT_ASYNC},
    };
    const struct gpu_broker_execbuf work = {
        .objects = objects,
        .object_count = sizeof objects / sizeof *objects,
        .in_fence = -1,
        .flags = GPU_BROKER_EXEC_BATCH_FIRST,
        .syncs = syncs,
        .sync_count = sync_count,
        .relocations = addresses,
        .relocation_count = address_count,
    };
    void *memory;
    int result = gpu_broker_buffer_map(side->batch, &memory);

    if (result < 0)
        return complain("mapping the batch", result);
    memcpy(memory, commands, bytes);
    if ((result = gpu_broker_submit(side->context, &work)) < 0)
        return complain("submitting a batch", result);
    return 0;
}

static int run(struct side *writer, struct side *reader)
{
    const uint32_t store[] = {MI_STORE_DATA_IMM, 0, 0, NUMBER, MI_BATCH_BUFFER_END, 0};
    const uint32_t copy[] = {MI_COPY_MEM_MEM, 0, 0, 0, 0, MI_BATCH_BUFFER_END};
    const struct gpu_broker_relocation stored = {.object = 0, .target = 1, .offset = 4};
    const struct gpu_broker_relocation copied[] = {
        {.object = 0, .target = 1, .offset = 4, .delta = 8}, // to the buffer's third dword
        {.object = 0, .target = 1, .offset = 12},            // from its first
    };
    const struct gpu_broker_sync written = {writer->timeline, GPU_BROKER_SYNC_SIGNAL, 1};
    const struct gpu_broker_sync read[] = {
        {reader->timeline, GPU_BROKER_SYNC_WAIT, 1},
        {reader->timeline, GPU_BROKER_SYNC_SIGNAL, 2},
    };
    const struct gpu_broker_syncobj *timeline = writer->timeline;
    const uint64_t last = 2;
    uint64_t point = 0;
    void *memory;
    int result;

    if (submit(writer, store, sizeof store, &stored, 1, &written, 1) < 0 ||
        submit(reader, copy, sizeof copy, copied, 2, read, 2) < 0)
        return 1;
    result = gpu_broker_syncobj_wait(writer->broker, &timeline, &last, 1,
                                     GPU_BROKER_SYNCOBJ_WAIT_ALL, INT64_C(10000000000));
    if (result < 0 || (result = gpu_broker_syncobj_query(timeline, &point)) < 0 ||
        (result = gpu_broker_buffer_map(reader->shared, &memory)) < 0)
        return complain("waiting for the GPU", result), 1;
    printf("read %#" PRIx32 " through point %" PRIu64 "\n", ((uint32_t *)memory)[2], point);
    return ((uint32_t *)memory)[2] == NUMBER && point == last ? 0 : 1;
}

int main(int argc, char **argv)
{
    struct side writer = {0}, reader = {0};
    // NULL: where $GPU_BROKER_SOCKET says, or the usual place.
    const char *path = argc > 1 ? argv[1] : NULL;
    int result, status = 1;

    if (open_side(path, "share.c writer", &writer) == 0 &&
        open_side(path, "share.c reader", &reader) == 0) {
        if ((result = gpu_broker_buffer_create(writer.broker, 4096, &writer.shared)) < 0 ||
            (result = gpu_broker_syncobj_create(writer.broker, 0, &writer.timeline)) < 0)
            complain("making what is shared", result);
        else if (import(&writer, &reader) == 0)
            status = run(&writer, &reader);
    }
    close_side(&reader);
    close_side(&writer);
    return status;
}
