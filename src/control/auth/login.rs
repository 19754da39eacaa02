//! One attempt to log in: the methods in their order, then the groups.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::pam::{Answer, Question};
use super::state::{State, nobody};
use super::{Inner, groups, secret};
use crate::config::plan::{Method, PamService};
use crate::policy::banned::Source;
use crate::policy::identity::{Identity, Verdict};
use crate::policy::logins::{Key, Sealer};
use crate::types::Name;

/// PAM's "no" comes no earlier than this after the question, so that its time tells nothing of the user.
const PAM_REFUSAL: Duration = Duration::from_secs(1);

pub(super) struct Login {
    pub(super) state: Arc<State>,
    pub(super) source: Option<IpAddr>,
    pub(super) user: Vec<u8>,
    pub(super) password: Zeroizing<Vec<u8>>,
}

impl Login {
    /// Everything that the answer depends on.
    pub(super) fn key(&self, sealer: &Sealer) -> Key {
        let plan = &self.state.plan;
        let mut parts: Vec<&[u8]> = vec![b"login", &self.user, &self.password];
        parts.extend(plan.methods.iter().map(|method| method.word().as_bytes()));
        let is_pam = plan.methods.contains(&Method::Pam);
        // PAM may decide by the address.
        let source = self.source.filter(|_| is_pam).map(|source| source.to_canonical().to_string()).unwrap_or_default();
        parts.extend([
            if is_pam { plan.pam_service.name.as_bytes() } else { b"" },
            source.as_bytes(),
            if plan.system_groups { b"groups" } else { b"" },
            self.state.secret(&self.user).map_or(b"", |secret| secret::bytes(secret)),
        ]);
        let own = self.state.user(&self.user).map_or(&[][..], |user| &user.groups);
        parts.extend(own.iter().map(|group| group.as_bytes()));
        sealer.seal(&parts)
    }

    /// Any method that accepts is enough; one that cannot say makes a refusal of the others mean nothing.
    pub(super) async fn check(self, inner: &Arc<Inner>) -> Verdict {
        let mut verdict = Verdict::Refused;
        for method in &self.state.plan.methods {
            let answer = match method {
                Method::None => continue,
                Method::Password => self.by_password(inner).await,
                Method::Pam => self.by_pam(inner).await,
            };
            match answer {
                Ok(user) => return self.with_groups(inner, user).await,
                Err(Verdict::Refused) => {}
                Err(Verdict::Banned) => return Verdict::Banned,
                Err(other) => verdict = other,
            }
        }
        if verdict == Verdict::Refused {
            inner.fail(self.source, &self.state);
        }
        verdict
    }

    /// An unknown user costs what a known one does: a secret is checked whatever the name.
    async fn by_password(&self, inner: &Arc<Inner>) -> Result<Name, Verdict> {
        let known = self.state.secret(&self.user).cloned();
        let name = self.state.user(&self.user).map(|user| Name::clone(&user.name));
        let number = inner.sealer.seal(&[b"stand-in", &self.user]);
        let number = u64::from_be_bytes(number.first_chunk().copied().unwrap_or_default());
        let stand_in = secret::stand_in(&self.state.secrets, number);
        let is_known = known.is_some();
        let Some(secret) = known.or(stand_in) else { return Err(Verdict::Refused) };
        let Some(_turn) = inner.hash_turns.take(self.source.map(Source::of)).await else {
            return Err(Verdict::Unavailable);
        };
        let (own, source, password) = (Arc::clone(inner), self.source, self.password.clone());
        let checked = inner.hashes.run(move || {
            // It may have been banned while this waited.
            (!own.is_banned(source, Instant::now())).then(|| secret::matches(&secret, &password))
        });
        match (checked.await, name) {
            (Some(Some(true)), Some(name)) if is_known => Ok(name),
            (Some(Some(_)), _) => Err(Verdict::Refused),
            (Some(None), _) => Err(Verdict::Banned),
            (None, _) => Err(Verdict::Unavailable),
        }
    }

    async fn by_pam(&self, inner: &Arc<Inner>) -> Result<Name, Verdict> {
        let begun = tokio::time::Instant::now();
        let answer = match std::str::from_utf8(&self.user) {
            Ok(user) if !user.is_empty() && !user.chars().any(char::is_control) => {
                let question = Question {
                    service: self.state.plan.pam_service.name.to_string(),
                    user: user.to_owned(),
                    password: Some(self.password.clone()),
                    remote: self.source.map(|source| source.to_canonical().to_string()),
                };
                let Some(_turn) = inner.pam_turns.take(self.source.map(Source::of)).await else {
                    return Err(Verdict::Unavailable);
                };
                // It may have been banned while this waited.
                if inner.is_banned(self.source, Instant::now()) {
                    return Err(Verdict::Banned);
                }
                ask(inner, question).await
            }
            _ => Answer::Refused,
        };
        match answer {
            Answer::Accepted(user) => Ok(user.into()),
            Answer::Refused => {
                tokio::time::sleep_until(begun + PAM_REFUSAL).await;
                Err(Verdict::Refused)
            }
            Answer::Unavailable(why) => {
                tracing::debug!(why, "PAM cannot say");
                Err(Verdict::Unavailable)
            }
        }
    }

    async fn with_groups(&self, inner: &Arc<Inner>, user: Name) -> Verdict {
        let own: Vec<Name> = self.state.user(user.as_bytes()).map(|user| user.groups.clone()).unwrap_or_default();
        if !self.state.plan.system_groups {
            return Verdict::Accepted(Arc::new(Identity { user, groups: own.into() }));
        }
        let name = Name::clone(&user);
        match inner.lookups.run(move || groups::with_system(&name, &own)).await {
            Some(Ok(groups)) => Verdict::Accepted(Arc::new(Identity { user, groups })),
            Some(Err(error)) => {
                tracing::warn!(error, "the groups of a user cannot be had");
                Verdict::Unavailable
            }
            None => Verdict::Unavailable,
        }
    }
}

pub(super) async fn check_address(
    inner: &Arc<Inner>,
    service: &PamService,
    source: Option<IpAddr>,
    address: Option<String>,
) -> Verdict {
    let Some(_turn) = inner.pam_turns.take(source.map(Source::of)).await else { return Verdict::Unavailable };
    let question =
        Question { service: service.name.to_string(), user: "nobody".into(), password: None, remote: address };
    match ask(inner, question).await {
        Answer::Accepted(_) => Verdict::Accepted(nobody()),
        Answer::Refused => Verdict::Refused,
        Answer::Unavailable(why) => {
            tracing::debug!(why, "PAM cannot say");
            Verdict::Unavailable
        }
    }
}

async fn ask(inner: &Arc<Inner>, question: Question) -> Answer {
    match inner.pam.get() {
        Some(pam) => pam.ask(question).await,
        None => Answer::Unavailable("its processes were not started".into()),
    }
}
