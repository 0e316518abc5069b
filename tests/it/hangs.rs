//! Who hung the GPU: events to the owner, dumps for the owner and the administrator, and clients
//! that do not listen. Each against a daemon in a process of its own.

use std::process::Command;
use std::time::Duration;

use gpu_broker_client::gen9::Batch;
use gpu_broker_client::protocol::hang::{DumpRegionKind, HangCause};
use gpu_broker_client::protocol::limits::{HANG_DUMPS_PER_SESSION_MAX, HANGS_PER_SESSION_MAX};
use gpu_broker_client::{Buffer, Connection, Context, Fence, FenceState};
use gpu_broker_protocol::execbuf::{ExecbufHead, flag};
use gpu_broker_protocol::param::{ContextParam, EngineId, class, number};
use gpu_broker_protocol::version::feature;
use gpu_broker_protocol::{Opcode, Request};
use gpu_broker_tests::{
    Builder, Daemon, Message, PATIENCE, Raw, Witness, binaries, eventually, raw,
};

const RENDER: EngineId = EngineId { class: class::RENDER, instance: 0 };
const VIDEO: EngineId = EngineId { class: class::VIDEO, instance: 0 };
const BATCH: u64 = 0x10_0000;
const TARGET: u64 = 0x20_0000;
/// Begins no command.
const NO_COMMAND: u32 = 0xe000_0000;
const LOST: FenceState = FenceState::Failed(5);
const REPLAYED: FenceState = FenceState::Failed(11);

/// Short limits, so that nobody waits for the kernel's.
fn impatient() -> Builder {
    Builder::new().config("[engines]\nheartbeat_interval_ms = 300\npreempt_timeout_ms = 200")
}

fn connect(daemon: &Daemon, name: &str) -> Connection {
    Connection::connect(daemon.socket(), name).expect("the daemon serves")
}

fn program(broker: &Connection, commands: &Batch) -> Buffer {
    let buffer = broker.create_buffer(4096).expect("there is room");
    buffer.map().expect("fds are left").write_dwords(0, commands.dwords()).expect("it fits");
    buffer
}

fn submit(context: &Context, batch: &Buffer) -> Fence {
    let submitted = context.execbuf().batch_at(batch, BATCH).fence_out().submit();
    submitted.expect("it is legal").fence.expect("a fence was asked for")
}

fn outcome(fence: &Fence) -> FenceState {
    let state = fence.wait(Some(PATIENCE)).expect("the daemon lives");
    assert_ne!(state, FenceState::Pending, "the fence never signals");
    state
}

/// A batch that stores, then executes what is no command.
fn bad(broker: &Connection) -> Buffer {
    program(broker, Batch::new().noop().raw(&[NO_COMMAND, 0]).end())
}

/// What `gpu-broker` prints.
fn tool(daemon: &Daemon, arguments: &[&str]) -> String {
    let mut command = Command::new(binaries::cli());
    let output = command.arg("--socket").arg(daemon.socket()).args(arguments).output();
    let output = output.expect("it was just built");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_owner_of_an_endless_batch_is_told_and_finds_it_in_the_dump() {
    let mut daemon = impatient().start();
    let broker = connect(&daemon, "culprit");
    let other = connect(&daemon, "bystander");
    let context = broker.context().engines(&[VIDEO]).create().expect("there is room");
    let mut spin = Batch::new();
    spin.noop().jump(BATCH);
    let fence = submit(&context, &program(&broker, &spin));
    let event = broker.next_hang(Some(PATIENCE)).expect("connected").expect("an event");
    assert_eq!(outcome(&fence), LOST);
    assert_eq!((event.context, event.engine, event.cause), (context.id(), VIDEO, HangCause::Hung));
    assert_eq!((event.batch, event.lost, event.dumped), (BATCH, 0, true));
    assert!((BATCH..BATCH + 16).contains(&event.address), "{event:?}");
    assert!(event.what.contains("without an arbitration point"), "{}", event.what);

    let shown = broker.hang(event.hang).expect("it is ours");
    let dump = shown.dump.expect("nobody said NO_ERROR_CAPTURE");
    let failed: Vec<_> = dump.listing.iter().filter(|command| command.failed).collect();
    assert_eq!(failed.len(), 1, "{:?}", dump.listing);
    assert_eq!((failed[0].address, &failed[0].name), (event.address, &event.command));
    assert!(["MI_NOOP", "MI_BATCH_BUFFER_START"].contains(&&*event.command), "{event:?}");
    let names: Vec<_> = dump.commands.iter().map(|command| &*command.name).collect();
    assert!(names.contains(&"MI_NOOP") && names.contains(&"MI_BATCH_BUFFER_START"), "{names:?}");
    let acthd = dump.registers.iter().find(|register| register.name == "ACTHD");
    assert_eq!(acthd.map(|register| register.value), Some(event.address));
    assert_eq!(dump.regions[0].kind, DumpRegionKind::Batch);
    let bytes = broker.hang_bytes(event.hang, 0, 0).expect("it is kept");
    assert_eq!(bytes[..4], spin.dwords()[0].to_le_bytes());
    let stats = context.reset_stats().expect("the daemon answers");
    assert_eq!((stats.batch_active, stats.batch_pending), (1, 0));

    // Others of the session's user see it, are not told of it, and it outlives the session.
    assert_eq!(other.next_hang(Some(Duration::ZERO)).expect("connected"), None);
    drop((fence, context, broker));
    let page = other.hangs(u64::MAX).expect("the daemon answers");
    assert_eq!(page.hangs[0].client_name, "culprit");
    assert!(other.hang(event.hang).is_ok_and(|shown| shown.dump.is_some()));
    let told = tool(&daemon, &["hang", "list"]);
    assert!(told.contains("\"culprit\"") && told.contains("vcs0"), "{told}");
    let told = tool(&daemon, &["hang", "show"]);
    let marked = told.lines().find(|line| line.starts_with("=>")).expect("one is marked");
    assert!(marked.contains(&event.command), "{told}");
    let json = tool(&daemon, &["hang", "show", "--json", &event.hang.to_string()]);
    assert!(json.contains(&event.command), "{json}");
    assert!(tool(&daemon, &["status"]).contains("last hangs"), "who hung the GPU");
    let log = daemon.log();
    assert!(log.contains("a batch died on engine 2:0") && log.contains("\"culprit\""), "{log}");
    daemon.assert_unharmed();
}

#[test]
fn no_error_capture_leaves_no_dump_and_flagged_objects_are_in_others() {
    let daemon = Daemon::start();
    let broker = connect(&daemon, "captured");
    let context = broker.context().create().expect("there is room");
    let flagged = program(&broker, Batch::new().raw(&[0x600d_cafe]));
    let (batch, other) = (bad(&broker), broker.create_buffer(4096).expect("there is room"));
    let work = context.execbuf().object_at(&other, TARGET + 4096);
    let mut work = work.object_at(&flagged, TARGET).capture().batch_at(&batch, BATCH);
    work.submit().expect("it is legal");
    let first = broker.next_hang(Some(PATIENCE)).expect("connected").expect("an event");
    assert_eq!(first.cause, HangCause::Fault);
    assert_eq!(first.address, BATCH + 4);
    let dump = broker.hang(first.hang).expect("it is ours").dump.expect("it was captured");
    let regions: Vec<_> = (0..).zip(&dump.regions).collect();
    let found: Vec<_> = regions
        .iter()
        .filter(|(_, region)| region.kind == DumpRegionKind::Object)
        .map(|(index, region)| (*index, region.address))
        .collect();
    let [(index, TARGET)] = found[..] else { panic!("one object is flagged: {:?}", dump.regions) };
    let bytes = broker.hang_bytes(first.hang, index, 0).expect("it is kept");
    assert_eq!(bytes[..4], 0x600d_cafe_u32.to_le_bytes());
    let quiet = ContextParam::scalar(number::NO_ERROR_CAPTURE, 1);
    context.set_param(quiet).expect("anybody may");
    submit(&context, &bad(&broker));
    let second = broker.next_hang(Some(PATIENCE)).expect("connected").expect("an event");
    assert!(first.dumped && !second.dumped && second.hang > first.hang);
    assert_eq!(broker.hang(second.hang).expect("it is listed").dump, None);
    let refused = broker.hang_bytes(second.hang, 0, 0).expect_err("nothing was kept");
    assert_eq!(refused.refusal().map(|refusal| refusal.name.as_str()), Some("no-such-hang"));
}

/// However many batches die, the daemon keeps the last few, and a bystander's dump stays.
#[test]
fn a_flood_of_hangs_stays_within_the_limits() {
    let mut daemon = Daemon::start();
    let flooder = connect(&daemon, "flooder");
    let batch = bad(&flooder);
    // The third hang bans a context, and soon CREATE is refused: contexts come first.
    let contexts: Vec<_> = (0..12).map(|_| flooder.context().create().expect("yet")).collect();
    let mut died = 0;
    for context in &contexts {
        for _ in 0..3 {
            context.execbuf().batch(&batch).submit().expect("not banned yet");
            died += 1;
        }
    }
    assert!(died > HANGS_PER_SESSION_MAX, "{died} batches died");
    let page = flooder.hangs(u64::MAX).expect("the daemon answers");
    assert_eq!(page.hangs.len(), HANGS_PER_SESSION_MAX);
    let dumps = page.hangs.iter().filter(|hang| hang.event.dumped).count();
    assert_eq!(dumps, HANG_DUMPS_PER_SESSION_MAX);
    let events: Vec<_> =
        std::iter::from_fn(|| flooder.next_hang(Some(Duration::ZERO)).expect("connected"))
            .collect();
    let told: usize = events.iter().map(|event| 1 + event.lost as usize).sum();
    assert_eq!(told, died, "events and those said to be lost");
    daemon.assert_unharmed();
}

/// A client that asked for events and reads nothing: others are served, and it is told what it
/// missed once it reads. One that did not ask is told nothing.
#[test]
fn a_client_that_never_reads_stalls_nobody() {
    let mut daemon = Daemon::start();
    let witness = Witness::start(daemon.socket());
    let mut deaf = Raw::connect(daemon.socket()).expect("the daemon serves");
    let mut hello = raw::hello("deaf");
    hello.features |= feature::HANG_EVENTS;
    drop(deaf.call(Request::Hello(hello)).reply());
    let mut silent = daemon.client("silent");
    for client in [&mut deaf, &mut silent] {
        let batch = client.create_buffer(4096);
        batch.write(0, &gpu_broker_tests::Batch::new().raw(&[NO_COMMAND, 0]).end().bytes());
        let head = ExecbufHead { flags: flag::NO_RELOC, ..ExecbufHead::default() };
        drop(client.execbuf(&head, &[batch.pinned(BATCH)], &[]).executed());
    }
    let Message::Hang(event) = deaf.receive() else { panic!("an event comes") };
    assert_eq!((event.batch, event.lost), (BATCH, 0));
    // The next thing that comes to who did not ask is the answer to its question.
    drop(silent.call(Request::DeviceQuery).reply());
    witness.goes_on();
    witness.finish();
    daemon.assert_unharmed();
}

/// A client with a full socket, twenty of whose batches hang: the events wait for it, as many as
/// there is room for, and it is told how many others there were.
#[test]
fn events_for_a_full_socket_wait_and_are_counted() {
    const BATCHES: u32 = 20;
    let mut daemon = impatient().start();
    let before = daemon.footprint();
    let witness = Witness::start(daemon.socket());
    let mut deaf = Raw::connect(daemon.socket()).expect("the daemon serves");
    let mut hello = raw::hello("deaf");
    hello.features |= feature::HANG_EVENTS;
    drop(deaf.call(Request::Hello(hello)).reply());
    let batch = deaf.create_buffer(4096);
    batch.write(0, &gpu_broker_tests::Batch::new().noops(2).jump(BATCH).bytes());
    let contexts: Vec<_> = (0..BATCHES).map(|_| deaf.create_context().0).collect();
    let mut told = 0;
    for (number, context) in (0..BATCHES).zip(contexts) {
        // One of the four rings of the legacy map.
        let flags = flag::NO_RELOC | u64::from(1 + number % 4);
        let head = ExecbufHead { context, flags, ..ExecbufHead::default() };
        let mut answer = deaf.execbuf(&head, &[batch.pinned(BATCH)], &[]);
        // On a slow machine the first have hung meanwhile.
        while let Message::Hang(event) = answer {
            told += 1 + event.lost;
            answer = deaf.receive();
        }
        drop(answer.executed());
    }
    // Questions whose answers are not read, until no more go in.
    let question = Opcode::GetAperture as u16;
    let packet = [&question.to_le_bytes()[..], &[0; 6]].concat();
    let full = (0..100_000).find_map(|_| deaf.send_now(&packet, &[]).err());
    assert_eq!(full.map(|error| error.kind()), Some(std::io::ErrorKind::WouldBlock));
    let faults = || daemon.status().engines.iter().map(|engine| engine.faults).sum::<u64>();
    eventually("all have hung", || (faults() == u64::from(BATCHES)).then_some(()));
    witness.goes_on();
    witness.finish();
    while told < BATCHES {
        if let Message::Hang(event) = deaf.receive() {
            told += 1 + event.lost;
        }
    }
    assert_eq!(told, BATCHES, "events and those said to be lost");
    drop((deaf, batch));
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}

/// With resets of the whole device, who runs elsewhere is innocent: counted, and run again.
#[test]
fn an_innocent_neighbour_of_a_device_reset_is_counted_and_right() {
    let builder =
        Builder::new().config("[engines]\nreset = \"device\"\nheartbeat_interval_ms = 60000");
    let mut daemon = builder.start();
    let (culprit, neighbour) = (connect(&daemon, "culprit"), connect(&daemon, "neighbour"));
    let context = neighbour.context().engines(&[VIDEO]).create().expect("there is room");
    let target = neighbour.create_buffer(4096).expect("there is room");
    let memory = target.map().expect("fds are left");
    // Says that it runs, and spins where nobody else gets the engine, until the CPU ends it.
    let mut commands = Batch::new();
    commands.store_dword(TARGET, 1).store_dword(TARGET + 4, 42).noop().jump(BATCH);
    let batch = program(&neighbour, &commands);
    let work = context.execbuf().object_at(&target, TARGET).write().batch_at(&batch, BATCH);
    let fence = work.fence_out().submit().expect("it is legal").fence.expect("asked for");
    let runs = || memory.load_u32(0).expect("it is inside") == 1;
    eventually("the neighbour runs", || runs().then_some(()));
    let guilty = culprit.context().engines(&[RENDER]).create().expect("there is room");
    assert_eq!(outcome(&submit(&guilty, &bad(&culprit))), LOST);
    let counts = |context: &Context| {
        let stats = context.reset_stats().expect("the daemon answers");
        (stats.batch_active, stats.batch_pending)
    };
    eventually("the neighbour is counted", || (counts(&context) == (0, 1)).then_some(()));
    let end = Batch::new().end().dwords().to_vec();
    batch.map().expect("fds are left").write_dwords(0, &end).expect("it fits");
    assert_eq!(outcome(&fence), REPLAYED);
    assert_eq!(memory.load_u32(4).expect("it is inside"), 42);
    assert_eq!((counts(&context), counts(&guilty)), ((0, 1), (1, 0)));
    assert_eq!(neighbour.next_hang(Some(Duration::ZERO)).expect("connected"), None);
    daemon.assert_unharmed();
}
