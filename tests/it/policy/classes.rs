//! Limits that the sessions of a class share, from processes of their own.

use std::path::PathBuf;

use gpu_broker_protocol::EpitaphCode;
use gpu_broker_tests::{Builder, Daemon, Raw, Witness};

use super::hoarder::Hoarder;

/// A daemon whose class "tenant" is everybody who comes in by its own socket.
pub(super) fn daemon(limits: &str) -> (Daemon, PathBuf) {
    let builder = Builder::new();
    let socket = builder.socket().with_file_name("tenant.sock");
    let config = format!(
        "[[listener]]\nname = \"tenant\"\nsocket = \"{}\"\n\
         [[class]]\nname = \"tenant\"\nmatch.listener = [\"tenant\"]\n{limits}",
        socket.display()
    );
    (builder.config(&config).start(), socket)
}

fn tenant(socket: &std::path::Path) -> Hoarder {
    let (hoarder, said) = Hoarder::start(socket);
    assert!(said.starts_with("session "), "{said}");
    hoarder
}

/// The last one fits, one more is refused by name, in whichever process it is; what one gives back
/// the other may have; and a process that dies gives back all it had. Meanwhile another class works.
fn shared(resource: &str, key: &str, most: u32, reason: &str) {
    let limit = if resource.ends_with("mebibytes") { most << 20 } else { most };
    let (mut daemon, socket) = daemon(&format!("limits.{key} = {limit}"));
    let witness = Witness::start(daemon.socket());
    let (mut a, mut b) = (tenant(&socket), tenant(&socket));
    let half = most / 2;
    assert_eq!(a.ask(&format!("take {resource} {half}")), format!("took {half}"));
    let rest = most - half;
    assert_eq!(b.ask(&format!("take {resource} {rest}")), format!("took {rest}"), "at the edge");
    let rule = format!("class \"tenant\" holds {limit} of limits.{key} = {limit}");
    for hoarder in [&mut a, &mut b] {
        let refused = hoarder.ask(&format!("take {resource} 1"));
        assert!(refused.starts_with(&format!("took 0 {reason} ")), "{refused}");
        assert!(refused.contains(&rule), "{refused}");
    }
    witness.goes_on();
    if resource != "submissions" {
        assert_eq!(b.ask(&format!("give {resource}")), format!("gave {rest}"));
        let taken = a.ask(&format!("take {resource} {most}"));
        assert!(taken.starts_with(&format!("took {rest} {reason}")), "{taken}");
    }
    drop(a);
    gpu_broker_tests::eventually("what a dead process held is given back", || {
        let taken = b.ask(&format!("take {resource} 1"));
        (taken == "took 1").then_some(())
    });
    witness.goes_on();
    witness.finish();
    assert!(daemon.log().contains("audit: refused: "), "{}", daemon.log());
    daemon.assert_unharmed();
}

#[test]
fn contexts_of_a_class() {
    shared("contexts", "contexts", 5, "context-limit");
}

#[test]
fn vms_of_a_class() {
    shared("vms", "vms", 4, "vm-limit");
}

#[test]
fn buffers_of_a_class() {
    shared("buffers", "buffers", 6, "buffer-limit");
}

#[test]
fn buffer_memory_of_a_class() {
    shared("mebibytes", "buffer_memory_bytes", 7, "buffer-memory-limit");
}

#[test]
fn userptr_memory_of_a_class() {
    shared("userptr_mebibytes", "userptr_memory_bytes", 5, "userptr-memory-limit");
}

#[test]
fn submissions_in_flight_of_a_class() {
    shared("submissions", "submissions_in_flight", 3, "in-flight-limit");
}

#[test]
fn sessions_of_a_class() {
    let (mut daemon, socket) = daemon("limits.sessions = 2");
    let (first, _second) = (tenant(&socket), tenant(&socket));
    let (_third, said) = Hoarder::start(&socket);
    assert!(said.contains("Full") && said.contains("limits.sessions = 2"), "{said}");
    let _others = daemon.client("of another class");
    drop(first);
    gpu_broker_tests::eventually("its place is free", || {
        let (_hoarder, said) = Hoarder::start(&socket);
        said.starts_with("session ").then_some(())
    });
    daemon.assert_unharmed();
}

/// Requests over the rate wait; nothing is refused, and whoever is in another class notices nothing.
#[test]
fn requests_per_second_of_a_class() {
    let builder = Builder::new();
    let metrics = builder.socket().with_file_name("metrics.sock");
    let socket = builder.socket().with_file_name("tenant.sock");
    let config = format!(
        "[metrics]\nlisten = \"{}\"\n[[listener]]\nname = \"tenant\"\nsocket = \"{}\"\n\
         [[class]]\nname = \"tenant\"\nmatch.listener = [\"tenant\"]\n\
         limits.requests_per_second = 40\n",
        metrics.display(),
        socket.display()
    );
    let mut daemon = builder.config(&config).start();
    let delays = || super::metrics::value(&metrics, "gpu_broker_delays_total{class=\"tenant\"}");
    let (mut a, mut b) = (tenant(&socket), tenant(&socket));
    // Eight requests may come at once, and the two HELLOs were the first of them.
    for hoarder in [&mut a, &mut b] {
        assert_eq!(hoarder.ask("take contexts 3"), "took 3");
    }
    assert_eq!(delays(), 0.0, "at the edge");
    let witness = Witness::start(daemon.socket());
    for hoarder in [&mut a, &mut b] {
        assert_eq!(hoarder.ask("take contexts 20"), "took 20", "nothing is refused");
    }
    assert!(delays() > 0.0, "40 requests more in less than a second");
    let of_others = "gpu_broker_delays_total{class=\"default\"}";
    assert_eq!(super::metrics::value(&metrics, of_others), 0.0);
    witness.goes_on();
    witness.finish();
    daemon.assert_unharmed();
}

/// Two processes of one class have an engine's half beside one of another, not two thirds. What is
/// compared is engine time as the daemon counts it.
#[test]
fn engine_time_of_a_class() {
    let builder = Builder::new();
    let metrics = builder.socket().with_file_name("metrics.sock");
    let socket = builder.socket().with_file_name("tenant.sock");
    let config = format!(
        "[metrics]\nlisten = \"{}\"\n[[listener]]\nname = \"tenant\"\nsocket = \"{}\"\n\
         [[class]]\nname = \"tenant\"\nmatch.listener = [\"tenant\"]\n",
        metrics.display(),
        socket.display()
    );
    let mut daemon = builder.config(&config).start();
    let had = |class: &str| {
        let labels = format!("{{class=\"{class}\",engine=\"render\"}}");
        super::metrics::value(&metrics, &format!("gpu_broker_class_engine_seconds_total{labels}"))
    };
    let mut all = [tenant(&socket), tenant(&socket), tenant(daemon.socket())];
    for hoarder in &mut all {
        assert_eq!(hoarder.ask("take submissions 1"), "took 1");
    }
    let both = || [had("tenant"), had("default")];
    let before = gpu_broker_tests::eventually("both have the engine", || {
        let before = both();
        before.iter().all(|had| *had > 0.0).then_some(before)
    });
    let since = || {
        let now = both();
        [now[0] - before[0], now[1] - before[1]]
    };
    let [tenants, other] = gpu_broker_tests::eventually("the engine is used", || {
        let since = since();
        (since[0] + since[1] > 0.5).then_some(since)
    });
    let times = tenants / other;
    assert!((0.7..1.4).contains(&times), "{tenants} s and {other} s: {times:.2} to 1");
    all.into_iter().for_each(drop);
    daemon.assert_unharmed();
}

#[test]
fn nobody_gets_in_whom_no_class_admits() {
    let own = rustix::process::getuid().as_raw();
    let config = format!(
        "default_class = \"deny\"\n[[class]]\nname = \"we\"\nmatch.uid = [{}]",
        own.wrapping_add(1)
    );
    let mut daemon = Builder::new().config(&config).spawn();
    gpu_broker_tests::eventually("the daemon listens", || Raw::connect(daemon.socket()).ok());
    let client = Raw::connect(daemon.socket()).expect("it listens");
    let epitaph = client.receive().epitaph();
    assert_eq!(epitaph.code, EpitaphCode::Denied);
    assert!(epitaph.text.contains("default_class = \"deny\" denies"), "{}", epitaph.text);
    assert!(daemon.log().contains("audit: turned away: "), "{}", daemon.log());
    daemon.assert_unharmed();
}

#[test]
fn engines_that_a_class_may_not_use_are_not_there() {
    let (_daemon, socket) = daemon("rights.engines = [\"rcs0\", \"vcs1\"]");
    let (_client, hello) = Raw::try_hello(&socket, "few engines").expect("admitted");
    let names: Vec<&str> = hello.device.engines.iter().map(|engine| &*engine.name).collect();
    assert_eq!(names, ["rcs0", "vcs1"]);
}
