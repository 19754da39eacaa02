//! `arus users`: who uses how much of what they may.

use std::io::Write;

use super::client::Client;
use super::query::with_query;
use super::socket::SocketArgs;
use super::status::in_use;
use super::table::Table;
use super::units;
use crate::control::admin::users::{Quota, User, Users};

/// Show users, the busiest first: their connections, bytes, rates, and what is used of quotas
///
/// Those that are known now: with connections, or some within the last minute, or a quota.
///
/// Examples:
///   arus users
///   arus users alice --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct UsersArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// Only this one
    #[arg(value_name = "USER")]
    user: Option<String>,
    /// So many at most [default: 100]
    #[arg(long, value_name = "N")]
    limit: Option<String>,
    /// Print JSON, as GET /api/v1/users answers
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &UsersArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.socket)?;
    let path = with_query("/api/v1/users", &[("user", args.user.as_deref()), ("limit", args.limit.as_deref())]);
    let mut out = std::io::stdout().lock();
    if args.json {
        return Ok(writeln!(out, "{}", client.get_json(&path)?)?);
    }
    let users: Users = client.get(&path)?;
    write!(out, "{}", table(&users.data))?;
    if users.total > users.data.len() {
        writeln!(out, "and {} more", users.total - users.data.len())?;
    }
    Ok(())
}

fn table(users: &[User]) -> Table {
    let mut table =
        Table::new(&["USER", "CONNECTIONS>", "BEGUN>", "UP>", "DOWN>", "MAX>", "GUARANTEED>", "QUOTA>", "UNTIL"]);
    let rate = |limit: Option<u64>| limit.map_or("-".into(), |limit| units::bytes_per_second(limit as f64));
    for user in users {
        let quota = user.quota.as_ref();
        let used = |Quota { bytes, used, per, .. }: &Quota| {
            format!("{} of {} per {per}", units::bytes(*used), units::bytes(*bytes))
        };
        table.row([
            user.user.clone(),
            in_use(&user.connections),
            units::count(user.begun),
            units::bytes(user.bytes_up),
            units::bytes(user.bytes_down),
            rate(user.max_bytes_per_second),
            rate(user.guaranteed_bytes_per_second),
            quota.map_or("-".into(), used),
            quota.map_or("-".into(), |quota| quota.until.clone()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::status::Use;

    #[test]
    fn limits_stand_beside_what_is_used() {
        let quota = Quota { bytes: 1 << 30, used: 3 << 20, per: "day".into(), until: "T".into() };
        let alice = User {
            user: "al\u{1b}ice".into(),
            connections: Use { used: 2, limit: Some(5) },
            begun: 7,
            bytes_up: 10,
            bytes_down: 2048,
            max_bytes_per_second: Some(2 << 20),
            burst_bytes: Some(1),
            guaranteed_bytes_per_second: None,
            quota: Some(quota),
        };
        let text = table(&[alice]).to_string();
        let row: Vec<&str> = text.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        let expected = "al?ice 2 of 5 7 10 B 2.0 KiB 2.0 MiB/s - 3.0 MiB of 1.0 GiB per day T";
        assert_eq!(row.join(" "), expected);
    }
}
