//! Limits: how many connections, how fast, from whom. Pure counting; no I/O, nothing blocks.

pub mod budget;
pub mod permit;
pub mod rate;
pub mod source;
