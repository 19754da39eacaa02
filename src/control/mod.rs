//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.

pub mod admin;
mod bound;
#[cfg(test)]
mod fixture;
pub mod handle;
pub mod hello;
pub mod logging;
mod prepare;
mod privilege;
mod recorder;
mod resolver;
mod startup;
mod states;
mod stats;
mod watch;
