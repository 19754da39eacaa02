//! One health check: connect, say something, wait for the answer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::config::plan::{Address, Health, SendProxy};
use crate::control::resolver::Known;
use crate::limits;
use crate::types::Endpoint;
use crate::upstream::state::BackendState;

/// Why a backend did not pass; one line.
pub(super) type Failure = String;

/// What all checks of a backend have in common.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub health: Arc<Health>,
    /// Local address, as connections to the backend have it.
    pub source: Option<IpAddr>,
    pub send_proxy: SendProxy,
    /// What is said goes through TLS.
    pub tls: Option<Tls>,
}

#[derive(Debug, Clone)]
pub(super) struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

impl Terms {
    /// Whether checks would go on just the same. Whatever TLS was loaded anew is another one.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let Self { health, source, send_proxy, tls } = other;
        let same_tls = match (&self.tls, tls) {
            (Some(a), Some(b)) => Arc::ptr_eq(&a.config, &b.config) && a.name == b.name,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.health == *health && self.source == *source && self.send_proxy == *send_proxy && same_tls
    }
}

/// The header that says: this connection is the proxy's own. Nobody's address is in it.
fn header(send_proxy: SendProxy) -> &'static [u8] {
    match send_proxy {
        SendProxy::Off => b"",
        SendProxy::V1 => b"PROXY UNKNOWN\r\n",
        // Version 2, command LOCAL, family UNSPEC, no addresses.
        SendProxy::V2(_) => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

/// Checks a backend once; up if one of its addresses is.
pub(super) async fn check(
    backend: &BackendState,
    terms: &Terms,
    known: &Known,
    in_flight: &Arc<Semaphore>,
) -> Result<(), Failure> {
    match &backend.address {
        Address::Endpoint(Endpoint::Ip(address)) => one(Target::Ip(*address), terms, in_flight).await,
        Address::Endpoint(Endpoint::Unix(path)) => one(Target::Unix(path), terms, in_flight).await,
        Address::Host { .. } => match known.get(backend.id) {
            Some(addresses) => any(&addresses, terms, in_flight).await,
            None => Err("its name does not resolve".into()),
        },
    }
}

async fn any(addresses: &[SocketAddr], terms: &Terms, in_flight: &Arc<Semaphore>) -> Result<(), Failure> {
    let mut checks = JoinSet::new();
    for address in addresses.iter().copied() {
        let (terms, in_flight) = (terms.clone(), Arc::clone(in_flight));
        checks.spawn(async move { one(Target::Ip(address), &terms, &in_flight).await });
    }
    let mut failure = "it has no address".to_string();
    while let Some(result) = checks.join_next().await {
        match result {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => failure = why,
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}

pub(super) enum Target<'a> {
    Ip(SocketAddr),
    Unix(&'a Path),
}

/// Checks one address. Its time begins when there is room for it.
pub(super) async fn one(target: Target<'_>, terms: &Terms, in_flight: &Semaphore) -> Result<(), Failure> {
    let _room = in_flight.acquire().await.map_err(|error| error.to_string())?;
    let dialogue = async {
        match target {
            Target::Ip(address) => {
                let stream = connect(address, terms.source).await.map_err(|error| format!("connect: {error}"))?;
                talk(stream, terms).await
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| format!("connect: {error}"))?;
                talk(stream, terms).await
            }
        }
    };
    let timeout = terms.health.timeout;
    let late = |_| format!("no {} within {}", awaited(&terms.health), humantime::format_duration(timeout));
    tokio::time::timeout(timeout, dialogue).await.map_err(late)?
}

fn awaited(health: &Health) -> &'static str {
    if health.expect.is_some() { "expected answer" } else { "connection" }
}

async fn connect(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source.filter(|source| source.is_ipv4() == address.is_ipv4()) {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

/// The header and the handshake, where there are any; a check that says and awaits nothing needs no handshake.
async fn talk(mut stream: impl AsyncRead + AsyncWrite + Unpin, terms: &Terms) -> Result<(), Failure> {
    let Terms { health, send_proxy, tls, source: _ } = terms;
    stream.write_all(header(*send_proxy)).await.map_err(|error| format!("send: {error}"))?;
    if health.send.is_none() && health.expect.is_none() {
        return Ok(());
    }
    let Some(Tls { config, name }) = tls else { return converse(&mut stream, health).await };
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream);
    let mut stream = connecting.await.map_err(|error| format!("tls: {error}"))?;
    let result = converse(&mut stream, health).await;
    let _ = stream.shutdown().await;
    result
}

/// Sends what is to be sent and reads until what is expected has come.
async fn converse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), health: &Health) -> Result<(), Failure> {
    if let Some(send) = &health.send {
        stream.write_all(send).await.map_err(|error| format!("send: {error}"))?;
    }
    let Some(expect) = &health.expect else { return Ok(()) };
    let mut answer = Vec::new();
    let mut answers = stream.take(limits::HEALTH_BYTES as u64);
    loop {
        let read = answers.read_buf(&mut answer).await.map_err(|error| format!("receive: {error}"))?;
        if expect.is_empty() || answer.windows(expect.len()).any(|window| window == expect.as_slice()) {
            return Ok(());
        }
        if read == 0 {
            return Err(format!("the answer is not the expected one: {}", excerpt(&answer)));
        }
    }
}

/// The begin of an answer, for the log.
fn excerpt(answer: &[u8]) -> String {
    const BYTES: usize = 64;
    if answer.is_empty() {
        return "nothing".into();
    }
    let dots = if answer.len() > BYTES { "..." } else { "" };
    format!("\"{}\"{dots}", answer[..answer.len().min(BYTES)].escape_ascii())
}
