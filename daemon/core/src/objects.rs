//! The objects of an EXECBUF: checked (rule table §13.2), then given addresses.

use std::sync::atomic::Ordering;

use gpu_broker_protocol::execbuf::{ExecObject, Execbuf, flag, object_flag};
use gpu_broker_protocol::limits::PAGE_BYTES;
use gpu_broker_protocol::{Reason, Refusal};

use crate::capabilities::Capabilities;
use crate::hands::{Hands, Object};
use crate::memory::Memory;
use crate::space::{Effort, NoPlace, Place, Space, Want};
use crate::userptr::Held;
use crate::userptrs::Pinner;

/// Bits of a GPU address.
const ADDRESS_BITS: u32 = 48;

/// The address as clients see it: bit 47 repeated in the bits above.
pub(crate) const fn canonical(address: u64) -> u64 {
    let unused = u64::BITS - ADDRESS_BITS;
    ((address << unused).cast_signed() >> unused).cast_unsigned()
}

const fn not_canonical(address: u64) -> u64 {
    address & ((1 << ADDRESS_BITS) - 1)
}

/// What the object asks for; `size` is the buffer's.
fn want(object: &ExecObject, size: u64) -> Want {
    let pad = if object.flags & object_flag::PAD_TO_SIZE != 0 { object.pad_to_size } else { 0 };
    Want {
        buffer: object.handle,
        size: size.max(pad),
        alignment: object.alignment.max(PAGE_BYTES),
        offset: not_canonical(object.offset),
        pinned: object.flags & object_flag::PINNED != 0,
        above_4g: object.flags & object_flag::SUPPORTS_48B != 0,
    }
}

/// What can be wrong with an object by itself, in the kernel's order.
fn check(caps: &Capabilities, object: &ExecObject) -> Result<(), Refusal> {
    let refuse = |reason| {
        Err(Refusal::new(reason).with_detail(format!("object with handle {}", object.handle)))
    };
    if object.relocation_count != 0 && !caps.has_relocations {
        return refuse(Reason::RelocationInvalid);
    }
    let no_gtt = if caps.full_ppgtt { object_flag::NEEDS_GTT } else { 0 };
    if object.flags & (object_flag::UNKNOWN | no_gtt) != 0 {
        return refuse(Reason::ObjectFlags);
    }
    if object.alignment != 0 && !object.alignment.is_power_of_two() {
        return refuse(Reason::ObjectAlignment);
    }
    let pinned = object.flags & object_flag::PINNED != 0;
    if pinned && object.offset != canonical(object.offset & !(PAGE_BYTES - 1)) {
        return refuse(Reason::ObjectAddress);
    }
    let padded = object.flags & object_flag::PAD_TO_SIZE != 0;
    if padded && !object.pad_to_size.is_multiple_of(PAGE_BYTES) {
        return refuse(Reason::ObjectPad);
    }
    Ok(())
}

/// Offset and bytes of the batch in its buffer of `size` bytes (rule table §13.2).
fn batch_range(request: &Execbuf<'_>, object: &ExecObject, size: u64) -> Result<u64, Refusal> {
    if object.flags & object_flag::WRITE != 0 {
        return Err(Reason::BatchWritten.into());
    }
    let start = u64::from(request.head.batch_start_offset);
    let rest = size.checked_sub(start).filter(|rest| *rest > 0);
    let length = match request.head.batch_len {
        0 => rest,
        length => rest.map(|_| length.into()).filter(|length| rest >= Some(*length)),
    };
    length.ok_or_else(|| {
        let detail = format!("{} + {} of {size}", start, request.head.batch_len);
        Refusal::new(Reason::BatchRange).with_detail(detail)
    })
}

/// The objects of one submission.
pub(crate) struct Objects<'a, H: Hands> {
    pub(crate) list: Vec<Object<'a, H::Buffer>>,
    memory: &'a Memory<H>,
    pub(crate) request: &'a Execbuf<'a>,
    /// The objects' counts of relocations, or-ed: 0 if no object has any.
    pub(crate) relocations: u32,
    /// The application's memory among them, between submit_init and submit_fini.
    user: Vec<Held<'a>>,
    /// Positions of objects that nobody may write, ascending.
    read_only: Vec<usize>,
    /// How many have no address yet.
    misplaced: usize,
    /// Bytes of the first batch.
    batch_length: u64,
    width: usize,
}

impl<'a, H: Hands> Objects<'a, H> {
    /// Looks up and checks every object, in order; the first error counts. Objects that lie well
    /// where they are have their address already.
    ///
    /// # Errors
    /// ENOENT for an unknown handle; EINVAL for everything else of §13.2 and for a buffer that
    /// appears twice; EFAULT, ENOMEM or EAGAIN for an application's memory (§14, submit_init).
    pub(crate) fn gather(
        caps: &Capabilities,
        memory: &'a Memory<H>,
        (vm, space): (&H::Vm, &mut Space),
        pinner: &mut Pinner<'_, H>,
        request: &'a Execbuf<'a>,
        width: usize,
    ) -> Result<Self, Refusal> {
        let list = Vec::with_capacity(request.object_count());
        let (user, read_only) = (Vec::new(), Vec::new());
        let (relocations, misplaced, batch_length) = (0, 0, 0);
        let mut objects = Self {
            list,
            memory,
            request,
            relocations,
            user,
            read_only,
            misplaced,
            batch_length,
            width,
        };
        let batches = objects.batches();
        for (index, object) in request.objects().enumerate() {
            let Some(buffer) = memory.buffers.get(object.handle) else {
                let detail = format!("handle {}", object.handle);
                return Err(Refusal::new(Reason::NoSuchBuffer).with_detail(detail));
            };
            check(caps, &object)?;
            if buffer.last_submission.load(Ordering::Relaxed) == memory.submission {
                return Err(Reason::ObjectDuplicate.into());
            }
            buffer.last_submission.store(memory.submission, Ordering::Relaxed);
            if batches.contains(&index) {
                objects.batch_length = batch_range(request, &object, buffer.size)?;
            }
            objects.relocations |= object.relocation_count;
            if let Some(user) = &buffer.user {
                let init = (object.handle, &**buffer, &**user);
                objects.user.push(pinner.init(memory, init, Some((vm, &mut *space)))?);
                if user.read_only {
                    objects.read_only.push(index);
                }
            }
            let place = space.in_place(&want(&object, buffer.size));
            objects.misplaced += usize::from(place.is_none());
            objects.list.push(Object {
                buffer: &buffer.device,
                address: place.map_or(NOWHERE, |place| place.address),
                size: buffer.size,
                fresh: place.is_none_or(|place| !place.on_device),
                write: object.flags & object_flag::WRITE != 0,
                asynchronous: object.flags & object_flag::ASYNC != 0,
                capture: object.flags & object_flag::CAPTURE != 0,
            });
        }
        Ok(objects)
    }

    /// Whether an application's memory is among them.
    pub(crate) fn has_user(&self) -> bool {
        !self.user.is_empty()
    }

    /// submit_done (rule table §14). Whoever asks holds invalidations off until the device has the
    /// submission.
    ///
    /// # Errors
    /// EAGAIN if something was invalidated since submit_init.
    pub(crate) fn check_current(&self) -> Result<(), Refusal> {
        if self.user.iter().all(Held::is_current) {
            Ok(())
        } else {
            Err(Reason::UserptrInvalidated.into())
        }
    }

    /// The device lost pages of one of them, and does not say which.
    pub(crate) fn invalidate(&self) {
        self.user.iter().for_each(Held::invalidate);
    }

    /// Whether nobody may write the object.
    pub(crate) fn is_read_only(&self, index: usize) -> bool {
        self.read_only.binary_search(&index).is_ok()
    }

    /// Positions of the batches: the first or the last objects.
    fn batches(&self) -> std::ops::Range<usize> {
        let count = self.request.object_count();
        if self.request.head.flags & flag::BATCH_FIRST != 0 {
            0..self.width
        } else {
            count.saturating_sub(self.width)..count
        }
    }

    /// GPU address and bytes of each batch.
    pub(crate) fn batch_ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let start = u64::from(self.request.head.batch_start_offset);
        let batches = self.list.get(self.batches()).unwrap_or_default().iter();
        batches.map(move |object| match self.width {
            1 => (object.address + start, self.batch_length),
            _ => (object.address, object.size),
        })
    }

    /// Gives an address to every object that has none. First what is in the way of pinned objects
    /// is evicted, and the others go where there is room; if that fails, everything is taken out
    /// of the address space and the submission is placed alone. `unbind` hears of every binding
    /// that the device knows and that is gone.
    ///
    /// # Errors
    /// ENOSPC when the objects do not fit, or pinned ones overlap; EINVAL for a pinned address
    /// that is misaligned or not below 4 GiB as the flags demand.
    pub(crate) fn place(
        &mut self,
        space: &mut Space,
        mut unbind: impl FnMut(Place),
    ) -> Result<(), Refusal> {
        if self.misplaced == 0 {
            return Ok(());
        }
        space.begin();
        let placed = match self.place_missing(space, &mut unbind) {
            Err(NoPlace::Full) => {
                space.begin();
                self.place_alone(space, &mut unbind)
            }
            other => other,
        };
        placed.map_err(|none| match none {
            NoPlace::Full => Reason::ExecNoSpace.into(),
            NoPlace::Impossible => Reason::ObjectAddress.into(),
        })
    }

    fn wants(&self) -> impl Iterator<Item = (usize, Want)> + use<'a, H> {
        let memory = self.memory;
        self.request.objects().enumerate().map(move |(index, object)| {
            let size = memory.buffers.get(object.handle).map_or(0, |buffer| buffer.size);
            (index, want(&object, size))
        })
    }

    fn place_missing(
        &mut self,
        space: &mut Space,
        unbind: &mut impl FnMut(Place),
    ) -> Result<(), NoPlace> {
        let missing = |objects: &Self, index: usize| {
            objects.list.get(index).is_some_and(|object| object.address == NOWHERE)
        };
        for (_, want) in self.wants().filter(|(index, _)| missing(self, *index)) {
            evict(space, want.buffer, unbind);
        }
        for (index, want) in self.wants().filter(|(_, want)| want.pinned) {
            if missing(self, index) {
                space.possible(&want)?;
                for buffer in space.in_the_way(&want) {
                    if self.names(buffer) {
                        return Err(NoPlace::Full);
                    }
                    evict(space, buffer, unbind);
                }
                let address = space.place_pinned(&want)?;
                self.set_address(index, address);
            }
        }
        for (index, want) in self.wants().filter(|(_, want)| !want.pinned) {
            if missing(self, index) {
                let address = space.place(&want, Effort::Quick)?;
                self.set_address(index, address);
            }
        }
        Ok(())
    }

    fn place_alone(
        &mut self,
        space: &mut Space,
        unbind: &mut impl FnMut(Place),
    ) -> Result<(), NoPlace> {
        for buffer in space.buffers() {
            evict(space, buffer, unbind);
        }
        for (index, want) in self.wants().filter(|(_, want)| want.pinned) {
            let address = space.place_pinned(&want)?;
            self.set_address(index, address);
        }
        // Those that must lie low choose before those that may.
        for above_4g in [false, true] {
            let others = |(_, want): &(usize, Want)| !want.pinned && want.above_4g == above_4g;
            for (index, want) in self.wants().filter(others) {
                let address = space.place(&want, Effort::Thorough)?;
                self.set_address(index, address);
            }
        }
        Ok(())
    }

    /// Whether the submission has the buffer among its objects.
    fn names(&self, buffer: u32) -> bool {
        let submission = self.memory.submission;
        self.memory
            .buffers
            .get(buffer)
            .is_some_and(|buffer| buffer.last_submission.load(Ordering::Relaxed) == submission)
    }

    fn set_address(&mut self, index: usize, address: u64) {
        if let Some(object) = self.list.get_mut(index) {
            object.address = address;
            object.fresh = true;
        }
    }

    /// What the reply tells: all addresses in canonical form if any is not what the client
    /// expected, nothing otherwise.
    pub(crate) fn moved(&self) -> Vec<u64> {
        let expected = self.request.objects().map(|object| not_canonical(object.offset));
        if self.list.iter().map(|object| object.address).eq(expected) {
            return Vec::new();
        }
        self.list.iter().map(|object| canonical(object.address)).collect()
    }

    /// The device has them now.
    pub(crate) fn submitted(&self, space: &mut Space) {
        for (object, sent) in self.request.objects().zip(&self.list) {
            if sent.fresh {
                space.set_on_device(object.handle);
            }
        }
    }
}

/// Address of an object that has none yet; no object can lie there.
const NOWHERE: u64 = u64::MAX;

fn evict(space: &mut Space, buffer: u32, unbind: &mut impl FnMut(Place)) {
    if let Some(place) = space.remove(buffer).filter(|place| place.on_device) {
        unbind(place);
    }
}
