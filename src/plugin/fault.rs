//! What a plugin can do wrong, in words, and which of its functions arus was in.

use std::fmt;

use crate::types::{Generation, Name};

/// A function of a plugin, as logs and the crash line name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Function {
    /// Its file is being loaded.
    Load,
    ProcessOpen,
    ProcessClose,
    ShardOpen,
    ShardClose,
    ConnectionOpen,
    ConnectionClose,
    DataUp,
    DataDown,
}

impl Function {
    pub const ALL: [Self; 9] = [
        Self::Load,
        Self::ProcessOpen,
        Self::ProcessClose,
        Self::ShardOpen,
        Self::ShardClose,
        Self::ConnectionOpen,
        Self::ConnectionClose,
        Self::DataUp,
        Self::DataDown,
    ];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Load => "its initialisers",
            Self::ProcessOpen => "process_open",
            Self::ProcessClose => "process_close",
            Self::ShardOpen => "shard_open",
            Self::ShardClose => "shard_close",
            Self::ConnectionOpen => "connection_open",
            Self::ConnectionClose => "connection_close",
            Self::DataUp => "data (up)",
            Self::DataDown => "data (down)",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A number, pointer or answer of a plugin that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    #[error("called {verb} with {n} bytes where {left} are left")]
    Consumed { verb: &'static str, n: usize, left: usize },
    #[error("called reserve with {n} bytes, more than {}", super::ffi::RESERVE_MAX)]
    Reserved { n: usize },
    #[error("called commit with {n} bytes {}", Reservation(*reserved))]
    Committed { n: usize, reserved: Option<usize> },
    #[error("called a host function with an io pointer that is not this call's")]
    ForeignIo,
    #[error("gave the unknown answer {0}")]
    Answer(i32),
    #[error("answered OK and left {0} bytes of its input")]
    Left(usize),
    #[error("answered NEED_MORE to the end of the stream and left {0} bytes of its input")]
    LeftAtEnd(usize),
    #[error("answered NEED_MORE and left {left} bytes, more than its holdback_max of {max}")]
    HeldBack { left: usize, max: usize },
    #[error("answered MORE_OUTPUT {0} times in a row and did nothing")]
    NoProgress(u32),
    #[error("answered ERROR")]
    Error,
}

struct Reservation(Option<usize>);

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(n) => write!(f, "where {n} are reserved"),
            None => f.write_str("where nothing is reserved"),
        }
    }
}

/// A lie with who told it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin:?} (generation {}) {lie} in {function}", generation.0)]
pub struct Fault {
    pub plugin: Name,
    /// The configuration that loaded it.
    pub generation: Generation,
    pub function: Function,
    pub lie: Lie,
}
