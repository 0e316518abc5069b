//! Batches from a client that one cannot trust.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gpu_broker_tests::fuzzing::execute(input));
