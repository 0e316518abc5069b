//! Proofs about the bytes on the wire: they stay what they are, two implementations agree on them,
//! whatever arrives is decoded or refused within bounds, and WIRE.md tells the truth.

mod document;
mod golden;
mod hostile;
mod lists;
mod refusals;
mod roundtrip;
mod samples;
mod second;
mod strategies;
mod submission;
