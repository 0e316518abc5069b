//! Who gets how much of an engine, and what is counted of it (rule table §18). Compared is engine
//! time as the daemon counts it, never the time a test took.

use std::time::Duration;

use gpu_broker_client::gen9::{Atomic, Batch};
use gpu_broker_client::{Buffer, Connection, Context, Fence, FenceState};
use gpu_broker_protocol::SessionId;
use gpu_broker_protocol::param::EngineId;
use gpu_broker_protocol::usage::SessionUsage;
use gpu_broker_tests::{Daemon, eventually};

use super::*;

const MS: u64 = 1_000_000;

fn usage(asking: &Connection, session: SessionId) -> SessionUsage {
    asking.usage(Some(session)).expect("it is our own user's")
}

/// Nanoseconds a session had of the engines of a class.
fn had(asking: &Connection, session: SessionId, class: u16) -> u64 {
    let usage = usage(asking, session);
    let of_class = usage.engines.iter().find(|engine| engine.class == class);
    of_class.expect("the device has the class").busy_ns
}

/// Nanoseconds in which engines of a class were busy.
fn busy(daemon: &Daemon, class: u16) -> u64 {
    let status = daemon.status();
    let of_class = status.engines.iter().filter(|engine| engine.engine.class == class);
    of_class.map(|engine| engine.busy_ns).sum()
}

/// A session with batches on one engine that go on until they are told to end.
struct Greedy {
    broker: Connection,
    contexts: Vec<Context>,
    go: Buffer,
    fences: Vec<Fence>,
}

impl Greedy {
    /// So many contexts with so many batches each.
    fn start(daemon: &Daemon, engine: EngineId, contexts: usize, batches: usize) -> Self {
        let broker = connect(daemon, "greedy");
        let (go, counter) = (page(&broker), page(&broker));
        write(&go, 0, 1);
        let mut commands = Batch::new();
        commands.end_unless_greater(GATE, 0).arbitration_check();
        for _ in 0..8 {
            commands.atomic_dword(TARGET, Atomic::Increment, 0);
        }
        let batch = program(&broker, commands.jump(BATCH));
        let create = || broker.context().engines(&[engine]).create().expect("there is room");
        let contexts: Vec<_> = (0..contexts).map(|_| create()).collect();
        let mut fences = Vec::new();
        for context in &contexts {
            let work = || {
                let work = context.execbuf().object_at(&go, GATE).asynchronous();
                let work = work.object_at(&counter, TARGET).write().asynchronous();
                work.batch_at(&batch, BATCH)
            };
            for _ in 1..batches {
                work().submit().expect("it is all legal");
            }
            // The last of each is enough: they run in order.
            fences.push(submit(work()));
        }
        Self { broker, contexts, go, fences }
    }

    fn session(&self) -> SessionId {
        self.broker.session()
    }

    /// Has all of them end, and looks at how they did.
    fn end(&self) {
        write(&self.go, 0, 0);
        for fence in &self.fences {
            assert_eq!(outcome(fence), FenceState::Signalled);
        }
        for context in &self.contexts {
            let stats = context.reset_stats().expect("the daemon answers");
            assert_eq!((stats.batch_active, stats.batch_pending), (0, 0));
        }
    }
}

/// Contexts of [`a_thousand_batches_get_no_more_than_one`], each with one batch that may run at any
/// time and four behind it.
const CROWD: usize = 200;

/// A session with a thousand batches queued gets no more of an engine than one with a single one,
/// and keeps nobody waiting who comes now and then.
#[test]
fn a_thousand_batches_get_no_more_than_one() {
    on_daemon(|daemon| {
        let crowd = Greedy::start(daemon, RENDER, CROWD, 5);
        let mut queued = daemon.status().sessions.into_iter();
        let queued = queued.find(|session| session.session == crowd.session());
        assert_eq!(queued.expect("it is there").in_flight, 1000);
        let broker = connect(daemon, "now and then");
        let context = broker.context().engines(&[RENDER]).create().expect("there is room");
        let crowd_had = || had(&broker, crowd.session(), RENDER.class);
        let empty = program(&broker, Batch::new().end());
        let waited = (0..10).map(|_| {
            let before = crowd_had();
            assert_eq!(outcome(&submit(context.execbuf().batch(&empty))), FenceState::Signalled);
            crowd_had() - before
        });
        // If each of the crowd's contexts came first it would be 200 ms, every time. The least,
        // because the two clients may be kept from the processor at any of the others.
        let waited: Vec<_> = waited.collect();
        let least = waited.iter().min().expect("there are ten");
        assert!(*least < 100 * MS, "the crowd had the engine for {waited:?} ns meanwhile");

        let lone = Greedy::start(daemon, RENDER, 1, 1);
        let sessions = [crowd.session(), lone.session()];
        let times = || sessions.map(|session| had(&broker, session, RENDER.class));
        let before = times();
        let gained = || {
            let now = times();
            [now[0] - before[0], now[1] - before[1]]
        };
        let shares = eventually("they have had the engine", || {
            Some(gained()).filter(|gained| gained.iter().sum::<u64>() > 600 * MS)
        });
        let [crowd_share, lone_share] = shares;
        let alike = crowd_share < 2 * lone_share && lone_share < 2 * crowd_share;
        assert!(alike, "a thousand batches had {crowd_share} ns, one had {lone_share} ns");
        lone.end();
        crowd.end();
    });
}

/// What sessions had is what the engines gave, destroyed contexts included, and the keys of
/// drm-usage-stats say the same.
#[test]
fn engine_time_adds_up() {
    on_daemon(|daemon| {
        let classes = [RENDER.class, COPY.class, VIDEO.class, ENHANCE.class];
        let before = classes.map(|class| busy(daemon, class));
        let broker = connect(daemon, "accountant");
        // An endless batch of another process, and one on each of two engines of a class.
        let mut spinner = Spinner::start(daemon, COPY, &[]);
        spinner.goes_on();
        let pair = [VIDEO, VIDEO1].map(|engine| Greedy::start(daemon, engine, 2, 1));
        let short = connect(daemon, "short");
        let context = short.context().engines(&[RENDER, COPY]).create().expect("there is room");
        let target = page(&short);
        for value in 1..=50 {
            let batch = program(&short, Batch::new().store_dword(TARGET, value).end());
            let work = context.execbuf().engine(value % 2).object_at(&target, TARGET).write();
            assert_eq!(outcome(&submit(work.batch(&batch))), FenceState::Signalled);
        }
        let known = usage(&broker, short.session()).contexts;
        let known = known.into_iter().find(|known| known.context == context.id());
        let of_context = known.expect("it is live").busy_ns;
        assert!(of_context[0] > 0 && of_context[1] > 0, "{of_context:?}");
        context.destroy().expect("it is ours");
        let of_session = had(&broker, short.session(), RENDER.class);
        assert!(of_session >= of_context[0], "{of_session} ns, of which {of_context:?}");

        spinner.end();
        pair.iter().for_each(Greedy::end);
        let sessions = daemon.status().sessions.into_iter().map(|session| session.session);
        let sessions: Vec<_> =
            sessions.filter_map(|session| broker.usage(Some(session)).ok()).collect();
        for (class, before) in classes.into_iter().zip(before) {
            let of_class = sessions.iter().flat_map(|usage| &usage.engines);
            let had: u64 = of_class.filter(|e| e.class == class).map(|e| e.busy_ns).sum();
            let busy = busy(daemon, class) - before;
            // Between the end of a fence and the counters there is the end of a turn.
            assert!(had.abs_diff(busy) < 10 * MS, "class {class}: had {had}, busy {busy}");
        }
        let usage = usage(&broker, pair[0].session());
        let video = usage.engines.iter().find(|engine| engine.class == VIDEO.class);
        let video = video.expect("the device has video engines");
        assert_eq!(video.capacity, 2);
        assert!(video.busy_ns > 0, "it had one of them");
        // The counter and the batch were closed when they were submitted.
        let text = usage.fdinfo("i915");
        for line in [
            format!("drm-client-id:\t{}", usage.session.0),
            "drm-client-name:\tgreedy".to_owned(),
            format!("drm-engine-video:\t{} ns", video.busy_ns),
            "drm-engine-capacity-video:\t2".to_owned(),
            "drm-total-system0:\t4 KiB".to_owned(),
            "drm-active-system0:\t0 KiB".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
        let nobody = broker.usage(Some(SessionId(u64::MAX))).expect_err("there is none");
        assert_eq!(nobody.errno(), gpu_broker_protocol::refusal::errno::ENOENT);
    });
}

/// Time the daemon had processors, in ticks of 10 ms.
fn processor_ticks(daemon: &Daemon) -> u64 {
    let path = format!("/proc/{}/stat", daemon.pid().as_raw_nonzero());
    let stat = std::fs::read_to_string(path).expect("the daemon lives");
    let fields = stat.rsplit_once(") ").expect("after the name").1;
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>());
    ticks.map(|ticks| ticks.expect("a number")).sum()
}

/// Ten batches that go round for ever and do nothing take their turns on five engines, and end when
/// the CPU says so; meanwhile they leave the processor alone.
#[test]
fn idle_spinners_do_not_burn_the_processor() {
    on_daemon(|daemon| {
        let engines = ENGINES.into_iter().chain(ENGINES);
        let mut spinners: Vec<_> =
            engines.map(|engine| Spinner::start(daemon, engine, &["idle"])).collect();
        let asking = connect(daemon, "asking");
        let sessions = || {
            let sessions = daemon.status().sessions.into_iter();
            sessions.filter(|s| s.client_name == "spinner").map(|s| s.session)
        };
        let times = || -> Vec<u64> {
            let time = |session| usage(&asking, session).engines.iter().map(|e| e.busy_ns).sum();
            sessions().map(time).collect()
        };
        let (before, ticks) = (times(), processor_ticks(daemon));
        // All of them have their turns, on engines that are busy all the time.
        let gained = eventually("each has had its engine for a while", || {
            let gained: Vec<_> = times().iter().zip(&before).map(|(now, was)| now - was).collect();
            std::thread::sleep(BREATH);
            (gained.len() == 10 && gained.iter().all(|ns| *ns > 300 * MS)).then_some(gained)
        });
        // If they ran instead, the processor would have been busy for the sum; it is a few per
        // cent of that, of which asking is the most.
        let used = Duration::from_millis(10 * (processor_ticks(daemon) - ticks));
        let had = Duration::from_nanos(gained.iter().sum());
        assert!(used < had / 4, "{used:?} of processor time for {had:?} of engine time");
        spinners.iter_mut().for_each(Spinner::end);
    });
}
