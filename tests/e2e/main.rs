//! End-to-end tests: the real binary, real sockets, real faults. One test binary, so that it is built and linked once.
//!
//! Every test starts an arus of its own on ports of the kernel's choice. Nothing here waits for a fixed time where it
//! can wait for an event, and every wait has a generous deadline: what is tested is what happens, not how fast.
#![allow(clippy::unwrap_used)]

mod harness;
mod ops;

mod access_log;
mod acl;
mod admin;
mod attack;
mod auth;
mod backends;
mod certificates;
mod cli;
mod clients;
mod control;
mod dashboard;
mod events;
mod health;
mod hello;
mod kit;
mod leave;
mod limits;
mod pam;
mod peers;
mod plugins;
mod pressure;
mod proxy_protocol;
mod qos;
mod queue;
mod relay;
mod reload;
mod resolve;
mod signals;
mod soak;
mod socks;
mod startup;
mod store;
mod storm;
mod tls;
mod udp;
mod upstreams;
mod vanish;
mod verdict;
mod watch;
