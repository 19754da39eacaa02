//! `arus sessions`: who is connected, newest first; or everything about one.

mod details;

use std::io::Write;
use std::time::Duration;

use super::client::Client;
use super::query::with_query;
use super::socket::SocketArgs;
use super::table::Table;
use super::units;
use crate::control::admin::sessions::{PAGE_SIZE, Page, Session};
use crate::types::SessionId;

/// List sessions, newest first, or show one with who keeps it waiting
///
/// Without --state, those that live.
///
/// Examples:
///   arus sessions
///   arus sessions 01939d5e-4a3c-7c1e-9d63-0f2b7c1a9e55
///   arus sessions --state failed --since 1h --source 10.0.0.0/8
///   arus sessions --state any --user alice --sort bytes --limit 20
///   arus sessions --json | jq -r '.data[] | select(.listener == "web").id'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Everything about this one, with the state of both its connections
    #[arg(value_name = "ID")]
    id: Option<SessionId>,
    /// active, closed, failed, rejected, or any
    #[arg(long, default_value = "active")]
    state: String,
    #[arg(long)]
    user: Option<String>,
    /// An address, with or without a port, or a network
    #[arg(long)]
    source: Option<String>,
    /// A host or an address, with or without a port, a network, or the begin of a host and *
    #[arg(long)]
    destination: Option<String>,
    #[arg(long)]
    listener: Option<String>,
    /// Begun then or later: a time, or how long ago, such as 15m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// start, end, duration, bytes_up, bytes_down or bytes [default: start]
    #[arg(long)]
    sort: Option<String>,
    /// asc or desc [default: desc]
    #[arg(long)]
    order: Option<String>,
    /// So many at most
    #[arg(long, value_name = "N", default_value_t = PAGE_SIZE)]
    limit: usize,
    /// Print JSON, as GET /api/v1/sessions or /api/v1/sessions/ID answers
    #[arg(long)]
    json: bool,
}

impl SessionsArgs {
    fn path(&self) -> String {
        let Self { state, user, source, destination, listener, since, sort, order, limit, .. } = self;
        let limit = limit.to_string();
        with_query(
            "/api/v1/sessions",
            &[
                ("state", Some(state.as_str()).filter(|state| *state != "any")),
                ("user", user.as_deref()),
                ("source", source.as_deref()),
                ("destination", destination.as_deref()),
                ("listener", listener.as_deref()),
                ("since", since.as_deref()),
                ("sort", sort.as_deref()),
                ("order", order.as_deref()),
                ("page_size", Some(&limit)),
            ],
        )
    }
}

pub(super) fn run(args: &SessionsArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket)?;
    let path = match &args.id {
        Some(id) => format!("/api/v1/sessions/{}", id),
        None => args.path(),
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", client.get_json(&path)?)?);
    }
    if args.id.is_some() {
        write!(out, "{}", details::Details(&client.get(&path)?))?;
        return Ok(());
    }
    let page: Page = client.get(&path)?;
    write!(out, "{}", table(&page.data))?;
    if page.total > page.data.len() as u64 {
        writeln!(out, "and {} more", page.total - page.data.len() as u64)?;
    }
    if !page.missing_shards.is_empty() {
        eprintln!("arus: shards {:?} did not answer; their sessions are missing here", page.missing_shards);
    }
    Ok(())
}

fn table(sessions: &[Session]) -> Table {
    let has_name = sessions.iter().any(|session| session.sni.is_some());
    let has_user = sessions.iter().any(|session| session.user.is_some());
    let has_target = sessions.iter().any(|session| session.target.is_some());
    let has_udp = sessions.iter().any(|session| session.protocol == "udp");
    let has_ended = sessions.iter().any(|session| session.end.is_some());
    let has_tls = sessions.iter().any(|session| session.tls_version.is_some());
    let columns = [
        ("ID", true),
        ("LISTENER", true),
        ("SOURCE", true),
        ("USER", has_user),
        ("PROTOCOL", has_udp),
        ("TARGET", has_target),
        ("SNI", has_name),
        ("TLS", has_tls),
        ("BACKEND", true),
        ("STATE", has_ended),
        ("REASON", has_ended),
        ("STAGE", true),
        ("AGE>", true),
        ("UP>", true),
        ("DOWN>", true),
        ("CONNECT>", true),
        ("FIRST BYTE>", true),
        ("SHARD>", true),
    ];
    let shown = |index: &usize| columns[*index].1;
    let headings: Vec<&str> = columns.iter().filter(|(_, shown)| *shown).map(|(heading, _)| *heading).collect();
    let mut table = Table::new(&headings);
    for session in sessions {
        let millis = |ms: Option<f64>| ms.map_or("-".into(), |ms| units::micros((ms * 1000.0) as u64));
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let cells = [
            session.id.clone(),
            session.listener.clone(),
            session.source.clone(),
            or_dash(&session.user),
            session.protocol.clone(),
            or_dash(&session.target),
            or_dash(&session.sni),
            or_dash(&session.tls_version),
            or_dash(&session.backend),
            session.state.clone(),
            or_dash(&session.reason),
            session.stage.clone(),
            units::span(Duration::from_millis(session.duration_ms)),
            units::bytes(session.bytes_up),
            units::bytes(session.bytes_down),
            millis(session.connect_ms),
            millis(session.first_byte_ms),
            session.shard.to_string(),
        ];
        table.row(cells.into_iter().enumerate().filter(|(index, _)| shown(index)).map(|(_, cell)| cell));
    }
    table
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tls_have_columns_where_a_session_has_them() {
        let session = |sni: Option<&str>, version: Option<&str>| -> Session {
            serde_json::from_value(serde_json::json!({
                "id": "1", "listener": "web", "service": "tcp", "source": "192.0.2.1:5", "protocol": "tcp",
                "start": "", "duration_ms": 0, "bytes_up": 0, "bytes_down": 0, "state": "active", "stage": "relay",
                "sni": sni, "tls_version": version, "shard": 0, "generation": 1,
            }))
            .unwrap()
        };
        let plain = session(None, None);
        let heading = |sessions: &[Session]| table(sessions).to_string().lines().next().unwrap().to_owned();
        assert!(!heading(std::slice::from_ref(&plain)).contains("SNI"));
        assert!(!heading(std::slice::from_ref(&plain)).contains("TLS"));
        let both = table(&[plain, session(Some("a.test"), Some("1.3"))]).to_string();
        let row = |index| both.lines().nth(index).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(row(0)[..6], ["ID", "LISTENER", "SOURCE", "SNI", "TLS", "BACKEND"]);
        assert_eq!(row(1)[..6], ["1", "web", "192.0.2.1:5", "-", "-", "-"]);
        assert_eq!(row(2)[..6], ["1", "web", "192.0.2.1:5", "a.test", "1.3", "-"]);
    }
}
