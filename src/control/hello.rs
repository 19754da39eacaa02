//! The demo backend: answers every request over HTTP/1.1 or h2c with who was served through whom.
//!
//! It runs on the control side, inside arus (`[demo] hello`) or by itself (`arus hello`), and is bounded like
//! everything else: connections, and how long a peer may say or take nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, join};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_io_timeout::{TimeoutReader, TimeoutWriter};

use crate::codec::Progress;
use crate::codec::proxy_header::{self, to_canonical};

/// Connections at once; more wait in the accept queue.
const CONNECTIONS: usize = 8192;
/// How long a peer may take over its headers, stay idle between requests, or not take an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the whole PROXY header may take: what `timeouts.proxy_header` is by default.
const PROXY_HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that are read at once while the PROXY header is not complete; the codec bounds how many come together.
const PROXY_HEADER_READ: usize = 1024;
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Says where the demo backend listens, so that port 0 can be used.
///
/// # Errors
/// When the listener has no address.
pub fn announce(listener: &TcpListener) -> io::Result<()> {
    tracing::info!(service = %"hello", address = %listener.local_addr()?, "listening");
    Ok(())
}

/// Serves for ever; dropping the future ends all connections. With `accept_proxy` every connection must begin with a
/// PROXY header, which says who the client is; one that does not is dropped without an answer.
pub async fn serve(listener: TcpListener, accept_proxy: bool) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                connections.spawn(async move {
                    greet(stream, to_canonical(peer), accept_proxy).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the demo backend cannot accept");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// One connection. The peer is the proxy; without a PROXY header it is also the only client that is known.
async fn greet(mut stream: TcpStream, peer: SocketAddr, accept_proxy: bool) {
    let _ = stream.set_nodelay(true);
    let begin = match accept_proxy {
        true => timeout(PROXY_HEADER_PATIENCE, introduction(&mut stream)).await,
        false => Ok(Ok(Introduction::default())),
    };
    match begin {
        Ok(Ok(begin)) => answer(stream, begin.client.unwrap_or(peer), peer, begin.rest).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "dropped: no PROXY header"),
        Err(_) => tracing::debug!(%peer, "dropped: no PROXY header in {PROXY_HEADER_PATIENCE:?}"),
    }
}

/// What a connection began with.
#[derive(Debug, Default)]
struct Introduction {
    /// Whom the header speaks for; `None` when it speaks for its sender, as that of a health check.
    client: Option<SocketAddr>,
    /// What came behind the header.
    rest: Vec<u8>,
}

async fn introduction(stream: &mut TcpStream) -> anyhow::Result<Introduction> {
    let mut bytes = Vec::new();
    loop {
        bytes.reserve(PROXY_HEADER_READ);
        if stream.read_buf(&mut bytes).await? == 0 {
            anyhow::bail!("the connection ended after {} bytes of it", bytes.len());
        }
        match proxy_header::parse(&bytes) {
            Progress::NeedMore => {}
            Progress::Bad(error) => return Err(error.into()),
            Progress::Done(header, used) => {
                let client = header.endpoints().map(|(source, _)| source);
                bytes.drain(..used);
                return Ok(Introduction { client, rest: bytes });
            }
        }
    }
}

/// Answers all requests of a connection, of which `begin` has been read already.
async fn answer(stream: TcpStream, client: SocketAddr, proxy: SocketAddr, begin: Vec<u8>) {
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (TimeoutReader::new(reader), TimeoutWriter::new(writer));
    reader.set_timeout(Some(PATIENCE));
    writer.set_timeout(Some(PATIENCE));
    let stream = Box::pin(join(io::Cursor::new(begin).chain(reader), writer));

    let text = Bytes::from(format!("hello client {client}, you were served by tls terminator proxy {proxy}\r\n"));
    let service = service_fn(move |_: Request<Incoming>| {
        let mut response = Response::new(Full::new(text.clone()));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        async { Ok::<_, Infallible>(response) }
    });

    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http.http2().timer(TokioTimer::new()).max_concurrent_streams(128);
    // How a peer ends its connection to a demo is nobody's business.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs curl against a fresh server; `None` where there is no curl.
    fn curl(arguments: &[&str]) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).chain([url]).collect();
            let client = tokio::task::spawn_blocking(move || {
                Command::new("curl").args(["-sS", "--max-time", "20", "--noproxy", "*"]).args(arguments).output()
            });
            let output = tokio::select! {
                () = serve(listener, false) => unreachable!("serves for ever"),
                output = client => output.unwrap(),
            };
            match output {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    eprintln!("skipped: no curl");
                    None
                }
                output => Some(String::from_utf8(output.unwrap().stdout).unwrap()),
            }
        })
    }

    fn assert_greeting(text: &str) {
        let rest = text.strip_prefix("hello client ").unwrap();
        let (client, proxy) = rest.split_once(", you were served by tls terminator proxy ").unwrap();
        assert_eq!(proxy.strip_suffix("\r\n").unwrap(), client);
        assert!(client.parse::<SocketAddr>().unwrap().ip().is_loopback());
    }

    #[test]
    fn answers_over_http1() {
        if let Some(text) = curl(&["--http1.1"]) {
            assert_greeting(&text);
        }
    }

    #[test]
    fn answers_over_h2c() {
        let Some(text) = curl(&["--http2-prior-knowledge", "-w", "%{http_version} %{http_code} %{content_type}"])
        else {
            return;
        };
        let (greeting, facts) = text.split_at(text.rfind("\r\n").unwrap() + 2);
        assert_greeting(greeting);
        assert_eq!(facts, "2 200 text/plain");
    }
}
