//! The codec of SOCKS 4.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arus::codec::socks4::fuzz_invariants(bytes));
