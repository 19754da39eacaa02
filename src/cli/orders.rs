//! Orders to a running arus: reload, kill, drain.

use std::io::Write;
use std::process::ExitCode;

use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::client::{Answer, Client};
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
    /// Print JSON, as POST /api/v1/reload answers, errors too
    #[arg(long)]
    json: bool,
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
    /// Print JSON, as DELETE /api/v1/sessions/ID answers, refusals too
    #[arg(long)]
    json: bool,
}

/// Stop accepting, let sessions end, then exit
///
/// As SIGTERM does: live sessions have `drain_timeout` to end. Returns at once.
#[derive(Debug, clap::Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON, as POST /api/v1/drain answers
    #[arg(long)]
    json: bool,
}

pub(super) fn reload(args: &ReloadArgs) -> ExitCode {
    #[derive(Deserialize)]
    struct Reloaded {
        generation: u64,
    }
    give(&args.socket, args.json, Method::POST, "/api/v1/reload", |answer| match answer.errors() {
        Some(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            anyhow::bail!("nothing was changed")
        }
        None => answer.read().map(|Reloaded { generation }| format!("generation {generation}")),
    })
}

pub(super) fn kill(args: &KillArgs) -> ExitCode {
    let path = format!("/api/v1/sessions/{}", args.id);
    give(&args.socket, args.json, Method::DELETE, &path, |answer| {
        if answer.code == StatusCode::NOT_FOUND {
            anyhow::bail!("there is no live session {}", args.id);
        }
        answer.read::<serde_json::Value>().map(|_| format!("killed {}", args.id))
    })
}

pub(super) fn drain(args: &DrainArgs) -> ExitCode {
    give(&args.socket, args.json, Method::POST, "/api/v1/drain", |answer| {
        answer.read::<serde_json::Value>().map(|_| "draining: arus exits when the last session has ended".into())
    })
}

/// Gives the order, and prints what came of it: as JSON, or as `words` make of the answer.
fn give(
    socket: &SocketArgs,
    json: bool,
    method: Method,
    path: &str,
    words: impl FnOnce(&Answer) -> anyhow::Result<String>,
) -> ExitCode {
    let answer = match Client::new(socket).and_then(|client| client.call(method, path)) {
        Ok(answer) => answer,
        Err(error) => return finish(Err(error)),
    };
    // As `println!`, but a reader that has gone is no panic.
    let say = |line: String| Ok(writeln!(std::io::stdout(), "{line}")?);
    if !json {
        return finish(words(&answer).and_then(say));
    }
    match finish(answer.json().and_then(|body| say(body.to_string()))) {
        ExitCode::SUCCESS if !answer.code.is_success() => ExitCode::FAILURE,
        code => code,
    }
}
