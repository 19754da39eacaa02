//! `arus run`: the command line of the proxy itself.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use crate::config::plan::{Level, LogFormat};
use crate::control::logging;
use crate::limits;

/// Run the proxy until it is told to stop (the same as no command)
///
/// SIGHUP reloads the configuration, as a change of the file does. SIGTERM and SIGINT stop accepting and let sessions
/// end for up to `drain_timeout`; a second one ends at once.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct RunArgs {
    /// Configuration file [default: ./proxy.toml; where there is none, the built-in example]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Threads that carry traffic: a number, or auto for one per CPU [default: as the configuration says]
    #[arg(long, value_name = "N|auto", value_parser = shards)]
    shards: Option<Shards>,
    /// Least important lines that are logged [default: as the configuration says]
    #[arg(long, value_name = "LEVEL", value_enum)]
    log_level: Option<LevelArg>,
    /// Form of the log [default: as the configuration says]
    #[arg(long, value_name = "FORMAT", value_enum)]
    log_format: Option<FormatArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shards {
    Auto,
    Number(NonZeroU16),
}

fn shards(text: &str) -> Result<Shards, String> {
    if text == "auto" {
        return Ok(Shards::Auto);
    }
    match text.parse::<NonZeroU16>() {
        Ok(number) if number.get() <= limits::SHARDS => Ok(Shards::Number(number)),
        _ => Err(format!("must be auto, or 1 to {}", limits::SHARDS)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LevelArg {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Text,
    Json,
}

impl RunArgs {
    fn overrides(&self) -> logging::Overrides {
        let level = self.log_level.map(|level| match level {
            LevelArg::Error => Level::Error,
            LevelArg::Warn => Level::Warn,
            LevelArg::Info => Level::Info,
            LevelArg::Debug => Level::Debug,
            LevelArg::Trace => Level::Trace,
        });
        let format = self.log_format.map(|format| match format {
            FormatArg::Text => LogFormat::Text,
            FormatArg::Json => LogFormat::Json,
        });
        logging::Overrides { level, format }
    }
}

pub(super) fn run(args: RunArgs) -> ExitCode {
    eprintln!("arus: {:?} {:?} {:?}: the supervisor is not merged yet", args.config, args.shards, args.overrides());
    ExitCode::FAILURE
}
