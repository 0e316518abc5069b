//! What administrators see, hear and make: sessions, events, listeners, traces.

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use gpu_broker_client::Connection;
use gpu_broker_protocol::admin::*;
use gpu_broker_protocol::execbuf::ExecbufHead;
use gpu_broker_protocol::message::ContextDestroy;
use gpu_broker_protocol::{ContextId, Request, SessionId};
use gpu_broker_tests::{Batch, Message, Raw, Witness, binaries, eventually};
use rustix::fd::AsFd as _;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::admin::{admin, daemon};

/// Long enough for anything that happens at all.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

/// A request that is refused with `no-such-context`.
fn be_refused(client: &mut Raw) {
    let request = Request::ContextDestroy(ContextDestroy { context: ContextId(4711), pad: 0 });
    let _ = client.call(request).refusal();
}

fn next(events: &Connection) -> AdminNews {
    let event = events.admin_next_event(PATIENCE).expect("the connection stands");
    event.expect("something happens").what
}

#[test]
fn every_session_is_listed_and_looked_into() {
    let (mut daemon, socket) = daemon("");
    let mut client = daemon.client("cube");
    let context = client.create_context();
    let buffer = client.create_buffer(8192);
    be_refused(&mut client);
    be_refused(&mut client);
    let list = admin(&socket, &["list"]).expect("root");
    let cube = list.as_array().and_then(|all| all.iter().find(|it| it["client_name"] == "cube"));
    let cube = cube.expect("it is there");
    assert_eq!((&cube["contexts"], &cube["buffers"]), (&2.into(), &1.into()), "{cube}");
    assert_eq!((&cube["buffer_bytes"], &cube["refusals"]), (&buffer.size.into(), &2.into()));
    let number = cube["session"].to_string();
    let inside = admin(&socket, &["inspect", &number]).expect("root");
    assert_eq!(inside["identity"]["class"], "default", "{inside}");
    assert_eq!(inside["refusals"][0]["reason"], "no-such-context", "{inside}");
    assert_eq!(inside["refusals"][0]["count"], 2);
    let contexts = inside["contexts"].as_array().expect("a list");
    assert!(contexts.iter().any(|it| it["context"] == context.0 && it["state"] == "Proto"));
    let nobody = admin(&socket, &["inspect", "999999"]).expect_err("there is none");
    assert!(nobody.contains("no session"), "{nobody}");
    daemon.assert_unharmed();
}

#[test]
fn what_happens_to_sessions_is_told_in_order() {
    let (mut daemon, socket) = daemon("");
    let events = Connection::connect(&socket, "watcher").expect("root");
    events.admin_events(kind::ALL).expect("an administrator");
    let mut client = daemon.client("cube");
    let AdminNews::SessionBegan { session, client_name, class, listener, .. } = next(&events)
    else {
        panic!("it begins")
    };
    assert_eq!((&*client_name, &*class, &*listener), ("cube", "default", "main"));
    be_refused(&mut client);
    let AdminNews::Refused { session: who, reason, .. } = next(&events) else {
        panic!("it is refused")
    };
    assert_eq!((who, &*reason), (session, "no-such-context"));
    // Not a command.
    let batch = client.create_buffer(4096);
    batch.write(0, &0x7fff_ffff_u32.to_le_bytes());
    let head = ExecbufHead { flags: 1, ..ExecbufHead::default() };
    let _executed = client.execbuf(&head, &[batch.pinned(0x10_0000)], &[]).executed();
    let AdminNews::Hang { session: who, .. } = next(&events) else { panic!("it hangs") };
    assert_eq!(who, session);
    let limit = || events.admin_limit("default", "contexts", Some(100));
    assert_eq!(limit().expect("an administrator"), None);
    assert!(matches!(next(&events), AdminNews::Limited { value: Some(100), .. }));
    daemon.signal(rustix::process::Signal::HUP);
    assert_eq!(next(&events), AdminNews::Reloaded { error: None });
    events.admin_revoke(session).expect("it is there");
    assert!(matches!(next(&events), AdminNews::Revoked { session: who, .. } if who == session));
    let AdminNews::SessionEnded { session: who, .. } = next(&events) else { panic!("it ends") };
    assert_eq!(who, session);
    // No more of what is not asked for.
    events.admin_events(kind::ADMIN).expect("an administrator");
    be_refused(&mut daemon.client("other"));
    let _ = events.admin_drain(false).expect("an administrator");
    assert!(matches!(next(&events), AdminNews::Drained { on: false, .. }));
    drop(events);
    daemon.assert_unharmed();
}

/// It costs the daemon a queue, and nobody waits for it; what it missed is counted.
#[test]
fn a_watcher_that_never_reads_is_told_how_much_it_missed() {
    let (mut daemon, socket) = daemon("");
    let mut deaf = Raw::hello(&socket, "deaf");
    let ask = AdminEvents { kinds: kind::SESSIONS };
    let _ = deaf.call(Request::AdminEvents(ask)).reply();
    let witness = Witness::start(daemon.socket());
    let told = |number: u64| {
        // One that begins and one that ends, at least.
        for _ in 0..number {
            drop(daemon.client("moth"));
        }
    };
    told(2000);
    witness.goes_on();
    witness.finish();
    let mut lost = 0;
    let mut events = 0_u64;
    eventually("the last of them comes", || {
        // Wakes the daemon: what waits is sent when there is room.
        while let Message::News(event) = deaf.receive() {
            events += 1;
            lost += u64::from(event.lost);
            if events + lost >= 4000 {
                return Some(());
            }
        }
        None
    });
    assert!(lost > 0 && events < 4000, "{events} events, {lost} lost");
    daemon.assert_unharmed();
}

#[test]
fn nobody_else_sees_hears_or_makes_anything() {
    let (mut daemon, _socket) = daemon("");
    let mut client = daemon.client("curious");
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let listen = AdminListen {
        socket: ours.as_fd(),
        close: theirs.as_fd(),
        name: "mine".to_owned(),
        class: None,
        app_id: None,
        instance_id: None,
    };
    for request in [
        Request::AdminList(AdminListQuery { after: SessionId(0) }),
        Request::AdminInspect(AdminInspect { session: SessionId(1) }),
        Request::AdminEvents(AdminEvents { kinds: kind::ALL }),
        Request::AdminListen(listen),
        Request::AdminListeners,
        Request::AdminTrace(AdminTrace { on: true }),
        Request::AdminTraceRead(AdminTraceRead { from: 0 }),
    ] {
        assert_eq!(client.call(request).refusal().name, "denied");
    }
    daemon.assert_unharmed();
}

/// As a sandbox engine does it, by the command.
#[test]
fn a_listener_made_at_run_time_says_who_comes_in_and_goes_with_its_owner() {
    let (mut daemon, socket) = daemon("[[class]]\nname = \"games\"\n");
    let place = socket.with_file_name("cube.sock");
    let mut command = Command::new(binaries::cli());
    command.arg("admin").arg("--admin-socket").arg(&socket).arg("listen").arg(&place);
    command.args(["--name", "cube-1", "--class", "games", "--app-id", "org.example.Cube"]);
    let mut owner = command.stdout(Stdio::piped()).spawn().expect("gpu-broker runs");
    let mut said = String::new();
    let mut output = std::io::BufReader::new(owner.stdout.take().expect("a pipe"));
    let _ = output.read_line(&mut said).expect("it says something");
    assert!(said.contains("served as \"cube-1\""), "{said}");
    let mut inside = Raw::hello(&place, "cube");
    let list = admin(&socket, &["list"]).expect("root");
    let cube = list.as_array().and_then(|all| all.iter().find(|it| it["client_name"] == "cube"));
    let cube = cube.expect("it is served");
    assert_eq!((&cube["class"], &cube["listener"]), (&"games".into(), &"cube-1".into()));
    let inspected = admin(&socket, &["inspect", &cube["session"].to_string()]).expect("root");
    assert_eq!(inspected["identity"]["app_id"], "org.example.Cube");
    let listeners = admin(&socket, &["listeners"]).expect("root");
    let made = listeners.as_array().and_then(|all| all.iter().find(|it| it["name"] == "cube-1"));
    assert_eq!(made.map(|it| (&it["made"], &it["accepted"])), Some((&true.into(), &1.into())));
    owner.kill().expect("it runs");
    owner.wait().expect("it ends");
    eventually("nobody listens", || Raw::connect(&place).is_err().then_some(()));
    // Who is in stays.
    let _ = inside.create_context();
    let listeners = admin(&socket, &["listeners"]).expect("root").to_string();
    assert!(!listeners.contains("cube-1"), "{listeners}");
    daemon.assert_unharmed();
}

#[test]
fn listeners_that_will_not_do_are_refused_by_name() {
    let (mut daemon, socket) = daemon("");
    let connection = Connection::connect(&socket, "engine").expect("root");
    let directory = socket.parent().expect("a directory");
    let listening = |file: &str| {
        let kind = SocketType::SEQPACKET;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let socket = socket.expect("a socket");
        let address = SocketAddrUnix::new(directory.join(file)).expect("short");
        rustix::net::bind(&socket, &address).expect("a new file");
        rustix::net::listen(&socket, 4).expect("bound");
        socket
    };
    let pair = || std::os::unix::net::UnixStream::pair().expect("a pair");
    let try_it = |name: &str, class: Option<&str>, socket, close| {
        connection.admin_listen(AdminListen {
            socket,
            close,
            name: name.to_owned(),
            class: class.map(str::to_owned),
            app_id: None,
            instance_id: None,
        })
    };
    let (_ours, theirs) = pair();
    try_it("one", None, listening("1"), theirs.into()).expect("all is as it should be");
    let file = || std::fs::File::open("/etc/hostname").expect("a file");
    let refused = [
        ("listener-name", try_it("one", None, listening("2"), pair().1.into())),
        ("listener-text", try_it("a b", None, listening("3"), pair().1.into())),
        ("listener-text", try_it("admin", None, listening("4"), pair().1.into())),
        ("no-such-class", try_it("two", Some("none"), listening("5"), pair().1.into())),
        ("listener-socket", try_it("two", None, pair().0.into(), pair().1.into())),
        ("listener-socket", try_it("two", None, listening("6"), file().into())),
    ];
    for (reason, result) in refused {
        let error = result.expect_err(reason).to_string();
        let sentence = gpu_broker_protocol::Reason::ALL.iter().find(|it| it.name() == reason);
        let sentence = sentence.expect("a reason").sentence();
        assert!(error.contains(sentence), "{reason}: {error}");
    }
    drop(connection);
    daemon.assert_unharmed();
}

/// The engines' slices do not overlap, and there is one end for each EXECBUF.
#[test]
fn a_trace_has_every_submission_and_each_engine_at_one_thing_at_a_time() {
    const SUBMISSIONS: usize = 40;
    let (mut daemon, socket) = daemon("");
    let tracer = Connection::connect(&socket, "tracer").expect("root");
    let tracing = tracer.admin_trace(true).expect("an administrator");
    assert!(tracing.runs);
    work(daemon.socket(), SUBMISSIONS);
    let mut records = Vec::new();
    let mut from = tracing.next;
    eventually("every end is recorded", || {
        let page = tracer.admin_trace_read(from).expect("an administrator");
        assert_eq!(page.first, from, "nothing is lost");
        from += page.records.len() as u64;
        records.extend(page.records);
        let ends = records.iter().filter(|it| it.what == TraceWhat::Done).count();
        (ends >= SUBMISSIONS).then_some(())
    });
    let count = |what: TraceWhat| records.iter().filter(|it| it.what == what).count();
    assert_eq!((count(TraceWhat::Queued), count(TraceWhat::Done)), (SUBMISSIONS, SUBMISSIONS));
    let mut slices: Vec<_> = records
        .iter()
        .filter_map(|it| {
            let TraceWhat::Ran { ns } = it.what else { return None };
            Some((it.engine.class, it.engine.instance, it.at_ns, ns))
        })
        .collect();
    slices.sort_unstable();
    assert!(slices.len() >= SUBMISSIONS, "{}", slices.len());
    for pair in slices.windows(2) {
        let [(class, instance, at, ns), (next_class, next_instance, next, _)] = pair else {
            unreachable!("two")
        };
        let same = (class, instance) == (next_class, next_instance);
        assert!(!same || at + ns <= *next, "{pair:?}");
    }
    let off = tracer.admin_trace(false).expect("an administrator");
    work(daemon.socket(), 1);
    assert_eq!(tracer.admin_trace_read(off.next).expect("allowed").records, []);
    drop(tracer);
    daemon.assert_unharmed();
}

/// Submissions of two contexts on two engines; waits for all of them.
fn work(socket: &Path, submissions: usize) {
    let mut client = Raw::hello(socket, "worker");
    let batch = client.create_buffer(4096);
    batch.write(0, &Batch::new().arbitration_point().end().bytes());
    let contexts = [client.create_context(), client.create_context()];
    for number in 0..submissions {
        let context = contexts[number % 2];
        let flags = if number % 3 == 0 { 3 } else { 1 };
        let head = ExecbufHead { flags, context: context.0, ..ExecbufHead::default() };
        let _executed = client.execbuf(&head, &[batch.pinned(0x10_0000)], &[]).executed();
    }
    let _ = client.wait(batch.id).reply();
}

/// As people have it: a file with a slice of an engine and a span of a session for each submission.
#[test]
fn the_trace_command_writes_what_perfetto_reads() {
    let (mut daemon, socket) = daemon("");
    let file = socket.with_file_name("trace.json");
    let mut command = Command::new(binaries::cli());
    command.arg("trace").arg("--admin-socket").arg(&socket).args(["--seconds", "1", "--out"]);
    let tracing = command.arg(&file).stdout(Stdio::piped()).spawn().expect("gpu-broker runs");
    let list = || admin(&socket, &["list"]).expect("root").to_string();
    eventually("it is connected", || list().matches("\"gpu-broker\"").nth(1).map(|_| ()));
    let mut finished = false;
    let output = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| tracing.wait_with_output().expect("it ends"));
        while !finished {
            work(daemon.socket(), 6);
            finished = waiting.is_finished();
        }
        waiting.join().expect("no panic")
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("ui.perfetto.dev"), "{said}");
    let text = std::fs::read_to_string(&file).expect("it is written");
    let trace: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let some = |phase: &str| events.iter().filter(|it| it["ph"] == phase).collect::<Vec<_>>();
    let (slices, begins, ends) = (some("X"), some("b"), some("e"));
    assert!(slices.len() >= 6 && begins.len() >= 6, "{} {}", slices.len(), begins.len());
    assert_eq!(begins.len(), ends.len());
    let client = |it: &&&serde_json::Value| {
        it["name"].as_str().is_some_and(|name| name.starts_with("worker · context "))
    };
    assert!(slices.iter().any(|it| client(&it)), "{}", slices[0]);
    let engine = |name: &str| some("M").iter().any(|it| it["args"]["name"] == name);
    assert!(engine("rcs0") && engine("bcs0"));
    daemon.assert_unharmed();
}
