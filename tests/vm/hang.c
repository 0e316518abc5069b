// A batch that never ends and never yields, on the render engine through the broker: its fence says
// EIO, and its context is guilty once. Then again on new contexts, until the session is banned.
#include <gpu_broker.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define BATCH UINT64_C(0x00100000)

// Submits it; how it ended, or a negative errno if it was refused.
static int submit(struct gpu_broker_context *context, struct gpu_broker_buffer *batch, int *ended)
{
    struct gpu_broker_object objects[] = {{batch, BATCH, GPU_BROKER_OBJECT_PINNED}};
    int fence = -1, result;
    const struct gpu_broker_execbuf work = {
        .objects = objects,
        .object_count = 1,
        .in_fence = -1,
        .out_fence = &fence,
    };
    if ((result = gpu_broker_submit(context, &work)) < 0)
        return result;
    *ended = gpu_broker_fence_wait(fence, INT64_C(60000000000));
    close(fence);
    return 0;
}

int main(void)
{
    struct gpu_broker_connection *broker = NULL;
    struct gpu_broker_context *context = NULL;
    struct gpu_broker_buffer *batch = NULL;
    struct gpu_broker_reset_stats stats = {0, 0, 0};
    int ended = 0, result;
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
    if ((result = submit(context, batch, &ended)) < 0 ||
        (result = gpu_broker_context_get_reset_stats(context, &stats)) < 0)
        goto failed;
    printf("fence %d, active %" PRIu32 ", pending %" PRIu32 "\n", ended, stats.batch_active,
           stats.batch_pending);
    if (ended != -EIO || stats.batch_active != 1 || stats.batch_pending != 0)
        return 1;
    gpu_broker_context_destroy(context);
    int hangs = 1;
    for (; hangs < 10; hangs++) {
        if ((result = gpu_broker_context_create(broker, &context)) < 0)
            break;
        result = submit(context, batch, &ended);
        gpu_broker_context_destroy(context);
        if (result < 0)
            break;
        if (ended != -EIO)
            return 1;
    }
    printf("refused with %d after %d hangs\n", result, hangs);
    gpu_broker_buffer_close(batch);
    gpu_broker_close(broker);
    return result != -EIO || hangs < 2;
failed:
    fprintf(stderr, "hang: %s\n", gpu_broker_last_error());
    return 1;
}
