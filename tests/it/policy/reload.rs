//! SIGHUP while everybody works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gpu_broker_protocol::message::{ContextCreate, ContextDestroy};
use gpu_broker_protocol::{Reply, Request};
use gpu_broker_tests::{Builder, Message, Raw, Witness, eventually};
use rustix::process::Signal;

const CLIENTS: usize = 100;
const THREADS: usize = 4;

/// Clients that make and destroy contexts until told to stop; a refusal is not an error, anything
/// else that is not the reply is.
fn work(mut clients: Vec<Raw>, stop: &AtomicBool, done: &AtomicU64, refused: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        for client in &mut clients {
            match client.call(Request::ContextCreate(ContextCreate::default())) {
                Message::Reply(_, Reply::ContextCreate(made)) => {
                    let destroy = ContextDestroy { context: made.context, pad: 0 };
                    let _ = client.call(Request::ContextDestroy(destroy)).reply();
                    done.fetch_add(1, Ordering::Relaxed);
                }
                other => {
                    assert_eq!(other.refusal().name, "context-limit");
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[test]
fn a_new_configuration_tightens_a_hundred_sessions_at_work_and_ends_none() {
    let builder = Builder::new();
    let config = builder.socket().with_file_name("config.toml");
    let mut daemon = builder.start();
    let clients: Vec<Raw> = (0..CLIENTS).map(|_| daemon.client("at work")).collect();
    let counters = Arc::new((AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0)));
    let mut workers = Vec::new();
    let mut clients = clients.into_iter();
    for _ in 0..THREADS {
        let (mine, counters) =
            (clients.by_ref().take(CLIENTS / THREADS).collect(), counters.clone());
        workers.push(std::thread::spawn(move || work(mine, &counters.0, &counters.1, &counters.2)));
    }
    let (stop, done, refused) = (&counters.0, &counters.1, &counters.2);
    let reload = |text: &str| {
        std::fs::write(&config, text).expect("ours");
        let read = "the configuration was read again";
        let before = daemon.log().matches(read).count();
        daemon.signal(Signal::HUP);
        eventually("it is read", || (daemon.log().matches(read).count() > before).then_some(()));
    };
    let goes_on = |counter: &AtomicU64| {
        let goal = counter.load(Ordering::Relaxed) + 200;
        eventually("they go on", || (counter.load(Ordering::Relaxed) >= goal).then_some(()));
    };
    goes_on(done);
    for _ in 0..5 {
        reload("[[class]]\nname = \"default\"\nlimits.contexts = 0\n");
        goes_on(refused);
        reload("[session]\ncontexts = 7\n");
        goes_on(done);
    }
    // A file that is wrong changes nothing.
    std::fs::write(&config, "[[class]]\nname = \"default\"\nweight = 0\n").expect("ours");
    daemon.signal(Signal::HUP);
    eventually("it is refused", || daemon.log().contains("stays what it was").then_some(()));
    goes_on(done);
    Witness::start(daemon.socket()).finish();
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().expect("every client was served"));
    daemon.assert_unharmed();
}
