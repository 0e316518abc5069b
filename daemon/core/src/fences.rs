//! The fences of an EXECBUF: what it waits for, what it starts along with, which syncobjs it
//! signals (rule table §13, rows 8 to 12, and §13.3).
//!
//! An entry that neither waits nor signals has no effect. (In the kernel one of a timeline waits
//! if there is something to wait for, and one that signals a new point waits for the point before;
//! the order of a timeline's points gives that anyway.)

use gpu_broker_protocol::execbuf::{ExecExtension, ExecFence, ExecPoint, Execbuf, flag};
use gpu_broker_protocol::limits::FENCES_PER_EXECBUF_MAX;
use gpu_broker_protocol::syncobj::flag::{FENCE_SIGNAL, FENCE_WAIT};
use gpu_broker_protocol::{Reason, Refusal};

use crate::chain;
use crate::hands::Hands;
use crate::session::Session;
use crate::syncobj::Syncobjs;

/// Most submissions have none of these.
const ANY: u64 = flag::USE_EXTENSIONS | flag::FENCE_ARRAY | flag::FENCE_IN | flag::FENCE_SUBMIT;
/// Name of TIMELINE_FENCES.
const TIMELINE_FENCES: u32 = 0;

/// Fences of a submission. Empty lists take no memory.
pub(crate) struct Fences<H: Hands> {
    pub(crate) after: Vec<H::Fence>,
    pub(crate) along: Vec<H::Fence>,
    pub(crate) signals: Vec<(H::Syncobj, u64)>,
}

impl<H: Hands> Session<H> {
    /// Collects them, in the kernel's order of checks. `in_fence` is what FENCE_IN or FENCE_SUBMIT
    /// brought.
    ///
    /// # Errors
    /// EINVAL for an extension chain beside an array, for fences of an array that are not as many
    /// as cliprects, and for two in-fences or the one that is missing; what the chain and the
    /// entries say.
    #[inline]
    pub(crate) fn gather_fences(
        &self,
        request: &Execbuf<'_>,
        in_fence: Option<H::Fence>,
    ) -> Result<Fences<H>, Refusal> {
        let flags = request.head.flags;
        let mut fences = Fences { after: Vec::new(), along: Vec::new(), signals: Vec::new() };
        if flags & ANY == 0 {
            return Ok(fences);
        }
        if flags & (flag::USE_EXTENSIONS | flag::FENCE_ARRAY) != 0 {
            self.gather_syncobjs(request, &mut fences)?;
        }
        let (wait, along) = (flags & flag::FENCE_IN != 0, flags & flag::FENCE_SUBMIT != 0);
        match (wait, along, in_fence) {
            (true, true, _) => return Err(Reason::ExecTwoInFences.into()),
            (true, false, Some(fence)) => fences.after.push(fence),
            (false, true, Some(fence)) => fences.along.push(fence),
            (false, false, _) => {}
            (_, _, None) => return Err(Reason::ExecInFence.into()),
        }
        Ok(fences)
    }

    fn gather_syncobjs(
        &self,
        request: &Execbuf<'_>,
        fences: &mut Fences<H>,
    ) -> Result<(), Refusal> {
        let syncobjs = self.syncobjs.lock();
        let mut gather = Gather { hands: &*self.hands, syncobjs: &syncobjs, fences, count: 0 };
        if request.head.flags & flag::USE_EXTENSIONS != 0 {
            let array = request.head.flags & flag::FENCE_ARRAY != 0;
            if array || request.head.num_cliprects != 0 {
                return Err(Reason::ExecCliprects.into());
            }
            return gather.chain(request);
        }
        if request.head.num_cliprects as usize != request.fences().len() {
            return Err(Reason::ExecCliprects.into());
        }
        request.fences().try_for_each(|fence| gather.fence(fence))
    }
}

struct Gather<'a, H: Hands> {
    hands: &'a H,
    syncobjs: &'a Syncobjs<H>,
    fences: &'a mut Fences<H>,
    count: usize,
}

impl<H: Hands> Gather<'_, H> {
    fn chain(&mut self, request: &Execbuf<'_>) -> Result<(), Refusal> {
        let mut points = request.points();
        for (position, node) in request.extensions().enumerate() {
            let ExecExtension { name, flags, rsvd, fence_flags, entry_count } = node;
            chain::check_node(position, flags, rsvd)?;
            if name != TIMELINE_FENCES {
                return Err(chain::unknown(name));
            }
            if fence_flags != 0 {
                return Err(Reason::ReservedNotZero.into());
            }
            points.by_ref().take(entry_count as usize).try_for_each(|point| self.point(point))?;
        }
        Ok(())
    }

    /// The syncobj of an entry.
    ///
    /// # Errors
    /// EINVAL for unknown flags or too many entries; ENOENT for an unknown handle.
    fn find(&mut self, handle: u32, flags: u32) -> Result<H::Syncobj, Refusal> {
        self.count = self.count.saturating_add(1);
        if flags & !(FENCE_WAIT | FENCE_SIGNAL) != 0 || self.count > FENCES_PER_EXECBUF_MAX {
            let detail = format!("entry {} with flags {flags:#x}", self.count);
            return Err(Refusal::new(Reason::ExecFences).with_detail(detail));
        }
        self.syncobjs.find(handle).cloned()
    }

    /// An entry of the array. One that waits needs a fence, also if it signals.
    fn fence(&mut self, ExecFence { handle, flags }: ExecFence) -> Result<(), Refusal> {
        let syncobj = self.find(handle, flags)?;
        if flags & FENCE_WAIT != 0 {
            let fence = self.hands.syncobj_fence(&syncobj, 0).ok_or_else(|| empty(handle))?;
            self.fences.after.push(fence);
        }
        if flags & FENCE_SIGNAL != 0 {
            self.fences.signals.push((syncobj, 0));
        }
        Ok(())
    }

    /// An entry of a timeline. One that signals needs no fence, also if it waits.
    fn point(&mut self, ExecPoint { handle, flags, point }: ExecPoint) -> Result<(), Refusal> {
        let syncobj = self.find(handle, flags)?;
        let fence = self.hands.syncobj_fence(&syncobj, point);
        if flags & FENCE_SIGNAL == 0 {
            // Without flags an object that holds nothing at all is passed over, one whose timeline
            // has not come to the point is not.
            let nothing = || self.hands.syncobj_fence(&syncobj, 0).is_none();
            if fence.is_none() && !(flags == 0 && nothing()) {
                return Err(empty(handle));
            }
        } else if point != 0 && flags & FENCE_WAIT != 0 {
            let detail = format!("handle {handle} point {point}");
            return Err(Refusal::new(Reason::ExecFencePoint).with_detail(detail));
        }
        if flags & FENCE_WAIT != 0 {
            self.fences.after.extend(fence);
        }
        if flags & FENCE_SIGNAL != 0 {
            self.fences.signals.push((syncobj, point));
        }
        Ok(())
    }
}

fn empty(handle: u32) -> Refusal {
    Refusal::new(Reason::ExecFenceEmpty).with_detail(format!("handle {handle}"))
}
