//! HTTP/1.1 with the peers of the API, over the control socket and over TCP.
//!
//! A peer is bounded as everyone else: connections at once (of one address, and in all), time for its headers and its
//! body, size of both, time to take the answer.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

use super::attempts::network;
use super::refusal::Refusal;

/// What a peer of the API may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// At once; more wait in the accept queue.
    pub(super) connections: usize,
    /// At once from one address, or IPv6 network of 64 bits; more are closed.
    pub(super) per_source: usize,
    /// From the connection, or the last answer, to the end of the next request's headers.
    pub(super) header_timeout: Duration,
    /// How long the peer may not take an answer.
    pub(super) write_timeout: Duration,
}

/// Of the control socket.
pub(super) const SOCKET: Bounds = Bounds {
    connections: 64,
    per_source: 64,
    header_timeout: Duration::from_secs(5),
    write_timeout: Duration::from_secs(10),
};
/// Of TCP: a hundred dashboards with the six connections that a browser makes, also where they all come through one
/// proxy.
pub(super) const TCP: Bounds = Bounds {
    connections: 1024,
    per_source: 768,
    header_timeout: Duration::from_secs(15),
    write_timeout: Duration::from_secs(10),
};
/// Bytes of a request's head; hyper's least is 8 KiB.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// Bytes of a request's body.
const BODY_BYTES: usize = 64 * 1024;
/// To receive all of it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end of a TCP connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Serves a unix socket for ever; dropping the future ends all its connections.
pub(super) async fn unix(router: Router, mut listener: UnixListener, bounds: Bounds) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        // axum's accept retries by itself, with a pause, when descriptors run out.
        let (stream, _) = axum::serve::Listener::accept(&mut listener).await;
        let router = router.clone();
        connections.spawn(async move {
            converse(router, None, stream, bounds).await;
            drop(slot);
        });
    }
}

/// Serves whatever listener came last, for as long as there may come another. Connections that are open stay when their
/// listener goes.
pub(super) async fn tcp(router: Router, mut listeners: mpsc::UnboundedReceiver<Option<TcpListener>>, bounds: Bounds) {
    let slots = Arc::new(Semaphore::new(bounds.connections));
    let sources = Arc::new(Sources::default());
    let mut connections = JoinSet::new();
    let mut listener = None;
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer, slot) = tokio::select! {
            biased;
            next = listeners.recv() => match next {
                Some(next) => {
                    listener = next;
                    continue;
                }
                None => return,
            },
            accepted = accept(listener.as_mut(), &slots) => accepted,
        };
        let Some(place) = Sources::enter(&sources, peer.ip(), bounds.per_source) else { continue };
        let router = router.clone();
        connections.spawn(async move {
            converse(router, Some(Peer(peer)), stream, bounds).await;
            drop((slot, place));
        });
    }
}

type Accepted = (tokio::net::TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: Option<&mut TcpListener>, slots: &Arc<Semaphore>) -> Accepted {
    let Some(listener) = listener else { return std::future::pending().await };
    let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return std::future::pending().await };
    let (stream, peer) = axum::serve::Listener::accept(listener).await;
    let _ = stream.set_nodelay(true);
    (stream, peer, slot)
}

/// Connections by address. As many addresses as connections at most.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// One connection of an address.
struct Place(Arc<Sources>, IpAddr);

impl Sources {
    fn enter(sources: &Arc<Self>, source: IpAddr, most: usize) -> Option<Place> {
        let source = network(source);
        let mut counts = sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place(Arc::clone(sources), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

/// One connection, any number of requests.
async fn converse(router: Router, peer: Option<Peer>, stream: impl AsyncRead + AsyncWrite + 'static, bounds: Bounds) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.write_timeout));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().extend(peer.map(one).unwrap_or_default());
        let router = router.clone();
        async move {
            // Of those that come in one go, each waits its turn: names to be looked up and checks of backends are control's
            // work as well.
            tokio::task::yield_now().await;
            router.call(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of the admin API ended");
    }
}

fn one(peer: Peer) -> axum::http::Extensions {
    let mut extensions = axum::http::Extensions::new();
    extensions.insert(peer);
    extensions
}

/// Takes a request's whole body, within its bounds, before anything is done for it.
pub(super) async fn take_body(request: Request, next: Next) -> Response {
    take_body_within(request, next, BODY_TIMEOUT).await
}

async fn take_body_within(request: Request, next: Next, limit: Duration) -> Response {
    let (head, body) = request.into_parts();
    let whole: Result<_, Refusal> = match timely(limit, axum::body::to_bytes(body, BODY_BYTES)).await {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(_)) => {
            let message = format!("the body has more than {BODY_BYTES} bytes, or did not come whole");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        None => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took too long")),
    };
    match whole {
        Ok(bytes) => next.run(Request::from_parts(head, Body::from(bytes))).await,
        Err(refusal) => {
            // What is left of it is not worth reading.
            ([("connection", "close")], refusal).into_response()
        }
    }
}

async fn timely<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn requests_that_come_in_one_go_leave_others_their_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (turns, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
            let (now, asked) = (Arc::clone(&turns), Arc::clone(&seen));
            let router = Router::new().fallback(move || {
                asked.lock().unwrap().push(now.load(Ordering::Relaxed));
                async {}
            });
            let (mut client, server) = tokio::io::duplex(64 * 1024);
            client.write_all(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10)).await.unwrap();
            let connection = tokio::spawn(converse(router, None, server, SOCKET));
            while seen.lock().unwrap().len() < 10 {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            connection.abort();
            let seen = seen.lock().unwrap();
            assert!(seen.windows(2).all(|two| two[0] < two[1]), "{seen:?}");
        });
    }
}
