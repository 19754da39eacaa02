//! Limits and identity: how many connections, how fast, from whom, on whose behalf. Pure; no I/O, nothing blocks.

pub mod acl;
pub mod banned;
pub mod bucket;
pub mod budget;
pub mod host;
pub mod identity;
pub mod logins;
pub mod pace;
mod party;
pub mod permit;
pub mod rate;
pub mod share;
pub mod source;
pub mod terms;
pub mod user;
pub mod users;
