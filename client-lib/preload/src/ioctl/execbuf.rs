//! EXECBUFFER2, both numbers of it.

use std::ffi::c_int;
use std::os::fd::IntoRawFd;

use gpu_broker_client::protocol::execbuf::{
    ExecExtension, ExecFence, ExecObject, ExecPoint, ExecbufHead, ExecbufLists, Relocation, flag,
    object_flag,
};
use gpu_broker_client::protocol::limits::FENCES_PER_EXECBUF_MAX;
use gpu_broker_uapi::i915::{
    drm_i915_gem_exec_fence, drm_i915_gem_exec_object2,
    drm_i915_gem_execbuffer_ext_timeline_fences, drm_i915_gem_execbuffer2,
    drm_i915_gem_relocation_entry,
};

use crate::arg::{Arg, at, u32_at, u64_at};
use crate::chain;
use crate::errno::{Errno, Outcome};
use crate::node::{self, Node};
use crate::user;
use crate::userptr;

const OBJECT_BYTES: usize = size_of::<drm_i915_gem_exec_object2>();
const RELOCATION_BYTES: usize = size_of::<drm_i915_gem_relocation_entry>();
/// More than any session can have buffers.
const OBJECTS_MAX: u32 = 1 << 16;
/// More relocations than one object of a reasonable program has.
const RELOCATIONS_MAX: usize = 1 << 20;

/// The lists of a submission, copied.
#[derive(Default)]
struct Lists {
    objects: Vec<ExecObject>,
    /// Where each object's relocations are, in the program's memory.
    relocation_places: Vec<u64>,
    fences: Vec<ExecFence>,
    extensions: Vec<ExecExtension>,
    points: Vec<ExecPoint>,
    relocations: Vec<Relocation>,
}

pub(super) fn execbuffer2(node: &Node, arg: &mut Arg) -> Outcome<c_int> {
    type E = drm_i915_gem_execbuffer2;
    let mut head = ExecbufHead {
        context: arg.u32(at!(E, rsvd1)),
        flags: arg.u64(at!(E, flags)),
        batch_start_offset: arg.u32(at!(E, batch_start_offset)),
        batch_len: arg.u32(at!(E, batch_len)),
        dr1: arg.u32(at!(E, DR1)),
        dr4: arg.u32(at!(E, DR4)),
        num_cliprects: arg.u32(at!(E, num_cliprects)),
    };
    let count = arg.u32(at!(E, buffer_count));
    if count == 0 || count > OBJECTS_MAX {
        return Err(Errno(libc::EINVAL));
    }
    if head.dr4 == u32::MAX {
        // What programs of long ago leave there; the kernel takes it for 0 and says so.
        head.dr4 = 0;
        arg.set_u32(at!(E, DR4), 0);
    }
    let cliprects = arg.u64(at!(E, cliprects_ptr));
    check_flags(&head, cliprects)?;
    let mut lists = Lists::default();
    let objects = arg.u64(at!(E, buffers_ptr));
    lists.copy_objects(objects, count as usize)?;
    lists.copy_fences(&head, cliprects)?;
    lists.copy_relocations(&mut head)?;
    let in_fence = if head.flags & (flag::FENCE_IN | flag::FENCE_SUBMIT) != 0 {
        // The fd is in the low half.
        let fd = arg.u32(at!(E, rsvd2)).cast_signed();
        Some(node::borrow(fd).map_err(|_| Errno(libc::EINVAL))?)
    } else {
        None
    };
    let sent = ExecbufLists {
        objects: &lists.objects,
        fences: &lists.fences,
        extensions: &lists.extensions,
        points: &lists.points,
        relocations: &lists.relocations,
    };
    let handles = lists.objects.iter().map(|object| object.handle);
    userptr::make_ready(node, handles.clone())?;
    node::with_buffers(node.id, |buffers| buffers.submitted(handles))?;
    let reply = node.connection.execbuf(&head, &sent, in_fence)?;
    lists.write_addresses(objects, &reply.offsets)?;
    if let Some(fence) = reply.fence {
        // The high half; a program that used the number without the way back never learns it.
        let fd = fence.into_raw_fd();
        arg.set_i32(at!(E, rsvd2) + 4, fd);
    }
    Ok(0)
}

/// What must be right before the lists are looked at (rule table §13, rows 2 and 3).
fn check_flags(head: &ExecbufHead, cliprects: u64) -> Outcome<()> {
    let syncobjs = head.flags & (flag::FENCE_ARRAY | flag::USE_EXTENSIONS) != 0;
    let invalid = head.flags & (flag::UNKNOWN | flag::CONSTANTS_MASK | flag::RESOURCE_STREAMER)
        != 0
        || (!syncobjs && (head.num_cliprects != 0 || cliprects != 0))
        || !(head.batch_start_offset | head.batch_len).is_multiple_of(8);
    if invalid { Err(Errno(libc::EINVAL)) } else { Ok(()) }
}

impl Lists {
    fn copy_objects(&mut self, address: u64, count: usize) -> Outcome<()> {
        type O = drm_i915_gem_exec_object2;
        let bytes = user::records(address, count, OBJECT_BYTES)?;
        for object in bytes.chunks_exact(OBJECT_BYTES) {
            let flags = u64_at(object, at!(O, flags));
            // A union with a reserved field; only the flag gives it a meaning.
            let padded = flags & object_flag::PAD_TO_SIZE != 0;
            self.objects.push(ExecObject {
                handle: u32_at(object, at!(O, handle)),
                relocation_count: u32_at(object, at!(O, relocation_count)),
                alignment: u64_at(object, at!(O, alignment)),
                offset: u64_at(object, at!(O, offset)),
                flags,
                pad_to_size: if padded { u64_at(object, at!(O, rsvd1)) } else { 0 },
            });
            self.relocation_places.push(u64_at(object, at!(O, relocs_ptr)));
        }
        Ok(())
    }

    fn copy_fences(&mut self, head: &ExecbufHead, address: u64) -> Outcome<()> {
        type F = drm_i915_gem_exec_fence;
        if head.flags & flag::USE_EXTENSIONS != 0 {
            if head.flags & flag::FENCE_ARRAY != 0 || head.num_cliprects != 0 {
                return Err(Errno(libc::EINVAL));
            }
            chain::walk(address, |node, name| self.copy_extension(node, name))?;
        } else if head.flags & flag::FENCE_ARRAY != 0 {
            let count = head.num_cliprects as usize;
            if count > FENCES_PER_EXECBUF_MAX {
                return Err(Errno(libc::EINVAL));
            }
            let bytes = user::records(address, count, size_of::<F>())?;
            self.fences.extend(bytes.chunks_exact(size_of::<F>()).map(|fence| ExecFence {
                handle: u32_at(fence, at!(F, handle)),
                flags: u32_at(fence, at!(F, flags)),
            }));
        }
        Ok(())
    }

    fn copy_extension(&mut self, address: u64, name: u32) -> Outcome<()> {
        type T = drm_i915_gem_execbuffer_ext_timeline_fences;
        type F = drm_i915_gem_exec_fence;
        if name != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let node = user::records(address, 1, size_of::<T>())?;
        let count = u64_at(&node, at!(T, fence_count));
        let room = FENCES_PER_EXECBUF_MAX - self.points.len().min(FENCES_PER_EXECBUF_MAX);
        let entry_count = u32::try_from(count).map_err(|_| Errno(libc::EINVAL))?;
        if entry_count as usize > room {
            return Err(Errno(libc::EINVAL));
        }
        let handles = u64_at(&node, at!(T, handles_ptr));
        let handles = user::records(handles, entry_count as usize, size_of::<F>())?;
        let points = user::u64s(u64_at(&node, at!(T, values_ptr)), entry_count as usize)?;
        for (fence, point) in handles.chunks_exact(size_of::<F>()).zip(points) {
            self.points.push(ExecPoint {
                handle: u32_at(fence, at!(F, handle)),
                flags: u32_at(fence, at!(F, flags)),
                point,
            });
        }
        self.extensions.push(ExecExtension { name, entry_count, ..ExecExtension::default() });
        Ok(())
    }

    fn copy_relocations(&mut self, head: &mut ExecbufHead) -> Outcome<()> {
        type R = drm_i915_gem_relocation_entry;
        for (object, place) in self.objects.iter().zip(&self.relocation_places) {
            let count = object.relocation_count as usize;
            if count == 0 {
                continue;
            }
            if self.relocations.len() + count > RELOCATIONS_MAX {
                return Err(Errno(libc::EINVAL));
            }
            let bytes = user::records(*place, count, RELOCATION_BYTES)?;
            self.relocations.extend(bytes.chunks_exact(RELOCATION_BYTES).map(|one| Relocation {
                target: u32_at(one, at!(R, target_handle)),
                delta: u32_at(one, at!(R, delta)),
                offset: u64_at(one, at!(R, offset)),
                presumed_offset: u64_at(one, at!(R, presumed_offset)),
                read_domains: u32_at(one, at!(R, read_domains)),
                write_domain: u32_at(one, at!(R, write_domain)),
            }));
        }
        if self.relocations.is_empty() {
            // Nothing to relocate: the broker need not look.
            head.flags |= flag::NO_RELOC;
        }
        Ok(())
    }

    /// Tells the program where its objects are. Relocations keep what they presumed: a program that
    /// presumes the old address has it written again, which costs nothing but the writing.
    fn write_addresses(&self, objects: u64, addresses: &[u64]) -> Outcome<()> {
        type O = drm_i915_gem_exec_object2;
        for (index, address) in addresses.iter().enumerate() {
            if self.objects.get(index).is_some_and(|object| object.offset != *address) {
                let place = objects + (index * OBJECT_BYTES + at!(O, offset)) as u64;
                user::write(place, &address.to_ne_bytes())?;
            }
        }
        Ok(())
    }
}
