//! Limits and identity: how many connections, how fast, from whom, on whose behalf. Pure; no I/O, nothing blocks.

pub mod acl;
pub mod budget;
pub mod host;
pub mod identity;
pub mod permit;
pub mod rate;
pub mod source;
