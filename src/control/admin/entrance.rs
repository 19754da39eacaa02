//! Where the API listens for TCP, in the supervisor's hands: bound when a configuration is prepared, served when it is
//! in force.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use super::token::Generated;
use crate::config::plan::{AdminListen, Plan};
use crate::control::prepare::Problem;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// What the API serves: the last listener that came, or none.
pub type Listeners = mpsc::UnboundedReceiver<Option<tokio::net::TcpListener>>;

#[derive(Debug)]
pub(in crate::control) struct Entrance {
    listeners: mpsc::UnboundedSender<Option<tokio::net::TcpListener>>,
    configured: Option<SocketAddr>,
    bound: Option<SocketAddr>,
}

/// What a plan asks for besides what is there.
#[derive(Debug)]
pub(in crate::control) enum Move {
    /// Nothing.
    Stay,
    Close,
    /// Listen here instead.
    To(TcpListener),
}

impl Entrance {
    pub(in crate::control) fn new() -> (Self, Listeners) {
        let (listeners, receiver) = mpsc::unbounded_channel();
        (Self { listeners, configured: None, bound: None }, receiver)
    }

    /// # Errors
    /// The address that cannot be bound.
    pub(in crate::control) fn prepare(&self, plan: &Plan) -> Result<Move, Problem> {
        prepare(plan, self.configured.zip(self.bound))
    }

    /// # Errors
    /// The runtime does not take the listener.
    pub(in crate::control) fn commit(&mut self, plan: &Plan, to: Move) -> io::Result<()> {
        let listener = match to {
            Move::Stay => return Ok(()),
            Move::Close => None,
            Move::To(listener) => Some(tokio::net::TcpListener::from_std(listener)?),
        };
        self.configured = plan.admin.listen.map(|listen| listen.address);
        self.bound = listener.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
        match self.bound {
            Some(address) => tracing::info!(%address, url = %format_args!("http://{address}/"), "admin API listening"),
            None => tracing::info!("the admin API listens on its control socket only"),
        }
        // Nobody serves it only where the process is about to end.
        let _ = self.listeners.send(listener);
        Ok(())
    }

    /// Tells of the token that arus made for itself: all of it only once.
    pub(in crate::control) fn announce(&self, token: Option<&Generated>) {
        let (Some(Generated { path, token, is_new }), Some(address)) = (token, self.bound) else { return };
        let (url, file) = (format_args!("http://{address}/"), path.display());
        if *is_new {
            tracing::info!(%url, token, %file, "the admin API has neither users nor tokens: this token was made for it");
        } else {
            tracing::info!(%url, %file, "the admin API has neither users nor tokens: its token is in this file");
        }
    }
}

/// Binds what `plan` wants and is not there: `(configured, bound)`.
///
/// # Errors
/// The address that cannot be bound.
pub(in crate::control) fn prepare(plan: &Plan, now: Option<(SocketAddr, SocketAddr)>) -> Result<Move, Problem> {
    let Some(listen) = plan.admin.listen else { return Ok(if now.is_some() { Move::Close } else { Move::Stay }) };
    if now.is_some_and(|(configured, _)| configured == listen.address) {
        return Ok(Move::Stay);
    }
    let old_port = now.map(|(_, bound)| bound.port());
    match bind(listen.address, old_port) {
        Ok(listener) => Ok(Move::To(listener)),
        Err(error) if !listen.is_given => {
            tracing::warn!(
                "the admin API's default {} cannot be bound: {error}; it is reached through the control socket only \
                 (say `listen` in [admin]: another address, or \"off\")",
                listen.address
            );
            Ok(if now.is_some() { Move::Close } else { Move::Stay })
        }
        Err(error) => Err(unbound(&listen, &error)),
    }
}

/// Two listeners may share a port only while one takes over from the other.
fn bind(address: SocketAddr, old_port: Option<u16>) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(old_port == Some(address.port()))?;
    socket.bind(&address.into())?;
    // For the one that may take over from this one.
    socket.set_reuse_port(true)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn unbound(listen: &AdminListen, error: &io::Error) -> Problem {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => " (another process listens there: choose another port, or \"off\")",
        io::ErrorKind::AddrNotAvailable => " (no interface of this machine has this address)",
        io::ErrorKind::PermissionDenied => {
            " (ports below net.ipv4.ip_unprivileged_port_start need root or CAP_NET_BIND_SERVICE)"
        }
        _ => "",
    };
    Problem {
        line: listen.at.line,
        column: listen.at.column,
        message: format!("[admin] listen {} cannot be bound: {error}{hint}", listen.address),
        is_in_use: error.kind() == io::ErrorKind::AddrInUse,
        is_configuration: false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::plan::Place;
    use crate::control::fixture;

    #[test]
    fn a_port_is_handed_over_from_one_address_to_another() {
        let old = bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let bound = old.local_addr().unwrap();
        let any: SocketAddr = ([0, 0, 0, 0], bound.port()).into();
        assert_eq!(bind(any, None).unwrap_err().kind(), io::ErrorKind::AddrInUse, "somebody else's port is not shared");
        assert!(bind(any, Some(bound.port())).is_ok());
    }

    #[test]
    fn a_taken_port_is_an_error_but_for_the_default() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut plan = fixture::plan(std::path::Path::new("/x"));
        let listen = |is_given| Some(AdminListen { address, is_given, at: Place { line: 3, column: 10 } });
        plan.admin.listen = listen(true);
        let problem = prepare(&plan, None).unwrap_err();
        assert!(problem.message.contains("choose another port") && problem.is_in_use, "{problem:?}");
        plan.admin.listen = listen(false);
        assert!(matches!(prepare(&plan, None), Ok(Move::Stay)));
        plan.admin.listen = None;
        assert!(matches!(prepare(&plan, Some((address, address))), Ok(Move::Close)));
    }
}
