//! Cross-crate tests: whole processes, hostile clients, and the tidiness of the tree.

mod bench;
mod capi;
mod cli;
mod client;
mod confinement;
mod containers;
mod corpus;
mod daemon;
mod engines;
mod hangs;
mod hostile;
mod large;
mod policy;
mod preload;
mod python;
mod shared_status;
mod simulation;
mod stacks;
mod tidy;
mod top;
mod userptr;
