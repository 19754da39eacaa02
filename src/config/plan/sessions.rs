//! `[sessions]` and `[telemetry]`: what is remembered of finished sessions, and of what happened.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    pub store: Store,
    /// Records of one transaction.
    pub batch_size: u32,
    /// The longest that a record waits to be written.
    pub batch_interval: Duration,
    /// How long a record is kept, from the session's begin.
    pub retention: Duration,
    /// Finished sessions in memory.
    pub recent: u32,
}

/// Where finished sessions go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Absolute.
    Sqlite(PathBuf),
    Memory,
    Off,
}

impl Store {
    /// As the file writes it.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Memory => "memory".into(),
            Self::Off => "off".into(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telemetry {
    pub max_events: u32,
    pub retention: Duration,
}
