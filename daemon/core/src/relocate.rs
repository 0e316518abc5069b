//! Relocations (rule table §13, row 22): addresses that the daemon writes into objects right
//! before their batch starts, because the client could not know them.

use std::collections::HashMap;

use gpu_broker_protocol::execbuf::{Relocation, flag};
use gpu_broker_protocol::{Reason, Refusal};

use crate::hands::Hands;
use crate::hash::BuildIdHasher;
use crate::objects::{Objects, canonical};

/// Every domain a relocation can name: render, sampler, command, instruction, vertex.
const GPU_DOMAINS: u32 = 0x3e;
/// Bytes that a relocation writes: 64-bit addresses since version 8.
const WRITTEN_BYTES: u64 = 8;

/// Object, offset in it, and the address to write there.
pub(crate) type Patch = (usize, u64, u64);

impl<H: Hands> Objects<'_, H> {
    /// The patches of the submission. `moved` says that an object is not where the client
    /// expected it; only then are relocations looked at under NO_RELOC, as in the kernel.
    ///
    /// A target that a relocation says is written is written for ordering too; an object that is
    /// patched cannot opt out of ordering.
    ///
    /// # Errors
    /// The first at fault, in the order of the lists: EFAULT when an object claims more relocations
    /// than came; ENOENT for a target that is not among the objects; EINVAL for domains that are
    /// not one of the GPU's; where the address presumed is not the target's, EINVAL for an offset
    /// outside the object or not a multiple of 4.
    #[inline]
    pub(crate) fn relocate(&mut self, moved: bool) -> Result<Vec<Patch>, Refusal> {
        let skipped = self.request.head.flags & flag::NO_RELOC != 0 && !moved;
        if self.relocations == 0 || skipped {
            return Ok(Vec::new());
        }
        self.relocate_all()
    }

    fn relocate_all(&mut self) -> Result<Vec<Patch>, Refusal> {
        let mut patches = Vec::new();
        let flags = self.request.head.flags;
        let by_handle = if flags & flag::HANDLE_LUT != 0 { None } else { Some(self.positions()) };
        let request = self.request;
        let mut relocations = request.relocations();
        for (index, object) in request.objects().enumerate() {
            for _ in 0..object.relocation_count {
                let relocation = relocations.next().ok_or(Reason::RelocationsMissing)?;
                let target = match &by_handle {
                    None => Some(relocation.target as usize),
                    Some(positions) => positions.get(&relocation.target).copied(),
                };
                patches.extend(self.relocate_one(index, target, &relocation)?);
            }
        }
        Ok(patches)
    }

    fn positions(&self) -> HashMap<u32, usize, BuildIdHasher> {
        self.request.objects().enumerate().map(|(index, object)| (object.handle, index)).collect()
    }

    fn relocate_one(
        &mut self,
        index: usize,
        target: Option<usize>,
        relocation: &Relocation,
    ) -> Result<Option<Patch>, Refusal> {
        let Some(target) = target.and_then(|target| self.list.get_mut(target)) else {
            let detail = format!("target {}", relocation.target);
            return Err(Refusal::new(Reason::RelocationTarget).with_detail(detail));
        };
        let Relocation { delta, offset, read_domains, write_domain, .. } = *relocation;
        if write_domain.count_ones() > 1 || (read_domains | write_domain) & !GPU_DOMAINS != 0 {
            let detail = format!("domains {read_domains:#x} and {write_domain:#x}");
            return Err(Refusal::new(Reason::RelocationInvalid).with_detail(detail));
        }
        target.write |= write_domain != 0;
        let address = target.address;
        if canonical(address) == relocation.presumed_offset {
            return Ok(None);
        }
        if self.is_read_only(index) {
            let refusal = Refusal::new(Reason::RelocationInvalid);
            return Err(refusal.with_detail("the object is read-only memory"));
        }
        let Some(object) = self.list.get_mut(index) else { return Ok(None) };
        let last = object.size.saturating_sub(WRITTEN_BYTES);
        if offset > last || !offset.is_multiple_of(4) {
            let detail = format!("offset {offset:#x} of {:#x}", object.size);
            return Err(Refusal::new(Reason::RelocationInvalid).with_detail(detail));
        }
        object.asynchronous = false;
        // The kernel takes the delta for a signed number.
        let value = address.wrapping_add_signed(i64::from(delta.cast_signed()));
        Ok(Some((index, offset, canonical(value))))
    }
}
