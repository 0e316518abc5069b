// libgpu_broker: GPU contexts for programs that may not open /dev/dri.
//
// Functions that return int return 0 or a positive value when they worked, and a negative errno
// when they did not; gpu_broker_last_error() then has a sentence for the user. A refusal of the
// daemon has the errno that the i915 kernel driver would give.
//
// Every object keeps the session alive that it came from, so objects may be released in any
// order. All functions may be called from several threads at once, with the same objects too,
// except that nothing may use an object while or after it is released.


#ifndef GPU_BROKER_H
#define GPU_BROKER_H

/* Generated from client-lib/capi/src by cbindgen: change it there. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// 3D and compute.
#define GPU_BROKER_CLASS_RENDER 0

// Blitter.
#define GPU_BROKER_CLASS_COPY 1

// Video decode and encode.
#define GPU_BROKER_CLASS_VIDEO 2

// Video post-processing.
#define GPU_BROKER_CLASS_VIDEO_ENHANCE 3

// Compute only.
#define GPU_BROKER_CLASS_COMPUTE 4

// From -1023 (last) to 1023 (first); above 0 needs a privilege. Two's complement.
#define GPU_BROKER_PARAM_PRIORITY 6

// Boolean: the context may run on after a hang of its own.
#define GPU_BROKER_PARAM_RECOVERABLE 8

// Boolean: hangs may ban the context.
#define GPU_BROKER_PARAM_BANNABLE 5

// Boolean: work goes on after the context is destroyed.
#define GPU_BROKER_PARAM_PERSISTENCE 11

// Boolean: hangs of this context leave no error dump.
#define GPU_BROKER_PARAM_NO_ERROR_CAPTURE 4

// Bytes of the context's address space; read-only.
#define GPU_BROKER_PARAM_GTT_SIZE 3

// The batch writes the object: later users of the buffer wait for it.
#define GPU_BROKER_OBJECT_WRITE (1 << 2)

// The object lies exactly at `address`, a multiple of 4096. Without it the daemon chooses.
#define GPU_BROKER_OBJECT_PINNED (1 << 4)

// No implicit waiting for other users of the buffer.
#define GPU_BROKER_OBJECT_ASYNC (1 << 6)

// Memory that the GPU and this process share.
struct gpu_broker_buffer;

// A session with the daemon.
struct gpu_broker_connection;

// A GPU context.
struct gpu_broker_context;

// A GPU address space that several contexts can share.
struct gpu_broker_vm;

// The device behind the daemon.
struct gpu_broker_device {
    // PCI vendor id.
    uint16_t vendor_id;
    // PCI device id.
    uint16_t device_id;
    // PCI revision.
    uint16_t revision;
    // 9 for Gen9.
    uint16_t graphics_version;
    // Number of engines; gpu_broker_engine() has each.
    uint32_t engine_count;
    // 1 if the device could not be recovered from a hang.
    uint32_t wedged;
    // Bytes of a context's address space.
    uint64_t gtt_bytes;
    // Ticks per second of the timestamp registers.
    uint64_t timestamp_hz;
};

// An engine of the device.
struct gpu_broker_engine {
    // One of GPU_BROKER_CLASS_*.
    uint16_t engine_class;
    // Counted from 0 within the class.
    uint16_t engine_instance;
};

// How often a context was hit by resets of the device.
struct gpu_broker_reset_stats {
    // Resets of the device; 0 without the privilege to know.
    uint32_t reset_count;
    // Times a batch of this context was found guilty.
    uint32_t batch_active;
    // Times a batch of this context was running, innocently.
    uint32_t batch_pending;
};

// A buffer that a batch uses.
struct gpu_broker_object {
    // Which.
    const struct gpu_broker_buffer *buffer;
    // GPU address: demanded with GPU_BROKER_OBJECT_PINNED, otherwise where it was before, or 0.
    // Set to where it is now when gpu_broker_submit() returns 0.
    uint64_t address;
    // GPU_BROKER_OBJECT_*.
    uint64_t flags;
};

// Work for a context.
struct gpu_broker_execbuf {
    // The buffers the batch uses; the last one holds the batch itself.
    struct gpu_broker_object *objects;
    // How many.
    size_t object_count;
    // Slot of the context's engines. Without engines set: 0 or 1 render, 2 video, 3 copy,
    // 4 video enhance.
    uint32_t engine;
    // Where in its buffer the batch starts, in bytes; a multiple of 8.
    uint32_t batch_start;
    // Bytes of the batch, a multiple of 8; 0 means up to the buffer's end.
    uint32_t batch_length;
    // A fence to wait for before the work starts, or -1. It stays the caller's.
    int in_fence;
    // NULL, or where to store a new fence that signals when the work is done; close(2) it.
    int *out_fence;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last call of this thread that failed has to say, as a sentence in English. Never null;
// empty if none failed yet. Valid until this thread's next call into the library.
const char *gpu_broker_last_error(void);

// Connects to the daemon and begins a session. `path` is its socket; NULL means
// $GPU_BROKER_SOCKET, or else the usual place. `client_name`, at most 64 bytes of UTF-8, is for
// logs and status. Release the connection with gpu_broker_close().
//
// Errors: what connect(2) gives; -ECONNRESET (the daemon is full or stopping);
// -EPROTONOSUPPORT (another version); -EPROTO (not a broker).
int gpu_broker_connect(const char *path,
                       const char *client_name,
                       struct gpu_broker_connection **connection);

// Begins a session over a socket that is connected already. The library owns `fd` from now on,
// also when this fails.
//
// Errors: -EINVAL for a negative fd, -ENOTSOCK for an fd that is no connected SOCK_SEQPACKET
// socket, and those of gpu_broker_connect().
int gpu_broker_connect_fd(int fd,
                          const char *client_name,
                          struct gpu_broker_connection **connection);

// Releases a connection; NULL does nothing. The session ends once its contexts, address spaces
// and buffers are released too.
void gpu_broker_close(struct gpu_broker_connection *connection);

// The session's number in logs and status; 0 for NULL.
uint64_t gpu_broker_session(const struct gpu_broker_connection *connection);

// One round trip to the daemon.
int gpu_broker_ping(const struct gpu_broker_connection *connection);

// The device as it is now.
int gpu_broker_device(const struct gpu_broker_connection *connection,
                      struct gpu_broker_device *device);

// The device's engine with this index. -EINVAL beyond the last.
int gpu_broker_engine(const struct gpu_broker_connection *connection,
                      uint32_t index,
                      struct gpu_broker_engine *engine);

// Makes an empty address space. Release it with gpu_broker_vm_destroy().
int gpu_broker_vm_create(const struct gpu_broker_connection *connection, struct gpu_broker_vm **vm);

// Gives the address space's handle up; NULL does nothing. Contexts that use it keep it.
void gpu_broker_vm_destroy(struct gpu_broker_vm *vm);

// The address space's id in its session; 0 for NULL.
uint32_t gpu_broker_vm_id(const struct gpu_broker_vm *vm);

// Makes a context. It stays a record in the daemon, with everything still to be set, until it is
// first used. Release it with gpu_broker_context_destroy().
int gpu_broker_context_create(const struct gpu_broker_connection *connection,
                              struct gpu_broker_context **context);

// Destroys the context; NULL does nothing. Without PERSISTENCE, its work ends.
void gpu_broker_context_destroy(struct gpu_broker_context *context);

// The context's id in its session; 0 for NULL.
uint32_t gpu_broker_context_id(const struct gpu_broker_context *context);

// Sets the context's engines, one per slot of gpu_broker_submit(). Only before the context is
// first used: -EINVAL afterwards.
int gpu_broker_context_set_engines(const struct gpu_broker_context *context,
                                   const struct gpu_broker_engine *engines,
                                   size_t engine_count);

// Sets the context's address space. Only before the context is first used: -EINVAL afterwards.
int gpu_broker_context_set_vm(const struct gpu_broker_context *context,
                              const struct gpu_broker_vm *vm);

// Sets a parameter that is a number: one of GPU_BROKER_PARAM_*, or any other of i915's.
int gpu_broker_context_set_param(const struct gpu_broker_context *context,
                                 uint64_t param,
                                 uint64_t value);

// Gets a parameter that is a number. This is a use: engines and address space are fixed then.
int gpu_broker_context_get_param(const struct gpu_broker_context *context,
                                 uint64_t param,
                                 uint64_t *value);

// How often the context was hit by resets. This is a use, as for gpu_broker_context_get_param().
int gpu_broker_context_get_reset_stats(const struct gpu_broker_context *context,
                                       struct gpu_broker_reset_stats *stats);

// Makes a buffer of zeroed memory; `size` in bytes, rounded up to pages of 4096. Release it with
// gpu_broker_buffer_close().
int gpu_broker_buffer_create(const struct gpu_broker_connection *connection,
                             uint64_t size,
                             struct gpu_broker_buffer **buffer);

// Closes the buffer and unmaps its memory from this process; NULL does nothing. Work in flight
// keeps the memory.
void gpu_broker_buffer_close(struct gpu_broker_buffer *buffer);

// The buffer's bytes, a multiple of 4096; 0 for NULL.
uint64_t gpu_broker_buffer_size(const struct gpu_broker_buffer *buffer);

// The buffer's handle in its session; 0 for NULL.
uint32_t gpu_broker_buffer_handle(const struct gpu_broker_buffer *buffer);

// The buffer's memory in this process, readable and writable until gpu_broker_buffer_close().
// Mapped the first time; later calls give the same address.
int gpu_broker_buffer_map(const struct gpu_broker_buffer *buffer, void **memory);

// Which engines use the buffer now, encoded as i915's GEM_BUSY does; 0 when it is idle.
int gpu_broker_buffer_busy(const struct gpu_broker_buffer *buffer, uint32_t *busy);

// Waits until no submitted work uses the buffer, at most `timeout_ns` nanoseconds; negative waits
// for ever. -ETIME when the time was over first.
int gpu_broker_buffer_wait(const struct gpu_broker_buffer *buffer, int64_t timeout_ns);

// Hands work to the daemon, which answers as soon as it is queued.
//
// Errors: those of i915's EXECBUFFER2, for example -EIO for a banned context, -EINVAL for a batch
// that does not end within its buffer, -ENOSPC for pinned objects that overlap.
int gpu_broker_submit(const struct gpu_broker_context *context,
                      const struct gpu_broker_execbuf *execbuf);

// The state of a fence: 0 while the work is not done, 1 when it is, and a negative errno when it
// was lost, -EIO for a hang.
int gpu_broker_fence_status(int fence);

// Waits until the fence signals, at most `timeout_ns` nanoseconds; negative waits for ever.
// poll(2) for POLLIN waits as well. 0 when the work is done, -ETIME when the time was over first,
// another negative errno when the work was lost.
int gpu_broker_fence_wait(int fence, int64_t timeout_ns);

// A new fence that signals when both have, with the first error of the two; close(2) it.
int gpu_broker_fence_merge(const struct gpu_broker_connection *connection, int first, int second);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GPU_BROKER_H */
