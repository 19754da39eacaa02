//! Which sessions are asked for, and in which order: the same question put to sessions in memory and to the database.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use ipnet::IpNet;
use rusqlite::types::Value;

use super::record::{Destination, first_id, id_bytes, ip_key, micros, span};
use crate::stats::summary::Summary;
use crate::types::{Client, State};

/// Everything that is `Some` must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    pub state: Option<State>,
    pub user: Option<String>,
    pub listener: Option<String>,
    pub source: Option<Source>,
    pub destination: Option<Place>,
    /// Begun then or later.
    pub since: Option<SystemTime>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Net(IpNet),
    Exact(SocketAddr),
    Unix,
}

/// Destinations.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    Net(IpNet, Option<u16>),
    Host(String, Option<u16>),
    /// All hosts that begin so.
    Prefix(String),
}

impl Source {
    /// `unix`, an address, one with a port, or a network.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "unix" {
            return Some(Self::Unix);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self::Exact(address));
        }
        net(text).map(Self::Net)
    }
}

impl Place {
    /// A host or address, with or without a port, a network, or `begin*`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(begin) = text.strip_suffix('*') {
            return (!begin.is_empty() && !begin.contains('*')).then(|| Self::Prefix(begin.to_ascii_lowercase()));
        }
        if let Some(net) = net(text) {
            return Some(Self::Net(net, None));
        }
        let Destination { host, ip, port } = Destination::parse(text);
        match ip {
            Some(ip) => Some(Self::Net(IpNet::from(ip), port)),
            None => (!host.is_empty()).then(|| Self::Host(host.into_owned(), port)),
        }
    }
}

fn net(text: &str) -> Option<IpNet> {
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => Some(IpNet::from(ip.to_canonical())),
        Err(_) => text.parse::<IpNet>().ok().map(|net| net.trunc()),
    }
}

/// The keys of the first and last address of a network.
fn ends(net: &IpNet) -> ([u8; 16], [u8; 16]) {
    match net {
        IpNet::V4(net) => (ip_key(net.network().into()), ip_key(net.broadcast().into())),
        // Not `ip_key`: a short prefix may begin or end within the mapped addresses.
        IpNet::V6(net) => (net.network().octets(), net.broadcast().octets()),
    }
}

fn holds(net: &IpNet, ip: IpAddr) -> bool {
    let (first, last) = ends(net);
    (first..=last).contains(&ip_key(ip))
}

impl Filter {
    pub(super) fn takes(&self, summary: &Summary) -> bool {
        let Self { state, user, listener, source, destination, since } = self;
        state.is_none_or(|state| state == summary.state)
            && user.as_ref().is_none_or(|user| summary.user.as_deref() == Some(user))
            && listener.as_ref().is_none_or(|listener| **listener == *summary.listener)
            && since.is_none_or(|since| summary.id.0 >= first_id(since).0)
            && source.as_ref().is_none_or(|source| match source {
                Source::Unix => summary.source == Client::Unix,
                Source::Exact(address) => summary.source == Client::Ip(*address),
                Source::Net(net) => summary.source.ip().is_some_and(|ip| holds(net, ip)),
            })
            && destination.as_ref().is_none_or(|place| {
                let Some(destination) = Destination::of(summary) else { return false };
                let is_port = |port: &Option<u16>| port.is_none_or(|port| destination.port == Some(port));
                match place {
                    Place::Net(net, port) => destination.ip.is_some_and(|ip| holds(net, ip)) && is_port(port),
                    Place::Host(host, port) => *destination.host == **host && is_port(port),
                    Place::Prefix(begin) => destination.host.starts_with(&**begin),
                }
            })
    }

    /// Whether only states are told apart, which are counted already.
    pub(super) fn is_by_state(&self) -> bool {
        *self == Self { state: self.state, ..Self::default() }
    }

    /// The condition, with its parameters in order.
    pub(super) fn sql(&self) -> (String, Vec<Value>) {
        let Self { state, user, listener, source, destination, since } = self;
        let mut words = vec!["1".to_owned()];
        let mut values = Vec::new();
        let mut and = |words_added: &str, added: Vec<Value>| {
            words.push(words_added.to_owned());
            values.extend(added);
        };
        let text = |text: &str| Value::Text(text.to_owned());
        let blob = |bytes: [u8; 16]| Value::Blob(bytes.to_vec());
        if let Some(state) = state {
            and("state = ?", vec![text(state.label())]);
            if *state != State::Closed {
                // So that the index of those is seen to serve.
                and("state <> 'closed'", vec![]);
            }
        }
        if let Some(user) = user {
            and("user = ?", vec![text(user)]);
        }
        if let Some(listener) = listener {
            and("listener = ?", vec![text(listener)]);
        }
        if let Some(since) = since {
            and("id >= ?", vec![blob(id_bytes(first_id(*since)))]);
        }
        match source {
            None => {}
            Some(Source::Unix) => and("source = 'unix'", vec![]),
            Some(Source::Exact(address)) => {
                and("source_ip = ? AND source = ?", vec![blob(ip_key(address.ip())), text(&address.to_string())]);
            }
            Some(Source::Net(net)) => {
                let (first, last) = ends(net);
                and("source_ip BETWEEN ? AND ?", vec![blob(first), blob(last)]);
            }
        }
        let (place, port) = match destination {
            None => (None, None),
            Some(Place::Host(host, port)) => {
                and("destination = ?", vec![text(host)]);
                (None, *port)
            }
            Some(Place::Prefix(begin)) => {
                // All that begins so lies between it and itself with the last of all characters.
                and("destination >= ? AND destination < ?", vec![text(begin), text(&format!("{begin}\u{10ffff}"))]);
                (None, None)
            }
            Some(Place::Net(net, port)) if net.prefix_len() == net.max_prefix_len() => {
                and("destination = ?", vec![text(&net.addr().to_string())]);
                (None, *port)
            }
            Some(Place::Net(net, port)) => (Some(net), *port),
        };
        if let Some(net) = place {
            let (first, last) = ends(net);
            and("destination_ip BETWEEN ? AND ?", vec![blob(first), blob(last)]);
        }
        if let Some(port) = port {
            and("destination_port = ?", vec![Value::Integer(port.into())]);
        }
        (words.join(" AND "), values)
    }
}

/// What sessions are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Start,
    End,
    Duration,
    BytesUp,
    BytesDown,
    /// Both directions.
    Bytes,
}

impl Sort {
    pub const ALL: [(&'static str, Self); 6] = [
        ("start", Self::Start),
        ("end", Self::End),
        ("duration", Self::Duration),
        ("bytes_up", Self::BytesUp),
        ("bytes_down", Self::BytesDown),
        ("bytes", Self::Bytes),
    ];

    /// Sessions with equal keys come in the order of their ids.
    pub(super) fn key(self, summary: &Summary) -> i64 {
        let count = super::record::count;
        match self {
            Self::Start => 0,
            Self::End => micros(summary.start).saturating_add(span(summary.duration)),
            Self::Duration => span(summary.duration),
            Self::BytesUp => count(summary.bytes_up),
            Self::BytesDown => count(summary.bytes_down),
            Self::Bytes => count(summary.bytes_up.saturating_add(summary.bytes_down)),
        }
    }

    /// The same as an expression.
    pub(super) fn sql(self) -> &'static str {
        match self {
            // Ids are in the order of starts.
            Self::Start => "0",
            Self::End => "start_us + duration_us",
            Self::Duration => "duration_us",
            Self::BytesUp => "bytes_up",
            Self::BytesDown => "bytes_down",
            Self::Bytes => "bytes_up + bytes_down",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    pub by: Sort,
    pub is_descending: bool,
}

impl Order {
    pub(super) fn compare(self, a: (i64, u128), b: (i64, u128)) -> Ordering {
        if self.is_descending { b.cmp(&a) } else { a.cmp(&b) }
    }

    pub(super) fn sql(self) -> String {
        let direction = if self.is_descending { "DESC" } else { "ASC" };
        match self.by {
            Sort::Start => format!("id {direction}"),
            by => format!("{} {direction}, id {direction}", by.sql()),
        }
    }
}
