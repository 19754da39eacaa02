//! A client of the control socket: one request, one answer, with a deadline.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::socket::SocketArgs;

/// A reload has a minute on the other side; everything else takes a second at most.
const TIMEOUT: Duration = Duration::from_secs(70);
/// Bytes of an answer: 10,000 sessions are some 5 MB.
const ANSWER_BYTES: usize = 64 * 1024 * 1024;

pub(super) struct Client {
    socket: PathBuf,
    runtime: Runtime,
    timeout: Duration,
}

/// An answer with its status code; `body` is JSON, as everything of the API.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) code: StatusCode,
    body: Bytes,
}

impl Client {
    pub(super) fn new(args: &SocketArgs) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: args.find()?, runtime, timeout: TIMEOUT })
    }

    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.call(Method::GET, path)?.read()
    }

    /// The JSON as arus wrote it, for `--json`.
    pub(super) fn get_json(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        self.get(path)
    }

    /// Any answer counts as one, whatever its code.
    pub(super) fn call(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let call = async { tokio::time::timeout(self.timeout, self.exchange(method, path)).await };
        self.runtime.block_on(call).context("arus does not answer")?
    }

    async fn exchange(&self, method: Method, path: &str) -> anyhow::Result<Answer> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.explain(&error))?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "arus").body(Empty::<Bytes>::new())?;
        let response = requests.send_request(request).await.context("arus hung up")?;
        let code = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("arus did not finish its answer: {error}"))?.to_bytes();
        connection.abort();
        Ok(Answer { code, body })
    }

    fn explain(&self, error: &std::io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
                "no arus is running here: nothing listens on {socket} (start one with `arus run`, or say which is \
                 meant with --socket or --config)"
            ),
            ErrorKind::PermissionDenied => {
                anyhow!("permission denied on {socket}: only root and the user who started arus may use it")
            }
            _ => anyhow!("cannot connect to {socket}: {error}"),
        }
    }
}

impl Answer {
    /// The body of a success; the message of a refusal as an error.
    pub(super) fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        if self.code.is_success() {
            return serde_json::from_slice(&self.body).context("arus answered something else than expected");
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => bail!(refusal.error),
            Err(_) => bail!("arus answered {}", self.code),
        }
    }

    /// The body, of a refusal too.
    pub(super) fn json(&self) -> anyhow::Result<serde_json::Value> {
        serde_json::from_slice(&self.body).context("arus answered something else than expected")
    }

    /// Every error of a refused reload; `None` when the answer is something else.
    pub(super) fn errors(&self) -> Option<Vec<String>> {
        #[derive(Deserialize)]
        struct Refusals {
            errors: Vec<String>,
        }
        serde_json::from_slice::<Refusals>(&self.body).ok().map(|refusals| refusals.errors)
    }
}
