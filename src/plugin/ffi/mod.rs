//! The boundary to C: the mirror of `c_plugins/arus_plugin.h`, loading, and every call in either direction.
//!
//! What keeps it sound, as far as arus can see to it: a table is copied out and checked before anything of it is used
//! (`table`); a library is never unloaded, so that its functions and texts hold for ever (`library`); the pointers that a
//! plugin hands to host functions are only compared, and what they act on is what this thread's current call has
//! (`host`). What a plugin's code itself does to memory, nobody can check.
#![allow(unsafe_code)] // the one place of plugins; listed in tests/tidy.rs

mod abi;
pub mod crash;
mod elf;
mod host;
mod image;
mod library;
mod maps;
mod process;
mod shard;
mod table;

pub(super) use abi::{
    BYPASS, CLOSE, DETACH, ERROR, IDLE_CALLS_MAX, INPUT_MAX, MORE_OUTPUT, NEED_MORE, OK, RESERVE_MAX, RESET,
};
pub use host::{Facts, OwnCounter};
pub use image::{Digest, Trust};
pub use library::{Libraries, Library, LoadError};
pub use process::{Process, Terms};
pub use shard::Opened;
pub(super) use shard::{Scratch, Site};
