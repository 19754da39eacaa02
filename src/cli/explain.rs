//! `arus explain`: what a connection would get, by the functions that live traffic uses.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::check::{self, BAD_CONFIGURATION};
use crate::config::plan::{Listener, Plan, Upstream};
use crate::config::route::Routed;
use crate::config::{self, Source};
use crate::types::Reason;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The listener that the connection comes to
    #[arg(long, value_name = "NAME")]
    pub listener: String,
    /// The client's address; without it, as a client of a unix socket
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// The server name of its ClientHello
    #[arg(long, value_name = "HOST")]
    pub sni: Option<String>,
    /// A protocol that its ClientHello offers; may be given several times
    #[arg(long, value_name = "PROTOCOL")]
    pub alpn: Vec<String>,
    /// The user that it authenticates as
    #[arg(long)]
    pub user: Option<String>,
    /// Where it asks to go
    #[arg(long, value_name = "HOST:PORT")]
    pub to: Option<String>,
    /// tcp or udp
    #[arg(long, value_parser = ["tcp", "udp"], default_value = "tcp")]
    pub protocol: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `path`: the file of `--config`. Exits with 0 if there is an answer, a refusal included, else with 2.
#[must_use]
pub fn run(path: Option<&Path>, args: &Args) -> ExitCode {
    let source = config::locate(path);
    let Some(loaded) = check::load(&source) else { return ExitCode::from(BAD_CONFIGURATION) };
    let plan = loaded.plan;
    let Some(listener) = plan.listeners.iter().find(|listener| *listener.name == *args.listener) else {
        let hint = config::nearest(&args.listener, plan.listeners.iter().map(|listener| &*listener.name));
        let hint = hint.map_or_else(String::new, |hint| format!(" ({hint})"));
        let _ = writeln!(std::io::stderr(), "{source}: there is no listener `{}`{hint}", args.listener);
        return ExitCode::from(BAD_CONFIGURATION);
    };
    let answer = explain(&plan, listener, &source, args);
    let mut stdout = std::io::stdout();
    let _ = if args.json {
        writeln!(stdout, "{}", serde_json::to_string_pretty(&answer).unwrap_or_default())
    } else {
        write!(stdout, "{answer}")
    };
    ExitCode::SUCCESS
}

/// What a connection would get. The field names are those of the JSON output.
#[derive(Debug, Serialize)]
struct Answer {
    listener: String,
    listener_at: String,
    /// `None`: as a client of a unix socket.
    source: Option<IpAddr>,
    admitted: bool,
    sni: Option<String>,
    alpn: Vec<String>,
    /// Where the route stands; `None`: no route matches.
    route_at: Option<String>,
    upstream: Option<Choice>,
    /// Client side first.
    plugins: Vec<Plugin>,
    connect_timeout_ms: u128,
    idle_timeout_ms: u128,
    half_closed_timeout_ms: u128,
    /// The label that the access log would show.
    rejected: Option<&'static str>,
    notes: Vec<String>,
}

/// The upstream with the backends that may get the connection.
#[derive(Debug, Serialize)]
struct Choice {
    name: String,
    at: String,
    balance: &'static str,
    retries: u32,
    backends: Vec<Backend>,
}

#[derive(Debug, Serialize)]
struct Backend {
    address: String,
    weight: u16,
    backup: bool,
}

#[derive(Debug, Serialize)]
struct Plugin {
    name: String,
    at: String,
    path: String,
}

fn explain(plan: &Plan, listener: &Listener, file: &Source, args: &Args) -> Answer {
    let at = |line: u32| format!("{file}:{line}");
    let source = args.source.map(|source| source.to_canonical());
    let admitted = listener.admits(source);
    let routed = listener.route(source, args.sni.as_deref(), args.alpn.iter().map(String::as_bytes));
    let upstream = routed.upstream().and_then(|index| plan.upstreams.get(usize::from(index.0)));
    let rejected = match (admitted, routed) {
        (false, _) => Some(Reason::SourceNotAllowed.label()),
        (true, Routed::Refused) => Some(Reason::NoRoute.label()),
        (true, Routed::Route(_) | Routed::Default(_)) => None,
    };
    Answer {
        listener: listener.name.to_string(),
        listener_at: at(listener.line),
        source,
        admitted,
        sni: args.sni.clone(),
        alpn: args.alpn.clone(),
        route_at: match routed {
            Routed::Route(route) => Some(at(route.line)),
            Routed::Default(_) | Routed::Refused => None,
        },
        // Whoever is not admitted is not routed.
        upstream: upstream.filter(|_| admitted).map(|upstream| choice(upstream, at(upstream.line))),
        plugins: listener
            .plugins
            .iter()
            .filter(|_| admitted)
            .filter_map(|index| plan.plugins.get(usize::from(index.0)))
            .map(|plugin| Plugin {
                name: plugin.name.to_string(),
                at: at(plugin.line),
                path: plugin.path.display().to_string(),
            })
            .collect(),
        connect_timeout_ms: listener.timeouts.connect.as_millis(),
        idle_timeout_ms: listener.timeouts.idle.as_millis(),
        half_closed_timeout_ms: listener.timeouts.half_closed.as_millis(),
        rejected,
        notes: notes(listener, args),
    }
}

fn choice(upstream: &Upstream, at: String) -> Choice {
    let backend = |backend: &crate::config::plan::Backend| Backend {
        address: backend.address.to_string(),
        weight: backend.weight,
        backup: backend.backup,
    };
    Choice {
        name: upstream.name.to_string(),
        at,
        balance: upstream.balance.word(),
        retries: upstream.retries,
        backends: upstream.backends.iter().map(backend).collect(),
    }
}

/// What was asked about and decides nothing, and what decides and was not asked about.
fn notes(listener: &Listener, args: &Args) -> Vec<String> {
    let reads_hello = listener.tls.is_some() || listener.peeks;
    let given = [
        ("--sni", args.sni.is_some() && !reads_hello, "no route of this listener looks at it"),
        ("--alpn", !args.alpn.is_empty() && !reads_hello, "no route of this listener looks at it"),
        ("--user", args.user.is_some(), "this version knows no users"),
        ("--to", args.to.is_some(), "a listener of service tcp is not asked for a target"),
    ];
    let given = given.into_iter().filter(|(_, given, _)| *given);
    let mut notes: Vec<String> = given.map(|(option, _, why)| format!("{option} decides nothing: {why}")).collect();
    if listener.accept_proxy.is_some() {
        notes.push("the source is the one of the PROXY header, which a trusted peer must send".into());
    }
    if args.protocol == "udp" {
        notes.push("a listener of service tcp serves no udp".into());
    }
    notes
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |ms: u128| config::show_duration(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)));
        writeln!(f, "listener   {} ({})", self.listener, self.listener_at)?;
        let source = self.source.map_or_else(|| "none, as of a unix socket".into(), |source| source.to_string());
        let verdict = if self.admitted { "admitted" } else { "not in allow_sources" };
        writeln!(f, "source     {source}: {verdict}")?;
        if let Some(sni) = &self.sni {
            writeln!(f, "sni        {}", sni.escape_debug())?;
        }
        if !self.alpn.is_empty() {
            writeln!(f, "alpn       {}", self.alpn.join(", ").escape_debug())?;
        }
        if self.admitted {
            let route = self.route_at.as_deref();
            writeln!(f, "route      {}", route.unwrap_or("none matches"))?;
        }
        if let Some(upstream) = &self.upstream {
            let Choice { name, at, balance, retries, backends } = upstream;
            writeln!(f, "upstream   {name} ({at}), {balance}, {retries} retries")?;
            for Backend { address, weight, backup } in backends {
                writeln!(f, "backend    {address}, weight {weight}{}", if *backup { ", backup" } else { "" })?;
            }
            for Plugin { name, at, path } in &self.plugins {
                writeln!(f, "plugin     {name} ({at}), {path}")?;
            }
            let (connect, idle) = (duration(self.connect_timeout_ms), duration(self.idle_timeout_ms));
            let half_closed = duration(self.half_closed_timeout_ms);
            writeln!(f, "timeouts   connect {connect}, idle {idle}, half_closed {half_closed}")?;
        }
        if let Some(reason) = self.rejected {
            writeln!(f, "rejected   {reason}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note       {note}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[[listener]]
name = "web"
listen = "127.0.0.1:1"
upstream = "rest"
plugins = ["filter"]
allow_sources = ["10.0.0.0/8", "192.0.2.0/24"]
[[listener.route]]
source = ["10.1.0.0/16"]
upstream = "near"
[[listener]]
name = "routed"
listen = "127.0.0.1:2"
[[listener.route]]
source = ["10.0.0.0/8"]
upstream = "near"
[[upstream]]
name = "near"
backends = ["127.0.0.1:3", { address = "b:4", weight = 2, backup = true }]
[[upstream]]
name = "rest"
backends = ["127.0.0.1:5"]
[[plugin]]
name = "filter"
path = "/lib/filter.so"
"#;

    fn answer(listener: &str, source: Option<&str>) -> Answer {
        let environment =
            config::Environment { is_root: true, home: None, xdg_state_home: None, directory: "/".into() };
        let plan = config::parse(TEXT, "f", Path::new("/"), &environment).unwrap().plan;
        let args = Args {
            listener: listener.into(),
            source: source.map(|source| source.parse().unwrap()),
            sni: Some("a".into()),
            alpn: Vec::new(),
            user: None,
            to: None,
            protocol: "tcp".into(),
            json: false,
        };
        let listener = plan.listeners.iter().find(|candidate| *candidate.name == *listener).unwrap();
        explain(&plan, listener, &Source::File("f".into()), &args)
    }

    #[test]
    fn says_which_route_and_backends() {
        let near = answer("web", Some("::ffff:10.1.2.3"));
        assert_eq!(
            near.to_string(),
            "listener   web (f:2)\n\
             source     10.1.2.3: admitted\n\
             sni        a\n\
             route      f:8\n\
             upstream   near (f:17), round_robin, 2 retries\n\
             backend    127.0.0.1:3, weight 1\n\
             backend    b:4, weight 2, backup\n\
             plugin     filter (f:23), /lib/filter.so\n\
             timeouts   connect 5s, idle 10m, half_closed 1m\n\
             note       --sni decides nothing: no route of this listener looks at it\n"
        );
        assert_eq!(answer("web", Some("192.0.2.1")).upstream.unwrap().name, "rest");
    }

    #[test]
    fn says_why_not() {
        assert_eq!(answer("web", Some("203.0.113.1")).rejected, Some("source_not_allowed"));
        assert_eq!(answer("web", None).rejected, Some("source_not_allowed"), "a unix client is in no network");
        assert_eq!(answer("routed", Some("192.0.2.1")).rejected, Some("no_route"));
        assert_eq!(answer("routed", None).rejected, Some("no_route"));
        let json = serde_json::to_value(answer("web", None)).unwrap();
        assert_eq!(json["upstream"], serde_json::Value::Null);
    }
}
