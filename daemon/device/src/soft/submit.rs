//! Submission: the way to the engine, short if nothing stands in it.

use std::sync::Arc;

use gpu_broker_soft_gpu::engine::{Ending, Inline, Unfinished};
use gpu_broker_soft_gpu::gpu::Gpu;
use gpu_broker_soft_gpu::{ENGINES, EngineSpec, Streamer};

use super::capture::flagged;
use super::context::{ContextShared, ContextState};
use super::fault::{Remains, outcome_of};
use super::fence::Fence;
use super::inherit;
use super::limits::{FEW_OBJECTS, Permit};
use super::order::Turn;
use super::request::{PARTS_MAX, Parts, Patched, Request, Where, errno_of};
use super::signal::{EIO, Signal, Waiter};
use super::space::{Space, View};
use super::trace::Traced;
use super::{FileShared, SoftFile};
use crate::{Batch, DeviceError, EngineId, Outcome, Patch, Placement, Submission, Submitted};

/// What the kernel answers where batches and engines do not fit.
const EINVAL: i32 = 22;

type SoftSubmission<'a> = Submission<'a, SoftFile>;

/// A batch that was begun here and has to go on on its engine.
struct Begun<'a> {
    unfinished: Unfinished<'a>,
    engine: usize,
    streamer: Box<Streamer>,
}

/// What became of the attempt to run a batch here.
enum Attempt<'a> {
    /// It is over.
    Over(Outcome),
    /// It has begun.
    Begun(Begun<'a>),
    /// It has not.
    Not,
}

/// See [`crate::DeviceFile::submit`].
pub(super) fn submit(
    file: &Arc<FileShared>,
    context: &Arc<ContextShared>,
    submission: &SoftSubmission<'_>,
) -> Result<Submitted<Fence>, DeviceError> {
    if file.device.gpu.is_stopped() {
        return Err(DeviceError::Lost);
    }
    // Whatever can fail comes first, so that nothing is queued or bound then.
    let place = Place::of(submission)?;
    for object in submission.objects {
        object.buffer.0.prepare()?;
    }
    check_patches(submission)?;
    let uses = match submission.objects.len() {
        0..=FEW_OBJECTS => None,
        many => Some(file.uses.take_some(many as u64)?),
    };
    for (syncobj, point) in submission.signals {
        syncobj.check_room(*point)?;
    }
    let submitted = enter_or_run(file, context, submission, (place, uses))?;
    if let Some(Outcome::Guilty(report)) = &submitted.done
        && let Some(engine) = index_of(report.engine)
    {
        file.device.gpu.reset(engine);
    }
    // Without a lock: somebody may be waiting for it, and is told.
    if let Some(fence) = &submitted.fence {
        for (syncobj, point) in submission.signals {
            syncobj.put(*point, fence);
        }
    }
    Ok(submitted)
}

/// The part of [`submit`] that other submissions must not come between.
fn enter_or_run(
    file: &Arc<FileShared>,
    context: &Arc<ContextShared>,
    submission: &SoftSubmission<'_>,
    (place, uses): (Place<'_>, Option<Permit>),
) -> Result<Submitted<Fence>, DeviceError> {
    let buffers = submission.objects.iter().map(|object| &*object.buffer.0);
    let _turn = Turn::take(&file.order, &file.device.order, buffers);
    let space = bind(context, submission)?;
    if context.is_cancelled() {
        return Ok(done(submission, Outcome::Cancelled));
    }
    let patches = patch(submission)?;
    let traced = place.first().and_then(|engine| file.device.tracer.begin(context, engine));
    let mut state = context.lock();
    let attempt = if patches.is_empty() && is_free(context, &mut state, submission) {
        run_here(file, (context, &mut state), submission, &space, (place, traced))
    } else {
        Attempt::Not
    };
    let begun = match attempt {
        Attempt::Over(outcome) => {
            drop(state);
            if matches!(outcome, Outcome::Guilty(_)) {
                context.blame();
            }
            file.device.gpu.memory_changed();
            return Ok(done(submission, outcome));
        }
        Attempt::Begun(begun) => Some(begun),
        Attempt::Not => None,
    };
    let found = (space, patches, traced, uses);
    let request = enter(context, &mut state, submission, found, place);
    drop(state);
    inherit::lend(&request);
    let launched = match begun {
        Some(begun) => request.go_on(begun.unfinished, begun.engine, begun.streamer),
        None if request.dependency_met() => request.launch(),
        None => Ok(()),
    };
    if let Err(outcome) = launched {
        // It was cancelled, or the device stopped, in this moment. The turn is held, so that nobody
        // depends on the request yet.
        context.lock().leave(request.serial);
        if let Some((traced, engine)) = traced.zip(place.first()) {
            traced.over(context, engine, &outcome);
        }
        request.signal.fire(EIO, &mut Vec::new());
        return Ok(done(submission, outcome));
    }
    let fence = wants_fence(submission).then(|| Fence::of(Arc::clone(&request.signal)));
    Ok(Submitted { fence, done: None })
}

fn done(submission: &SoftSubmission<'_>, outcome: Outcome) -> Submitted<Fence> {
    let fence = wants_fence(submission).then(|| Fence::done(errno_of(&outcome)));
    Submitted { fence, done: Some(outcome) }
}

const fn wants_fence(submission: &SoftSubmission<'_>) -> bool {
    submission.want_fence || !submission.signals.is_empty()
}

/// # Errors
/// A relocation lies outside its object, or in memory that nobody may write.
fn check_patches(submission: &SoftSubmission<'_>) -> Result<(), DeviceError> {
    let is_inside = |patch: &Patch| {
        let body = submission.objects.get(patch.object).map(|object| &object.buffer.0);
        let size = body.filter(|body| !body.is_read_only()).map(|body| body.size());
        let end = patch.offset.checked_add(size_of::<u64>() as u64);
        size.zip(end).is_some_and(|(size, end)| end <= size)
    };
    if submission.patches.iter().all(is_inside) {
        Ok(())
    } else {
        Err(DeviceError::Os { errno: EINVAL, doing: "looking at relocations" })
    }
}

/// Writes relocations, if nobody uses the memory they are in; otherwise answers them, for when
/// nobody does. The kernel writes them in any case while it submits, and waits for that until the
/// memory is idle.
fn patch(submission: &SoftSubmission<'_>) -> Result<Vec<Patched>, DeviceError> {
    if submission.patches.is_empty() {
        return Ok(Vec::new());
    }
    let patched = submission.patches.iter().map(|patch| {
        let body = &*submission.objects[patch.object].buffer.0;
        Ok(Patched { part: body.part()?, offset: patch.offset, value: patch.value })
    });
    let patched = patched.collect::<Result<Vec<_>, DeviceError>>()?;
    let is_used =
        |patch: &Patch| submission.objects[patch.object].buffer.0.with_users(|_| ()).is_some();
    if submission.patches.iter().any(is_used) {
        return Ok(patched);
    }
    patched.iter().for_each(Patched::write);
    Ok(Vec::new())
}

/// Binds what is new and takes the snapshot.
fn bind(context: &ContextShared, submission: &SoftSubmission<'_>) -> Result<Space, DeviceError> {
    let mut space = context.vm.lock();
    for object in submission.objects.iter().filter(|object| object.fresh) {
        space.bind(object.address, object.size, object.buffer.0.part()?);
    }
    Ok(space.clone())
}

/// Whether the submission has nothing to wait for, engines aside.
fn is_free(
    context: &ContextShared,
    state: &mut ContextState,
    submission: &SoftSubmission<'_>,
) -> bool {
    let last = &mut state.timeline(context, submission.slot).last;
    last.take_if(|last| last.state().is_some());
    last.is_none()
        && submission.after.iter().all(|fence| fence.pending().is_none())
        && submission
            .along
            .iter()
            .all(|fence| fence.pending().is_none_or(|signal| signal.not_begun().is_empty()))
        && submission.objects.iter().all(|object| {
            let waits = |users: &super::buffer::Users| users.before(object.write).next().is_some();
            object.asynchronous || !object.buffer.0.with_users(waits).unwrap_or(false)
        })
}

/// Runs the beginning of a batch on this thread, which for most batches is all of it.
fn run_here<'a>(
    file: &'a FileShared,
    (context, state): (&ContextShared, &mut ContextState),
    submission: &SoftSubmission<'_>,
    space: &Space,
    (place, traced): (Place<'_>, Option<Traced>),
) -> Attempt<'a> {
    let ([batch], Some(engine)) = (submission.batches, place.single(&file.device.gpu)) else {
        return Attempt::Not;
    };
    state.slot(context, submission.slot, 1);
    let mut streamer = state.take_streamer(submission.slot, 0, engine);
    let view = View::new(space);
    let engine_here = &file.device.gpu.engines()[engine];
    match engine_here.run_inline(&mut streamer, &view, (batch.address, batch.length)) {
        Inline::Unfinished(unfinished) => Attempt::Begun(Begun { unfinished, engine, streamer }),
        Inline::Busy => {
            state.put_streamer(submission.slot, 0, streamer);
            Attempt::Not
        }
        Inline::Over(ending, span) => {
            context.ran(&ENGINES[engine], span, traced);
            let is_done = matches!(ending, Ending::Done);
            let flagged = if is_done { Vec::new() } else { flagged(submission.objects) };
            let outcome = outcome_of(
                ending,
                &Remains {
                    context,
                    streamer: &streamer,
                    memory: &view,
                    batch: *batch,
                    flagged: &flagged,
                },
            );
            if is_done {
                state.put_streamer(submission.slot, 0, streamer);
            }
            if let Some((traced, engine)) = traced.zip(place.first()) {
                traced.over(context, engine, &outcome);
            }
            Attempt::Over(outcome)
        }
    }
}

/// Makes a request, enters it into everything it uses and registers its dependencies. One
/// dependency is left, the caller's.
fn enter(
    context: &Arc<ContextShared>,
    state: &mut ContextState,
    submission: &SoftSubmission<'_>,
    (space, patches, traced, uses): (Space, Vec<Patched>, Option<Traced>, Option<Permit>),
    place: Place<'_>,
) -> Arc<Request> {
    state.slot(context, submission.slot, submission.batches.len());
    let timeline = state.timeline(context, submission.slot);
    let serial = context.next_serial();
    let signal = Signal::new(timeline.timeline, serial, place.classes());
    let mut before: Vec<Arc<Signal>> = Vec::new();
    before.extend(timeline.last.replace(Arc::clone(&signal)));
    before.extend(submission.after.iter().filter_map(|fence| fence.pending().cloned()));
    enter_objects(submission, &signal, !patches.is_empty(), &mut before);
    // Most of many objects were used by the same requests.
    before.sort_unstable_by_key(|signal| Arc::as_ptr(signal).addr());
    before.dedup_by(|one, other| Arc::ptr_eq(one, other));
    let batches: Vec<Batch> = submission.batches.to_vec();
    let flagged = flagged(submission.objects);
    let slot = submission.slot;
    let place = place.to_where();
    let request = Request::new(
        context,
        serial,
        Parts { slot, signal, space, batches, place, patches, flagged, traced, uses },
    );
    state.enter(request.serial, &request);
    let depend = |signal: &Signal, waiter: Waiter| {
        request.add_dependency();
        if signal.wait(waiter).is_err() {
            request.dependency_met();
        }
    };
    let mut sources = Vec::with_capacity(before.len());
    for signal in before {
        depend(&signal, Waiter::Request(Arc::clone(&request)));
        sources.push(Arc::downgrade(&signal));
    }
    for signal in submission.along.iter().filter_map(Fence::pending).flat_map(Signal::not_begun) {
        depend(&signal, Waiter::Start(Arc::clone(&request)));
        sources.push(Arc::downgrade(&signal));
    }
    request.waits_for(sources);
    request.signal.belong_to(&request);
    request
}

/// Enters a request into the buffers it uses; adds those it has to wait for to `before`. With
/// `patched`, relocations are still to be written: they are writes that wait, whatever the flags of
/// their objects say.
fn enter_objects(
    submission: &SoftSubmission<'_>,
    signal: &Arc<Signal>,
    patched: bool,
    before: &mut Vec<Arc<Signal>>,
) {
    let mut is_patched = vec![false; if patched { submission.objects.len() } else { 0 }];
    for patch in submission.patches {
        if let Some(is_patched) = is_patched.get_mut(patch.object) {
            *is_patched = true;
        }
    }
    let objects = || {
        let is_patched = is_patched.iter().copied().chain(std::iter::repeat(false));
        submission.objects.iter().zip(is_patched).map(|(object, patched)| {
            (&object.buffer.0, object.write || patched, !object.asynchronous || patched)
        })
    };
    for (buffer, write, waits) in objects() {
        if waits {
            buffer.with_users(|users| before.extend(users.before(write).cloned()));
        }
    }
    for (buffer, write, waits) in objects() {
        buffer.enter(signal, write, waits);
    }
}

/// Where a submission may run: engines that exist, as many as there are batches.
#[derive(Clone, Copy)]
struct Place<'a>(Placement<'a>);

impl<'a> Place<'a> {
    fn of(submission: &SoftSubmission<'a>) -> Result<Self, DeviceError> {
        let batches = submission.batches.len();
        let place = Self(submission.placement);
        let fits = match submission.placement {
            Placement::One(_) => batches == 1,
            Placement::AnyOf(engines) => batches == 1 && !engines.is_empty(),
            Placement::Parallel(engines) => {
                (1..=PARTS_MAX).contains(&batches) && batches == engines.len()
            }
        };
        if fits && place.engines().iter().all(|engine| index_of(*engine).is_some()) {
            Ok(place)
        } else {
            Err(DeviceError::Os { errno: EINVAL, doing: "matching batches with engines" })
        }
    }

    fn engines(&self) -> &[EngineId] {
        match &self.0 {
            Placement::One(engine) => std::slice::from_ref(engine),
            Placement::AnyOf(engines) | Placement::Parallel(engines) => engines,
        }
    }

    fn first(&self) -> Option<EngineId> {
        self.engines().first().copied()
    }

    /// Indices of the engines.
    fn indices(&self) -> impl Iterator<Item = usize> {
        self.engines().iter().filter_map(|engine| index_of(*engine))
    }

    /// The engine for a request with one batch.
    fn single(&self, gpu: &Gpu) -> Option<usize> {
        match self.engines() {
            [engine] => index_of(*engine),
            _ => self.indices().min_by_key(|engine| gpu.engines()[*engine].load()),
        }
    }

    fn classes(&self) -> u16 {
        self.indices().fold(0, |bits, engine| bits | 1 << ENGINES[engine].class)
    }

    fn to_where(self) -> Where {
        let engines = self.indices().collect();
        match self.0 {
            Placement::AnyOf(_) => Where::AnyOf(engines),
            Placement::One(_) | Placement::Parallel(_) => Where::Each(engines),
        }
    }
}

fn index_of(engine: EngineId) -> Option<usize> {
    let same = |spec: &EngineSpec| spec.class == engine.class && spec.instance == engine.instance;
    ENGINES.iter().position(same)
}
