//! Who may what, and how much of it: classes, their limits, identities, metrics.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the answer it expects; every other one is a failure"
)]

mod admin;
mod administration;
mod classes;
mod hoarder;
mod identity;
pub(crate) mod metrics;
mod reload;
