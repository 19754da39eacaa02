//! The command line: what can be asked of arus, one file a subcommand.
//!
//! Exit codes: 0 done, 1 it failed at run time, 2 the command line or the configuration is wrong.

mod access;
pub mod check;
mod client;
mod events;
pub mod example;
pub mod explain;
mod hash_password;
mod hello;
mod offline;
mod orders;
mod plugin;
mod query;
mod run;
mod sessions;
mod shell;
mod socket;
mod status;
mod table;
mod top;
mod units;
mod users;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use check::BAD_CONFIGURATION;

use crate::control::auth::pam;

const EXAMPLES: &str = "\
Examples:
  arus                                 run with ./proxy.toml (or, without one, the built-in example)
  arus -c /etc/arus/proxy.toml --shards 4
  arus check -c proxy.toml             is the configuration right?
  arus reload                          put the changed file into force
  arus status                          what runs, and how it stands
  arus top                             the same, live
  arus sessions                        who is connected
  arus users                           who uses how much of what they may
  arus events                          what happened: reloads, backends down, limits hit
  arus plugin check filter.so          would this plugin be loaded?
  arus drain                           stop accepting, let sessions end, then exit

Exit codes: 0 done, 1 failed at run time, 2 wrong command line or configuration.";

/// A thread-per-core io_uring TCP proxy.
///
/// Without a command, arus runs the proxy, as `arus run` does. It reloads on SIGHUP and when its configuration file
/// changes, and drains on SIGTERM or SIGINT.
#[derive(Debug, Parser)]
#[command(name = "arus", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: run::RunArgs,
}

/// Each says in its own file what it does: the first line of that is what the list of commands shows.
#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(ConfigArgs),
    Explain(ExplainArgs),
    Reload(orders::ReloadArgs),
    Status(status::StatusArgs),
    Sessions(sessions::SessionsArgs),
    Users(users::UsersArgs),
    Events(events::EventsArgs),
    Kill(orders::KillArgs),
    Drain(orders::DrainArgs),
    Top(top::TopArgs),
    Hello(hello::HelloArgs),
    HashPassword(hash_password::HashPasswordArgs),
    /// Keeps the processes that ask PAM; arus starts it itself
    #[command(hide = true)]
    PamKeeper {
        workers: usize,
        limit_ms: u64,
        /// Waits until the keeper that has started it is gone
        #[arg(long)]
        standby: bool,
    },
    /// Asks PAM; the keeper starts it
    #[command(hide = true)]
    PamWorker {
        limit_ms: u64,
        /// The process of the keeper
        keeper: i32,
    },
    /// Check a plugin, or send bytes through it, without traffic
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    /// Print the built-in example configuration
    ///
    /// Example: arus example-config > proxy.toml
    ExampleConfig,
}

/// Check a configuration and show every error in it
///
/// Loads, resolves and validates what `arus run` would. Prints all errors as FILE:LINE:COLUMN: message (hint), and
/// exits with 0 or 2.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: ./proxy.toml; where there is none, the built-in example]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Show which route and upstream a connection would get
///
/// Example: arus explain -c proxy.toml --listener web --source 192.0.2.7
#[derive(Debug, Args)]
struct ExplainArgs {
    /// Configuration file [default: ./proxy.toml; where there is none, the built-in example]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    connection: explain::Args,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" of clap that go to stdout and end well.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args.config.as_deref()),
        Command::Explain(args) => explain::run(args.config.as_deref(), &args.connection),
        Command::Reload(args) => orders::reload(&args),
        Command::Status(args) => finish(status::run(&args)),
        Command::Sessions(args) => finish(sessions::run(&args)),
        Command::Users(args) => finish(users::run(&args)),
        Command::Events(args) => finish(events::run(&args)),
        Command::Kill(args) => orders::kill(&args),
        Command::Drain(args) => orders::drain(&args),
        Command::Top(args) => finish(top::run(&args)),
        Command::Plugin(command) => plugin::run(&command),
        Command::HashPassword(args) => finish(hash_password::run(&args)),
        Command::PamKeeper { workers, limit_ms, standby } => {
            pam::keep(workers, Duration::from_millis(limit_ms), standby)
        }
        Command::PamWorker { limit_ms, keeper } => pam::work(Duration::from_millis(limit_ms), keeper),
        Command::Hello(args) => finish(hello::run(&args)),
        Command::Completions(args) => finish(shell::completions(&args)),
        Command::Man(args) => finish(shell::man(&args)),
        Command::ExampleConfig => example::run(),
    }
}

/// How a command of which every failure is one of run time ends.
fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `arus sessions | head` ends as its reader wants.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_run() {
        let plain = parse("arus -c a.toml --shards 8 --log-level debug --log-format json").unwrap();
        let Command::Run(named) =
            parse("arus run -c a.toml --shards 8 --log-level debug --log-format json").unwrap().command.unwrap()
        else {
            panic!("not run")
        };
        assert!(plain.command.is_none());
        assert_eq!(plain.run, named);
    }

    #[test]
    fn wrong_command_lines_are_refused() {
        for line in [
            "arus --shards 0",
            "arus --shards 1025",
            "arus --shards many",
            "arus --log-level loud",
            "arus --log-format xml",
            "arus kill",
            "arus hello",
            "arus plugin",
            "arus plugin check",
            "arus plugin run x.so --cut 0",
            "arus plugin run x.so --direction left",
            "arus hello --listen nowhere",
            "arus completions tcl",
            "arus top --interval 0s",
            "arus nonsense",
            "arus --shards 2 status",
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.use_stderr() && error.exit_code() == i32::from(BAD_CONFIGURATION), "{line}: {error}");
        }
    }

    #[test]
    fn help_and_version_are_not_errors() {
        assert_eq!(parse("arus --version").unwrap_err().kind(), ErrorKind::DisplayVersion);
        let help = parse("arus --help").unwrap_err();
        assert_eq!((help.kind(), help.use_stderr()), (ErrorKind::DisplayHelp, false));
        assert!(help.to_string().contains("Examples:"));
    }

    #[test]
    fn every_client_command_can_be_told_the_socket() {
        for command in [
            "reload",
            "status",
            "sessions",
            "users",
            "events",
            "drain",
            "top",
            "kill 0190ffff-0000-7000-8000-000000000000",
        ] {
            parse(&format!("arus {command} --socket /run/arus.sock")).unwrap();
            parse(&format!("arus {command} -c /etc/arus.toml")).unwrap();
        }
    }
}
