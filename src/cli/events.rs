//! `arus events`: what happened, newest first.

use std::io::Write;

use super::client::Client;
use super::query::with_query;
use super::socket::SocketArgs;
use super::table::Table;
use crate::control::admin::events::{Event, Events};

/// Show what happened, newest first: reloads, backends that went down, limits that refuse, ...
///
/// Examples:
///   arus events
///   arus events --severity error --since 1h
///   arus events --category reload --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Only those: info, warning or error
    #[arg(long)]
    severity: Option<String>,
    /// Only those about it: process, reload, backend, plugin, limit, auth, store, certificate, shard, admin
    #[arg(long)]
    category: Option<String>,
    /// Not older than this: a time, or how long ago, such as 15m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// So many at most [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<String>,
    /// Print JSON, as GET /api/v1/events answers
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket)?;
    let EventsArgs { severity, category, since, limit, .. } = args;
    let path = with_query(
        "/api/v1/events",
        &[
            ("severity", severity.as_deref()),
            ("category", category.as_deref()),
            ("since", since.as_deref()),
            ("limit", limit.as_deref()),
        ],
    );
    let mut out = std::io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", client.get_json(&path)?)?);
    }
    let events: Events = client.get(&path)?;
    write!(out, "{}", table(&events.data))?;
    Ok(())
}

fn table(events: &[Event]) -> Table {
    let mut table = Table::new(&["TIME", "SEVERITY", "CATEGORY", "MESSAGE"]);
    for event in events {
        // The one detail that the message leaves out and everybody wants to see.
        let list = ["changes", "errors"].iter().find_map(|key| event.details.get(*key)?.as_array());
        let words: Vec<&str> = list.into_iter().flatten().filter_map(serde_json::Value::as_str).collect();
        let more = if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
        let cells =
            [event.time.clone(), event.severity.clone(), event.category.clone(), format!("{}{more}", event.message)];
        table.row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stand_behind_the_message() {
        let event = Event {
            time: "T".into(),
            severity: "info".into(),
            category: "reload".into(),
            message: "configuration reloaded".into(),
            details: serde_json::Map::from_iter([("changes".into(), serde_json::json!(["a", "b\u{1b}"]))]),
        };
        let text = table(&[event]).to_string();
        assert!(text.ends_with("T     info      reload    configuration reloaded: a; b?\n"), "{text}");
    }
}
