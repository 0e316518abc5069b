//! Clients that do everything wrong. Whatever they send: they get a clear answer or an epitaph,
//! every other session goes on, and nothing of theirs is left in the daemon.

mod batches;
mod crowds;
mod fds;
mod lists;
mod objects;
mod readers;
mod sync;
mod userptr;
mod wire;

use gpu_broker_tests::{Builder, Daemon, Witness};

/// Runs `attack` against a daemon that also serves a witness, and looks at what is left: the
/// witness worked to the end, the daemon lives and blames nothing on itself, and it holds what it
/// held before.
fn attack(builder: Builder, attack: impl FnOnce(&Daemon)) {
    let mut daemon = builder.start();
    // What is allocated once and kept is not a leak: let the daemon have it before the count.
    Witness::start(daemon.socket()).finish();
    let before = daemon.footprint();
    let witness = Witness::start(daemon.socket());
    attack(&daemon);
    witness.goes_on();
    witness.finish();
    daemon.settles_to(&before);
    daemon.assert_unharmed();
}
