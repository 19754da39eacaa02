//! Which bound address serves which configured one, and binding those that are new.
//!
//! Identity, in this order: the same listener and address as configured (so that port 0 stays the port it got); the
//! same address in another listener (a listener was renamed, or the address moved); a fixed address that a port 0
//! happened to get.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use socket2::{Domain, Protocol, Socket, Type};

use super::prepare::Problem;
use crate::config::plan::Listener;
use crate::net::listen;
use crate::shard::command::BindId;
use crate::types::{Endpoint, ListenerIndex, Name};

/// An address that the shards listen on.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub id: BindId,
    pub listener: Name,
    /// In the snapshot in force.
    pub index: ListenerIndex,
    pub configured: Endpoint,
    pub bound: Endpoint,
}

impl Held {
    /// The socket file, if it has one.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        match &self.bound {
            Endpoint::Unix(path) => Some(path),
            Endpoint::Ip(_) => None,
        }
    }
}

/// An address that a plan wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want<'a> {
    pub listener: &'a Listener,
    pub endpoint: &'a Endpoint,
}

impl<'a> Want<'a> {
    pub(super) fn of(listener: &'a Listener) -> impl Iterator<Item = Self> {
        listener.listen.iter().map(move |endpoint| Self { listener, endpoint })
    }

    pub(super) fn is_any_port(&self) -> bool {
        matches!(self.endpoint, Endpoint::Ip(address) if address.port() == 0)
    }

    pub(super) fn problem(&self, what: impl std::fmt::Display) -> Problem {
        let Self { listener, endpoint } = self;
        let message = format!("listener `{}`: {endpoint} {what}", listener.name);
        Problem { line: listener.line, column: 1, message, is_in_use: false, is_configuration: false }
    }

    /// Binds a new address once per shard.
    pub(super) fn bind(&self, shards: u16) -> Result<(Endpoint, Vec<Socket>), Problem> {
        let Listener { backlog, fast_open, .. } = *self.listener;
        listen::bind(self.endpoint, usize::from(shards), backlog, fast_open).map_err(|error| self.unbound(&error))
    }

    /// Whether someone else listens there. SO_REUSEPORT would let a second arus share the port without a word, each
    /// getting part of the connections.
    pub(super) fn taken(&self) -> Option<Problem> {
        match self.endpoint {
            Endpoint::Ip(address) => bind_alone(*address).err().map(|error| self.unbound(&error)),
            Endpoint::Unix(_) => None,
        }
    }

    fn unbound(&self, error: &io::Error) -> Problem {
        let is_in_use = error.kind() == io::ErrorKind::AddrInUse;
        Problem { is_in_use, ..self.problem(format_args!("cannot be bound: {error}{}", hint(self.endpoint, error))) }
    }
}

/// Gives every want the held address that serves it, if there is one, and those that nobody wants any more.
pub(super) fn match_up<'h>(wants: &[Want<'_>], held: &'h [Held]) -> (Vec<Option<&'h Held>>, Vec<Held>) {
    let mut free: Vec<bool> = vec![true; held.len()];
    let mut matches: Vec<Option<&Held>> = vec![None; wants.len()];
    type Key<'k> = (Option<&'k str>, &'k Endpoint);
    let held_keys: [fn(&Held) -> Key<'_>; 3] =
        [|held| (Some(&*held.listener), &held.configured), |held| (None, &held.configured), |held| (None, &held.bound)];
    for (round, held_key) in held_keys.into_iter().enumerate() {
        let mut places: HashMap<Key<'_>, Vec<usize>> = HashMap::new();
        // Backwards, as they are popped from the end: addresses that look alike keep their order.
        for (place, held) in held.iter().enumerate().rev().filter(|(place, _)| free[*place]) {
            places.entry(held_key(held)).or_default().push(place);
        }
        for (want, found) in wants.iter().zip(&mut matches).filter(|(_, found)| found.is_none()) {
            let name = (round == 0).then_some(&*want.listener.name);
            if let Some(place) = places.get_mut(&(name, want.endpoint)).and_then(Vec::pop) {
                free[place] = false;
                *found = Some(&held[place]);
            }
        }
    }
    let retired = held.iter().zip(free).filter(|(_, free)| *free).map(|(held, _)| held.clone()).collect();
    (matches, retired)
}

/// Whether an address can be bound without sharing it.
fn bind_alone(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())
}

fn hint(endpoint: &Endpoint, error: &io::Error) -> &'static str {
    match (error.kind(), endpoint) {
        (io::ErrorKind::PermissionDenied, Endpoint::Ip(_)) => {
            " (ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE)"
        }
        (io::ErrorKind::PermissionDenied, Endpoint::Unix(_)) => " (its directory must be writable for this user)",
        (io::ErrorKind::AddrInUse, _) => " (another process listens there)",
        (io::ErrorKind::AddrNotAvailable, _) => " (no interface of this machine has this address)",
        (io::ErrorKind::NotFound, Endpoint::Unix(_)) => " (its directory does not exist)",
        _ => match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => " (raise the limit of open files: ulimit -n, LimitNOFILE=)",
            Some(libc::EAFNOSUPPORT) => " (this kernel has IPv6 switched off)",
            _ => "",
        },
    }
}
