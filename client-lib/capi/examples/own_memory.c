// Lets the broker's GPU work in memory that malloc gave, without a copy, from C.
//
//   cc -Wall -Wextra -Werror own_memory.c $(pkg-config --cflags --libs gpu_broker) -o own_memory
//   ./own_memory
//
// Prints "inverted 65536 pixels where malloc put them" and exits with 0 when the GPU did.
#define _POSIX_C_SOURCE 200809L // posix_memalign
#include <gpu_broker.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIDE 256u // pixels of 4 bytes
#define PITCH (SIDE * 4u)
#define BYTES (PITCH * SIDE)
#define ADDRESS UINT64_C(0x00100000)

// Gen9: fills a rectangle with the destination combined with a colour; by exclusive or here.
#define XY_COLOR_BLT (0x2u << 29 | 0x50u << 22 | 0x3u << 20 | (7u - 2u))
#define ROP_PATINVERT (0x5au << 16)
#define DEPTH_32 (0x3u << 24)
#define MI_BATCH_BUFFER_END (0x0au << 23)

static int complain(const char *what, int errno_negative)
{
    fprintf(stderr, "own_memory: %s: %s (%d)\n", what, gpu_broker_last_error(), errno_negative);
    return 1;
}

static int invert(struct gpu_broker_context *context, struct gpu_broker_memory *memory,
                  struct gpu_broker_buffer *pixels, struct gpu_broker_buffer *batch)
{
    const uint32_t commands[] = {
        XY_COLOR_BLT, DEPTH_32 | ROP_PATINVERT | PITCH, 0, SIDE << 16 | SIDE,
        (uint32_t)ADDRESS, (uint32_t)(ADDRESS >> 32), 0xffffffffu, MI_BATCH_BUFFER_END,
    };
    const struct gpu_broker_engine blitter = {GPU_BROKER_CLASS_COPY, 0};
    void *batch_memory;
    int result;

    if ((result = gpu_broker_context_set_engines(context, &blitter, 1)) < 0 ||
        (result = gpu_broker_buffer_map(batch, &batch_memory)) < 0)
        return complain("preparing the batch", result);
    memcpy(batch_memory, commands, sizeof commands);

    struct gpu_broker_object objects[] = {
        {pixels, ADDRESS, GPU_BROKER_OBJECT_PINNED | GPU_BROKER_OBJECT_WRITE},
        {batch, 0, 0},
    };
    const struct gpu_broker_execbuf work = {
        .objects = objects,
        .object_count = sizeof objects / sizeof *objects,
        .in_fence = -1,
    };
    if ((result = gpu_broker_submit(context, &work)) < 0)
        return complain("submitting the batch", result);
    if ((result = gpu_broker_memory_invalidate(memory, 0, BYTES, INT64_C(30000000000))) < 0)
        return complain("waiting for the GPU", result);
    return 0;
}

// The pixels are where they were, and began as their numbers.
static int check(const uint32_t *pixels)
{
    for (uint32_t i = 0; i < SIDE * SIDE; i++) {
        if (pixels[i] != ~i) {
            fprintf(stderr, "own_memory: pixel %" PRIu32 " is %#" PRIx32 "\n", i, pixels[i]);
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct gpu_broker_connection *broker = NULL;
    struct gpu_broker_context *context = NULL;
    struct gpu_broker_memory *memory = NULL;
    struct gpu_broker_buffer *pixels = NULL, *batch = NULL;
    void *block;
    uint32_t *numbers;
    int result, status;

    if (posix_memalign(&block, 4096, BYTES) != 0) {
        fprintf(stderr, "own_memory: out of memory\n");
        return 1;
    }
    numbers = block;
    for (uint32_t i = 0; i < SIDE * SIDE; i++)
        numbers[i] = i;

    if ((result = gpu_broker_connect(argc > 1 ? argv[1] : NULL, "own_memory.c", &broker)) < 0)
        status = complain("connecting", result);
    else if ((result = gpu_broker_memory_adopt(block, BYTES, 0, &memory)) < 0 ||
             (result = gpu_broker_memory_register(broker, memory, 0, &pixels)) < 0 ||
             (result = gpu_broker_context_create(broker, &context)) < 0 ||
             (result = gpu_broker_buffer_create(broker, 4096, &batch)) < 0)
        status = complain("making a context and buffers", result);
    else
        status = invert(context, memory, pixels, batch) || check(numbers);

    gpu_broker_buffer_close(batch);
    gpu_broker_buffer_close(pixels);
    gpu_broker_memory_release(memory); // before free(3): the pages are malloc's again
    gpu_broker_context_destroy(context);
    gpu_broker_close(broker);
    if (status == 0 && (status = check(numbers)) == 0)
        printf("inverted %u pixels where malloc put them\n", SIDE * SIDE);
    free(block);
    return status;
}
