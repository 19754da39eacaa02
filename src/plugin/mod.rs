//! C plugins: loading them, opening them for a configuration, a shard and a connection, and moving a connection's bytes
//! through them. `c_plugins/arus_plugin.h` is the contract; docs/PLUGINS.md explains it.
//!
//! A [`Library`] is a loaded file, for ever. A [`Process`] is a library opened with one `config` text; an [`Opened`] is a
//! process on one shard, which the shard makes an [`Instance`] of; [`Streams::open`] gives the two [`Line`]s of a
//! connection. Nothing here is asynchronous: a line is run over chains of buffers by whoever has them.

pub mod chain;
pub mod counters;
pub mod fault;
mod ffi;
pub mod instance;
mod stage;
#[cfg(test)]
mod tests;
pub mod watch;
mod work;

pub use chain::{Line, Refusal, Streams, Turn};
pub use fault::{Fault, Function, Lie};
pub use ffi::{Digest, Facts, Libraries, Library, LoadError, Opened, OwnCounter, Process, Terms, Trust};
pub use instance::Instance;
