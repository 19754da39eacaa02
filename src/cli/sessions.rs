//! `arus sessions`: who is connected, newest first.

use std::io::Write;
use std::time::Duration;

use super::client::Client;
use super::socket::SocketArgs;
use super::table::Table;
use super::units;
use crate::control::admin::sessions::{PAGE_SIZE, Page, Session};

/// List the live sessions, newest first
///
/// Examples:
///   arus sessions
///   arus sessions --json | jq -r '.data[] | select(.listener == "web").id'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Print JSON, as GET /api/v1/sessions answers
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &SessionsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket)?;
    let path = format!("/api/v1/sessions?page_size={PAGE_SIZE}");
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &client.get_json(&path)?)?;
        writeln!(out)?;
        return Ok(());
    }
    let page: Page = client.get(&path)?;
    write!(out, "{}", table(&page.data))?;
    if page.total > page.data.len() {
        writeln!(out, "and {} more", page.total - page.data.len())?;
    }
    if !page.missing_shards.is_empty() {
        eprintln!("arus: shards {:?} did not answer; their sessions are missing here", page.missing_shards);
    }
    Ok(())
}

fn table(sessions: &[Session]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "LISTENER",
        "SOURCE",
        "BACKEND",
        "STAGE",
        "AGE>",
        "UP>",
        "DOWN>",
        "CONNECT>",
        "FIRST BYTE>",
        "SHARD>",
    ]);
    for session in sessions {
        let millis = |ms: Option<f64>| ms.map_or("-".into(), |ms| units::micros((ms * 1000.0) as u64));
        table.row([
            session.id.clone(),
            session.listener.clone(),
            session.source.clone(),
            session.backend.clone().unwrap_or_else(|| "-".into()),
            session.stage.clone(),
            units::span(Duration::from_millis(session.duration_ms)),
            units::bytes(session.bytes_up),
            units::bytes(session.bytes_down),
            millis(session.connect_ms),
            millis(session.first_byte_ms),
            session.shard.to_string(),
        ]);
    }
    table
}
