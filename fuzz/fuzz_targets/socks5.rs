//! The codec of SOCKS 5.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| arus::codec::socks5::fuzz_invariants(bytes));
