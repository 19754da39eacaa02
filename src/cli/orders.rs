//! Orders to a running arus: reload, kill, drain.

use std::io::Write;
use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::client::Client;
use super::finish;
use super::socket::SocketArgs;
use crate::types::SessionId;

/// Put the changed configuration into force
///
/// A file with errors changes nothing, and all of them are printed.
#[derive(Debug, clap::Args)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

/// Cut a live session
///
/// Example: arus kill 0190d1c2-7b1e-7c3d-9a54-0f1e2d3c4b5a
#[derive(Debug, clap::Args)]
pub(super) struct KillArgs {
    /// The session, as `arus sessions` and the log show it
    id: SessionId,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Stop accepting, let sessions end, then exit
///
/// As SIGTERM does: live sessions have `drain_timeout` to end. Returns at once.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

pub(super) fn reload(args: &ReloadArgs) -> ExitCode {
    #[derive(Deserialize)]
    struct Reloaded {
        generation: u64,
    }
    let answer = match Client::new(&args.socket).and_then(|client| client.call(Method::POST, "/api/v1/reload")) {
        Ok(answer) => answer,
        Err(error) => return finish(Err(error)),
    };
    match answer.errors() {
        Some(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            eprintln!("arus: nothing was changed");
            ExitCode::FAILURE
        }
        None => finish(answer.read().and_then(|Reloaded { generation }| Ok(say(&format!("generation {generation}"))?))),
    }
}

pub(super) fn kill(args: &KillArgs) -> anyhow::Result<()> {
    let answer = Client::new(&args.socket)?.call(Method::DELETE, &format!("/api/v1/sessions/{}", args.id))?;
    if answer.code == StatusCode::NOT_FOUND {
        anyhow::bail!("there is no live session {}", args.id);
    }
    let _: serde_json::Value = answer.read()?;
    Ok(say(&format!("killed {}", args.id))?)
}

pub(super) fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let _: serde_json::Value = Client::new(&args.socket)?.call(Method::POST, "/api/v1/drain")?.read()?;
    Ok(say("draining: arus exits when the last session has ended")?)
}

/// As `println!`, but a reader that has gone is no panic.
fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
