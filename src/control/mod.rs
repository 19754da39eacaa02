//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.

pub mod admin;
pub mod handle;
pub mod hello;
pub mod logging;
