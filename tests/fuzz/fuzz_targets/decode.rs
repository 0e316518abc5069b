//! Packets from a client or a daemon that one cannot trust.
#![no_main]

libfuzzer_sys::fuzz_target!(|packet: &[u8]| gpu_broker_tests::fuzzing::decode(packet));
