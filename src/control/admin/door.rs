//! Who may come in over TCP: a bearer token or a login's cookie for everything but what is public, from pages of ours
//! only, and not after too many failures.
//!
//! What counts is the configuration in force at each request, so a reload that takes a user or token away, or changes
//! its password, counts at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::attempts::{Attempts, TooMany};
use super::logins::{Logins, Proof};
use super::origin;
use super::refusal::Refusal;
use super::secret::{digest_of, is_same};
use super::serve::Peer;
use crate::config::plan::{Admin, Scope, TokenDigest};
use crate::control::handle::Control;

/// The header that proves that a changing request comes from our own page.
pub(super) const CSRF_HEADER: &str = "x-arus-csrf";
pub(super) const LOGIN: &str = "/api/v1/login";
/// Asked with a body, and nothing is changed by it.
const QUESTIONS: &[&str] = &["/api/v1/acl/test"];
/// Whoever may see `/health` or log in may do so without having shown anything.
const PUBLIC: &[&str] = &["/health", LOGIN];

/// Failed logins in a row of one address, and how long until there may be another.
const LOGIN_ATTEMPTS: (u32, Duration) = (5, Duration::from_secs(12));
/// Wrong tokens; a monitoring system with an old one must not lock out its machine for long.
const TOKEN_ATTEMPTS: (u32, Duration) = (20, Duration::from_secs(3));

/// Who asks.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) name: Box<str>,
    pub(super) scope: Scope,
    /// Of a login: what changing requests must repeat.
    pub(super) csrf: Option<Box<str>>,
}

impl Caller {
    /// Whoever may open the control socket may do everything.
    pub(super) fn operator() -> Self {
        Self { name: "control socket".into(), scope: Scope::Write, csrf: None }
    }
}

/// What came of credentials, since the start.
#[derive(Debug, Default)]
pub(super) struct Shown {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Not even looked at.
    pub(super) limited: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Door {
    pub(super) control: Control,
    pub(super) logins: Logins,
    login_attempts: Attempts,
    token_attempts: Attempts,
    pub(super) login_results: Shown,
    pub(super) token_results: Shown,
}

impl Door {
    pub(super) fn new(control: Control) -> Self {
        Self {
            control,
            logins: Logins::default(),
            login_attempts: Attempts::new(LOGIN_ATTEMPTS.0, LOGIN_ATTEMPTS.1),
            token_attempts: Attempts::new(TOKEN_ATTEMPTS.0, TOKEN_ATTEMPTS.1),
            login_results: Shown::default(),
            token_results: Shown::default(),
        }
    }

    /// Takes one of an address's attempts to log in; peers of the control socket have no address and no need to guess.
    pub(super) fn begin_login(&self, source: Option<IpAddr>) -> Result<Attempt<'_>, Refusal> {
        begin(&self.login_attempts, &self.login_results, source)
    }

    /// The caller whose token this is.
    fn bearer(&self, token: &str, source: Option<IpAddr>) -> Result<Caller, Refusal> {
        let attempt = begin(&self.token_attempts, &self.token_results, source)?;
        let caller = self.owner(&digest_of(token));
        attempt.end(caller.is_some());
        caller.ok_or_else(|| Refusal::unauthorised("this token is not known").wrong_token())
    }

    /// The name and scope of a token, by its digest.
    pub(super) fn owner(&self, digest: &TokenDigest) -> Option<Caller> {
        let view = self.control.view();
        let admin = &view.snapshot.plan.admin;
        let mut found = None;
        // All of them, so that the time says nothing of which.
        for token in &admin.tokens {
            if is_same(&token.digest, digest) {
                found = Some(Caller { name: (*token.name).into(), scope: token.scope, csrf: None });
            }
        }
        found.or_else(|| self.generated(admin, digest))
    }

    /// The token of arus's own making counts only while there is nothing else.
    fn generated(&self, admin: &Admin, digest: &TokenDigest) -> Option<Caller> {
        let generated = self.control.generated_token()?;
        let counts = admin.users.is_empty() && admin.tokens.is_empty() && is_same(&generated, digest);
        counts.then(|| Caller { name: "admin.token".into(), scope: Scope::Write, csrf: None })
    }

    /// The caller whose cookie this is.
    fn login(&self, cookie: &str) -> Option<Caller> {
        let login = self.logins.find(&digest_of(cookie), Instant::now())?;
        let caller = match &login.proof {
            Proof::Token(digest) => self.owner(digest),
            Proof::User(name, hash) => {
                let view = self.control.view();
                let mut users = view.snapshot.plan.admin.users.iter();
                let user = users.find(|user| user.name == *name && user.password_hash == *hash);
                user.map(|user| Caller { name: (*user.name).into(), scope: user.scope, csrf: None })
            }
        };
        caller.map(|caller| Caller { csrf: Some(login.csrf), ..caller })
    }

    /// # Errors
    /// The answer for whoever has shown nothing, or nothing that counts.
    fn identify(&self, headers: &HeaderMap, source: Option<IpAddr>) -> Result<Caller, Refusal> {
        if let Some(authorization) = headers.get(header::AUTHORIZATION) {
            let text = authorization.to_str().unwrap_or_default();
            return match text.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.bearer(token.trim(), source),
                _ => Err(Refusal::unauthorised("only bearer tokens are known here").wrong_token()),
            };
        }
        cookie(headers)
            .and_then(|cookie| self.login(cookie))
            .ok_or_else(|| Refusal::unauthorised("this needs a token (`Authorization: Bearer ...`) or a login at /"))
    }

    fn admit(&self, request: &Request) -> Result<Option<Caller>, Refusal> {
        let view = self.control.view();
        let admin = &view.snapshot.plan.admin;
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        origin::check_host(request.uri(), headers, &admin.hosts)?;
        if is_change(method) {
            origin::check_origin(headers)?;
        }
        if is_page(path) && !admin.dashboard {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "[admin] dashboard = false"));
        }
        let is_metrics = path == "/metrics" && !admin.protect_metrics;
        if PUBLIC.contains(&path) || is_metrics || is_page(path) && !is_change(method) {
            return Ok(None);
        }
        let source = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let caller = self.identify(headers, source)?;
        if let Some(csrf) = caller.csrf.as_deref().filter(|_| is_change(method)) {
            let shown = headers.get(CSRF_HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
            if !is_same(&digest_of(shown), &digest_of(csrf)) {
                let message = format!("a change that comes with a cookie needs the header {CSRF_HEADER}");
                return Err(Refusal::new(StatusCode::FORBIDDEN, message));
            }
        }
        if is_change(method) && caller.scope < Scope::Write && !QUESTIONS.contains(&path) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, format!("`{}` has scope read", caller.name)));
        }
        Ok(Some(caller))
    }
}

/// Lets in whom it may.
pub(super) async fn guard(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let caller = match door.admit(&request) {
        Ok(caller) => caller,
        // What the refused would still send is not worth reading.
        Err(refusal) if has_body(&request) => return ([(header::CONNECTION, "close")], refusal).into_response(),
        Err(refusal) => return refusal.into_response(),
    };
    let Some(caller) = caller else { return next.run(request).await };
    let source = request.extensions().get::<Peer>().map(|peer| peer.0);
    let said = is_change(request.method()).then(|| {
        let path: String = request.uri().path().chars().take(200).collect();
        (caller.name.clone(), request.method().clone(), path)
    });
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let Some((user, method, path)) = said {
        let source = source.map(|source| source.to_string()).unwrap_or_default();
        tracing::info!(%user, %method, path, source, code = response.status().as_u16(), "admin request");
    }
    response
}

/// Peers of the control socket.
pub(super) async fn welcome(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::operator());
    next.run(request).await
}

fn has_body(request: &Request) -> bool {
    let headers = request.headers();
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// What a browser loads before anybody has logged in: nothing in it is secret.
fn is_page(path: &str) -> bool {
    path == "/" || path == "/favicon.ico" || path.starts_with("/assets/")
}

/// The value of our cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(';')).find_map(|pair| pair.trim().strip_prefix("arus_session="))
}

/// An attempt that was taken, and counts as failed until it has ended well.
pub(super) struct Attempt<'d> {
    of: &'d Attempts,
    results: &'d Shown,
    source: Option<IpAddr>,
}

fn begin<'d>(of: &'d Attempts, results: &'d Shown, source: Option<IpAddr>) -> Result<Attempt<'d>, Refusal> {
    let taken = source.map_or(Ok(()), |source| of.take(source, Instant::now()));
    match taken {
        Ok(()) => Ok(Attempt { of, results, source }),
        Err(TooMany(wait)) => {
            results.limited.fetch_add(1, Ordering::Relaxed);
            Err(Refusal::too_many(wait))
        }
    }
}

impl Attempt<'_> {
    pub(super) fn end(self, is_good: bool) {
        if is_good {
            self.results.accepted.fetch_add(1, Ordering::Relaxed);
            self.abandon();
        } else {
            self.results.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Nothing was learnt from it.
    pub(super) fn abandon(self) {
        if let Some(source) = self.source {
            self.of.give_back(source);
        }
    }
}
