//! Syncobjs: what they hold, who puts it in, and how they pass between files.

use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::asm::Asm;
use super::fences::stuck;
use super::rig::*;
use crate::{Batch, Device, DeviceError, DeviceFile, FenceState, Placement, Submission};

const SIGNALLED: Option<FenceState> = Some(FenceState::Signalled);
const PENDING: Option<FenceState> = Some(FenceState::Pending);
const LOST: Option<FenceState> = Some(FenceState::Failed(5));

impl<D: Device> Rig<D> {
    pub(crate) fn syncobj(&self) -> Syncobj<D> {
        self.file.create_syncobj(false).unwrap()
    }

    pub(crate) fn put(&self, syncobj: &Syncobj<D>, point: u64, fence: &Fence<D>) {
        self.file.put_fence(syncobj, point, fence).unwrap();
    }

    /// State of what is at a point.
    pub(crate) fn at(&self, syncobj: &Syncobj<D>, point: u64) -> Option<FenceState> {
        self.file.syncobj_fence(syncobj, point).map(|fence| self.file.fence_state(&fence))
    }

    /// The last points that signalled and that were put in.
    fn values(&self, syncobj: &Syncobj<D>) -> (u64, u64) {
        (self.file.syncobj_point(syncobj, false), self.file.syncobj_point(syncobj, true))
    }
}

/// Requests that end one by one.
pub(crate) struct Gates<D: Device> {
    gates: Vec<Mem<D>>,
    pub(crate) pending: Vec<Pending<D>>,
}

impl<D: Device> Gates<D> {
    /// Each on a context of its own, so that they can end in any order.
    pub(crate) fn new(rig: &Rig<D>, count: usize) -> Self {
        let vm = rig.vm();
        let gates: Vec<_> = (0..count).map(|_| rig.mem()).collect();
        let submit = |gate| stuck(rig, &rig.context(&vm).0, &Job::on(RCS0), gate);
        let pending = gates.iter().map(submit).collect();
        Self { gates, pending }
    }

    pub(crate) fn fence(&self, index: usize) -> &Fence<D> {
        &self.pending[index].fence
    }

    pub(crate) fn open(&self, rig: &Rig<D>, index: usize) {
        self.gates[index].set(0, 1);
        rig.finish(&self.pending[index]);
    }
}

pub(crate) fn a_binary_syncobj_holds_one_fence<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 2);
    let syncobj = rig.syncobj();
    assert_eq!(rig.at(&syncobj, 0), None, "empty");
    assert_eq!(rig.at(&rig.file.create_syncobj(true).unwrap(), 0), SIGNALLED);
    rig.put(&syncobj, 0, gates.fence(0));
    let clone = syncobj.clone();
    assert_eq!(rig.at(&clone, 0), PENDING);
    assert_eq!(rig.at(&syncobj, 1), None, "not a timeline");
    assert_eq!(rig.values(&syncobj), (0, 0));
    let first = rig.file.syncobj_fence(&syncobj, 0).unwrap();
    rig.put(&syncobj, 0, gates.fence(1));
    gates.open(rig, 0);
    assert_eq!(rig.file.fence_state(&first), FenceState::Signalled, "what was there goes on");
    assert_eq!(rig.at(&syncobj, 0), PENDING, "the other took its place");
    rig.file.signal_syncobj(&syncobj, 0).unwrap();
    assert_eq!(rig.at(&syncobj, 0), SIGNALLED);
    rig.file.reset_syncobj(&syncobj);
    assert_eq!(rig.at(&clone, 0), None);
    gates.open(rig, 1);
}

pub(crate) fn points_are_reached_in_order<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 3);
    let timeline = rig.syncobj();
    for (index, point) in [2, 4, 6].into_iter().enumerate() {
        rig.put(&timeline, point, gates.fence(index));
    }
    assert_eq!(rig.values(&timeline), (0, 6));
    assert_eq!(rig.at(&timeline, 7), None, "not put in yet");
    let third = rig.file.syncobj_fence(&timeline, 3).unwrap();
    gates.open(rig, 1);
    assert_eq!(rig.values(&timeline), (0, 6), "2 comes before 4");
    assert_eq!(rig.file.fence_state(&third), FenceState::Pending);
    gates.open(rig, 0);
    assert_eq!(rig.file.fence_state(&third), FenceState::Signalled, "3 is reached with 4");
    assert_eq!(rig.values(&timeline), (4, 6));
    let states = [0, 1, 2, 3, 4, 5, 6].map(|point| rig.at(&timeline, point));
    assert_eq!(states, [PENDING, SIGNALLED, SIGNALLED, SIGNALLED, SIGNALLED, PENDING, PENDING]);
    gates.open(rig, 2);
    assert_eq!(rig.values(&timeline), (6, 6));
    rig.file.signal_syncobj(&timeline, 9).unwrap();
    assert_eq!(rig.values(&timeline), (9, 9));
    assert_eq!(rig.at(&timeline, 8), SIGNALLED);
    // Point 0 makes it binary again.
    rig.file.signal_syncobj(&timeline, 0).unwrap();
    assert_eq!(rig.values(&timeline), (0, 0));
    assert_eq!(rig.at(&timeline, 1), None);
}

pub(crate) fn points_out_of_order_fold_into_the_chain<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 2);
    let timeline = rig.syncobj();
    rig.put(&timeline, 5, gates.fence(0));
    rig.file.signal_syncobj(&timeline, 3).unwrap();
    assert_eq!(rig.values(&timeline), (0, 5), "the last value stays");
    assert_eq!(rig.at(&timeline, 3), PENDING, "3 stands on top of 5 now");
    rig.put(&timeline, 7, gates.fence(1));
    // dma-fence-chain forgets in this case what is below: the new chain begins at 5, which it
    // takes for reached.
    assert_eq!(rig.values(&timeline), (5, 7));
    assert_eq!(rig.at(&timeline, 5), PENDING, "waiting is not fooled");
    gates.open(rig, 0);
    assert_eq!(rig.at(&timeline, 5), SIGNALLED);
    gates.open(rig, 1);
    assert_eq!(rig.values(&timeline), (7, 7));
    // A timeline on top of a binary fence waits for that as well.
    let gates = Gates::new(rig, 1);
    let mixed = rig.syncobj();
    rig.put(&mixed, 0, gates.fence(0));
    rig.file.signal_syncobj(&mixed, 1).unwrap();
    assert_eq!((rig.at(&mixed, 1), rig.values(&mixed)), (PENDING, (0, 1)));
    gates.open(rig, 0);
    assert_eq!((rig.at(&mixed, 1), rig.values(&mixed)), (SIGNALLED, (1, 1)));
}

pub(crate) fn a_point_fails_on_its_own<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let ((context, _), (fine, _)) = (rig.context(&vm), rig.context(&vm));
    let gate = rig.mem();
    let lost = stuck(rig, &context, &Job::on(RCS0), &gate);
    let later = stuck(rig, &fine, &Job::on(RCS0), &gate);
    let timeline = rig.syncobj();
    rig.put(&timeline, 1, &lost.fence);
    rig.put(&timeline, 2, &later.fence);
    let [first, second] = [1, 2].map(|point| rig.file.syncobj_fence(&timeline, point).unwrap());
    rig.file.close_context(context, true);
    assert_eq!(rig.wait(&lost), FenceState::Failed(5));
    assert_eq!(rig.file.fence_state(&second), FenceState::Pending);
    gate.set(0, 1);
    rig.finish(&later);
    assert_eq!(rig.file.fence_state(&first), FenceState::Failed(5));
    assert_eq!(rig.file.fence_state(&second), FenceState::Signalled, "the error is not its own");
    assert_eq!(rig.values(&timeline), (2, 2), "failing is signalling");
}

pub(crate) fn requests_signal_syncobjs<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let (binary, timeline) = (rig.syncobj(), rig.syncobj());
    let signals = [(binary.clone(), 0), (timeline.clone(), 3)];
    let job = Job { signals: &signals, ..Job::on(RCS0) };
    let pending = stuck(rig, &context, &job, &gate);
    assert_eq!((rig.at(&binary, 0), rig.at(&timeline, 3)), (PENDING, PENDING));
    assert_eq!(rig.values(&timeline), (0, 3));
    gate.set(0, 1);
    rig.finish(&pending);
    assert_eq!((rig.at(&binary, 0), rig.values(&timeline)), (SIGNALLED, (3, 3)));
    // One that is done at once.
    let signals = [(timeline.clone(), 4)];
    let job = Job { signals: &signals, ..Job::on(BCS0) };
    rig.run(&context, &job, &Asm::new().end(), &[]);
    assert_eq!(rig.values(&timeline), (4, 4));
    // One of whose fence nobody else wants to know.
    let batch = rig.batch(&Asm::new().end());
    let submission = Submission {
        slot: 1,
        placement: Placement::One(BCS0),
        batches: &[Batch { address: batch.address, length: batch.size }],
        objects: &[batch.object()],
        after: &[],
        along: &[],
        signals: &[(timeline.clone(), 5)],
        patches: &[],
        want_fence: false,
    };
    rig.file.submit(&context, submission).unwrap();
    assert_eq!(rig.values(&timeline).1, 5);
}

pub(crate) fn lost_requests_signal_syncobjs<D: Device>(rig: &Rig<D>) {
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let gate = rig.mem();
    let syncobjs: [_; 4] = std::array::from_fn(|_| rig.syncobj());
    let signals = syncobjs.clone().map(|syncobj| [(syncobj, 1)]);
    let job = |index: usize| Job { signals: &signals[index], ..Job::on(RCS0) };
    // One that hangs, one behind it, both cancelled, and one that comes too late.
    let first = stuck(rig, &context, &job(0), &gate);
    let second = stuck(rig, &context, &job(1), &gate);
    rig.file.cancel_context(&context);
    let late = stuck(rig, &context, &job(2), &gate);
    for pending in [&first, &second, &late] {
        assert_eq!(rig.wait(pending), FenceState::Failed(5));
    }
    let (guilty, _) = rig.context(&vm);
    let faulty = rig.submit(&guilty, &job(3), &Asm::new().raw(&[7 << 29]).end(), &[]);
    rig.wait(&faulty);
    for syncobj in &syncobjs {
        assert_eq!((rig.at(syncobj, 1), rig.values(syncobj)), (LOST, (1, 1)));
    }
}

pub(crate) fn requests_wait_for_points<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 2);
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let timeline = rig.syncobj();
    rig.put(&timeline, 1, gates.fence(0));
    rig.put(&timeline, 2, gates.fence(1));
    let data = rig.mem();
    let after = [rig.file.syncobj_fence(&timeline, 2).unwrap()];
    let job = Job { after: &after, ..Job::on(BCS0) };
    let batch = Asm::new().store(data.at(0), 1).end();
    let work = rig.submit(&context, &job, &batch, &[data.shared()]);
    rig.file.reset_syncobj(&timeline);
    gates.open(rig, 1);
    assert_eq!((rig.state(&work), data.get(0)), (FenceState::Pending, 0));
    gates.open(rig, 0);
    rig.finish(&work);
    assert_eq!(data.get(0), 1);
}

pub(crate) fn timelines_have_a_limit<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 1);
    let timeline = rig.syncobj();
    let put = |point| rig.file.put_fence(&timeline, point, gates.fence(0));
    let accepted = (1..100_000).take_while(|point| put(*point).is_ok()).count() as u64;
    assert!((1024..99_999).contains(&accepted), "{accepted}");
    assert_eq!(put(100_000), Err(DeviceError::OutOfMemory));
    assert_eq!(rig.values(&timeline), (0, accepted), "what was refused left no trace");
    let vm = rig.vm();
    let (context, _) = rig.context(&vm);
    let (data, batch) = (rig.mem(), rig.mem());
    batch.fill(&Asm::new().store(data.at(0), 1).end());
    let signals = [(timeline.clone(), 100_000)];
    let job = Job { signals: &signals, ..Job::on(BCS0) };
    let refused = rig.try_submit(&context, &job, &[&batch], &[data.shared()]).err();
    assert_eq!(refused, Some(DeviceError::OutOfMemory));
    assert_eq!(data.get(0), 0, "nothing ran");
    gates.open(rig, 0);
    put(100_000).unwrap();
    assert_eq!(rig.values(&timeline), (100_000, 100_000));
}

pub(crate) fn syncobjs_pass_between_files<D: Device>(rig: &Rig<D>) {
    let gates = Gates::new(rig, 1);
    let other = rig.another();
    let syncobj = rig.syncobj();
    let fd = rig.file.export_syncobj(&syncobj).unwrap();
    let second = rig.file.export_syncobj(&rig.syncobj()).unwrap();
    let theirs = other.file.import_syncobj(fd.as_fd()).unwrap();
    rig.put(&syncobj, 3, gates.fence(0));
    assert_eq!(other.at(&theirs, 2), PENDING, "the same object");
    drop((syncobj, theirs));
    // The fd alone keeps the object, and so does any copy of it.
    let copy = fd.try_clone().unwrap();
    drop(fd);
    gates.open(rig, 0);
    let again = other.file.import_syncobj(copy.as_fd()).unwrap();
    assert_eq!(other.values(&again), (3, 3));
    let empty = other.file.import_syncobj(second.as_fd()).unwrap();
    assert_eq!(other.at(&empty, 0), None, "another object");
}

pub(crate) fn other_fds_are_no_syncobjs<D: Device>(rig: &Rig<D>) {
    let refused = |fd: &dyn AsFd| {
        let error = rig.file.import_syncobj(fd.as_fd()).err();
        assert_eq!(error, Some(DeviceError::NotASyncobj));
    };
    refused(&std::fs::File::open("/dev/null").unwrap());
    let flags = SocketFlags::CLOEXEC;
    refused(&socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap().0);
    let gates = Gates::new(rig, 1);
    let fence = rig.file.export_fence(gates.fence(0)).unwrap();
    refused(&fence);
    let memory = rig.file.share_buffer(&rig.mem().buffer).unwrap().0;
    refused(&memory);
    let syncobj = rig.file.export_syncobj(&rig.syncobj()).unwrap();
    assert_eq!(rig.file.import_fence(syncobj.as_fd()).err(), Some(DeviceError::NotAFence));
    gates.open(rig, 0);
}
