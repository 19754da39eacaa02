//! `arus example-config`: prints the built-in example.

use std::io::Write;
use std::process::ExitCode;

use crate::config::EXAMPLE;

#[must_use]
pub fn run() -> ExitCode {
    // Whoever closed the pipe has read what they wanted.
    let _ = std::io::stdout().write_all(EXAMPLE.as_bytes());
    ExitCode::SUCCESS
}
