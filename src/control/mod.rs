//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.
//!
//! `supervisor` tells the whole story; `cli::run` calls [`supervisor::run`].

pub mod admin;
mod answers;
pub mod auth;
mod bound;
mod errands;
#[cfg(test)]
mod fixture;
pub mod handle;
mod hangs;
mod health;
pub mod hello;
mod launch;
pub mod logging;
pub mod plugins;
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
pub mod tls;
pub mod users;
mod watch;
