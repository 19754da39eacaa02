//! The PROXY protocol's parser and encoder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arus::codec::proxy_header::fuzz_invariants(bytes));
