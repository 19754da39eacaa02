//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.

mod bound;
#[cfg(test)]
mod fixture;
pub mod handle;
mod health;
mod prepare;
mod privilege;
mod recorder;
mod resolver;
mod startup;
mod states;
mod stats;
mod watch;
