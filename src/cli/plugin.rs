//! `arus plugin`: a plugin without traffic. `check` looks at its table and opens it; `run` sends bytes through it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::check::BAD_CONFIGURATION;
use super::offline::{self, Cut, Outcome};
use crate::config::plan::{Level, LogFormat, OnFault};
use crate::config::show_duration;
use crate::control::logging;
use crate::plugin::counters::PluginState;
use crate::plugin::watch::Watch;
use crate::plugin::{Libraries, Opened, Process, Terms, Trust, crash};
use crate::types::{Generation, Name, ShardId};

/// Check a plugin, or send bytes through it, without traffic
#[derive(Debug, clap::Subcommand)]
pub(super) enum PluginCommand {
    Check(CheckArgs),
    Run(RunArgs),
}

/// Check a plugin: its table, and that it opens with a config
///
/// Exits with 0, or 2 if arus would refuse the plugin.
///
/// Example: arus plugin check c_plugins/filter.so --config upper
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    plugin: FileArgs,
}

/// Send the standard input through a plugin to the standard output
///
/// Exits with 0 at the end of the stream, or when the plugin closes it; with 1 when the plugin resets it or is at
/// fault; with 2 if arus would refuse the plugin.
///
/// Examples:
///   echo hello | arus plugin run c_plugins/filter.so --config upper
///   arus plugin run my.so --cut 1 <in >out1; arus plugin run my.so --cut random:7 <in >out2; cmp out1 out2
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct RunArgs {
    #[command(flatten)]
    plugin: FileArgs,
    /// Which direction to play: client to backend, or backend to client
    #[arg(long, value_enum, default_value = "up")]
    direction: Direction,
    /// Show the plugin pieces of N bytes, or of random sizes [default: as they come, up to 16 KiB]
    #[arg(long, value_name = "N|random:SEED", value_parser = cut)]
    cut: Option<Cut>,
    /// Say on stderr how it ended and what was counted
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The shared library
    #[arg(value_name = "FILE.so")]
    file: PathBuf,
    /// The text that the plugin's process_open gets
    #[arg(long, value_name = "TEXT", default_value = "")]
    config: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Direction {
    Up,
    Down,
}

fn cut(text: &str) -> Result<Cut, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a whole number"));
    match text.strip_prefix("random:") {
        Some(seed) => number(seed).map(Cut::Random),
        None => match number(text)? {
            0 => Err("pieces have at least 1 byte".into()),
            n => Ok(Cut::Every(usize::try_from(n).unwrap_or(usize::MAX))),
        },
    }
}

pub(super) fn run(command: &PluginCommand) -> ExitCode {
    let _flush = logging::start(Level::Info, LogFormat::Text);
    // On stderr alone; there is no state directory.
    let _ = crash::install(None);
    let (PluginCommand::Check(CheckArgs { plugin }) | PluginCommand::Run(RunArgs { plugin, .. })) = command;
    let opened = match open(plugin) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("arus: {}: {error}", plugin.file.display());
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    super::finish(match command {
        PluginCommand::Check(_) => describe(&opened),
        PluginCommand::Run(args) => pump(args, opened),
    })
}

/// Loads it and opens a process and a shard, as a proxy with one shard would. Whoever may call this may run any code:
/// who owns the file does not matter.
fn open(plugin: &FileArgs) -> Result<Opened, String> {
    let FileArgs { file, config } = plugin;
    let owner = std::fs::metadata(file).ok();
    let owner = owner.as_ref().map(|file| {
        use std::os::unix::fs::MetadataExt;
        (file.uid(), file.gid())
    });
    let trust = Trust { owner: owner.map(|(owner, _)| owner), writers: owner.map(|(_, group)| group) };
    let name: Name = file.file_stem().map_or("plugin".into(), |stem| stem.to_string_lossy()).into();
    let library = Libraries::new().load(&name, file, trust).map_err(|error| error.to_string())?;
    let state = Arc::new(PluginState::new(Arc::clone(&name), 1));
    let terms = Terms {
        name,
        path: file.clone(),
        config: config.clone(),
        on_fault: OnFault::Close,
        max_call: Duration::from_millis(100),
    };
    let process = Process::open(terms, library, state, Generation(1), 1)?;
    Opened::new(&process, ShardId(0), &Arc::new(Watch::default()))
}

fn describe(opened: &Opened) -> anyhow::Result<()> {
    let process = opened.process();
    let library = &process.library;
    let (major, minor) = library.abi();
    let directions = match (library.sees_up(), library.sees_down()) {
        (true, true) => "up and down",
        (true, false) => "up",
        (false, _) => "down",
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}: ok", process.terms.path.display())?;
    writeln!(out, "  name        {} {}", library.name(), library.version())?;
    writeln!(out, "  interface   {major}.{minor}")?;
    writeln!(out, "  directions  {directions}")?;
    writeln!(out, "  connection  {} bytes of scratch memory", library.connection_size())?;
    writeln!(out, "  holds back  up to {} bytes", library.holdback_max())?;
    for (counter, _) in process.own_counters() {
        writeln!(out, "  counter     {}: {}", counter.name, counter.help)?;
    }
    writeln!(out, "  sha256      {}", library.digest)?;
    Ok(())
}

fn pump(args: &RunArgs, opened: Opened) -> anyhow::Result<()> {
    let process = Arc::clone(opened.process());
    let outcome = offline::pump(opened, args.direction == Direction::Up, args.cut).context("cannot go on")?;
    if args.verbose {
        report(&process, &outcome);
    }
    match outcome {
        Outcome::Ended | Outcome::NotInterested | Outcome::Detached(_) | Outcome::Closed => Ok(()),
        Outcome::Reset => bail!("the plugin has reset the connection"),
        Outcome::Fault(fault) => bail!("{fault}"),
    }
}

fn report(process: &Process, outcome: &Outcome) {
    let totals = process.state.totals();
    let quantile = |part| totals.call_quantile(part).map_or_else(|| "-".into(), show_duration);
    eprintln!("{outcome}");
    eprintln!("{} calls, half of them up to {}, 99 % up to {}", totals.calls, quantile(0.5), quantile(0.99));
    eprintln!("{} bytes in, {} bytes out, {} faults", totals.bytes_in, totals.bytes_out, totals.faults);
    for (counter, value) in process.own_counters() {
        eprintln!("{} {value}", counter.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_are_sizes_or_seeds() {
        assert_eq!(cut("1"), Ok(Cut::Every(1)));
        assert_eq!(cut("random:42"), Ok(Cut::Random(42)));
        for bad in ["0", "-1", "x", "random:", "random:x", ""] {
            assert!(cut(bad).is_err(), "{bad}");
        }
    }
}
