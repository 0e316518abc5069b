//! Buffers of several files.

use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::asm::Asm;
use super::rig::*;
use crate::{Device, DeviceError, DeviceEvent, DeviceFile, FenceState};

/// The memory of one rig as that of another.
fn import<D: Device>(into: &Rig<D>, mem: &Mem<D>, from: &Rig<D>) -> Mem<D> {
    let (fd, _) = from.file.share_buffer(&mem.buffer).unwrap();
    let (buffer, size) = into.file.import_buffer(fd.as_fd()).unwrap();
    assert_eq!(size, mem.size);
    mem.again(buffer)
}

pub(crate) fn buffers_pass_between_files<D: Device>(rig: &Rig<D>) {
    let other = rig.another();
    let mem = rig.sized(3 * 4096);
    let theirs = import(&other, &mem, rig);
    assert!(rig.file.same_buffer(&mem.buffer, &theirs.buffer));
    assert!(!rig.file.same_buffer(&mem.buffer, &rig.mem().buffer));
    let again = import(rig, &theirs, &other);
    assert!(rig.file.same_buffer(&mem.buffer, &again.buffer));
    drop((mem, again));
    // The other file keeps the memory, and can work with it.
    let vm = other.vm();
    let (context, _) = other.context(&vm);
    let batch = Asm::new().store(theirs.at(0), 5).end();
    other.run(&context, &Job::on(RCS0), &batch, &[theirs.written()]);
    assert_eq!(theirs.get(0), 5);
    let (fd, _) = other.file.share_buffer(&theirs.buffer).unwrap();
    assert!(rig.file.import_buffer(fd.as_fd()).is_ok());
    drop(theirs);
    // A dma-buf is the memory and keeps it; a memfd of ours is a buffer while somebody has it.
    let gone = rig.file.import_buffer(fd.as_fd()).err();
    let expected = if D::MAY_BLOCK { None } else { Some(DeviceError::NotABuffer) };
    assert_eq!(gone, expected, "nobody has it any more");
}

pub(crate) fn work_of_two_files_is_ordered_on_a_buffer<D: Device>(rig: &Rig<D>) {
    let other = rig.another();
    let (data, gate) = (rig.mem(), rig.mem());
    let theirs = import(&other, &data, rig);
    let (vm, other_vm) = (rig.vm(), other.vm());
    let ((context, _), (other_context, _)) = (rig.context(&vm), other.context(&other_vm));
    let batch = Asm::new().wait(gate.at(0), 1).store(data.at(0), 7).end();
    let writer = rig.submit(&context, &Job::on(BCS0), &batch, &[gate.shared(), data.written()]);
    let batch = Asm::new().copy(theirs.at(1), theirs.at(0)).end();
    let next = other.submit(&other_context, &Job::on(RCS0), &batch, &[theirs.written()]);
    assert_eq!(other.state(&next), FenceState::Pending);
    assert!(other.file.buffer_busy(&theirs.buffer).writer.is_some());
    gate.set(0, 1);
    other.finish(&next);
    rig.finish(&writer);
    assert_eq!(data.get(1), 7);
}

/// Two files use the same two buffers at the same time, each in its own order. A request adds one
/// in three steps: if another came between, that would show, and if two waited for each other,
/// nothing would end.
pub(crate) fn two_files_take_turns_on_their_buffers<D: Device>(rig: &Rig<D>) {
    const ROUNDS: u32 = 5000;
    let other = rig.another();
    let (first, second) = (rig.mem(), rig.mem());
    let theirs = [import(&other, &second, rig), import(&other, &first, rig)];
    let ours = [rig.mem_again(&first), rig.mem_again(&second)];
    std::thread::scope(|scope| {
        for (rig, mems, engine) in [(rig, &ours, RCS0), (&other, &theirs, BCS0)] {
            let (counter, private) = (first.at(0), second.at(u64::from(engine.class)));
            scope.spawn(move || {
                let vm = rig.vm();
                let (context, _) = rig.context(&vm);
                let add = Asm::new().copy(private, counter).increment(private);
                let batch = rig.batch(&add.copy(counter, private).end());
                let uses = || [mems[0].written(), mems[1].written()];
                let submit = |_| rig.submit_all(&context, &Job::on(engine), &[&batch], &uses());
                let last = (0..ROUNDS).map(submit).last().unwrap();
                rig.finish(&last);
            });
        }
    });
    assert_eq!(first.get(0), 2 * ROUNDS);
}

pub(crate) fn other_fds_are_no_buffers<D: Device>(rig: &Rig<D>) {
    let refused = |fd: &dyn AsFd| {
        let error = rig.file.import_buffer(fd.as_fd()).err();
        assert_eq!(error, Some(DeviceError::NotABuffer));
    };
    refused(&std::fs::File::open("/dev/null").unwrap());
    refused(&std::fs::File::open("/").unwrap());
    let memfd = memfd_create("gpu-broker", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memfd, 4096).unwrap();
    refused(&memfd);
    refused(&rig.file.export_syncobj(&rig.syncobj()).unwrap());
}

pub(crate) fn buffers_report_when_accessible<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((first, _), (second, _)) = (rig.context(&vm), rig.context(&vm));
    let (read_gate, write_gate, data) = (rig.mem(), rig.mem(), rig.mem());
    let told = |token| rig.events.all().contains(&DeviceEvent::BufferIdle { token });
    let watch = |write, token| rig.file.watch_buffer_access(&data.buffer, write, token);
    assert!(watch(true, 1));
    let batch = Asm::new().wait(read_gate.at(0), 1).end();
    let uses = [read_gate.shared(), data.read()];
    let reader = rig.submit(&first, &Job::on(RCS0), &batch, &uses);
    assert!(watch(false, 2), "reading with the GPU");
    assert!(!watch(true, 3), "the GPU reads");
    let batch = Asm::new().wait(write_gate.at(0), 1).end();
    let uses = [write_gate.shared(), data.written()];
    let writer = rig.submit(&second, &Job::on(BCS0), &batch, &uses);
    assert!(!watch(false, 4), "the GPU writes");
    read_gate.set(0, 1);
    rig.events.wait(|event| (*event == DeviceEvent::BufferIdle { token: 3 }).then_some(()));
    rig.finish(&reader);
    assert!(!told(4));
    write_gate.set(0, 1);
    rig.events.wait(|event| (*event == DeviceEvent::BufferIdle { token: 4 }).then_some(()));
    rig.finish(&writer);
    assert!(!told(1) && !told(2));
}
