//! Upstreams: which backend a connection gets, and getting connected to it.

pub mod state;
