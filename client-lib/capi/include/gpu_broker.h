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

// The CPU, through its caches.
#define GPU_BROKER_DOMAIN_CPU 1

// The CPU, through the aperture.
#define GPU_BROKER_DOMAIN_GTT 64

// The CPU, write-combining.
#define GPU_BROKER_DOMAIN_WC 128

// The GPU does not snoop the CPU's caches.
#define GPU_BROKER_CACHING_NONE 0

// The GPU snoops the CPU's caches.
#define GPU_BROKER_CACHING_CACHED 1

// Linear.
#define GPU_BROKER_TILING_NONE 0

// X tiles: 512 bytes by 8 rows.
#define GPU_BROKER_TILING_X 1

// Y tiles: 128 bytes by 32 rows.
#define GPU_BROKER_TILING_Y 2

// The memory must stay, or come back.
#define GPU_BROKER_ADVICE_WILL_NEED 0

// The memory may be dropped.
#define GPU_BROKER_ADVICE_DONT_NEED 1

// The GPU may not write to the memory: a batch that does faults.
#define GPU_BROKER_MEMORY_READ_ONLY 1

// Threads that write to the memory while its pages are moved are held up meanwhile.
#define GPU_BROKER_MEMORY_HOLD_WRITERS 1

// The object holds a signalled fence from the start.
#define GPU_BROKER_SYNCOBJ_SIGNALED (1 << 0)

// Wait for all of the objects, not for one.
#define GPU_BROKER_SYNCOBJ_WAIT_ALL (1 << 0)

// Wait also for fences that are not there yet.
#define GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT (1 << 1)

// With points: wait only until the fences are there, signalled or not.
#define GPU_BROKER_SYNCOBJ_WAIT_AVAILABLE (1 << 2)

// The batch writes the object: later users of the buffer wait for it.
#define GPU_BROKER_OBJECT_WRITE (1 << 2)

// The object lies exactly at `address`, a multiple of 4096. Without it the daemon chooses.
#define GPU_BROKER_OBJECT_PINNED (1 << 4)

// No implicit waiting for other users of the buffer.
#define GPU_BROKER_OBJECT_ASYNC (1 << 6)

// The batch is the first object, not the last.
#define GPU_BROKER_EXEC_BATCH_FIRST (1 << 18)

// The work starts when the work behind `in_fence` starts, not after it.
#define GPU_BROKER_EXEC_FENCE_SUBMIT (1 << 20)

// The work waits for the syncobj.
#define GPU_BROKER_SYNC_WAIT (1 << 0)

// The work signals the syncobj.
#define GPU_BROKER_SYNC_SIGNAL (1 << 1)

// Memory that the GPU and this process share.
struct gpu_broker_buffer;

// A session with the daemon.
struct gpu_broker_connection;

// A GPU context.
struct gpu_broker_context;

// Memory of the program that can be registered as a buffer.
struct gpu_broker_memory;

// A container of a fence (binary), or of a timeline of fences, that submissions wait for and
// signal.
struct gpu_broker_syncobj;

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

// How a buffer's rows lie in memory.
struct gpu_broker_tiling {
    // One of GPU_BROKER_TILING_*.
    uint32_t mode;
    // Bytes of a row; 0 when linear.
    uint32_t stride;
    // Bit-6 swizzling; 0 for none.
    uint32_t swizzle;
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

// A syncobj that work waits for or signals.
struct gpu_broker_sync {
    // Which.
    const struct gpu_broker_syncobj *syncobj;
    // GPU_BROKER_SYNC_*.
    uint32_t flags;
    // A point of its timeline; 0 for a binary object.
    uint64_t point;
};

// A GPU address to be written into a buffer before the batch starts.
struct gpu_broker_relocation {
    // Position of the object it is written into.
    uint32_t object;
    // Position of the object whose address it is.
    uint32_t target;
    // Where in the object, in bytes; a multiple of 4.
    uint64_t offset;
    // Added to the address.
    uint32_t delta;
};

// Work for a context.
struct gpu_broker_execbuf {
    // The buffers the batch uses; the last one holds the batch itself, or with
    // GPU_BROKER_EXEC_BATCH_FIRST the first one.
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
    // GPU_BROKER_EXEC_*.
    uint64_t flags;
    // Syncobjs to wait for and to signal.
    const struct gpu_broker_sync *syncs;
    // How many.
    size_t sync_count;
    // Addresses to write before the batch starts.
    const struct gpu_broker_relocation *relocations;
    // How many.
    size_t relocation_count;
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

// i915's GETPARAM: what the device and the daemon can do, by I915_PARAM_* number. -EINVAL for
// unknown ones.
int gpu_broker_get_param(const struct gpu_broker_connection *connection,
                         int32_t param,
                         int32_t *value);

// The render engine's timestamp, in ticks of `timestamp_hz` of gpu_broker_device().
int gpu_broker_timestamp(const struct gpu_broker_connection *connection, uint64_t *ticks);

// Waits until the session's work that is older than 20 ms is done. -EIO when the device is
// wedged.
int gpu_broker_throttle(const struct gpu_broker_connection *connection);

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

// Waits until the CPU may access the buffer in these domains, GPU_BROKER_DOMAIN_*;
// `write_domain` is 0 or equal to `read_domains`.
int gpu_broker_buffer_set_domain(const struct gpu_broker_buffer *buffer,
                                 uint32_t read_domains,
                                 uint32_t write_domain);

// Sets the caching mode, one of GPU_BROKER_CACHING_*.
int gpu_broker_buffer_set_caching(const struct gpu_broker_buffer *buffer, uint32_t caching);

// Sets how the buffer's rows lie, one of GPU_BROKER_TILING_* with the bytes of a row. Stores what
// is in force then, unless `tiling` is NULL.
int gpu_broker_buffer_set_tiling(const struct gpu_broker_buffer *buffer,
                                 uint32_t mode,
                                 uint32_t stride,
                                 struct gpu_broker_tiling *tiling);

// Says whether the memory is needed, with one of GPU_BROKER_ADVICE_*. Returns 1 while it is still
// there, 0 once it was dropped.
int gpu_broker_buffer_madvise(const struct gpu_broker_buffer *buffer, uint32_t advice);

// A new file descriptor that stands for the buffer: for gpu_broker_buffer_import() in any session,
// or to be mapped by anybody; close(2) it.
int gpu_broker_buffer_export(const struct gpu_broker_buffer *buffer);

// The buffer behind a file descriptor of gpu_broker_buffer_export(), which stays the caller's.
// Release the buffer with gpu_broker_buffer_close(), also when the session had it already.
int gpu_broker_buffer_import(const struct gpu_broker_connection *connection,
                             int fd,
                             struct gpu_broker_buffer **buffer);

// Makes zeroed memory of `bytes`, rounded up to pages of 4096, that the GPU can be given. Release
// it with gpu_broker_memory_release().
int gpu_broker_memory_create(uint64_t bytes, struct gpu_broker_memory **memory);

// Takes memory that is there already, `malloc`ed for example, so that the GPU can be given it: its
// pages are moved behind a memfd, at the same address and with their contents. `start` and `size`
// are multiples of 4096. It must stay mapped until gpu_broker_memory_release(), which makes it
// private memory again: release it before free(3).
//
// A thread that writes to the memory during this call or the release may lose what it writes,
// unless `flags` has GPU_BROKER_MEMORY_HOLD_WRITERS, which not every process may use (-EPERM,
// -ENOSYS, -EINVAL). Children of fork(2) get a private copy. -EFAULT for memory that is not mapped,
// shared already, or a stack.
int gpu_broker_memory_adopt(void *start,
                            size_t size,
                            uint32_t flags,
                            struct gpu_broker_memory **memory);

// Where the memory lies; NULL for NULL.
void *gpu_broker_memory_address(const struct gpu_broker_memory *memory);

// The memory's bytes, a multiple of 4096; 0 for NULL.
uint64_t gpu_broker_memory_size(const struct gpu_broker_memory *memory);

// Gives the memory to the GPU as a buffer of the session, for gpu_broker_submit(); close it with
// gpu_broker_buffer_close(). `flags` is 0 or GPU_BROKER_MEMORY_READ_ONLY. The program goes on using
// the memory at its address; gpu_broker_buffer_map() does not work on it (-ENODEV).
int gpu_broker_memory_register(const struct gpu_broker_connection *connection,
                               const struct gpu_broker_memory *memory,
                               uint32_t flags,
                               struct gpu_broker_buffer **buffer);

// Waits until no submitted work uses `length` bytes of the memory from `offset` on, at most
// `timeout_ns` nanoseconds; negative is as long as the daemon allows, a minute. To be called before
// the bytes are unmapped, punched out (MADV_REMOVE), or used for something else; work submitted
// later uses what is there then. -ETIME when the time was over first: keep the bytes. -EIO when the
// GPU hung: the bytes are free, what it wrote is not whole.
int gpu_broker_memory_invalidate(const struct gpu_broker_memory *memory,
                                 uint64_t offset,
                                 uint64_t length,
                                 int64_t timeout_ns);

// Waits until no work uses the memory, at most thirty seconds per buffer, and lets go of it:
// memory of gpu_broker_memory_create() is unmapped, that of gpu_broker_memory_adopt() becomes
// private memory again and keeps its contents. NULL does nothing. Its buffers may be closed before
// or afterwards.
void gpu_broker_memory_release(struct gpu_broker_memory *memory);

// Makes a syncobj; `flags` is 0 or GPU_BROKER_SYNCOBJ_SIGNALED. Release it with
// gpu_broker_syncobj_destroy().
int gpu_broker_syncobj_create(const struct gpu_broker_connection *connection,
                              uint32_t flags,
                              struct gpu_broker_syncobj **syncobj);

// Gives the object's handle up; NULL does nothing. Work in flight keeps the object.
void gpu_broker_syncobj_destroy(struct gpu_broker_syncobj *syncobj);

// The object's handle in its session; 0 for NULL.
uint32_t gpu_broker_syncobj_handle(const struct gpu_broker_syncobj *syncobj);

// Takes the fence out.
int gpu_broker_syncobj_reset(const struct gpu_broker_syncobj *syncobj);

// Puts a signalled fence in; with `point` other than 0, adds a signalled point to the timeline.
int gpu_broker_syncobj_signal(const struct gpu_broker_syncobj *syncobj, uint64_t point);

// The last point of the timeline that was signalled.
int gpu_broker_syncobj_query(const struct gpu_broker_syncobj *syncobj, uint64_t *point);

// Waits until one of the objects signals, or with GPU_BROKER_SYNCOBJ_WAIT_ALL all of them, at most
// `timeout_ns` nanoseconds; negative waits for ever. `points` is NULL, or has a point of each
// object's timeline. Returns the position of the one that signalled, 0 after waiting for all.
//
// Errors: -ETIME when the time was over first; -EINVAL while an object has no fence, without
// GPU_BROKER_SYNCOBJ_WAIT_FOR_SUBMIT.
int gpu_broker_syncobj_wait(const struct gpu_broker_connection *connection,
                            const struct gpu_broker_syncobj *const *syncobjs,
                            const uint64_t *points,
                            size_t count,
                            uint32_t flags,
                            int64_t timeout_ns);

// Puts the fence of an object, or of a point of its timeline, into another object or point; 0 is
// the fence of a binary object.
int gpu_broker_syncobj_transfer(const struct gpu_broker_syncobj *source,
                                uint64_t source_point,
                                const struct gpu_broker_syncobj *target,
                                uint64_t target_point);

// A new file descriptor that stands for the object, for gpu_broker_syncobj_import() in any
// session; close(2) it.
int gpu_broker_syncobj_export(const struct gpu_broker_syncobj *syncobj);

// The object behind a file descriptor of gpu_broker_syncobj_export(), which stays the caller's.
// Release the object with gpu_broker_syncobj_destroy().
int gpu_broker_syncobj_import(const struct gpu_broker_connection *connection,
                              int fd,
                              struct gpu_broker_syncobj **syncobj);

// A new fence: the one in the object, or with `point` other than 0 that of a point of its
// timeline; close(2) it.
int gpu_broker_syncobj_export_fence(const struct gpu_broker_syncobj *syncobj, uint64_t point);

// Puts a fence into the object, or with `point` other than 0 adds it to the timeline. The fence
// stays the caller's.
int gpu_broker_syncobj_import_fence(const struct gpu_broker_syncobj *syncobj,
                                    uint64_t point,
                                    int fence);

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
