//! Logging in and out of the dashboard.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::door::{Caller, Door, cookie};
use super::logins::{LONGEST, Proof, Ticket};
use super::origin;
use super::refusal::{Problem, Refusal};
use super::secret::digest_of;
use super::serve::Peer;
use crate::config::plan::{AdminUser, PasswordHash};

/// Passwords that are checked at once: each takes a CPU for some 20 ms, and some 20 MiB.
static CHECKS: Semaphore = Semaphore::const_new(2);
/// How long a login waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// What is compared where there is no such user and no user at all, so that it takes as long.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$YXJ1cy1ub2JvZHktaGVyZQ$uW2QlCIHrHvdYtgFCOAyuDO7F4IpVfpgUdJyVm0cYrs";

/// A user with a password, or a token.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Credentials {
    Password { user: String, password: String },
    Token { token: String },
}

/// Who is logged in.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Me {
    user: String,
    /// read | write
    scope: String,
    /// What changing requests that come with the cookie must repeat in the header `x-arus-csrf`; null where there is no
    /// cookie.
    csrf: Option<String>,
}

impl From<Caller> for Me {
    fn from(caller: Caller) -> Self {
        Self { user: caller.name.into(), scope: caller.scope.word().into(), csrf: caller.csrf.map(Into::into) }
    }
}

/// Trades a password or a token for a cookie. Needs no credential, and `application/json`, which no foreign page can send.
#[utoipa::path(post, path = "/api/v1/login", tag = "login", security(()), request_body = Credentials, responses(
    (status = 200, description = "Logged in", body = Me,
        headers(("set-cookie" = String, description = "arus_session, for 12 hours at most"))),
    (status = 400, description = "Not such a body", body = Problem),
    (status = 401, description = "Wrong user, password or token", body = Problem),
    (status = 403, description = "From another site's page", body = Problem),
    (status = 415, description = "Not application/json", body = Problem),
    (status = 429, description = "Too many failures from this address", body = Problem,
        headers(("retry-after" = u64, description = "seconds"))),
    (status = 503, description = "Too many logins at once", body = Problem),
))]
pub(super) async fn begin(
    State(door): State<Arc<Door>>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    credentials: Result<Json<Credentials>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(credentials) = credentials?;
    let source: Option<IpAddr> = peer.map(|Extension(Peer(address))| address.ip());
    let attempt = door.begin_login(source)?;
    let shown = match credentials {
        Credentials::Token { token } => {
            let digest = digest_of(&token);
            door.owner(&digest).map(|caller| (caller, Proof::Token(digest)))
        }
        Credentials::Password { user, password } => match check_password(&door, &user, password).await {
            Ok(found) => found.map(|user| {
                let caller = Caller { name: (*user.name).into(), scope: user.scope, csrf: None };
                (caller, Proof::User(user.name, user.password_hash))
            }),
            Err(busy) => {
                attempt.abandon();
                return Err(busy);
            }
        },
    };
    attempt.end(shown.is_some());
    let Some((caller, proof)) = shown else {
        let source = source.map(|source| source.to_string()).unwrap_or_default();
        tracing::warn!(source, "a login to the admin API failed");
        return Err(Refusal::unauthorised("wrong user, password or token"));
    };
    let no_randomness = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the system gives no random numbers");
    let Ticket { cookie, csrf } = door.logins.begin(proof, Instant::now()).ok_or_else(no_randomness)?;
    let secure = if origin::is_secure(&headers) { "; Secure" } else { "" };
    let seconds = LONGEST.as_secs();
    let cookie = format!("arus_session={cookie}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}");
    let me = Me::from(Caller { csrf: Some(csrf.into()), ..caller });
    Ok(([(header::SET_COOKIE, cookie)], Json(me)).into_response())
}

/// The user whose password this is. Unknown users cost as much as known ones.
async fn check_password(door: &Door, name: &str, password: String) -> Result<Option<AdminUser>, Refusal> {
    let view = door.control.view();
    let users = &view.snapshot.plan.admin.users;
    let user = users.iter().find(|user| *user.name == *name).cloned();
    let hash = user.as_ref().or(users.first()).map(|user| user.password_hash.clone());
    let hash = hash.unwrap_or_else(|| PasswordHash(NOBODY.into()));
    let busy = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many logins at once").retry_after(TURN.as_secs());
    let Ok(Ok(turn)) = tokio::time::timeout(TURN, CHECKS.acquire()).await else { return Err(busy()) };
    let checked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        verify(&hash, password.as_bytes())
    });
    let is_right = checked.await.map_err(|_| busy())?;
    Ok(user.filter(|_| is_right))
}

fn verify(hash: &PasswordHash, password: &[u8]) -> bool {
    use argon2::PasswordVerifier;
    if hash.0.starts_with("$2") {
        return bcrypt::verify(password, &hash.0).unwrap_or(false);
    }
    let parsed = argon2::PasswordHash::new(&hash.0);
    parsed.is_ok_and(|parsed| argon2::Argon2::default().verify_password(password, &parsed).is_ok())
}

/// Who this is.
#[utoipa::path(get, path = "/api/v1/me", tag = "login", responses((status = 200, body = Me)))]
pub(super) async fn me(Extension(caller): Extension<Caller>) -> Json<Me> {
    Json(caller.into())
}

/// Ends the login that the cookie is of.
#[utoipa::path(post, path = "/api/v1/logout", tag = "login", responses((status = 204, description = "Logged out")))]
pub(super) async fn end(State(door): State<Arc<Door>>, headers: HeaderMap) -> Response {
    if let Some(cookie) = cookie(&headers) {
        door.logins.end(&digest_of(cookie));
    }
    let gone = "arus_session=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0";
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, gone)]).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_hashes_are_understood() {
        let argon = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$";
        assert!(!verify(&PasswordHash(argon.into()), b"x"), "a hash without its last part");
        let bcrypt = bcrypt::hash("secret", 4).unwrap_or_default();
        assert!(verify(&PasswordHash(bcrypt.as_str().into()), b"secret"));
        assert!(!verify(&PasswordHash(bcrypt.as_str().into()), b"Secret"));
        assert!(argon2::PasswordHash::new(NOBODY).is_ok());
        assert!(!verify(&PasswordHash(NOBODY.into()), b""));
    }
}
