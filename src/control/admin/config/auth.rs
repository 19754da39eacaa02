//! `[auth]`, without a word of any secret.

use serde_json::{Value, json};

use super::{duration, present, shown};
use crate::config::plan::{Auth, Failures, PamService, Secret, User};

/// Stands for a secret: what it is hidden behind, not what it is.
const HIDDEN: &str = "(hidden)";

pub(super) fn auth(auth: &Auth) -> Value {
    let Auth { methods, at: _, client_pam_service, pam_service, system_groups, failures, users } = auth;
    let Failures { limit, window, ban } = failures;
    let name_of = |PamService { name, at: _ }: &PamService| name.to_string();
    present(json!({
        "methods": methods.iter().map(|method| method.word()).collect::<Vec<_>>(),
        "client_pam_service": client_pam_service.as_ref().map(name_of),
        "pam_service": name_of(pam_service),
        "system_groups": system_groups,
        "failures": { "limit": limit, "window": duration(*window), "ban": duration(*ban) },
        "user": users.iter().map(user).collect::<Vec<_>>(),
    }))
}

fn user(user: &User) -> Value {
    let User { name, secret, groups, at: _ } = user;
    let (hash, plain) = match secret {
        Some(Secret::Hash(_)) => (Some(HIDDEN), None),
        Some(Secret::Plain(_)) => (None, Some(HIDDEN)),
        None => (None, None),
    };
    present(json!({ "name": name.as_ref(), "password_hash": hash, "password": plain, "groups": shown(groups) }))
}
