//! Backends on ports of the kernel's choice: a thread per connection that runs a behaviour.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use socket2::{Domain, SockAddr, Socket, Type};

use super::{Address, Stream};

/// What a backend does with one connection; the number counts its connections from 0.
pub(crate) trait Behaviour: Fn(Stream, usize) + Send + Sync + 'static {}
impl<F: Fn(Stream, usize) + Send + Sync + 'static> Behaviour for F {}

pub(crate) struct Backend {
    address: Address,
    accepted: Arc<AtomicUsize>,
    live: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    listener: Arc<Socket>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(behaviour: impl Behaviour) -> Self {
        Self::listen(&Address::parse("127.0.0.1:0"), behaviour)
    }

    pub(crate) fn start_v6(behaviour: impl Behaviour) -> Self {
        Self::listen(&Address::parse("[::1]:0"), behaviour)
    }

    pub(crate) fn start_unix(path: &Path, behaviour: impl Behaviour) -> Self {
        Self::listen(&Address::Unix(path.into()), behaviour)
    }

    pub(crate) fn listen(address: &Address, behaviour: impl Behaviour) -> Self {
        let listener = bound(address);
        listener.listen(4096).unwrap();
        let address = match address {
            Address::Ip(_) => Address::Ip(listener.local_addr().unwrap().as_socket().unwrap()),
            Address::Unix(path) => Address::Unix(path.clone()),
        };
        let listener = Arc::new(listener);
        let mut backend = Self {
            address,
            accepted: Arc::default(),
            live: Arc::default(),
            most: Arc::default(),
            stopping: Arc::default(),
            listener: Arc::clone(&listener),
            thread: None,
        };
        let (accepted, live) = (Arc::clone(&backend.accepted), Arc::clone(&backend.live));
        let (most, stopping) = (Arc::clone(&backend.most), Arc::clone(&backend.stopping));
        let behaviour = Arc::new(behaviour);
        let accept = move || {
            while let Ok((socket, _)) = listener.accept() {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                most.fetch_max(live.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let (behaviour, guard) = (Arc::clone(&behaviour), Guard(Arc::clone(&live)));
                let serve = move || {
                    let _guard = guard;
                    behaviour(Stream::new(socket), number);
                };
                let thread = std::thread::Builder::new().name("backend".into()).stack_size(256 * 1024).spawn(serve);
                thread.unwrap();
            }
        };
        backend.thread = Some(std::thread::spawn(accept));
        backend
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections whose behaviour has not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    /// Most connections at once.
    pub(crate) fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = self.listener.shutdown(std::net::Shutdown::Both);
        // Where shutdown does not wake accept.
        let _ = Stream::try_connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn bound(address: &Address) -> Socket {
    let (domain, address) = match address {
        Address::Ip(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path).unwrap()),
    };
    let socket = Socket::new(domain, Type::STREAM, None).unwrap();
    if domain != Domain::UNIX {
        socket.set_reuse_address(true).unwrap();
    }
    socket.bind(&address).unwrap_or_else(|error| panic!("bind a backend: {error}"));
    socket
}

/// A port where nobody listens, and that nobody else gets while the socket lives.
pub(crate) struct Closed(Socket);

impl Closed {
    pub(crate) fn new() -> Self {
        Self(bound(&Address::parse("127.0.0.1:0")))
    }

    pub(crate) fn address(&self) -> Address {
        Address::Ip(self.0.local_addr().unwrap().as_socket().unwrap())
    }
}

/// An echo for thousands of connections: one thread.
pub(crate) struct Crowd {
    address: Address,
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Crowd {
    pub(crate) fn start() -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = bound(&Address::parse("127.0.0.1:0"));
        listener.listen(4096).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = Address::Ip(listener.local_addr().unwrap().as_socket().unwrap());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let echo = |mut stream: tokio::net::TcpStream| async move {
            let mut buffer = vec![0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        };
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener.into()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(echo(stream));
            }
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! { () = serve => {}, _ = stopped => {} }
            });
        });
        Self { address, _stop: stop }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

/// What backends do. Each ends with closing its connection.
pub(crate) mod behaviour {
    use super::Stream;

    /// Sends back whatever comes, FIN included.
    pub(crate) fn echo(mut stream: Stream, _: usize) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stream.read_some(&mut buffer) {
            if stream.try_write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }

    /// Reads until the end.
    pub(crate) fn sink(mut stream: Stream, _: usize) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(1..) = stream.read_some(&mut buffer) {}
    }

    /// Sends `len` bytes of the stream that has the connection's number as its seed, and FIN; then reads to the end.
    pub(crate) fn source(len: u64) -> impl super::Behaviour {
        move |mut stream: Stream, number: usize| {
            let mut sent = 0;
            while sent < len {
                let piece = (len - sent).min(256 * 1024);
                if stream.try_write_all(&super::super::pattern(number as u64, sent, piece as usize)).is_err() {
                    return;
                }
                sent += piece;
            }
            let _ = stream.0.shutdown(std::net::Shutdown::Write);
            sink(stream, number);
        }
    }

    /// Neither reads nor writes until FIN or RST comes.
    pub(crate) fn silent(stream: Stream, _: usize) {
        use std::os::fd::AsFd;
        super::super::stream::wait_for_hang_up(stream.0.as_fd());
    }

    /// FIN at once.
    pub(crate) fn close(_: Stream, _: usize) {}

    /// RST at once.
    pub(crate) fn reset(stream: Stream, _: usize) {
        stream.reset();
    }

    /// Reads `after` bytes, sends `reply` bytes of stream 0, then RST.
    pub(crate) fn reset_after(after: usize, reply: u64) -> impl super::Behaviour {
        move |mut stream: Stream, _: usize| {
            let mut buffer = vec![0; after.max(1)];
            let mut seen = 0;
            while seen < after {
                match stream.read_some(&mut buffer[seen..]) {
                    Ok(count @ 1..) => seen += count,
                    _ => return,
                }
            }
            let _ = stream.try_write_all(&super::super::pattern(0, 0, reply as usize));
            stream.reset();
        }
    }
}

/// Somebody whose accept queue is full: who connects hears nothing.
pub(crate) struct Hanging {
    listener: Socket,
    /// What fills the queue.
    fillers: Vec<Stream>,
}

impl Hanging {
    pub(crate) fn new() -> Self {
        let listener = bound(&Address::parse("127.0.0.1:0"));
        listener.listen(1).unwrap();
        let mut hanging = Self { listener, fillers: Vec::new() };
        let address = SockAddr::from(hanging.address().ip());
        // Until the kernel drops the SYN.
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            match socket.connect_timeout(&address, std::time::Duration::from_millis(200)) {
                Ok(()) => hanging.fillers.push(Stream::new(socket)),
                Err(_) => return hanging,
            }
        }
    }

    pub(crate) fn address(&self) -> Address {
        Address::Ip(self.listener.local_addr().unwrap().as_socket().unwrap())
    }

    /// Empties the queue, and waits for the connection of somebody else.
    pub(crate) fn accept_another(&mut self) -> Stream {
        let own: Vec<_> = self.fillers.drain(..).map(|filler| filler.local()).collect();
        loop {
            let (socket, peer) = self.listener.accept().unwrap();
            if !own.contains(&peer.as_socket().unwrap()) {
                return Stream::new(socket);
            }
        }
    }
}
