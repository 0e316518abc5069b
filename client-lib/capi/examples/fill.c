// Fills a rectangle on the broker's GPU and stores a number, from C.
//
//   cc -Wall -Wextra -Werror fill.c $(pkg-config --cflags --libs gpu_broker) -o fill && ./fill
//
// Prints its session and context, then "stored 0x600dcafe, 64x32 pixels of 0xff3060c0, around them
// untouched", and exits with 0 when the GPU did what it was told.
#include <gpu_broker.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WIDTH 128u // pixels of 4 bytes
#define HEIGHT 64u
#define PITCH (WIDTH * 4u)
#define COLOUR 0xff3060c0u
#define NUMBER 0x600dcafeu

// Where the buffers lie for the GPU: it is our address space, so we choose.
#define PIXELS_ADDRESS UINT64_C(0x00100000)
#define NUMBER_ADDRESS UINT64_C(0x00200000)

// Command headers of Gen9's blitter. The low bits count the dwords after the second.
#define XY_COLOR_BLT (0x2u << 29 | 0x50u << 22 | 0x3u << 20 | (7u - 2u)) // writes RGB and alpha
#define ROP_PATCOPY (0xf0u << 16)
#define DEPTH_32 (0x3u << 24)
#define MI_STORE_DATA_IMM (0x20u << 23 | (4u - 2u))
#define MI_BATCH_BUFFER_END (0x0au << 23)

static int complain(const char *what, int errno_negative)
{
    fprintf(stderr, "fill: %s: %s (%d)\n", what, gpu_broker_last_error(), errno_negative);
    return 1;
}

static void write_batch(uint32_t *batch)
{
    const uint32_t commands[] = {
        XY_COLOR_BLT,
        DEPTH_32 | ROP_PATCOPY | PITCH,
        16u << 16 | 32u,                   // top left corner: y 16, x 32
        (16u + 32u) << 16 | (32u + 64u),   // bottom right corner, not included
        (uint32_t)PIXELS_ADDRESS,
        (uint32_t)(PIXELS_ADDRESS >> 32),
        COLOUR,
        MI_STORE_DATA_IMM,
        (uint32_t)NUMBER_ADDRESS,
        (uint32_t)(NUMBER_ADDRESS >> 32),
        NUMBER,
        MI_BATCH_BUFFER_END,
    };
    memcpy(batch, commands, sizeof commands);
}

static int check(const uint32_t *pixels, const uint32_t *number)
{
    unsigned inside = 0, outside = 0;
    for (unsigned y = 0; y < HEIGHT; y++) {
        for (unsigned x = 0; x < WIDTH; x++) {
            uint32_t pixel = pixels[y * WIDTH + x];
            if (y >= 16 && y < 48 && x >= 32 && x < 96)
                inside += pixel == COLOUR;
            else
                outside += pixel != 0;
        }
    }
    if (*number != NUMBER || inside != 64 * 32 || outside != 0) {
        fprintf(stderr, "fill: number %#" PRIx32 ", %u pixels right inside, %u wrong outside\n",
                *number, inside, outside);
        return 1;
    }
    printf("stored %#" PRIx32 ", 64x32 pixels of %#x, around them untouched\n", *number, COLOUR);
    return 0;
}

static int run(struct gpu_broker_connection *broker, struct gpu_broker_context *context,
               struct gpu_broker_buffer *pixels, struct gpu_broker_buffer *number,
               struct gpu_broker_buffer *batch)
{
    const struct gpu_broker_engine blitter = {GPU_BROKER_CLASS_COPY, 0};
    void *pixel_memory, *number_memory, *batch_memory;
    int fence = -1, result;

    if ((result = gpu_broker_context_set_engines(context, &blitter, 1)) < 0)
        return complain("setting the engines", result);
    if ((result = gpu_broker_buffer_map(pixels, &pixel_memory)) < 0 ||
        (result = gpu_broker_buffer_map(number, &number_memory)) < 0 ||
        (result = gpu_broker_buffer_map(batch, &batch_memory)) < 0)
        return complain("mapping a buffer", result);
    write_batch(batch_memory);

    struct gpu_broker_object objects[] = {
        {pixels, PIXELS_ADDRESS, GPU_BROKER_OBJECT_PINNED | GPU_BROKER_OBJECT_WRITE},
        {number, NUMBER_ADDRESS, GPU_BROKER_OBJECT_PINNED | GPU_BROKER_OBJECT_WRITE},
        {batch, 0, 0},
    };
    const struct gpu_broker_execbuf work = {
        .objects = objects,
        .object_count = sizeof objects / sizeof *objects,
        .engine = 0,
        .in_fence = -1,
        .out_fence = &fence,
    };
    if ((result = gpu_broker_submit(context, &work)) < 0)
        return complain("submitting the batch", result);
    result = gpu_broker_fence_wait(fence, INT64_C(10000000000));
    close(fence);
    if (result < 0)
        return complain("waiting for the GPU", result);
    printf("session %" PRIu64 ", context %" PRIu32 "\n", gpu_broker_session(broker),
           gpu_broker_context_id(context));
    return check(pixel_memory, number_memory);
}

int main(int argc, char **argv)
{
    struct gpu_broker_connection *broker = NULL;
    struct gpu_broker_context *context = NULL;
    struct gpu_broker_buffer *pixels = NULL, *number = NULL, *batch = NULL;
    int result, status;

    // NULL: where $GPU_BROKER_SOCKET says, or the usual place.
    if ((result = gpu_broker_connect(argc > 1 ? argv[1] : NULL, "fill.c", &broker)) < 0)
        return complain("connecting", result);
    if ((result = gpu_broker_context_create(broker, &context)) < 0 ||
        (result = gpu_broker_buffer_create(broker, PITCH * HEIGHT, &pixels)) < 0 ||
        (result = gpu_broker_buffer_create(broker, 4096, &number)) < 0 ||
        (result = gpu_broker_buffer_create(broker, 4096, &batch)) < 0)
        status = complain("making a context and buffers", result);
    else
        status = run(broker, context, pixels, number, batch);

    gpu_broker_buffer_close(batch);
    gpu_broker_buffer_close(number);
    gpu_broker_buffer_close(pixels);
    gpu_broker_context_destroy(context);
    gpu_broker_close(broker);
    return status;
}
