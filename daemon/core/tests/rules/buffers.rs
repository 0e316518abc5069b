//! Buffers beyond making and closing them: import, domains, caching, tiling, advice (rule table
//! §17).

use std::sync::Arc;

use gpu_broker_core::hands::Caching as Told;
use gpu_broker_core::{Capabilities, Hands as _, Session, SessionLimits};
use gpu_broker_protocol::message::{BufferCreate, BufferCreated};
use gpu_broker_protocol::object::*;
use gpu_broker_protocol::refusal::errno::*;
use gpu_broker_protocol::{BufferId, Reason, SessionId};

use crate::fake::{Event, Fake};
use crate::refused;
use crate::rig::*;

#[test]
fn regions() {
    let rig = rig();
    let create = |size, flags, regions: &[(u16, u16)]| {
        let regions = regions.iter().map(|(class, instance)| engine(*class, *instance)).collect();
        rig.session.buffer_create(&BufferCreate { size, flags, regions: Some(regions) })
    };
    create(4096, 0, &[(0, 0)]).unwrap();
    for regions in [&[][..], &[(1, 0)], &[(0, 1)], &[(0, 0), (0, 0)], &[(0, 0), (1, 0)]] {
        refused!(BufferRegions, create(0, 0, regions));
    }
    refused!(BufferSize, create(4096, 1, &[]));
    refused!(BufferSize, create(0, 0, &[(0, 0)]));
    refused!(BufferTooLarge, create(u64::MAX - 4095, 0, &[(0, 0)]));
    refused!(BufferSize, create(u64::MAX, 0, &[(0, 0)]));
}

fn open(rig: &Rig, limits: SessionLimits) -> Session<Fake> {
    Session::open(
        NOW,
        SessionId(9),
        Fake(Arc::clone(&rig.device)),
        Arc::clone(&rig.registry),
        Arc::new(kbl()),
        NOBODY,
        limits,
    )
    .unwrap()
}

#[test]
fn the_same_memory_has_one_handle_and_counts_once() {
    let rig = rig();
    let shared = rig.session.hands().create_buffer(8192).unwrap();
    let other = rig.session.hands().create_buffer(4096).unwrap();
    let limits =
        SessionLimits { buffers: 2, buffer_memory_bytes: 12288, ..SessionLimits::default() };
    let session = open(&rig, limits);
    let create = |size| session.buffer_create(&BufferCreate { size, flags: 0, regions: None });
    let own = create(4096).unwrap().buffer;
    let expected = BufferCreated { buffer: BufferId(2), size: 8192 };
    for _ in 0..3 {
        assert_eq!(session.buffer_insert(Arc::clone(&shared), 8192).unwrap(), expected);
    }
    // Its own buffer comes back under its own handle, also at the limits.
    let mine = session.with_buffer(own, |buffer, _| Arc::clone(buffer)).unwrap();
    assert_eq!(session.buffer_insert(mine, 4096).unwrap().buffer, own);
    refused!(BufferLimit, session.buffer_insert(Arc::clone(&other), 4096));
    let status = session.status(0);
    assert_eq!((status.buffers, status.buffer_bytes), (2, 12288));
    session.buffer_close(own).unwrap();
    refused!(BufferMemoryLimit, session.buffer_insert(Arc::clone(&other), 8192));
    session.buffer_insert(other, 4096).unwrap();
    session.buffer_close(BufferId(2)).unwrap();
    assert_eq!(session.status(0).buffer_bytes, 4096);
    assert_eq!(Arc::strong_count(&shared), 1, "a closed import keeps the memory");
    // Closed once is closed, however often it was imported.
    refused!(NoSuchBuffer, session.buffer_close(BufferId(2)));
    drop(session);
    assert_eq!(rig.device.counts().2, 1);
}

#[test]
fn an_import_is_bound_and_unbound_like_any_buffer() {
    let rig = rig();
    let buffer = rig.session.hands().create_buffer(4096).unwrap();
    let handle = rig.session.buffer_insert(buffer, 4096).unwrap().buffer;
    rig.run(0, &[pinned(handle.0, 1 << 35)]).unwrap();
    rig.session.buffer_close(handle).unwrap();
    let unbound = Event::Unbound { address: 1 << 35, size: 4096 };
    assert_eq!(rig.device.take_events(), [unbound]);
    assert_eq!(rig.device.counts().2, 0);
}

#[test]
fn domains_and_accesses() {
    let rig = rig();
    let handle = BufferId(rig.buffer(8192));
    let domain = |buffer, read_domains, write_domain| {
        let request = BufferSetDomain { buffer, read_domains, write_domain };
        rig.session.buffer_set_domain(&request)
    };
    let nobody = BufferId(99);
    for gpu in [0x2, 0x4, 0x8, 0x10, 0x20, 0x3e] {
        refused!(BufferDomain, domain(nobody, gpu, 0));
        refused!(BufferDomain, domain(nobody, gpu, gpu));
    }
    refused!(BufferDomain, domain(nobody, domain::CPU, domain::GTT));
    refused!(BufferDomain, domain(nobody, 0, domain::GTT));
    assert_eq!(domain(nobody, 0, 0).unwrap(), None);
    refused!(NoSuchBuffer, domain(nobody, domain::CPU, 0));
    for cpu in [domain::CPU, domain::GTT, domain::WC] {
        assert_eq!(domain(handle, cpu, 0).unwrap(), Some(false));
        assert_eq!(domain(handle, cpu, cpu).unwrap(), Some(true));
    }
    let access = |buffer, offset, size, write| {
        rig.session.buffer_access(&BufferAccess { buffer, offset, size, write })
    };
    assert_eq!(access(nobody, u64::MAX, 0, true).unwrap(), None);
    refused!(NoSuchBuffer, access(nobody, u64::MAX, 1, true));
    for (offset, size) in [(0, 8193), (8192, 1), (8191, 2), (u64::MAX, 2), (1, u64::MAX)] {
        refused!(BufferRange, access(handle, offset, size, false));
    }
    assert_eq!(access(handle, 8191, 1, false).unwrap(), Some(false));
    assert_eq!(access(handle, 0, 8192, true).unwrap(), Some(true));
}

#[test]
fn caching_tiling_advice_and_export() {
    let rig = rig();
    let buffer = BufferId(rig.buffer(4096));
    let nobody = BufferId(99);
    let get = |buffer| rig.session.buffer_get_caching(buffer).map(|got| got.caching);
    let set = |buffer, caching| rig.session.buffer_set_caching(&BufferCaching { buffer, caching });
    refused!(NoSuchBuffer, get(nobody));
    refused!(BufferCaching, set(nobody, 3));
    refused!(NoSuchBuffer, set(nobody, 0));
    assert_eq!(get(buffer).unwrap(), caching::CACHED);
    let modes = [(2, 0, Told::Display), (1, 1, Told::Cached), (0, 0, Told::Uncached)];
    for (mode, read, told) in modes {
        rig.device.take_events();
        set(buffer, mode).unwrap();
        assert_eq!(get(buffer).unwrap(), read);
        let events = rig.device.take_events();
        let [Event::Caching { caching, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!(*caching, told, "the device is told");
    }
    let refusal = gpu_broker_protocol::Refusal::new(Reason::DeviceError).with_errno(ENODEV);
    *rig.device.fail_caching.lock().unwrap() = Some(refusal);
    assert_eq!(errno(&set(buffer, 1)), ENODEV);
    assert_eq!(get(buffer).unwrap(), 0, "a refusal changed it");
    let tile = |buffer, mode, stride| {
        rig.session.buffer_set_tiling(&BufferSetTiling { buffer, mode, stride })
    };
    refused!(NoSuchBuffer, tile(nobody, 9, 0));
    refused!(NoSuchBuffer, rig.session.buffer_get_tiling(nobody));
    let x = Tiling { mode: 1, stride: 1024, swizzle: 0 };
    assert_eq!(tile(buffer, 1, 1024).unwrap(), x);
    for (mode, stride) in [(3, 512), (1, 0), (1, 128), (2, 0), (2, 64), (2, 128 * 0x801)] {
        refused!(BufferTiling, tile(buffer, mode, stride));
        assert_eq!(rig.session.buffer_get_tiling(buffer).unwrap(), x, "a refusal changed it");
    }
    assert_eq!(tile(buffer, 2, 128).unwrap().stride, 128);
    assert_eq!(tile(buffer, 2, 128 * 0x800).unwrap().mode, 2);
    assert_eq!(tile(buffer, 0, 77).unwrap(), Tiling { mode: 0, stride: 0, swizzle: 0 });
    let advise = |buffer, advice| rig.session.buffer_madvise(&BufferMadvise { buffer, advice });
    refused!(BufferAdvice, advise(nobody, 2));
    refused!(NoSuchBuffer, advise(nobody, 1));
    for advice in [advice::WILL_NEED, advice::DONT_NEED] {
        assert_eq!(advise(buffer, advice).unwrap().retained, 1);
    }
    let export = |buffer, flags| rig.session.buffer_export(&BufferExport { buffer, flags });
    refused!(BufferExportFlags, export(nobody, 1));
    refused!(NoSuchBuffer, export(nobody, 0));
    for flags in [0, 2, 0o2_000_000, 0o2_000_002] {
        export(buffer, flags).unwrap();
    }
}

#[test]
fn newer_devices_lack_some_of_it() {
    let discrete = rig_with(Capabilities { discrete: true, ..kbl() }, NOBODY);
    let buffer = BufferId(discrete.buffer(1));
    let caching = BufferCaching { buffer, caching: 9 };
    assert_eq!(errno(&discrete.session.buffer_set_caching(&caching)), ENODEV);
    assert_eq!(errno(&discrete.session.buffer_get_caching(BufferId(99))), ENODEV);
    let domain = BufferSetDomain { buffer, read_domains: 2, write_domain: 0 };
    assert_eq!(errno(&discrete.session.buffer_set_domain(&domain)), ENODEV);
    let mtl = Capabilities { graphics_version: 12, graphics_release: 70, ..kbl() };
    let mtl = rig_with(Capabilities { has_relocations: false, ..mtl }, NOBODY);
    assert_eq!(errno(&mtl.session.buffer_set_caching(&caching)), 95);
    let access = BufferAccess { buffer, offset: 0, size: 0, write: false };
    assert_eq!(errno(&mtl.session.buffer_access(&access)), 95);
}
