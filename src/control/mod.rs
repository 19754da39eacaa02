//! The control plane: ordinary threads that prepare, watch and ask. Nothing here is on a connection's path.
//!
//! `supervisor` tells the whole story; `cli::run` calls [`supervisor::run`].

pub mod admin;
mod answers;
pub mod auth;
mod background;
mod bound;
mod ejected;
mod errands;
pub mod events;
#[cfg(test)]
mod fixture;
pub mod handle;
mod hangs;
mod health;
pub mod hello;
pub mod history;
mod launch;
pub mod logging;
mod notice;
pub mod plugins;
mod prepare;
mod privilege;
mod quotas;
mod recorder;
mod reload;
mod resolver;
mod signals;
mod socket;
mod startup;
mod states;
mod stats;
mod stop;
pub mod store;
pub mod supervisor;
mod systemd;
pub mod tls;
mod turns;
pub mod users;
mod watch;
