//! Trying a connection from where arus runs: to an address, or to each backend of an upstream until one answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::Json;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::attempts::{Attempts, TooMany};
use super::refusal::{Problem, Refusal};
use super::serve::Peer;
use crate::config::plan::Address;
use crate::control::handle::Control;
use crate::limits;
use crate::types::Endpoint;

/// Tries at once.
static TRIES: Semaphore = Semaphore::const_new(8);
/// Tries of one caller in a row, and how long until there may be another: no port scanner.
static PACE: LazyLock<Attempts> = LazyLock::new(|| Attempts::new(60, Duration::from_secs(1)));
const TIMEOUT_MS: u64 = 3000;
const LONGEST_MS: u64 = 30_000;
/// Backends and addresses of one try.
const TARGETS: usize = 16;

/// An upstream, or an address with a port.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Ask {
    Upstream {
        upstream: String,
        #[schema(minimum = 1, maximum = 30000)]
        timeout_ms: Option<u64>,
    },
    Address {
        /// An IP address or a host name.
        #[schema(min_length = 1, max_length = 253, pattern = "^[A-Za-z0-9_.:-]+$")]
        address: String,
        #[schema(minimum = 1, maximum = 65535)]
        port: u16,
        /// Default: 3000.
        #[schema(minimum = 1, maximum = 30000)]
        timeout_ms: Option<u64>,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Outcome {
    success: bool,
    /// To the end of the TCP handshake; names that had to be looked up count as well.
    latency_ms: Option<f64>,
    /// Where it connected to.
    address: Option<String>,
    error: Option<String>,
}

/// Tries a TCP connection, which is closed at once.
#[utoipa::path(post, path = "/api/v1/diagnostics/connect", tag = "diagnostics", request_body = Ask, responses(
    (status = 200, description = "It was tried", body = Outcome),
    (status = 400, description = "Not such a body, or no such address", body = Problem),
    (status = 404, description = "No such upstream", body = Problem),
    (status = 415, description = "Not application/json", body = Problem),
    (status = 429, description = "Too many tries, in all or of this caller", body = Problem),
))]
pub(super) async fn connect(
    State(control): State<Control>,
    peer: Option<Extension<Peer>>,
    ask: Result<Json<Ask>, JsonRejection>,
) -> Result<Json<Outcome>, Refusal> {
    let Json(ask) = ask?;
    let bad = |message: String| Refusal::new(StatusCode::BAD_REQUEST, message);
    let (targets, timeout_ms) = match ask {
        Ask::Upstream { upstream, timeout_ms } => (backends(&control, &upstream)?, timeout_ms),
        Ask::Address { address, port, timeout_ms } => {
            let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
            if port == 0 || !(1..=limits::HOST_BYTES).contains(&address.len()) || !address.bytes().all(is_host) {
                let most = limits::HOST_BYTES;
                return Err(bad(format!(
                    "an address is an IP address or a name of at most {most} letters, and a port is not 0"
                )));
            }
            (vec![Address::Host { host: address.as_str().into(), port }], timeout_ms)
        }
    };
    let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_MS);
    if !(1..=LONGEST_MS).contains(&timeout_ms) {
        return Err(bad(format!("timeout_ms is 1 to {LONGEST_MS}")));
    }
    let busy =
        |seconds| Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many tries of connections").retry_after(seconds);
    let caller = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Extension(Peer(address))| address.ip());
    PACE.take(caller, Instant::now()).map_err(|TooMany(wait)| busy(wait.as_secs() + 1))?;
    let Ok(_try) = TRIES.try_acquire() else { return Err(busy(1)) };
    let begun = Instant::now();
    let tried = tokio::time::timeout(Duration::from_millis(timeout_ms), first(&targets)).await;
    let failed = |error: String| Outcome { success: false, latency_ms: None, address: None, error: Some(error) };
    Ok(Json(match tried {
        Ok(Ok(address)) => {
            let latency_ms = Some((begun.elapsed().as_micros() as f64) / 1000.0);
            Outcome { success: true, latency_ms, address: Some(address), error: None }
        }
        Ok(Err(error)) => failed(error),
        Err(_) => failed(format!("no answer within {timeout_ms} ms")),
    }))
}

fn backends(control: &Control, upstream: &str) -> Result<Vec<Address>, Refusal> {
    let view = control.view();
    let found = view.snapshot.upstreams.iter().find(|state| *state.name == *upstream).map(Arc::clone);
    let found = found.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such upstream"))?;
    Ok(found.backends.iter().take(TARGETS).map(|backend| backend.address.clone()).collect())
}

/// The first that takes a connection, else the last error.
async fn first(targets: &[Address]) -> Result<String, String> {
    let mut last = "there is nothing to connect to".to_owned();
    for target in targets {
        match one(target).await {
            Ok(address) => return Ok(address),
            Err(error) => last = format!("{target}: {error}"),
        }
    }
    Err(last)
}

async fn one(target: &Address) -> std::io::Result<String> {
    match target {
        Address::Endpoint(Endpoint::Ip(address)) => tcp(*address).await,
        Address::Endpoint(Endpoint::Unix(path)) => UnixStream::connect(path).await.map(|_| target.to_string()),
        Address::Host { host, port } => {
            let addresses: Vec<SocketAddr> =
                tokio::net::lookup_host((&**host, *port)).await?.take(limits::ADDRESSES_PER_HOST).collect();
            let mut last = std::io::Error::other("this name has no address");
            for address in addresses {
                match tcp(address).await {
                    Ok(address) => return Ok(address),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

async fn tcp(address: SocketAddr) -> std::io::Result<String> {
    TcpStream::connect(address).await.map(|_| address.to_string())
}
