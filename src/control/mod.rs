//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.
//!
//! `supervisor` tells the whole story; `main.rs` calls [`supervisor::run`].

mod answers;
mod bound;
#[cfg(test)]
mod fixture;
pub mod handle;
mod health;
mod launch;
mod prepare;
mod privilege;
mod recorder;
mod reload;
mod resolver;
mod signals;
mod socket;
mod startup;
mod states;
mod stats;
mod stop;
pub mod supervisor;
mod systemd;
mod watch;
