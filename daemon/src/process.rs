//! What the process gives up and asks for before it serves anybody.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Gives up every capability and the way to new ones. Capabilities belong to threads, so this must
/// come before the first thread is made.
///
/// The daemon needs access to its socket's directory and its device, both by ownership or group;
/// it decides what a peer may do itself, and a capability of its own would answer the kernel's
/// checks in the peer's place (rule table §4, PRIORITY and BANNABLE).
pub(crate) fn drop_privileges() {
    if let Err(error) = rustix::thread::set_no_new_privs(true) {
        tracing::warn!(%error, "cannot set no_new_privs");
    }
    // Fails with EINVAL on kernels without ambient capabilities, where there are none to clear.
    let _ = rustix::thread::clear_ambient_capability_set();
    let nothing = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    if let Err(error) = rustix::thread::set_capabilities(None, nothing) {
        tracing::warn!(%error, "cannot give up capabilities");
    }
}

/// Asks for as many file descriptors as the hard limit allows: each connection takes one, and
/// fences and buffers take theirs.
pub(crate) fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files to {:?}", limit.maximum);
    }
}
