//! A client of the control socket: one request, one answer, with a deadline.

use std::fmt;
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
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::socket::SocketArgs;
use crate::types::is_unprintable;

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
    pub(super) fn get_json(&self, path: &str) -> anyhow::Result<Json> {
        let answer = self.call(Method::GET, path)?;
        if answer.code.is_success() { answer.json() } else { answer.refused() }
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

/// JSON to be printed for whoever reads it: what is in its strings does not speak to a terminal.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Json(pub(super) Value);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:#}", self.0);
        let mut rest = text.as_str();
        // serde_json leaves those beyond ASCII and DEL as they are; its own line breaks stand between strings.
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| *c != '\n' && is_unprintable(*c)) {
            write!(f, "{}\\u{:04x}", &rest[..at], u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        f.write_str(rest)
    }
}

/// What peers, files and whoever made the socket have put into an answer becomes something to look at, and no more.
fn make_plain(value: &mut Value) {
    match value {
        Value::String(text) => *text = plain(text),
        Value::Array(values) => values.iter_mut().for_each(make_plain),
        Value::Object(members) => {
            if members.keys().any(|key| key.contains(is_unprintable)) {
                *members = std::mem::take(members).into_iter().map(|(key, value)| (plain(&key), value)).collect();
            }
            members.values_mut().for_each(make_plain);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn plain(text: &str) -> String {
    text.replace(is_unprintable, "?")
}

impl Answer {
    /// The body of a success, made to be shown; the message of a refusal as an error.
    pub(super) fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        if !self.code.is_success() {
            return self.refused();
        }
        let Json(mut value) = self.json()?;
        make_plain(&mut value);
        serde_json::from_value(value).context("arus answered something else than expected")
    }

    fn refused<T>(&self) -> anyhow::Result<T> {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => bail!(plain(&refusal.error)),
            Err(_) => bail!("arus answered {}", self.code),
        }
    }

    /// The body, of a refusal too.
    pub(super) fn json(&self) -> anyhow::Result<Json> {
        serde_json::from_slice(&self.body).map(Json).context("arus answered something else than expected")
    }

    /// Every error of a refused reload; `None` when the answer is something else.
    pub(super) fn errors(&self) -> Option<Vec<String>> {
        #[derive(Deserialize)]
        struct Refusals {
            errors: Vec<String>,
        }
        let refusals = serde_json::from_slice::<Refusals>(&self.body).ok()?;
        Some(refusals.errors.iter().map(|error| plain(error)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A title, a clear screen, a C1 introducer, a right-to-left override, a line of its own, DEL.
    const EVIL: &str = "a\u{1b}]0;t\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\r\nforged\u{7f}é";

    fn answer(code: StatusCode, body: &Value) -> Answer {
        Answer { code, body: Bytes::from(body.to_string()) }
    }

    #[test]
    fn nothing_that_an_answer_holds_speaks_to_the_terminal() -> anyhow::Result<()> {
        let shown = "a?]0;t??[2J?31m????forged?é";
        let body = serde_json::json!({ "error": EVIL, "errors": [EVIL], EVIL: [{ "name": EVIL, "n": 1 }] });
        let good = answer(StatusCode::OK, &body);
        let value: Value = good.read()?;
        assert_eq!(
            (&value["error"], &value[shown][0]["name"], &value[shown][0]["n"]),
            (&shown.into(), &shown.into(), &1.into())
        );
        let bad = answer(StatusCode::BAD_REQUEST, &body);
        assert_eq!(bad.read::<Value>().map_err(|error| error.to_string()), Err(shown.to_owned()));
        assert_eq!(bad.errors(), Some(vec![shown.to_owned()]));
        // For programs nothing is changed, only written in another way.
        let printed = good.json()?.to_string();
        assert!(!printed.contains(|c| c != '\n' && is_unprintable(c)) && printed.contains('é'), "{printed:?}");
        assert_eq!(serde_json::from_str::<Value>(&printed)?, body);
        Ok(())
    }
}
