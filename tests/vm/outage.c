// Clients that meet a GPU or a kernel in trouble, through the broker.
//
//   outage works FILE     stores numbers until it is refused or FILE is gone; says how often and why; a
//                         daemon without file descriptors is asked again, and one that has lost work, once
//   outage memory BYTES   work that needs more memory than there is: ENOMEM, and then work that does not
//   outage space          two objects at one place: ENOSPC
//   outage ring           fills a ring, so that EXECBUF waits in the kernel, and goes on when SIGUSR1 comes
//   outage fds            more fences than the daemon has file descriptors for: EMFILE, until some end
//
// Prints what happened; exits with 0 if that was what has to happen.
#include <gpu_broker.h>

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH UINT64_C(0x00100000)
#define DATA UINT64_C(0x00200000)
#define MUCH UINT64_C(0x100000000)
#define PATIENCE INT64_C(60000000000)

#define MI_STORE_DATA_IMM (0x20u << 23 | 2u)
#define MI_SEMAPHORE_WAIT (0x1cu << 23 | 1u << 15 | 4u << 12 | 2u) // polls until equal
#define MI_BATCH_BUFFER_END (0x0au << 23)

static struct gpu_broker_connection *broker;
static struct gpu_broker_context *context;
static struct gpu_broker_buffer *batch, *data;
static uint32_t *commands, *memory;

static int fail(const char *what, int result)
{
    printf("%s: %d, %s\n", what, result, gpu_broker_last_error());
    return 1;
}

static int begin(const char *name)
{
    void *mapped[2];
    int result;

    if ((result = gpu_broker_connect(NULL, name, &broker)) < 0 ||
        (result = gpu_broker_context_create(broker, &context)) < 0 ||
        (result = gpu_broker_buffer_create(broker, 4096, &batch)) < 0 ||
        (result = gpu_broker_buffer_create(broker, 4096, &data)) < 0 ||
        (result = gpu_broker_buffer_map(batch, &mapped[0])) < 0 ||
        (result = gpu_broker_buffer_map(data, &mapped[1])) < 0)
        return result;
    commands = mapped[0];
    memory = mapped[1];
    return 0;
}

// Submits the batch with the data and, if there is one, another object; its fence or a negative errno.
static int submit(const struct gpu_broker_buffer *other, uint64_t address)
{
    const uint64_t pinned = GPU_BROKER_OBJECT_PINNED;
    struct gpu_broker_object objects[] = {
        {data, DATA, pinned | GPU_BROKER_OBJECT_WRITE},
        {batch, BATCH, pinned},
        {batch, BATCH, pinned},
    };
    int fence = -1;
    const struct gpu_broker_execbuf work = {
        .objects = objects,
        .object_count = other ? 3 : 2,
        .in_fence = -1,
        .out_fence = &fence,
    };
    if (other)
        objects[1] = (struct gpu_broker_object){other, address, pinned};
    int result = gpu_broker_submit(context, &work);
    return result < 0 ? result : fence;
}

// Stores a number and looks whether it arrived.
static int store(uint32_t number)
{
    const uint32_t list[] = {MI_STORE_DATA_IMM, (uint32_t)DATA, 0, number, MI_BATCH_BUFFER_END};
    memcpy(commands, list, sizeof list);
    int fence = submit(NULL, 0);
    if (fence < 0)
        return fence;
    int ended = gpu_broker_fence_wait(fence, PATIENCE);
    close(fence);
    if (ended < 0)
        return ended;
    return *(volatile uint32_t *)memory == number ? 0 : -EBADMSG;
}

static int works(const char *file)
{
    uint32_t count = 0, again = 0, lost = 0;
    int result = 0;

    while (access(file, F_OK) == 0) {
        result = store(count + 1);
        if (result == -EMFILE) {
            result = 0;
            again++;
            usleep(10000);
            continue;
        }
        // Work that is lost with the GPU; what is submitted next is refused for the reason.
        if (result == -EIO && ++lost == 1)
            continue;
        if (result < 0)
            break;
        if (++count == 1)
            printf("works\n");
        fflush(stdout);
    }
    printf("%" PRIu32 " batches, %" PRIu32 " refused for want of file descriptors, then %d: %s\n", count,
           again, result, result < 0 ? gpu_broker_last_error() : "it was told to stop");
    return count == 0 || result == -EBADMSG;
}

static int needs(uint64_t bytes)
{
    struct gpu_broker_buffer *large;
    int result = gpu_broker_buffer_create(broker, bytes, &large);
    if (result == 0) {
        commands[0] = MI_BATCH_BUFFER_END;
        result = submit(large, MUCH);
        gpu_broker_buffer_close(large);
    }
    if (result != -ENOMEM)
        return fail("too much memory", result);
    printf("%s\n", gpu_broker_last_error());
    return (result = store(7)) ? fail("afterwards", result) : 0;
}

static int overlaps(void)
{
    struct gpu_broker_buffer *other;
    int result = gpu_broker_buffer_create(broker, 4096, &other);
    commands[0] = MI_BATCH_BUFFER_END;
    if (result == 0)
        result = submit(other, DATA);
    if (result != -ENOSPC && result != -EINVAL)
        return fail("two objects at one place", result);
    printf("%d: %s\n", result, gpu_broker_last_error());
    return (result = store(8)) ? fail("afterwards", result) : 0;
}

static int hoards(void)
{
    enum { MOST = 900 };
    static int fences[MOST];
    const uint32_t list[] = {MI_SEMAPHORE_WAIT, 1, (uint32_t)DATA, 0, MI_BATCH_BUFFER_END};
    int count = 0, result = 0;

    memcpy(commands, list, sizeof list);
    // A context's ring holds some dozens; beyond that the kernel makes EXECBUF wait.
    while (count < MOST && (count % 16 || (result = gpu_broker_context_create(broker, &context)) >= 0) &&
           (result = submit(NULL, 0)) >= 0)
        fences[count++] = result;
    printf("refused after %d: %d, %s\n", count, result, gpu_broker_last_error());
    fflush(stdout);
    if (result != -EMFILE || count == 0)
        return 1;
    *(volatile uint32_t *)memory = 1;
    for (int i = 0; i < count; i++) {
        if ((result = gpu_broker_fence_wait(fences[i], PATIENCE)) < 0)
            return fail("a fence", result);
        close(fences[i]);
    }
    // The daemon lets go of a fence a moment after we have seen it signal.
    for (int left = 600; (result = store(9)) == -EMFILE && left > 0; left--)
        usleep(100000);
    return result ? fail("afterwards", result) : 0;
}

static void release(int signal)
{
    (void)signal;
    *(volatile uint32_t *)memory = 1;
}

// A line for each submission that was taken. What an EXECBUF that waits holds up is this client alone.
static int fills(void)
{
    const uint32_t list[] = {MI_SEMAPHORE_WAIT, 1, (uint32_t)DATA, 0, MI_BATCH_BUFFER_END};
    int fence = -1, result;

    signal(SIGUSR1, release);
    memcpy(commands, list, sizeof list);
    for (int count = 1; *(volatile uint32_t *)memory != 1; count++) {
        if ((result = submit(NULL, 0)) < 0)
            return fail("a submission", result);
        if (fence >= 0)
            close(fence);
        fence = result;
        printf("submitted %d\n", count);
        fflush(stdout);
    }
    result = gpu_broker_fence_wait(fence, PATIENCE);
    close(fence);
    return result < 0 ? fail("the last fence", result) : 0;
}

int main(int argc, char **argv)
{
    int result = argc < 2 ? -EINVAL : begin(argv[1]);

    if (result < 0)
        return fail("beginning", result);
    if (strcmp(argv[1], "works") == 0 && argc > 2)
        return works(argv[2]);
    if (strcmp(argv[1], "memory") == 0 && argc > 2)
        return needs(strtoull(argv[2], NULL, 0));
    if (strcmp(argv[1], "space") == 0)
        return overlaps();
    if (strcmp(argv[1], "ring") == 0)
        return fills();
    return strcmp(argv[1], "fds") == 0 ? hoards() : 2;
}
