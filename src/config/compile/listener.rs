//! `[[listener]]` and its routes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::super::address;
use super::super::error::{Report, Span, Wrong, quote};
use super::super::plan::{Listener, Route, ServerNames, Service, Timeouts};
use super::super::raw;
use super::super::read::{List, Text};
use super::super::units;
use super::bounds::whole;
use super::plugin::Plugins;
use super::{Upstreams, engine, proxy, required, tls, unique_name, within, word};
use crate::limits;
use crate::net::listen::DEFAULT_BACKLOG;
use crate::policy::rate::Rate;
use crate::policy::source::MAX_PER_SOURCE;
use crate::types::{Endpoint, ListenerIndex, Name};

/// What the listeners of a file share.
pub(super) struct Scope<'p> {
    pub(super) base: &'p Path,
    /// Of `[timeouts]`.
    pub(super) timeouts: Timeouts,
    pub(super) upstreams: Upstreams,
    pub(super) plugins: Plugins,
    /// Names of listeners, with their lines.
    pub(super) names: HashMap<Name, u32>,
    /// Addresses with their owners, as messages name them, and their lines.
    pub(super) bound: HashMap<Endpoint, (String, u32)>,
}

impl Scope<'_> {
    /// Refuses an address that is bound already. Port 0 gives everybody another port.
    pub(super) fn bind(&mut self, endpoint: Endpoint, span: &Span, owner: &str, report: &mut Report<'_>) {
        if matches!(&endpoint, Endpoint::Ip(address) if address.port() == 0) {
            return;
        }
        match self.bound.get(&endpoint) {
            Some((other, line)) => {
                report.error(span, format!("{endpoint} is bound by {other} on line {line} already"));
            }
            None => {
                self.bound.insert(endpoint, (owner.to_owned(), report.line(span)));
            }
        }
    }
}

pub(super) fn listener(
    raw: &raw::Listener<'_>,
    index: ListenerIndex,
    scope: &mut Scope<'_>,
    report: &mut Report<'_>,
) -> Listener {
    let name = unique_name(raw.name.as_ref(), &raw.head, &mut scope.names, report);
    let owner = name.as_ref().map_or_else(|| "a listener".into(), |name| format!("listener `{name}`"));
    let listen = addresses(raw, &owner, scope, report);
    let services = [("tcp", Service::Tcp), ("socks5", Service::Socks5)];
    let service = word(raw.service.as_ref(), "service", &services, Service::Tcp, report);
    let upstream = raw.upstream.as_ref().and_then(|text| scope.upstreams.find(text, report));
    let routes = routes(raw.route.as_deref().unwrap_or_default(), &mut scope.upstreams, report);
    let has_no_route = raw.head.lacks(raw.route.as_ref(), "route") || raw.route.as_ref().is_some_and(Vec::is_empty);
    if service == Service::Socks5 {
        refuse_upstream(raw, &owner, report);
    } else if raw.head.lacks(raw.upstream.as_ref(), "upstream") && has_no_route {
        report.error(
            &raw.head.span,
            Wrong::new(format!("{owner} has neither an `upstream` nor a route"))
                .hint("connections would have nowhere to go"),
        );
    }
    let tls = raw.tls.as_ref().and_then(|raw| tls::listener_tls(raw, scope.base, report));
    let reads_hello = routes.iter().any(|route| route.server_names.is_some() || route.alpn.is_some());
    Listener {
        index,
        name: name.unwrap_or_default(),
        service,
        routes,
        upstream,
        plugins: raw.plugins.as_ref().map(|list| scope.plugins.find(list, report)).unwrap_or_default(),
        max_connections: whole(raw.max_connections.as_ref(), "max_connections", 1..=limits::CONNECTIONS, report),
        max_connections_per_source: whole(
            raw.max_connections_per_source.as_ref(),
            "max_connections_per_source",
            1..=MAX_PER_SOURCE,
            report,
        ),
        accept_rate: whole(raw.accept_rate.as_ref(), "accept_rate", 1..=Rate::MAX, report),
        allow_sources: raw
            .allow_sources
            .as_ref()
            .map(|list| networks(list, "allow_sources", |_| true, report))
            .unwrap_or_default(),
        accept_proxy: raw.accept_proxy.as_ref().and_then(|raw| proxy::accept(raw, &listen, report)),
        peeks: reads_hello && raw.tls.is_none(),
        tls,
        backlog: whole(raw.backlog.as_ref(), "backlog", 1..=limits::BACKLOG, report).unwrap_or(DEFAULT_BACKLOG),
        listen,
        fast_open: raw.fast_open.as_ref().is_some_and(|fast_open| *fast_open.get_ref()),
        timeouts: engine::listener_timeouts(raw.timeouts.as_ref(), scope.timeouts, report),
        line: report.line(&raw.head.span),
    }
}

fn addresses(raw: &raw::Listener<'_>, owner: &str, scope: &mut Scope<'_>, report: &mut Report<'_>) -> Vec<Endpoint> {
    let mut addresses = Vec::new();
    let Some(list) = required(raw.listen.as_ref(), "listen", &raw.head, report) else { return addresses };
    if list.is_empty {
        report.error(&list.span, Wrong::new("`listen` is empty").hint("such as \"127.0.0.1:8080\""));
    }
    for text in &list.items {
        let Some(spread) = report.accept(&text.span(), address::listen(text.get_ref(), scope.base)) else { continue };
        if addresses.len() + spread.len() > limits::ADDRESSES_PER_LISTENER {
            let most = limits::ADDRESSES_PER_LISTENER;
            report.error(&text.span(), Wrong::new(format!("more than {most} addresses in one listener")));
            break;
        }
        for endpoint in spread {
            scope.bind(endpoint.clone(), &text.span(), owner, report);
            addresses.push(endpoint);
        }
    }
    addresses
}

/// The clients of a SOCKS listener say themselves where they want to go.
fn refuse_upstream(raw: &raw::Listener<'_>, owner: &str, report: &mut Report<'_>) {
    let route = raw.route.as_ref().and_then(|routes| routes.first());
    let keys = [
        ("upstream", raw.upstream.as_ref().map(|text| text.span())),
        ("route", route.map(|route| route.head.span.clone())),
    ];
    for (key, span) in keys {
        if let Some(span) = span {
            let wrong = Wrong::new(format!("{owner} serves SOCKS and cannot have `{key}`"));
            report.error(&span, wrong.hint("its clients say where they want to go; `[acl]` says where they may"));
        }
    }
}

fn routes(raw: &[raw::Route<'_>], upstreams: &mut Upstreams, report: &mut Report<'_>) -> Vec<Route> {
    let raw = within(raw, limits::ROUTES_PER_LISTENER, "[[listener.route]]", |route| &route.head.span, report);
    let mut catches_all = None;
    let mut routes = Vec::with_capacity(raw.len());
    for raw in raw {
        let line = report.line(&raw.head.span);
        if let Some(earlier) = catches_all {
            report.warning(&raw.head.span, format!("the route on line {earlier} matches everything before this one"));
        }
        let sources = raw.source.as_ref().map(|list| {
            refuse_empty(list, "source", report);
            networks(list, "source", |_| true, report)
        });
        let server_names = raw.sni.as_ref().map(|list| {
            refuse_empty(list, "sni", report);
            tls::names(list, "sni", server_names, report)
        });
        let alpn = raw.alpn.as_ref().map(|list| {
            refuse_empty(list, "alpn", report);
            tls::protocols(list, report)
        });
        let keys = [("source", sources.is_none()), ("sni", server_names.is_none()), ("alpn", alpn.is_none())];
        if keys.iter().all(|(key, is_absent)| *is_absent && raw.head.lacks(None::<&()>, key)) {
            catches_all = catches_all.or(Some(line));
        }
        let upstream = required(raw.upstream.as_ref(), "upstream", &raw.head, report);
        if let Some(upstream) = upstream.and_then(|text| upstreams.find(text, report)) {
            routes.push(Route { sources, server_names, alpn, upstream, line });
        }
    }
    routes
}

/// A condition that nothing can meet.
fn refuse_empty(list: &List<Text<'_>>, key: &str, report: &mut Report<'_>) {
    if list.is_empty {
        let everybody = if key == "source" { "leave it away to match everybody" } else { "leave it away to match any" };
        let wrong = Wrong::new(format!("`{key}` is empty, so the route would match nobody"));
        report.error(&list.span, wrong.hint(everybody));
    }
}

/// `host.example`, `*.example.com` or `*`.
fn server_names(text: &str) -> Result<ServerNames, Wrong> {
    let names = match text.strip_prefix("*.") {
        _ if text == "*" => return Ok(ServerNames::Any),
        _ if text.parse::<IpAddr>().is_ok() => {
            let wrong =
                Wrong::new(format!("{} is an IP address, and clients send no server name for one", quote(text)));
            return Err(wrong.hint("they take the route without `sni`, or the listener's own `upstream`"));
        }
        Some(rest) => address::host_name(rest).map(|rest| ServerNames::Below(rest.as_str().into())),
        None => address::host_name(text).map(|name| ServerNames::Exact(name.as_str().into())),
    };
    let hint = "such as \"example.com\", \"*.example.com\" (one part more) or \"*\"";
    let of_all = || Wrong::new(format!("{} is neither a host name nor a wildcard", quote(text))).hint(hint);
    names.map_err(|wrong| if text.contains('*') { of_all() } else { wrong })
}

/// The networks among the items of a list.
pub(super) fn networks(
    list: &List<Text<'_>>,
    key: &str,
    is_network: impl Fn(&Text<'_>) -> bool,
    report: &mut Report<'_>,
) -> Vec<IpNet> {
    if list.items.len() > limits::NETWORKS_PER_LIST {
        report.error(&list.span, format!("`{key}` has more than {} networks", limits::NETWORKS_PER_LIST));
        return Vec::new();
    }
    let read = |text: &Text<'_>| {
        let (net, cleared) = report.accept(&text.span(), units::network(text.get_ref()))?;
        if cleared {
            let wrong = Wrong::new(format!("{} has bits behind its prefix", quote(text.get_ref())));
            report.warning(&text.span(), wrong.hint(format!("it counts as `{net}`")));
        }
        Some(net)
    };
    list.items.iter().filter(|text| is_network(text)).filter_map(read).collect()
}
