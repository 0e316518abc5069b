//! Fences, and waiting for buffers.

use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

use super::asm::Asm;
use super::rig::*;
use crate::{BufferBusy, Device, DeviceError, DeviceEvent, DeviceFile, FenceState};

/// A batch that is stuck until dword 0 of `gate` is 1.
pub(super) fn stuck<D: Device>(
    rig: &Rig<D>,
    context: &Context<D>,
    job: &Job<'_, D>,
    gate: &Mem<D>,
) -> Pending<D> {
    rig.submit(context, job, &Asm::new().wait(gate.at(0), 1).end(), &[gate.shared()])
}

pub(crate) fn fences_become_readable<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let pending = stuck(rig, &context, &Job::on(RCS0), &gate);
    let (first, second) = [0, 1].map(|_| rig.file.export_fence(&pending.fence).unwrap()).into();
    assert!(!is_readable(&first) && !is_readable(&second));
    gate.set(0, 1);
    wait_readable(&first);
    wait_readable(&second);
    assert_eq!(rig.state(&pending), FenceState::Signalled);
    assert!(is_readable(&rig.file.export_fence(&pending.fence).unwrap()));
}

pub(crate) fn fences_come_back_from_their_fds<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let pending = stuck(rig, &context, &Job::on(RCS0), &gate);
    let fd = rig.file.export_fence(&pending.fence).unwrap();
    // The fd of another fence that signals later must not get in the way.
    let bystander = rig.file.export_fence(&pending.fence).unwrap();
    let before = rig.file.import_fence(fd.as_fd()).unwrap();
    assert_eq!(rig.file.fence_state(&before), FenceState::Pending);
    gate.set(0, 1);
    wait_readable(&fd);
    assert_eq!(rig.file.fence_state(&before), FenceState::Signalled);
    // Importing takes nothing: it can be done again.
    for fd in [&fd, &bystander, &fd] {
        wait_readable(fd);
        let after = rig.file.import_fence(fd.as_fd()).unwrap();
        assert_eq!(rig.file.fence_state(&after), FenceState::Signalled);
    }
}

pub(crate) fn other_fds_are_no_fences<D: Device>(rig: &Rig<D>) {
    let refused = |fd: &dyn AsFd| {
        let error = rig.file.import_fence(fd.as_fd()).err();
        assert_eq!(error, Some(DeviceError::NotAFence));
    };
    refused(&std::fs::File::open("/dev/null").unwrap());
    let pair = || {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    };
    let (silent, _other) = pair();
    refused(&silent);
    let (closed, other) = pair();
    drop(other);
    refused(&closed);
    for packet in [&[0u8; 7][..], &[0; 9], &[0, 0, 0, 0, 1, 0, 0, 0], &[255; 8]] {
        let (talking, other) = pair();
        rustix::net::send(&other, packet, SendFlags::empty()).unwrap();
        refused(&talking);
    }
    let mem = rig.mem();
    let (memory, _) = rig.file.share_buffer(&mem.buffer).unwrap();
    refused(&memory);
}

pub(crate) fn merged_fences_wait_for_both<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (first_gate, second_gate) = (rig.mem(), rig.mem());
    let first = stuck(rig, &context, &Job::on(RCS0), &first_gate);
    let second = stuck(rig, &context, &Job::on(BCS0), &second_gate);
    let merged = rig.file.merge_fences(&first.fence, &second.fence);
    let fd = rig.file.export_fence(&merged).unwrap();
    first_gate.set(0, 1);
    rig.finish(&first);
    assert_eq!(rig.file.fence_state(&merged), FenceState::Pending);
    assert!(!is_readable(&fd));
    second_gate.set(0, 1);
    wait_readable(&fd);
    assert_eq!(rig.file.fence_state(&merged), FenceState::Signalled);
    let done = rig.file.merge_fences(&first.fence, &second.fence);
    assert_eq!(rig.file.fence_state(&done), FenceState::Signalled);
}

pub(crate) fn buffers_give_fences<D: Device>(rig: &Rig<D>) {
    if !D::BUFFER_FENCES {
        return;
    }
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gates, data) = ([rig.mem(), rig.mem(), rig.mem()], rig.mem());
    let fence = |all| rig.file.buffer_fence(&data.buffer, all).unwrap();
    let state = |fence: &_| rig.file.fence_state(fence);
    assert_eq!([false, true].map(|all| state(&fence(all))), [FenceState::Signalled; 2]);
    let user = |gate: usize, engine, data| {
        let batch = Asm::new().wait(gates[gate].at(0), 1).end();
        rig.submit(&context, &Job::on(engine), &batch, &[gates[gate].shared(), data])
    };
    let readers = [user(0, RCS0, data.read()), user(1, BCS0, data.read())];
    let [writers, all] = [false, true].map(fence);
    assert_eq!([&writers, &all].map(state), [FenceState::Signalled, FenceState::Pending]);
    // Who comes later is not waited for.
    let writer = user(2, VCS0, data.written());
    assert_eq!(state(&fence(false)), FenceState::Pending);
    gates[0].set(0, 1);
    rig.finish(&readers[0]);
    assert_eq!(state(&all), FenceState::Pending);
    gates[1].set(0, 1);
    rig.finish(&readers[1]);
    wait_readable(&rig.file.export_fence(&all).unwrap());
    assert_eq!(rig.state(&writer), FenceState::Pending);
    let written = fence(false);
    gates[2].set(0, 1);
    rig.finish(&writer);
    assert_eq!(state(&written), FenceState::Signalled);
}

pub(crate) fn buffers_take_fences<D: Device>(rig: &Rig<D>) {
    if !D::BUFFER_FENCES {
        return;
    }
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    for all in [false, true] {
        let (gate, data) = (rig.mem(), rig.mem());
        let pending = stuck(rig, &context, &Job::on(BCS0), &gate);
        let add = |fence: &_| rig.file.add_buffer_fence(&data.buffer, all, fence);
        // The same one counts once, and those that cost nothing to make are not taken without end.
        assert!((0..5000).all(|_| add(&pending.fence).is_ok()));
        let user =
            |engine, data| rig.submit(&context, &Job::on(engine), &Asm::new().end(), &[data]);
        rig.finish(&user(VECS0, data.shared()));
        let [reader, writer] = [user(RCS0, data.read()), user(VCS0, data.written())];
        if all {
            assert_eq!(rig.state(&reader), FenceState::Pending);
        } else {
            rig.finish(&reader);
        }
        assert_eq!(rig.state(&writer), FenceState::Pending);
        let merged = || rig.file.merge_fences(&pending.fence, &writer.fence);
        let refused = (0..5000).find_map(|_| add(&merged()).err());
        assert_eq!(refused, Some(DeviceError::ManyUsers));
        gate.set(0, 1);
        rig.finish(&reader);
        rig.finish(&writer);
        assert_eq!(add(&pending.fence), Ok(()), "it has signalled");
        rig.finish(&user(RCS0, data.written()));
    }
}

pub(crate) fn errors_show_in_fences<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (cancelled, _)) = (rig.context(&vm), rig.context(&vm));
    let gate = rig.mem();
    let lost = stuck(rig, &cancelled, &Job::on(RCS0), &gate);
    let fine = stuck(rig, &context, &Job::on(BCS0), &gate);
    let merged = rig.file.merge_fences(&fine.fence, &lost.fence);
    let fd = rig.file.export_fence(&merged).unwrap();
    rig.file.close_context(cancelled, true);
    assert_eq!(rig.wait(&lost), FenceState::Failed(5));
    gate.set(0, 1);
    rig.finish(&fine);
    wait_readable(&fd);
    assert_eq!(rig.file.fence_state(&merged), FenceState::Failed(5));
    let imported = rig.file.import_fence(fd.as_fd()).unwrap();
    assert_eq!(rig.file.fence_state(&imported), FenceState::Failed(5));
}

pub(crate) fn buffers_report_when_idle<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (gate, data) = (rig.mem(), rig.mem());
    assert_eq!(rig.file.buffer_busy(&data.buffer), BufferBusy::default());
    assert!(rig.file.watch_buffer(&data.buffer, 1), "idle already");
    let batch = Asm::new().wait(gate.at(0), 1).end();
    let uses = || [gate.shared(), data.read()];
    let reader = rig.submit(&context, &Job::on(RCS0), &batch, &uses());
    assert_eq!(rig.file.buffer_busy(&data.buffer), BufferBusy { readers: 1, writer: None });
    let uses = || [gate.shared(), data.written()];
    let writer = rig.submit(&context, &Job::on(BCS0), &batch, &uses());
    let busy = rig.file.buffer_busy(&data.buffer);
    assert_eq!(busy.writer, Some(1));
    assert_eq!(busy.readers & 2, 2, "a writer is a user");
    assert!(!rig.file.watch_buffer(&data.buffer, 2));
    assert!(!rig.events.all().contains(&DeviceEvent::BufferIdle { token: 2 }));
    gate.set(0, 1);
    rig.events.wait(|event| (*event == DeviceEvent::BufferIdle { token: 2 }).then_some(()));
    assert_ne!(rig.state(&reader), FenceState::Pending);
    rig.finish(&writer);
    assert_eq!(rig.file.buffer_busy(&data.buffer), BufferBusy::default());
    assert!(!rig.events.all().contains(&DeviceEvent::BufferIdle { token: 1 }));
}
