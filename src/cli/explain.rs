//! `arus explain`: what a connection would get, by the functions that live traffic uses.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::access::{Access, access};
use super::check::{self, BAD_CONFIGURATION};
use crate::config::plan::{Listener, Plan, TlsIn, Upstream};
use crate::config::route::Routed;
use crate::config::{self, Source};
use crate::control::tls::{self, Shown};
use crate::tls::certificates::Facts;
use crate::types::{Endpoint, Reason, Service};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The listener that the connection comes to
    #[arg(long, value_name = "NAME")]
    pub listener: String,
    /// The client's address; without it, as one that is in no network (on a unix socket none is)
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
    /// A group of the user; may be given several times. Without it, those of the configuration
    #[arg(long)]
    pub group: Vec<String>,
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
    let asked = args.to.as_deref().filter(|_| listener.service == Service::Socks5);
    let access = match asked.map(|to| access(&plan, listener, to, args)).transpose() {
        Ok(access) => access,
        Err(wrong) => {
            let _ = writeln!(std::io::stderr(), "{wrong}");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let answer = explain(&plan, listener, &source, args, access);
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
    /// `None`: in no network.
    source: Option<IpAddr>,
    /// Without a source the client can only be one of a unix socket.
    #[serde(skip)]
    is_unix: bool,
    admitted: bool,
    sni: Option<String>,
    alpn: Vec<String>,
    /// `None`: TLS is not terminated here, or the files cannot be used.
    certificates: Option<Vec<Certificate>>,
    /// off, request or require, where TLS is terminated.
    client_auth: Option<&'static str>,
    #[serde(skip)]
    is_routed: bool,
    /// Where the route stands; `None`: no route matches, or it does not come so far.
    route_at: Option<String>,
    upstream: Option<Choice>,
    /// What `[acl]` says, where it was asked.
    acl: Option<Access>,
    /// Client side first.
    plugins: Vec<Plugin>,
    /// For the PROXY header, where one must come.
    proxy_header_timeout_ms: Option<u128>,
    /// For the ClientHello and the handshake, where they are looked at.
    tls_handshake_timeout_ms: Option<u128>,
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

/// One that the client may be shown: the first whose signatures it can check.
#[derive(Debug, Serialize)]
struct Certificate {
    subject: String,
    names: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Plugin {
    name: String,
    at: String,
    path: String,
}

fn explain(plan: &Plan, listener: &Listener, file: &Source, args: &Args, acl: Option<Access>) -> Answer {
    let at = |line: u32| format!("{file}:{line}");
    let source = args.source.map(|source| source.to_canonical());
    let admitted = listener.admits(source);
    let routed = listener.route(source, args.sni.as_deref(), args.alpn.iter().map(String::as_bytes));
    let upstream = routed.upstream().and_then(|index| plan.upstreams.get(usize::from(index.0)));
    let mut notes = notes(listener, args);
    let shown = listener.tls.as_ref().filter(|_| admitted).and_then(|tls| shown(tls, args, &mut notes));
    let is_socks = listener.service == Service::Socks5;
    let rejected = match (admitted, &shown, routed) {
        (false, _, _) => Some(Reason::SourceNotAllowed.label()),
        (true, Some(Shown::Refused), _) => Some(Reason::UnknownServerName.label()),
        _ if is_socks => acl.as_ref().filter(|acl| acl.decision == "block").map(|_| Reason::AclBlocked.label()),
        (true, _, Routed::Refused) => Some(Reason::NoRoute.label()),
        (true, _, Routed::Route(_) | Routed::Default(_)) => None,
    };
    // Whoever does not come so far is not routed.
    let is_routed = admitted && !is_socks && shown != Some(Shown::Refused);
    let certificate = |facts: &Arc<Facts>| Certificate { subject: facts.subject.clone(), names: facts.names.clone() };
    Answer {
        listener: listener.name.to_string(),
        listener_at: at(listener.line),
        source,
        is_unix: listener.listen.iter().all(|endpoint| matches!(endpoint, Endpoint::Unix(_))),
        admitted,
        sni: args.sni.clone(),
        alpn: args.alpn.clone(),
        certificates: shown.map(|shown| match shown {
            Shown::Refused => Vec::new(),
            Shown::Certificates(facts) => facts.iter().map(certificate).collect(),
        }),
        client_auth: listener.tls.as_ref().map(|tls| tls.client_auth.word()),
        route_at: match routed {
            Routed::Route(route) if is_routed => Some(at(route.line)),
            Routed::Route(_) | Routed::Default(_) | Routed::Refused => None,
        },
        is_routed,
        upstream: upstream.filter(|_| is_routed).map(|upstream| choice(upstream, at(upstream.line))),
        acl: acl.filter(|_| admitted),
        plugins: listener
            .plugins
            .iter()
            .filter(|_| is_routed || (is_socks && admitted))
            .filter_map(|index| plan.plugins.get(usize::from(index.0)))
            .map(|plugin| Plugin {
                name: plugin.name.to_string(),
                at: at(plugin.line),
                path: plugin.path.display().to_string(),
            })
            .collect(),
        proxy_header_timeout_ms: listener.accept_proxy.is_some().then_some(listener.timeouts.proxy_header.as_millis()),
        tls_handshake_timeout_ms: (listener.tls.is_some() || listener.peeks)
            .then_some(listener.timeouts.tls_handshake.as_millis()),
        connect_timeout_ms: listener.timeouts.connect.as_millis(),
        idle_timeout_ms: listener.timeouts.idle.as_millis(),
        half_closed_timeout_ms: listener.timeouts.half_closed.as_millis(),
        rejected,
        notes,
    }
}

/// What the client is shown; `None`, with a note, where the files cannot be used.
fn shown(tls: &TlsIn, args: &Args, notes: &mut Vec<String>) -> Option<Shown> {
    match tls::shown(tls, args.sni.as_deref()) {
        Ok(shown) => Some(shown),
        Err(reasons) => {
            let note = |reason| format!("which certificate is shown cannot be said: {reason}");
            notes.extend(reasons.into_iter().map(note));
            None
        }
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
    let is_socks = listener.service == Service::Socks5;
    let given = [
        ("--sni", args.sni.is_some() && !reads_hello, "no route of this listener looks at it"),
        ("--alpn", !args.alpn.is_empty() && !reads_hello, "no route of this listener looks at it"),
        ("--user", args.user.is_some() && !is_socks, "a listener of service tcp asks for no user"),
        ("--group", !args.group.is_empty() && !is_socks, "a listener of service tcp asks for no user"),
        ("--to", args.to.is_some() && !is_socks, "a listener of service tcp is not asked for a target"),
    ];
    let given = given.into_iter().filter(|(_, given, _)| *given);
    let mut notes: Vec<String> = given.map(|(option, _, why)| format!("{option} decides nothing: {why}")).collect();
    if listener.accept_proxy.is_some() {
        notes.push("the source is the one of the PROXY header, which a trusted peer must send".into());
    }
    let asks_source = !listener.allow_sources.is_empty() || listener.routes.iter().any(|route| route.sources.is_some());
    if args.source.is_none() && asks_source {
        notes.push("--source was not given, and it decides: this is the answer for a client in no network".into());
    }
    if is_socks && args.to.is_none() {
        notes.push("--to was not given, and `[acl]` decides by it".into());
    }
    if args.protocol == "udp" && !is_socks {
        notes.push("a listener of service tcp serves no udp".into());
    }
    notes
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = |ms: u128| config::show_duration(Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)));
        writeln!(f, "listener   {} ({})", self.listener, self.listener_at)?;
        let absent = if self.is_unix { "none, as of a unix socket" } else { "not given" };
        let source = self.source.map_or_else(|| absent.into(), |source| source.to_string());
        let verdict = if self.admitted { "admitted" } else { "not in allow_sources" };
        writeln!(f, "source     {source}: {verdict}")?;
        if let Some(sni) = &self.sni {
            writeln!(f, "sni        {}", sni.escape_debug())?;
        }
        if !self.alpn.is_empty() {
            writeln!(f, "alpn       {}", self.alpn.join(", ").escape_debug())?;
        }
        if self.certificates.as_ref().is_none_or(|shown| !shown.is_empty()) && self.admitted {
            self.write_tls(f)?;
        }
        if self.is_routed {
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
            let proxy_header = self.proxy_header_timeout_ms.map(|ms| format!("proxy_header {}, ", duration(ms)));
            let tls_handshake = self.tls_handshake_timeout_ms.map(|ms| format!("tls_handshake {}, ", duration(ms)));
            let first = proxy_header.unwrap_or_default() + &tls_handshake.unwrap_or_default();
            writeln!(f, "timeouts   {first}connect {connect}, idle {idle}, half_closed {half_closed}")?;
        }
        if let Some(access) = &self.acl {
            access.fmt(f)?;
        }
        if let Some(reason) = self.rejected {
            let why = if reason == Reason::UnknownServerName.label() { " (no certificate has this name)" } else { "" };
            writeln!(f, "rejected   {reason}{why}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note       {note}"))
    }
}

impl Answer {
    fn write_tls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Certificate { subject, names }) in self.certificates.iter().flatten().enumerate() {
            let note = if index == 0 { "" } else { ", for clients that cannot check those above" };
            writeln!(f, "shown      {subject}, for {}{note}", names.join(" ").escape_debug())?;
        }
        match self.client_auth {
            Some("off") => writeln!(f, "client     is asked for no certificate (client_auth off)"),
            Some(mode) => writeln!(f, "client     is asked for a certificate (client_auth {mode})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "explain_tests.rs"]
mod tests;
