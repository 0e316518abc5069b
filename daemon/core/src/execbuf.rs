//! EXECBUF (rule table §13), in the kernel's order of checks.
//!
//! `fences` collects what the submission waits for and signals (rows 8 to 12), `select` finds its
//! engine (16), `objects` checks and places its objects (19, 21), `relocate` says what is written
//! into them (22). There is no command parser (23): the software device executes nothing that could
//! harm, and Gen9's parser looks at copy batches alone.

use std::sync::atomic::Ordering;

use gpu_broker_protocol::execbuf::{Execbuf, flag, object_flag};
use gpu_broker_protocol::limits::UNPINNED_PER_EXECBUF_MAX;
use gpu_broker_protocol::refusal::errno::ENODEV;
use gpu_broker_protocol::status::MaterialisedBy;
use gpu_broker_protocol::{Reason, Refusal};

use crate::class::InFlight;
use crate::context::Live;
use crate::fences::Fences;
use crate::hands::{Hands, Outcome, Submission, Submitted};
use crate::objects::Objects;
use crate::relocate::Patch;
use crate::select::{Selected, select};
use crate::session::Session;
use crate::time::Time;
use crate::userptrs::Pinner;

/// What EXECBUF gives back.
#[derive(Debug)]
pub struct Executed<Fence> {
    /// Canonical GPU address of each object, in order; empty if all lie where the client expected.
    pub offsets: Vec<u64>,
    /// With FENCE_OUT.
    pub fence: Option<Fence>,
    /// The submission made its context live.
    pub materialised: bool,
}

/// From this version on the kernel knows no privileged batches at all.
const NO_SECURE_FROM_VERSION: u16 = 11;

impl<H: Hands> Session<H> {
    /// i915 EXECBUFFER2. `in_fence` is what FENCE_IN or FENCE_SUBMIT brought; it is not looked at
    /// without either.
    ///
    /// Returns when the work is queued. Nothing that happens to the context between its lookup and
    /// that moment makes the request fail: it came before a DESTROY that overtakes it, or its work
    /// is cancelled with the context's. So where the kernel answers late (row 28) we answer success,
    /// and the syncobjs are signalled with the error in both cases. A collision with an invalidation
    /// (row 27) has no effect: the kernel queues the request as lost, and signals. If it was not done
    /// at once the device reports it, and the daemon calls [`Session::handle_completion`].
    ///
    /// # Errors
    /// Rule table §13, the first that applies: EINVAL for the request's own fields; EPERM (ENODEV
    /// from version 11 on) for SECURE; ENOENT for an unknown context or buffer; what
    /// materialisation says; EINVAL when no engine is selected; ENODEV when the device is gone; EIO
    /// when it is wedged or the context banned; EINVAL for an object; EAGAIN at the limit of submissions in flight;
    /// ENOSPC when the objects do not fit; EAGAIN when an application's memory was invalidated
    /// meanwhile; what the device says.
    pub fn execbuf(
        &self,
        now: Time,
        request: &Execbuf<'_>,
        in_fence: Option<H::Fence>,
    ) -> Result<Executed<H::Fence>, Refusal> {
        self.check_request(request)?;
        let mut fences = self.gather_fences(request, in_fence)?;
        let found = self.lookup(request.context(), MaterialisedBy::Execbuf)?;
        let live = &*found.live;
        let selected = select(&self.caps, live.engines.as_deref(), request.head.flags, self.video)?;
        check_parallel(request, &selected)?;
        self.registry.check_device()?;
        let (submitted, offsets) = self.place_and_submit(live, selected, request, &mut fences)?;
        self.after_submit(now, live, submitted.done);
        let wanted = request.head.flags & flag::FENCE_OUT != 0;
        let fence = submitted.fence.filter(|_| wanted);
        Ok(Executed { offsets, fence, materialised: found.materialised })
    }

    /// Rows 1 to 7 of the validation order: what is wrong with the request by itself.
    fn check_request(&self, request: &Execbuf<'_>) -> Result<(), Refusal> {
        let (head, objects) = (&request.head, request.object_count());
        if objects == 0 || objects > self.objects_per_execbuf as usize {
            return Err(Refusal::new(Reason::ExecCount).with_detail(format!("{objects} objects")));
        }
        if objects > UNPINNED_PER_EXECBUF_MAX as usize
            && request.objects().any(|object| object.flags & object_flag::PINNED == 0)
        {
            return Err(
                Refusal::new(Reason::ExecUnpinned).with_detail(format!("{objects} objects"))
            );
        }
        let obsolete = flag::CONSTANTS_MASK | flag::RESOURCE_STREAMER;
        if head.flags & (flag::UNKNOWN | obsolete) != 0 {
            return Err(Refusal::new(Reason::ExecFlags).with_detail(format!("{:#x}", head.flags)));
        }
        check_cliprects(request)?;
        // Clients of old filled DR4 with ones.
        if head.dr1 != 0 || (head.dr4 != 0 && head.dr4 != u32::MAX) {
            return Err(Reason::ExecDr.into());
        }
        if !(head.batch_start_offset | head.batch_len).is_multiple_of(8) {
            return Err(Reason::ExecBatchAlignment.into());
        }
        if head.flags & flag::SECURE != 0 {
            // The kernel lets a privileged master do this on version 5 and before. The daemon is
            // never master, and would not lend the privilege if it were.
            let refusal = Refusal::new(Reason::ExecSecure);
            let old = self.caps.graphics_version < NO_SECURE_FROM_VERSION;
            return Err(if old { refusal } else { refusal.with_errno(ENODEV) });
        }
        Ok(())
    }

    /// Rows 19 to 28. The memory lock is held until the device has the submission, so that it
    /// learns of bindings in the order in which they were made.
    fn place_and_submit(
        &self,
        live: &Live<H>,
        selected: Selected<'_>,
        request: &Execbuf<'_>,
        fences: &mut Fences<H>,
    ) -> Result<(Submitted<H::Fence>, Vec<u64>), Refusal> {
        // Let go of when the locks are.
        let mut vms = Vec::new();
        let mut memory = self.memory.lock();
        memory.submission += 1;
        let mut space = live.vm.space.lock();
        let mut pinner = Pinner { hands: &*self.hands, vms: &mut vms };
        let own = (&live.vm.device, &mut *space);
        let mut objects =
            Objects::gather(&self.caps, &memory, own, &mut pinner, request, selected.width)?;
        if live.hangs.is_banned() {
            return Err(Reason::ContextBanned.into());
        }
        let limit = self.in_flight_limit.load(Ordering::Relaxed);
        let in_flight = Reserved::new(&self.in_flight, limit)?;
        let unbind = |place: crate::space::Place| {
            self.hands.unbind(&live.vm.device, place.address, place.size)
        };
        objects.place(&mut space, unbind)?;
        let offsets = objects.moved();
        let patches = objects.relocate(!offsets.is_empty())?;
        let captures = self.caps.is_modern() && objects.list.iter().any(|object| object.capture);
        if captures && live.flags().recoverable {
            return Err(Reason::CaptureRecoverable.into());
        }
        if request.head.flags & flag::GEN7_SOL_RESET != 0 {
            return Err(Refusal::new(Reason::ExecFlags).with_detail("GEN7_SOL_RESET"));
        }
        let submitted = self.submit_current(live, selected, &objects, &patches, fences)?;
        objects.submitted(&mut space);
        // submit_fini of an application's memory.
        drop(objects);
        in_flight.keep();
        memory.submissions = memory.submissions.saturating_add(1);
        Ok((submitted, offsets))
    }

    /// Submits, unless an application's memory was invalidated since it was gathered (row 27). From that
    /// check until the device has the submission no invalidation comes: each finds the pages not used,
    /// or the submission among those to wait for.
    fn submit_current(
        &self,
        live: &Live<H>,
        selected: Selected<'_>,
        objects: &Objects<'_, H>,
        patches: &[Patch],
        fences: &mut Fences<H>,
    ) -> Result<Submitted<H::Fence>, Refusal> {
        if !objects.has_user() {
            return submit(live, selected, objects, patches, fences);
        }
        let _held_off = self.userptrs.hold_off();
        objects.check_current()?;
        let submitted = submit(live, selected, objects, patches, fences);
        if let Err(refusal) = &submitted
            && refusal.reason == Reason::UserptrInvalidated
        {
            objects.invalidate();
        }
        submitted
    }

    /// What the device said at once, and what happened to the context meanwhile.
    fn after_submit(&self, now: Time, live: &Live<H>, done: Option<Outcome>) {
        match done {
            None => {
                // The ban cancelled what was queued at that moment; this came after.
                if live.hangs.is_banned() {
                    self.cancel(live);
                }
            }
            Some(Outcome::Completed | Outcome::Cancelled) => self.in_flight.release(),
            Some(Outcome::Guilty) => {
                self.in_flight.release();
                self.registry.count_reset();
                self.hang(now, live);
            }
        }
    }
}

/// Row 3: what stands where cliprects once stood needs the flag that says what it is.
fn check_cliprects(request: &Execbuf<'_>) -> Result<(), Refusal> {
    let flags = request.head.flags;
    let array = flags & flag::FENCE_ARRAY != 0;
    let chain = flags & flag::USE_EXTENSIONS != 0;
    let cliprects = !array && !chain && request.head.num_cliprects != 0;
    let stray_fences = !array && request.fences().len() != 0;
    let stray_nodes = !chain && request.extensions().len() != 0;
    if cliprects || stray_fences || stray_nodes {
        return Err(Reason::ExecCliprects.into());
    }
    Ok(())
}

/// A parallel slot takes one batch per width, each the whole of its buffer.
fn check_parallel(request: &Execbuf<'_>, selected: &Selected<'_>) -> Result<(), Refusal> {
    let head = &request.head;
    let partial = head.batch_start_offset != 0 || head.batch_len != 0;
    if selected.width > 1 && (request.object_count() < selected.width || partial) {
        return Err(Reason::ParallelBatches.into());
    }
    Ok(())
}

fn submit<H: Hands>(
    live: &Live<H>,
    selected: Selected<'_>,
    objects: &Objects<'_, H>,
    patches: &[Patch],
    fences: &mut Fences<H>,
) -> Result<Submitted<H::Fence>, Refusal> {
    let Fences { after, along, signals } = fences;
    // Held until the submission is queued: contexts that share the timeline take turns.
    let mut timeline = live.timeline.as_ref().map(|timeline| timeline.last.lock());
    if let Some(last) = &timeline {
        after.extend(Option::clone(last));
    }
    let mut ranges = objects.batch_ranges();
    let single;
    let several;
    let batches = if selected.width == 1 {
        single = [ranges.next().unwrap_or_default()];
        &single[..]
    } else {
        several = ranges.collect::<Vec<_>>();
        &several[..]
    };
    let submission = Submission {
        slot: selected.slot,
        placement: selected.placement,
        batches,
        objects: &objects.list,
        after,
        along,
        signals,
        patches,
        want_fence: objects.request.head.flags & flag::FENCE_OUT != 0 || timeline.is_some(),
    };
    let submitted = live.on_device(|hands, context| hands.submit(context, &submission))?;
    if let Some(last) = &mut timeline {
        **last = submitted.fence.clone().filter(|_| submitted.done.is_none());
    }
    Ok(submitted)
}

/// A place among the submissions in flight, given back unless the submission got there.
struct Reserved<'a>(Option<&'a InFlight>);

impl<'a> Reserved<'a> {
    fn new(in_flight: &'a InFlight, limit: u32) -> Result<Self, Refusal> {
        in_flight.reserve(limit)?;
        Ok(Self(Some(in_flight)))
    }

    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.0 {
            in_flight.release();
        }
    }
}
