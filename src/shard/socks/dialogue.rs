//! The dialogue up to the request: version, method, password, request (RFC 1928 sections 3 and 4, RFC 1929).

use std::pin::pin;
use std::sync::Arc;

use super::target::Host;
use super::{Reply, Talk, answer};
use crate::codec::socks5::{self, Command, Destination, Method};
use crate::codec::{self, Progress, socks4};
use crate::config::plan;
use crate::policy::identity::{Identity, Verdict};
use crate::shard::command::Answer;
use crate::shard::logins::Recalled;
use crate::shard::session::{Outcome, Session};
use crate::types::{Blame, Reason};

/// What a client asks for, and who it is.
pub(super) struct Ask {
    pub(super) version: Version,
    pub(super) command: Command,
    pub(super) host: Host,
    pub(super) port: u16,
    /// `None` where nobody had to prove anything.
    pub(super) identity: Option<Arc<Identity>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V4,
    V5,
}

/// A client that is not served, and what it is told.
pub(super) struct Refused {
    pub(super) outcome: Outcome,
    pub(super) last_words: Vec<u8>,
}

impl Refused {
    fn new(outcome: Outcome, last_words: impl Into<Vec<u8>>) -> Self {
        Self { outcome, last_words: last_words.into() }
    }

    fn silently(reason: Reason) -> Self {
        Self::new(Outcome::failed(reason, Blame::Client), [])
    }
}

type Heard<T> = Result<Result<T, Refused>, Outcome>;

/// Hears the client out. The inner error is a client that was told that it is not served; the outer one goes without a
/// word.
pub(super) async fn run(session: &Session, talk: &mut Talk<'_>) -> Heard<Ask> {
    if let Err(refused) = admit_address(session, talk).await? {
        return Ok(Err(refused));
    }
    let first = talk.hear(|bytes| bytes.first().map_or(Progress::NeedMore, |byte| Progress::Done(*byte, 0))).await?;
    let asked = match first {
        Ok(socks5::VERSION) => version5(session, talk).await?,
        Ok(socks4::VERSION) => version4(session, talk).await?,
        // Whatever it is, no byte of it goes anywhere.
        _ => Err(Refused::silently(Reason::SocksMessage)),
    };
    if let Ok(ask) = &asked {
        session.set_target(ask.host.shown(ask.port));
    }
    Ok(asked)
}

/// Where the system's PAM judges addresses, it does so before the first byte.
async fn admit_address(session: &Session, talk: &mut Talk<'_>) -> Heard<()> {
    let is_asked = session.in_force().snapshot.plan.auth.client_pam_service.is_some();
    if let (true, Some(source)) = (is_asked, session.source()) {
        let recalled = session.shard().logins.of_address(session, source);
        let judged = verdict(session, talk, recalled).await?;
        return Ok(judged.map(drop).map_err(|outcome| Refused::new(outcome, [])));
    }
    Ok(Ok(()))
}

async fn version5(session: &Session, talk: &mut Talk<'_>) -> Heard<Ask> {
    let choose = |bytes: &[u8]| {
        socks5::parse_greeting(bytes).map(|greeting| {
            let in_force = session.in_force();
            let auth = &in_force.snapshot.plan.auth;
            auth.methods.iter().map(|method| on_the_wire(*method)).find(|method| greeting.offers(*method))
        })
    };
    let method = match talk.hear(choose).await? {
        Ok(method) => method,
        // Whoever offers none gets none.
        Err(codec::Error::Socks5(socks5::Malformed::NoMethods)) => None,
        Err(_) => return Ok(Err(Refused::silently(Reason::SocksMessage))),
    };
    let choice = socks5::encode_choice(method);
    let mut overmuch = None;
    let identity = match method {
        None => {
            let outcome = Outcome::failed(Reason::SocksMethod, Blame::Client);
            return Ok(Err(Refused::new(outcome, choice)));
        }
        Some(Method::None) => {
            talk.say(&choice).await?;
            None
        }
        Some(Method::Password) => {
            talk.say(&choice).await?;
            match password(session, talk).await? {
                Ok((identity, refused)) => {
                    overmuch = refused;
                    Some(identity)
                }
                Err(refused) => return Ok(Err(refused)),
            }
        }
    };
    let request =
        talk.hear(|bytes| socks5::parse_request(bytes).map(|request| (request.command, owned(request.destination))));
    match (request.await?, overmuch) {
        (Ok(_), Some(reason)) => {
            let words = answer(Version::V5, Reply::of(reason), None);
            Ok(Err(Refused::new(super::refused(reason), words)))
        }
        (Ok((command, (host, port))), None) => Ok(Ok(Ask { version: Version::V5, command, host, port, identity })),
        (Err(codec::Error::Socks5(malformed)), _) => Ok(Err(match Reply::of_malformed(malformed) {
            Some(reply) => {
                let reason = match reply {
                    Reply::CommandNotSupported => Reason::SocksCommand,
                    Reply::AddressTypeNotSupported => Reason::SocksAddress,
                    _ => Reason::SocksMessage,
                };
                Refused::new(Outcome::failed(reason, Blame::Client), answer(Version::V5, reply, None))
            }
            None => Refused::silently(Reason::SocksMessage),
        })),
        (Err(_), _) => Ok(Err(Refused::silently(Reason::SocksMessage))),
    }
}

/// What the protocol calls it: who checks a password is no matter of the client's.
fn on_the_wire(method: plan::Method) -> Method {
    match method {
        plan::Method::None => Method::None,
        plan::Method::Password | plan::Method::Pam => Method::Password,
    }
}

fn owned(destination: Destination<'_>) -> (Host, u16) {
    (Host::of(&destination), destination.port())
}

/// Username and password.
/// Where the user may have no more sessions, the client hears so in the answer to its request: it is who it says it is.
async fn password(session: &Session, talk: &mut Talk<'_>) -> Heard<(Arc<Identity>, Option<Reason>)> {
    let logins = &session.shard().logins;
    let parse = |bytes: &[u8]| {
        socks5::parse_credentials(bytes).map(|login| logins.of_user(session, login.user, login.password))
    };
    let Ok(recalled) = talk.hear(parse).await? else { return Ok(Err(Refused::silently(Reason::SocksMessage))) };
    match verdict(session, talk, recalled).await? {
        Ok(identity) => {
            let entered = session.set_user(Arc::clone(&identity.user));
            talk.say(&socks5::encode_verdict(true)).await?;
            Ok(Ok((identity, entered.err())))
        }
        Err(outcome) => Ok(Err(Refused::new(outcome, socks5::encode_verdict(false)))),
    }
}

/// What is to be said of credentials or an address: from memory, or by control.
async fn verdict(
    session: &Session,
    talk: &mut Talk<'_>,
    recalled: Recalled,
) -> Result<Result<Arc<Identity>, Outcome>, Outcome> {
    let (errand, key) = match recalled {
        Recalled::Known(identity) => return Ok(Ok(identity)),
        Recalled::Ask(errand, key) => (errand, key),
    };
    let verdict = match talk.attended(pin!(session.shard().ask(errand))).await? {
        Some(Answer::Verdict(verdict)) => verdict,
        Some(Answer::Addresses(_)) | None => Verdict::Unavailable,
    };
    Ok(match verdict {
        Verdict::Accepted(identity) => {
            if let Some(key) = key {
                session.shard().logins.note(key, &identity);
            }
            Ok(identity)
        }
        Verdict::Refused => Err(super::refused(Reason::AuthFailed)),
        Verdict::Banned => Err(super::refused(Reason::Banned)),
        Verdict::Unavailable => Err(Outcome::failed(Reason::AuthUnavailable, Blame::Proxy)),
    })
}

async fn version4(session: &Session, talk: &mut Talk<'_>) -> Heard<Ask> {
    let plan = &session.generation().snapshot.plan;
    if !plan.socks.socks4 {
        return Ok(Err(Refused::silently(Reason::SocksMessage)));
    }
    let rejected = |reason| {
        let words = socks4::encode_reply(socks4::Reply::Rejected, None);
        Ok(Err(Refused::new(Outcome::failed(reason, Blame::Client), words)))
    };
    let needs_proof = || {
        let in_force = session.in_force();
        let auth = &in_force.snapshot.plan.auth;
        !auth.admits_anybody() || auth.takes_passwords()
    };
    match talk.hear(|bytes| socks4::parse(bytes).map(|request| owned(request.destination))).await? {
        // The user that it names is not proved by anything.
        Ok(_) if needs_proof() => rejected(Reason::SocksMethod),
        Ok((host, port)) => Ok(Ok(Ask { version: Version::V4, command: Command::Connect, host, port, identity: None })),
        Err(codec::Error::Socks4(socks4::Malformed::Command(_))) => rejected(Reason::SocksCommand),
        Err(_) => rejected(Reason::SocksMessage),
    }
}
