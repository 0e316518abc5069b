// What the CPU does with memory, through the broker: who caches it, whose turn it is, and two rounds of
// work, before each of which a line is read from standard input. Says "round N" after each. The work waits
// for a while: the driver counts the engine time of what it has seen running.
#include <gpu_broker.h>

#include <stdio.h>
#include <unistd.h>

#define BATCH UINT64_C(0x00100000)
#define NUMBER UINT64_C(0x00200000)
#define STORES 400u
#define WHILE_US 100000

int main(void)
{
    struct gpu_broker_connection *broker = NULL;
    struct gpu_broker_context *context = NULL;
    struct gpu_broker_buffer *batch = NULL, *number = NULL;
    void *commands, *stored;
    char line[16];

    if (gpu_broker_connect(NULL, "access", &broker) < 0 ||
        gpu_broker_context_create(broker, &context) < 0 ||
        gpu_broker_buffer_create(broker, 16384, &batch) < 0 ||
        gpu_broker_buffer_create(broker, 4096, &number) < 0)
        goto failed;
    // Nobody can map it yet: it is the GPU's alone, which may have it uncached. Once mapped it is cached,
    // and stays so.
    if (gpu_broker_buffer_set_caching(number, GPU_BROKER_CACHING_NONE) < 0 ||
        gpu_broker_buffer_map(number, &stored) < 0 ||
        gpu_broker_buffer_set_caching(number, GPU_BROKER_CACHING_NONE) < 0)
        goto failed;
    if (gpu_broker_buffer_map(batch, &commands) < 0 ||
        gpu_broker_buffer_set_domain(batch, GPU_BROKER_DOMAIN_CPU, GPU_BROKER_DOMAIN_CPU) < 0)
        goto failed;
    for (uint32_t round = 1; round <= 2; round++) {
        struct gpu_broker_object objects[] = {
            {number, NUMBER, GPU_BROKER_OBJECT_PINNED | GPU_BROKER_OBJECT_WRITE},
            {batch, BATCH, GPU_BROKER_OBJECT_PINNED},
        };
        const struct gpu_broker_execbuf work = {
            .objects = objects,
            .object_count = 2,
            .in_fence = -1,
        };
        uint32_t *next = commands;

        if (!fgets(line, sizeof line, stdin))
            return 1;
        *next++ = 0x1cu << 23 | 1u << 15 | 4u << 12 | 2u; // MI_SEMAPHORE_WAIT until it is equal
        *next++ = round;
        *next++ = (uint32_t)NUMBER + 4u;
        *next++ = 0;
        for (uint32_t store = 1; store <= STORES; store++) {
            *next++ = 0x20u << 23 | 2u; // MI_STORE_DATA_IMM
            *next++ = (uint32_t)NUMBER;
            *next++ = 0;
            *next++ = round * store;
        }
        *next = 0x0au << 23; // MI_BATCH_BUFFER_END
        if (gpu_broker_submit(context, &work) < 0)
            goto failed;
        usleep(WHILE_US);
        ((volatile uint32_t *)stored)[1] = round;
        if (gpu_broker_buffer_set_domain(number, GPU_BROKER_DOMAIN_CPU, 0) < 0)
            goto failed;
        if (*(volatile uint32_t *)stored != round * STORES) {
            fprintf(stderr, "access: it reads %u\n", *(volatile uint32_t *)stored);
            return 1;
        }
        printf("round %u\n", round);
        fflush(stdout);
    }
    (void)fgets(line, sizeof line, stdin);
    gpu_broker_close(broker);
    return 0;
failed:
    fprintf(stderr, "access: %s\n", gpu_broker_last_error());
    return 1;
}
