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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;

/// Connections at once; more wait in the accept queue.
const CONNECTIONS: usize = 8192;
/// How long a peer may take over its headers, stay idle between requests, or not take an answer.
const PATIENCE: Duration = Duration::from_secs(30);
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

/// Serves for ever; dropping the future ends all connections.
pub async fn serve(listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                connections.spawn(async move {
                    answer(stream, peer).await;
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
async fn answer(stream: TcpStream, peer: SocketAddr) {
    let (client, proxy) = (peer, peer);
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(PATIENCE));
    stream.set_write_timeout(Some(PATIENCE));

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
    let _ = http.serve_connection(TokioIo::new(Box::pin(stream)), service).await;
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
                _ = serve(listener) => unreachable!("serves for ever"),
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
