//! Sockets, readiness and pinning, as the bench's own event loops need them.
//!
//! Thin and safe: everything here is a call to `rustix`, `socket2` or `std`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};
use socket2::{Domain, Socket, Type};

/// Equal for everybody: the limit of the kernel (`somaxconn`) cuts it.
pub(crate) const BACKLOG: i32 = 4_096;
const EVENTS_PER_WAIT: usize = 256;

/// What a registered socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Nothing,
    Read,
    Write,
    /// Both, told once per change.
    Edges,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Nothing => epoll::EventFlags::empty(),
            Self::Read => epoll::EventFlags::IN,
            Self::Write => epoll::EventFlags::OUT,
            Self::Edges => epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
        }
    }
}

/// One epoll set and the events of its last wait.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_PER_WAIT) })
    }

    pub(crate) fn add(&self, socket: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        let token = epoll::EventData::new_u64(token as u64);
        Ok(epoll::add(&self.epoll, socket, token, interest.flags())?)
    }

    pub(crate) fn set(&self, socket: impl AsFd, token: usize, interest: Interest) -> io::Result<()> {
        let token = epoll::EventData::new_u64(token as u64);
        Ok(epoll::modify(&self.epoll, socket, token, interest.flags())?)
    }

    /// Waits for events; no more than `timeout` when there is one. Returns how many there are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timeout =
            timeout.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) });
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(self.events.len()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whose event number `index` of the last wait is.
    pub(crate) fn token(&self, index: usize) -> usize {
        let data = self.events[index].data;
        data.u64() as usize
    }

    /// The readable and writable sides of event number `index`; errors and hang-ups set both.
    pub(crate) fn readiness(&self, index: usize) -> (bool, bool) {
        let flags = self.events[index].flags;
        let broken = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        let readable = flags.intersects(epoll::EventFlags::IN | broken);
        let writable = flags.intersects(epoll::EventFlags::OUT | broken);
        (readable, writable)
    }
}

/// A non-blocking listener, loopback only: no load ever leaves this machine.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener> {
    ensure_loopback(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into()).with_context(|| format!("cannot listen on {address}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A connected socket, still blocking, that gives up after `patience`.
pub(crate) fn dial(target: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target, patience)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// A socket on its way to `target`; it becomes writable when it is there.
pub(crate) fn dial_later(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.cloexec().nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Refuses to bench anything but this machine.
pub(crate) fn ensure_loopback(address: SocketAddr) -> Result<()> {
    ensure!(address.ip().is_loopback(), "{address} is not a loopback address (127.0.0.0/8)");
    Ok(())
}

/// A loopback port that nobody listens on at this moment, for peers that cannot say theirs.
pub(crate) fn free_port() -> Result<SocketAddr> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(probe.local_addr()?)
}

/// Keeps the calling thread, or process `pid` before it has threads, on one CPU.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("cannot stay on CPU {cpu}"))
}

/// Lets timeouts end when they are due instead of up to 50 us later.
pub(crate) fn precise_timeouts() -> io::Result<()> {
    Ok(set_current_timer_slack(NonZeroU64::new(1))?)
}

/// Raises the soft descriptor limit to the hard one.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    Ok(rustix::process::setrlimit(Resource::Nofile, raised)?)
}
