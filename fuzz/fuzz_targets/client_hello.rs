//! The ClientHello's parser.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arus::codec::client_hello::fuzz_invariants(bytes));
