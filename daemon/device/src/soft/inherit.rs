//! Priority inheritance: who waits for a request lends it its own priority, and through it to all
//! that this one waits for, as the kernel does. Otherwise a request of middling priority could keep
//! one of low priority from its engine, and with it everybody who waits for that one.
//!
//! What is lent is the priority that the context has when it submits, and stays lent until the
//! request is over. Only what the device knows of counts: fences and buffers, not semaphores in
//! memory.

use std::sync::Arc;

use super::request::Request;
use super::signal::Signal;

/// Fences that one submission looks at. A client can make each of thousands of requests wait for
/// all before it; beyond this many, a request runs at its own priority, and no worse.
const LOOKS_MAX: usize = 4096;

/// Lends the request's priority to what it waits for. Called with the order of its file locked, and
/// no lock that comes later.
pub(super) fn lend(request: &Request) {
    let priority = request.priority();
    let mut left = Vec::new();
    request.add_sources(&mut left);
    // Not by recursion: timelines are chains of any length.
    for _ in 0..LOOKS_MAX {
        let Some(signal) = left.pop() else { return };
        lend_to(&signal, priority, &mut left);
    }
}

fn lend_to(signal: &Arc<Signal>, priority: i32, left: &mut Vec<Arc<Signal>>) {
    // What it was lent before, those it waits for were lent too.
    if signal.state().is_some() || !signal.lend(priority) {
        return;
    }
    match signal.request() {
        Some(request) => {
            if request.rise(priority) {
                request.add_sources(left);
            }
        }
        None => left.extend(signal.sources()),
    }
}
