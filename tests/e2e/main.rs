//! End-to-end tests: the real binary, real sockets, real faults. One test binary, so that it is built and linked once.
//!
//! Every test starts an arus of its own on ports of the kernel's choice. Nothing here waits for a fixed time where it
//! can wait for an event, and every wait has a generous deadline: what is tested is what happens, not how fast.
#![allow(clippy::unwrap_used)]

mod harness;

mod backends;
mod clients;
mod control;
mod limits;
mod pressure;
mod relay;
mod soak;
mod upstreams;
mod vanish;
