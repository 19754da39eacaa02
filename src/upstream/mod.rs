//! Upstreams: which backend a connection gets, and getting connected to it.

pub mod balance;
pub mod dial;
pub mod queue;
pub mod state;
pub mod warm;
