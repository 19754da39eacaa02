//! arus: a thread-per-core io_uring proxy engine for TCP.
//!
//! Read `docs/ARCHITECTURE.md` first. Imports go only downwards; `tests/tidy.rs` checks it.

pub mod cli;
pub mod codec;
pub mod config;
pub mod control;
pub mod limits;
pub mod net;
pub mod plugin;
pub mod policy;
pub mod relay;
pub mod ring;
pub mod shard;
pub mod stats;
pub mod tls;
pub mod types;
pub mod upstream;
