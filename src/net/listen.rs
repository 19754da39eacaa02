//! Listening sockets: TCP with SO_REUSEPORT, one per shard, and unix sockets, one that the shards share.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::types::Endpoint;

/// Connections that may wait in the accept queue unless the configuration says otherwise.
pub const DEFAULT_BACKLOG: u32 = 4096;

/// Binds `count` sockets to one address and listens on each. With port 0 the kernel chooses once and all sockets share
/// the port. Returns the address really bound. TCP_NODELAY is set here, as accepted sockets inherit it.
///
/// A unix path that is left over from a process that has gone is taken over; one that answers is an error.
///
/// # Errors
/// As socket(2), bind(2) and listen(2).
pub fn bind(endpoint: &Endpoint, count: usize, backlog: u32, fast_open: bool) -> io::Result<(Endpoint, Vec<Socket>)> {
    match endpoint {
        Endpoint::Ip(address) => bind_tcp(*address, count, backlog, fast_open),
        Endpoint::Unix(path) => bind_unix(path, count, backlog),
    }
}

fn bind_tcp(
    mut address: SocketAddr,
    count: usize,
    backlog: u32,
    fast_open: bool,
) -> io::Result<(Endpoint, Vec<Socket>)> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv6() {
            // "[::]:443" means IPv6 only; IPv4 is named by "0.0.0.0:443".
            socket.set_only_v6(true)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.bind(&address.into())?;
        if address.port() == 0 {
            address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        }
        sockets.push(socket);
    }
    // Nobody listens before all are bound: a connection must not meet a half-made group.
    for socket in &sockets {
        if fast_open {
            super::set_fast_open(socket, backlog)?;
        }
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    }
    Ok((Endpoint::Ip(address), sockets))
}

fn bind_unix(path: &Path, count: usize, backlog: u32) -> io::Result<(Endpoint, Vec<Socket>)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    let mut sockets = Vec::with_capacity(count);
    for _ in 1..count {
        sockets.push(socket.try_clone()?);
    }
    sockets.push(socket);
    Ok((Endpoint::Unix(path.to_path_buf()), sockets))
}

/// Removes a socket file that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, "the path exists and is not a socket"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            // Anything else is no proof that nobody listens: a datagram socket, another's permissions, a full queue.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
            Err(error) => Err(error),
        },
    }
}
