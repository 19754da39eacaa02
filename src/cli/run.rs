//! `arus run`: the command line of the proxy itself, and what the supervisor needs of it.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;

use super::check::BAD_CONFIGURATION;
use crate::config::plan::{Level, LogFormat, Plan};
use crate::config::{self, Environment, Severity, Source, diff};
use crate::control::supervisor::{self, Hooks, Loaded};
use crate::control::{admin, hello, logging, tls};
use crate::{limits, shard};

/// Run the proxy until it is told to stop (the same as no command)
///
/// SIGHUP reloads the configuration, as a change of the file does. SIGTERM and SIGINT stop accepting and let sessions
/// end for up to `drain_timeout`; a second one ends at once.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct RunArgs {
    /// Configuration file [default: ./proxy.toml; where there is none, the built-in example]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

/// What the command line says stands over the file, at every reload too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
struct Overrides {
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
enum Shards {
    Auto,
    Number(NonZeroU16),
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

fn shards(text: &str) -> Result<Shards, String> {
    if text == "auto" {
        return Ok(Shards::Auto);
    }
    match text.parse::<NonZeroU16>() {
        Ok(number) if number.get() <= limits::SHARDS => Ok(Shards::Number(number)),
        _ => Err(format!("must be auto, or 1 to {}", limits::SHARDS)),
    }
}

impl Overrides {
    fn apply(self, plan: &mut Plan) {
        match self.shards {
            Some(Shards::Auto) => plan.engine.shards = None,
            Some(Shards::Number(number)) => plan.engine.shards = Some(number),
            None => {}
        }
        if let Some(level) = self.log_level {
            plan.log.level = match level {
                LevelArg::Error => Level::Error,
                LevelArg::Warn => Level::Warn,
                LevelArg::Info => Level::Info,
                LevelArg::Debug => Level::Debug,
                LevelArg::Trace => Level::Trace,
            };
        }
        if let Some(format) = self.log_format {
            plan.log.format = match format {
                FormatArg::Text => LogFormat::Text,
                FormatArg::Json => LogFormat::Json,
            };
        }
    }
}

/// The main thread stays alone until the supervisor has given up root: see `control::launch`.
pub(super) fn run(args: RunArgs) -> ExitCode {
    let place = config::locate(args.config.as_deref());
    let source = supervisor_source(&place, args.overrides);
    let first = match source.load() {
        Ok(first) => first,
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    // Before anything is bound, as all that the configuration names is a part of it.
    let name = place.to_string();
    let findings = tls::check(&first.plan, &name);
    let wrong: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    if !wrong.is_empty() {
        wrong.iter().for_each(|finding| eprintln!("{finding}"));
        return ExitCode::from(BAD_CONFIGURATION);
    }
    let _flush = logging::start(first.plan.log.level, first.plan.log.format);
    if place == Source::Example {
        tracing::info!("there is no ./{}: running the built-in example", config::DEFAULT_PATH);
    }
    supervisor::run(source, first, hooks())
}

/// Loads as `arus check` does, each time with the overrides on top.
fn supervisor_source(place: &Source, overrides: Overrides) -> supervisor::Source {
    let path = match place {
        // Absolute, for whoever reads it in `arus status`.
        Source::File(path) => Some(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        Source::Example => None,
    };
    let environment = Environment::detect();
    let place = place.clone();
    let load = move || {
        let lines = |findings: Vec<config::Finding>| findings.iter().map(ToString::to_string).collect();
        match config::load(&place, &environment) {
            Ok(config::Loaded { mut plan, warnings, .. }) => {
                overrides.apply(&mut plan);
                Ok(Loaded { plan, warnings: lines(warnings) })
            }
            Err(errors) => Err(lines(errors.findings)),
        }
    };
    supervisor::Source::new(path, Arc::new(load))
}

fn hooks() -> Hooks {
    Hooks {
        spawn: Box::new(|parts| {
            // Root is given up by now, and a shard must never wait for stderr.
            logging::detach()?;
            shard::spawn(parts)
        }),
        serve: Box::new(|control, socket, listeners| Box::pin(admin::serve(control, socket, listeners))),
        hello: Box::new(|listener, accept_proxy| Box::pin(hello::serve(listener, accept_proxy))),
        diff: Box::new(diff::diff),
        relog: Box::new(|log| logging::set(log.level, log.format)),
    }
}
