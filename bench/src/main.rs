//! `arus-bench`: load generator, backend, featureless relays, small peers and the harness of `make bench`.
//!
//! Each subcommand is a process of its own, so that the harness can pin and meter it. All traffic
//! stays on the loopback interface.

mod backend;
#[cfg(feature = "socks-peer")]
mod fast_socks;
mod floor;
mod load;
mod net;
mod run;
mod splice;
#[cfg(feature = "tokio-peer")]
mod tokio_copy;
mod wire;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "arus-bench", about = "Load, backend, floor relay and peer harness for arus")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer the bench protocol
    Backend(backend::BackendArgs),
    /// Put load on a proxy or a backend; one JSON line tells what came of it
    Load(load::LoadArgs),
    /// Relay with as little as a user-space relay can do
    Floor(floor::FloorArgs),
    /// Relay by epoll and splice(2)
    Splice(splice::SpliceArgs),
    /// Relay by tokio's copy_bidirectional
    #[cfg(feature = "tokio-peer")]
    TokioCopy(tokio_copy::TokioCopyArgs),
    /// Serve SOCKS5 by the fast-socks5 library
    #[cfg(feature = "socks-peer")]
    FastSocks(fast_socks::FastSocksArgs),
    /// Measure arus and its peers in turn and report
    Run(run::RunArgs),
    #[command(hide = true)]
    Pinned(run::process::PinnedArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Backend(args) => backend::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Floor(args) => floor::run(&args),
        Command::Splice(args) => splice::run(&args),
        #[cfg(feature = "tokio-peer")]
        Command::TokioCopy(args) => tokio_copy::run(&args),
        #[cfg(feature = "socks-peer")]
        Command::FastSocks(args) => fast_socks::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Pinned(args) => run::process::become_pinned(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("arus-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells whoever started this process where it listens; the harness reads this line.
fn say_listening(address: SocketAddr) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening {address}")?;
    stdout.flush()
}
