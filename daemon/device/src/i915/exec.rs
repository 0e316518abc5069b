//! Submissions: what core has checked and placed, as one EXECBUFFER2.
//!
//! Every object is pinned where core put it. What core took out of the address space stays bound in
//! the kernel until something else is pinned there or the buffer is closed; both are this session's
//! own memory, and the kernel waits for whoever still uses it.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use drm::control::Device as _;
use gpu_broker_uapi::i915::*;
use rustix::io::Errno;

use super::card::errno;
use super::context::ContextShared;
use super::fence::Fence;
use super::{I915File, Trouble, limits, os, sys};
use crate::{
    Batch, DeviceError, DeviceEvent, EngineId, FenceState, Object, Outcome, Patch, Placement,
    Submission, Submitted, TraceEvent, TraceWhat,
};

type Work<'a> = Submission<'a, I915File>;

/// Bits of a GPU address that the kernel repeats above.
const ADDRESS_BITS: u32 = 48;

const fn canonical(address: u64) -> u64 {
    let unused = u64::BITS - ADDRESS_BITS;
    ((address << unused).cast_signed() >> unused).cast_unsigned()
}

/// See [`crate::DeviceFile::submit`].
pub(super) fn submit(
    context: &Arc<ContextShared>,
    work: &Work<'_>,
) -> Result<Submitted<Fence>, DeviceError> {
    let file = &context.file;
    if context.is_closed() {
        return Err(os(Errno::IO, "the context was cancelled"));
    }
    let order = batches_last(work.objects, work.batches)?;
    let permit = file.device.fds.take()?;
    let engine = first_engine(work.placement);
    let mut fences = Fences::gather(context, work)?;
    let done = hand_over(context, work, &order, &fences);
    fences.release();
    let fence = Fence::new(done?);
    let used: Vec<_> = work
        .objects
        .iter()
        .filter_map(|object| object.buffer.used_by(&fence, object.write))
        .collect();
    let usage = &file.device.usage;
    usage.queued(engine);
    let batch = work.batches.first().map_or(0, |batch| batch.address);
    let traced = file.device.tracing.number();
    trace(context, engine, traced, TraceWhat::Queued);
    let ended = {
        let (context, fence) = (Arc::clone(context), fence.clone());
        move |state| {
            used.iter().for_each(|users| users.ended(&fence));
            let outcome = match state {
                FenceState::Signalled | FenceState::Pending => Outcome::Completed,
                FenceState::Failed(errno) => context.blame(engine, batch, errno),
            };
            trace(&context, engine, traced, TraceWhat::of(&outcome));
            let file = &context.file;
            file.device.usage.ended(engine, &outcome);
            drop(permit);
            file.events.report(DeviceEvent::Completed { tag: context.tag, outcome });
            file.events.signalled();
        }
    };
    file.device.poller.watch(file.number, fence.clone(), Box::new(ended))?;
    Ok(Submitted { fence: Some(fence).filter(|_| work.want_fence), done: None })
}

/// EXECBUFFER2, again where that helps. Waits while the device is being unplugged, or reset.
///
/// # Errors
/// As [`submit`].
fn hand_over(
    context: &ContextShared,
    work: &Work<'_>,
    order: &[usize],
    fences: &Fences<'_>,
) -> Result<OwnedFd, DeviceError> {
    let file = &context.file;
    let (mut tries, mut again) = (0, false);
    loop {
        let mut objects = objects(work.objects, order, work.batches.len());
        let mut relocations = relocations(work.objects, order, work.patches)?;
        let exec = sys::Exec {
            context: context.id,
            objects: &mut objects,
            relocations: &mut relocations,
            batch_start: batch_start(work, order)?,
            batch_bytes: batch_bytes(work, order)?,
            flags: engine_flags(context, work) | fences.flags,
            in_fence: fences.start.as_ref().map(Fence::file).transpose()?,
            syncobjs: &fences.syncobjs,
            points: &fences.points,
        };
        match sys::execbuf(file.card.as_fd(), exec) {
            // Memory of the application moved between being pinned and being used.
            Err(Errno::AGAIN) if tries < limits::MOVED_TRIES_MAX => tries += 1,
            Err(Errno::AGAIN) => break Err(DeviceError::PagesGone),
            Err(Errno::IO) => match file.trouble() {
                // In the middle of a reset it looks so.
                Trouble::None if !again => again = true,
                Trouble::None => break Err(DeviceError::Banned),
                Trouble::Gone => break Err(DeviceError::Lost),
                Trouble::Wedged => break Err(os(Errno::IO, "EXECBUFFER2")),
            },
            Err(errno) => break Err(file.error(errno, "EXECBUFFER2")),
            Ok(fence) => break Ok(fence),
        }
    }
}

/// Tells whoever looks on; when it runs, the kernel does not say.
fn trace(context: &ContextShared, engine: EngineId, traced: Option<u64>, what: TraceWhat) {
    if let Some(submission) = traced {
        let (tag, at) = (context.tag, Instant::now());
        context.file.events.trace(TraceEvent { tag, submission, engine, at, what });
    }
}

/// Positions of the objects in the order the kernel wants: the batches last, in theirs.
fn batches_last<B>(
    objects: &[Object<'_, B>],
    batches: &[Batch],
) -> Result<Vec<usize>, DeviceError> {
    let holds = |object: &Object<'_, B>, batch: &Batch| {
        let offset = batch.address.checked_sub(object.address);
        offset.is_some_and(|offset| offset < object.size)
    };
    let mut last = Vec::with_capacity(batches.len());
    for batch in batches {
        // From the end, where a batch usually is.
        let at = objects.iter().rposition(|object| holds(object, batch));
        last.push(at.ok_or_else(|| os(Errno::INVAL, "a batch outside all objects"))?);
    }
    let mut order: Vec<usize> = (0..objects.len()).filter(|at| !last.contains(at)).collect();
    order.extend(last);
    if order.len() != objects.len() {
        return Err(os(Errno::INVAL, "two batches in one object"));
    }
    Ok(order)
}

/// The objects as the kernel wants them, the last of which are so many batches. The kernel refuses
/// a batch that is marked as written, which one whose relocations say so would be.
fn objects(
    objects: &[Object<'_, super::Buffer>],
    order: &[usize],
    batches: usize,
) -> Vec<drm_i915_gem_exec_object2> {
    let flag = |on: bool, flag: u64| if on { flag } else { 0 };
    let first_batch = order.len().saturating_sub(batches);
    let raw = |(position, object): (usize, &Object<'_, super::Buffer>)| drm_i915_gem_exec_object2 {
        handle: object.buffer.0.handle.into(),
        offset: canonical(object.address),
        flags: EXEC_OBJECT_PINNED
            | EXEC_OBJECT_SUPPORTS_48B_ADDRESS
            | flag(object.write && position < first_batch, EXEC_OBJECT_WRITE)
            | flag(object.asynchronous, EXEC_OBJECT_ASYNC)
            | flag(object.capture, EXEC_OBJECT_CAPTURE),
        ..Default::default()
    };
    order.iter().filter_map(|at| objects.get(*at)).enumerate().map(raw).collect()
}

/// The batch of a submission that has one; `None` for a parallel one, whose batches are whole
/// objects.
fn only_batch<'a>(
    work: &'a Work<'_>,
    order: &[usize],
) -> Option<(&'a Batch, &'a Object<'a, super::Buffer>)> {
    let [batch] = work.batches else { return None };
    let object = work.objects.get(*order.last()?)?;
    Some((batch, object))
}

fn batch_start(work: &Work<'_>, order: &[usize]) -> Result<u32, DeviceError> {
    let start = only_batch(work, order).map_or(0, |(batch, object)| batch.address - object.address);
    u32::try_from(start).map_err(|_| os(Errno::INVAL, "a batch that starts beyond 4 GiB"))
}

fn batch_bytes(work: &Work<'_>, order: &[usize]) -> Result<u32, DeviceError> {
    let Some((batch, object)) = only_batch(work, order) else { return Ok(0) };
    if batch.address + batch.length == object.address + object.size {
        return Ok(0);
    }
    u32::try_from(batch.length).map_err(|_| os(Errno::INVAL, "a batch of more than 4 GiB"))
}

/// Relocations by the object they are in. The kernel adds a distance to the address of another
/// object of the list, so for each value one is looked for that is near enough.
fn relocations<B>(
    objects: &[Object<'_, B>],
    order: &[usize],
    patches: &[Patch],
) -> Result<Vec<(usize, Vec<drm_i915_gem_relocation_entry>)>, DeviceError> {
    let mut by_object: Vec<(usize, Vec<drm_i915_gem_relocation_entry>)> = Vec::new();
    let invalid = || os(Errno::INVAL, "a relocation outside its object");
    if patches.is_empty() {
        return Ok(by_object);
    }
    let targets = Targets::of(objects, order);
    // Position in the order of each object, and in `by_object` of each position.
    let mut positions = vec![None; objects.len()];
    for (at, object) in order.iter().enumerate() {
        positions.get_mut(*object).into_iter().for_each(|position| *position = Some(at));
    }
    let mut places = vec![None; order.len()];
    for patch in patches {
        let at = positions.get(patch.object).copied().flatten().ok_or_else(invalid)?;
        let object = objects.get(patch.object).ok_or_else(invalid)?;
        if patch.offset.checked_add(8).is_none_or(|end| end > object.size) {
            return Err(invalid());
        }
        let (target_handle, delta) = targets
            .near(patch.value)
            .ok_or_else(|| os(Errno::INVAL, "a relocation to an address far from all objects"))?;
        let entry = drm_i915_gem_relocation_entry {
            target_handle,
            delta,
            offset: patch.offset,
            // No object lies there, so the kernel writes the address whatever it is.
            presumed_offset: u64::MAX,
            ..Default::default()
        };
        let place = places.get_mut(at).ok_or_else(invalid)?;
        match place.and_then(|place: usize| by_object.get_mut(place)) {
            Some((_, entries)) => entries.push(entry),
            None => {
                *place = Some(by_object.len());
                by_object.push((at, vec![entry]));
            }
        }
    }
    Ok(by_object)
}

/// Canonical addresses of the objects and their positions, by address.
struct Targets(Vec<(u64, u32)>);

impl Targets {
    fn of<B>(objects: &[Object<'_, B>], order: &[usize]) -> Self {
        let address = |at: &usize| objects.get(*at).map(|object| canonical(object.address));
        let mut targets: Vec<_> =
            (0..).zip(order).filter_map(|(position, at)| Some((address(at)?, position))).collect();
        targets.sort_unstable();
        Self(targets)
    }

    /// Position of an object near the address, and the way from its start.
    fn near(&self, value: u64) -> Option<(u32, u32)> {
        let after = self.0.partition_point(|(address, _)| *address <= value);
        // The neighbours, in a circle: addresses wrap around.
        let before = after.checked_sub(1).or_else(|| self.0.len().checked_sub(1))?;
        [self.0.get(before), self.0.get(after).or_else(|| self.0.first())]
            .into_iter()
            .flatten()
            .find_map(|(address, position)| {
                let distance = value.wrapping_sub(*address).cast_signed();
                let near = distance.unsigned_abs() < limits::RELOCATION_REACH;
                near.then_some((*position, u32::try_from(distance & 0xffff_ffff).ok()?))
            })
    }
}

/// The engine that a request is counted on: the first that it may run on.
fn first_engine(placement: Placement<'_>) -> EngineId {
    match placement {
        Placement::One(engine) => engine,
        Placement::AnyOf(engines) | Placement::Parallel(engines) => {
            engines.first().copied().unwrap_or(EngineId { class: 0, instance: 0 })
        }
    }
}

/// How the kernel is told the engine: the slot of a map, or the ring of old.
fn engine_flags(context: &ContextShared, work: &Work<'_>) -> u64 {
    if !context.legacy {
        return u64::from(work.slot) & I915_EXEC_RING_MASK;
    }
    ring_of(first_engine(work.placement))
}

fn ring_of(engine: EngineId) -> u64 {
    match (engine.class, engine.instance) {
        (I915_ENGINE_CLASS_COPY, _) => I915_EXEC_BLT,
        (I915_ENGINE_CLASS_VIDEO, 0) => I915_EXEC_BSD | I915_EXEC_BSD_RING1,
        (I915_ENGINE_CLASS_VIDEO, _) => I915_EXEC_BSD | I915_EXEC_BSD_RING2,
        (I915_ENGINE_CLASS_VIDEO_ENHANCE, _) => I915_EXEC_VEBOX,
        (_, _) => I915_EXEC_RENDER,
    }
}

/// What a submission waits for and signals, as EXECBUFFER2 takes it.
struct Fences<'a> {
    context: &'a ContextShared,
    flags: u64,
    /// For FENCE_IN, or FENCE_SUBMIT if the flags say so.
    start: Option<Fence>,
    syncobjs: Vec<drm_i915_gem_exec_fence>,
    /// As many, or none if all are 0.
    points: Vec<u64>,
    /// Holds what FENCE_IN cannot, because FENCE_SUBMIT took its place.
    extra: Option<drm::control::syncobj::Handle>,
}

impl<'a> Fences<'a> {
    fn gather(context: &'a ContextShared, work: &Work<'_>) -> Result<Self, DeviceError> {
        let after = Fence::merge_all(work.after)?;
        let along = Fence::merge_all(work.along)?;
        let mut fences = Self {
            context,
            flags: 0,
            start: None,
            syncobjs: Vec::with_capacity(work.signals.len()),
            points: Vec::new(),
            extra: None,
        };
        let mut points = Vec::new();
        for (syncobj, point) in work.signals {
            let (handle, flags) = (syncobj.handle(), I915_EXEC_FENCE_SIGNAL);
            fences.syncobjs.push(drm_i915_gem_exec_fence { handle, flags });
            points.push(*point);
        }
        match (after, along) {
            (after, None) => fences.start = after,
            (None, along) => fences.start_along(along),
            (Some(after), along) => {
                fences.wait_for(&after)?;
                points.push(0);
                fences.start_along(along);
            }
        }
        if points.iter().any(|point| *point != 0) {
            fences.points = points;
        }
        Ok(fences)
    }

    fn start_along(&mut self, along: Option<Fence>) {
        self.flags = I915_EXEC_FENCE_SUBMIT;
        self.start = along;
    }

    fn wait_for(&mut self, fence: &Fence) -> Result<(), DeviceError> {
        let card = &self.context.file.card;
        let made = card.create_syncobj(false);
        let syncobj = made.map_err(|error| os(errno(&error), "creating a syncobj"))?;
        self.extra = Some(syncobj);
        sys::syncobj_put(card.as_fd(), syncobj.into(), fence.file()?)
            .map_err(|errno| os(errno, "putting a fence into a syncobj"))?;
        let (handle, flags) = (syncobj.into(), I915_EXEC_FENCE_WAIT);
        self.syncobjs.push(drm_i915_gem_exec_fence { handle, flags });
        Ok(())
    }

    fn release(&mut self) {
        if let Some(extra) = self.extra.take() {
            // It was made for this submission alone; the kernel has taken the fence.
            let _ = self.context.file.card.destroy_syncobj(extra);
        }
    }
}

impl Drop for Fences<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(address: u64, pages: u64) -> Object<'static, ()> {
        Object {
            buffer: &(),
            address,
            size: pages * 4096,
            fresh: false,
            write: false,
            asynchronous: false,
            capture: false,
        }
    }

    fn batch(address: u64) -> Batch {
        Batch { address, length: 64 }
    }

    #[test]
    fn batches_go_last_in_their_order() {
        let objects = [object(0x1000, 1), object(0x2000, 2), object(0x8000, 1)];
        let order = |batches: &[Batch]| batches_last(&objects, batches);
        assert_eq!(order(&[batch(0x8000)]), Ok(vec![0, 1, 2]));
        assert_eq!(order(&[batch(0x1040)]), Ok(vec![1, 2, 0]));
        assert_eq!(order(&[batch(0x8000), batch(0x2000)]), Ok(vec![0, 2, 1]));
        assert!(order(&[batch(0x4000)]).is_err());
        assert!(order(&[batch(0x2000), batch(0x3000)]).is_err());
    }

    #[test]
    fn relocations_name_an_object_in_reach() {
        let high = 0xffff_8000_0000_0000;
        let objects = [object(0x1000, 1), object(0x8000_0000_0000, 1)];
        let order = [1, 0];
        let patch = |object, value| Patch { object, offset: 8, value };
        let patches = [patch(0, high + 0x10), patch(0, 0x0ff0), patch(1, high - 4)];
        let found = relocations(&objects, &order, &patches).unwrap();
        let flat: Vec<_> = found
            .iter()
            .flat_map(|(object, entries)| {
                entries.iter().map(move |entry| {
                    (*object, entry.target_handle, entry.delta.cast_signed(), entry.offset)
                })
            })
            .collect();
        assert_eq!(flat, [(1, 0, 0x10, 8), (1, 1, -0x10, 8), (0, 0, -4, 8)]);
        assert!(relocations(&objects, &order, &[patch(0, 1 << 40)]).is_err(), "out of reach");
        let outside = Patch { object: 0, offset: 4089, value: 0x1000 };
        assert!(relocations(&objects, &order, &[outside]).is_err());
    }

    #[test]
    fn engines_of_old_have_rings() {
        let ring = |class, instance| ring_of(EngineId { class, instance });
        assert_eq!([ring(0, 0), ring(1, 0), ring(3, 0)], [1, 3, 4]);
        assert_eq!([ring(2, 0), ring(2, 1)], [2 | 1 << 13, 2 | 2 << 13]);
    }
}
