// A batch that never ends and never yields, on the render engine through the broker: its fence says
// EIO, and its context is guilty once.
#include <gpu_broker.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define BATCH UINT64_C(0x00100000)

int main(void)
{
    struct gpu_broker_connection *broker = NULL;
    struct gpu_broker_context *context = NULL;
    struct gpu_broker_buffer *batch = NULL;
    struct gpu_broker_reset_stats stats = {0, 0, 0};
    int fence = -1, result;
    void *memory;

    if ((result = gpu_broker_connect(NULL, "hanger", &broker)) < 0 ||
        (result = gpu_broker_context_create(broker, &context)) < 0 ||
        (result = gpu_broker_buffer_create(broker, 4096, &batch)) < 0 ||
        (result = gpu_broker_buffer_map(batch, &memory)) < 0)
        goto failed;
    // MI_BATCH_BUFFER_START, to itself.
    uint32_t *commands = memory;
    commands[0] = 0x31u << 23 | 1u << 8 | 1u;
    commands[1] = (uint32_t)BATCH;
    commands[2] = 0;
    struct gpu_broker_object objects[] = {{batch, BATCH, GPU_BROKER_OBJECT_PINNED}};
    const struct gpu_broker_execbuf work = {
        .objects = objects,
        .object_count = 1,
        .in_fence = -1,
        .out_fence = &fence,
    };
    if ((result = gpu_broker_submit(context, &work)) < 0)
        goto failed;
    int ended = gpu_broker_fence_wait(fence, INT64_C(60000000000));
    close(fence);
    // The daemon hears of the hang by the same fence as we, so its count may come a little later.
    for (int left = 100; left > 0 && stats.batch_active == 0; left--) {
        usleep(100000);
        if ((result = gpu_broker_context_get_reset_stats(context, &stats)) < 0)
            goto failed;
    }
    printf("fence %d, active %" PRIu32 ", pending %" PRIu32 "\n", ended, stats.batch_active,
           stats.batch_pending);
    gpu_broker_buffer_close(batch);
    gpu_broker_context_destroy(context);
    gpu_broker_close(broker);
    return ended != -EIO || stats.batch_active != 1 || stats.batch_pending != 0;
failed:
    fprintf(stderr, "hang: %s\n", gpu_broker_last_error());
    return 1;
}
