//! What else a client can set: of contexts and of memory.

use rustix::io::Errno;

use super::asm::Asm;
use super::rig::*;
use crate::{
    Caching, ContextSpec, ContextUpdate, Device, DeviceError, DeviceFile, EngineSlot, SlotSseu,
};

/// All of the hardware, as far as the device tells.
fn whole<D: Device>(rig: &Rig<D>, slot: u16) -> SlotSseu {
    let description = rig.device.description();
    let topology = description.kernel.and_then(|kernel| kernel.topology);
    let (slices, subslices, eus) = topology.map_or((1, 7, 8), |topology| {
        let subslices = topology.subslice_masks.iter().fold(0, |all, mask| all | mask);
        (topology.slice_mask, subslices, u64::from(topology.max_eus_per_subslice))
    });
    let [slice_mask, subslice_mask, max_eus] =
        [slices, subslices, eus].map(|n| u8::try_from(n & 0xff).unwrap());
    SlotSseu { slot, slice_mask, subslice_mask, min_eus: max_eus, max_eus }
}

/// SSEU reaches the device, with a map and without, before a context is live and after: only version
/// 11 has it, and the others say so, which is not the device's end. What is refused is not made.
pub(crate) fn sseu_is_for_version_11<D: Device>(rig: &Rig<D>) {
    let has_sseu = rig.device.description().graphics_version == 11;
    let as_it_should = |done: Result<(), DeviceError>| match done {
        Ok(()) => has_sseu,
        Err(DeviceError::Os { errno, .. }) => !has_sseu && errno == Errno::NODEV.raw_os_error(),
        Err(_) => false,
    };
    let vm = rig.vm();
    let data = rig.mem();
    // In a map, beside an engine that has none.
    let map = [BCS0, RCS0].map(EngineSlot::Physical);
    let maps: [(Option<&[EngineSlot]>, u16); 2] = [(None, 0), (Some(&map), 1)];
    for (number, (engines, slot)) in (0_u32..).zip(maps) {
        let sseu = [whole(rig, slot)];
        let spec =
            |sseu| ContextSpec { engines, sseu, ..Rig::<D>::spec(&vm, 6000 + u64::from(number)) };
        let made = rig.file.create_context(spec(&sseu));
        assert!(as_it_should(made.map(drop)), "with the context, map {number}");
        let context = rig.file.create_context(spec(&[])).unwrap();
        let update = rig.file.update_context(&context, ContextUpdate::Sseu(sseu[0]));
        assert!(as_it_should(update.clone()), "map {number}: {update:?}");
        let (value, at) = (7 + number, u64::from(number));
        let job = Job { slot: slot.into(), ..Job::on(RCS0) };
        let batch = Asm::new().store(data.at(at), value).end();
        rig.run(&context, &job, &batch, &[data.shared()]);
        assert_eq!(data.get(at), value, "it works on, map {number}");
    }
}

/// However the GPU is told to reach memory: what one side wrote, the other reads. No mapping is wrong
/// because of what its owner, or another session, asks for.
pub(crate) fn memory_is_coherent_however_it_is_cached<D: Device>(rig: &Rig<D>) {
    let (vm, other) = (rig.vm(), rig.another());
    let (context, _) = rig.context(&vm);
    let modes = [Caching::Uncached, Caching::Display, Caching::Cached, Caching::Uncached];
    for (round, caching) in (0_u32..).zip(modes) {
        let (late, early) = (rig.file.create_buffer(4096).unwrap(), rig.mem());
        // Before anybody can map it, and after.
        rig.file.set_caching(&late, caching).unwrap();
        rig.file.set_caching(&early.buffer, caching).unwrap();
        let late = rig.mapping(late);
        for mem in [&late, &early] {
            mem.set(0, 40 + round);
            let batch = Asm::new().copy(mem.at(1), mem.at(0)).store(mem.at(2), round).end();
            rig.run(&context, &Job::on(BCS0), &batch, &[mem.written()]);
            if <File<D> as DeviceFile>::PREPARES_ACCESS {
                rig.file.prepare_access(&mem.buffer, false).unwrap();
            }
            assert_eq!((mem.get(1), mem.get(2)), (40 + round, round), "{caching:?}");
        }
        let (fd, _) = rig.file.share_buffer(&early.buffer).unwrap();
        let (imported, _) = other.file.import_buffer(std::os::fd::AsFd::as_fd(&fd)).unwrap();
        other.file.set_caching(&imported, caching).unwrap();
        early.set(3, 50 + round);
        let batch = Asm::new().copy(early.at(4), early.at(3)).end();
        rig.run(&context, &Job::on(RCS0), &batch, &[early.written()]);
        assert_eq!(early.get(4), 50 + round, "{caching:?} by another file");
    }
}
