//! `[auth]`.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::super::error::{Report, Wrong, quote};
use super::super::plan::{Auth, Failures, Method, PamService, Secret, User};
use super::super::raw;
use super::super::read::{List, Text};
use super::bounds::{lasting, whole};
use super::hash::password_hash;
use super::{required, within};
use crate::limits;
use crate::types::Name;

const FAILURES: Failures = Failures { limit: 5, window: Duration::from_secs(60), ban: Duration::from_secs(5 * 60) };
const SPANS: RangeInclusive<Duration> = Duration::from_secs(1)..=limits::DURATION;
const PAM_SERVICE: &str = "arus";

pub(super) fn auth(raw: Option<&raw::Auth<'_>>, report: &mut Report<'_>) -> Auth {
    let absent = raw::Auth::default();
    let raw = raw.unwrap_or(&absent);
    let at = raw.methods.as_ref().map_or(&raw.head.span, |list| &list.span);
    let at = report.at(at);
    let methods = raw.methods.as_ref().map_or_else(|| vec![Method::None], |list| methods(list, report));
    let wants_secrets = methods.contains(&Method::Password) && !methods.contains(&Method::Pam);
    let default_service = PamService { name: PAM_SERVICE.into(), at };
    Auth {
        at,
        client_pam_service: raw
            .client_pam_service
            .as_ref()
            .filter(|text| !text.get_ref().is_empty())
            .and_then(|text| pam_service(text, "client_pam_service", report)),
        pam_service: raw
            .pam_service
            .as_ref()
            .and_then(|text| pam_service(text, "pam_service", report))
            .unwrap_or(default_service),
        system_groups: raw.system_groups.as_ref().is_some_and(|flag| *flag.get_ref()),
        failures: raw.failures.as_ref().map_or(FAILURES, |raw| failures(raw, report)),
        users: users(raw, wants_secrets, report),
        methods,
    }
}

fn methods(list: &List<Text<'_>>, report: &mut Report<'_>) -> Vec<Method> {
    let words = Method::ALL.map(|method| format!("\"{}\"", method.word())).join(", ");
    if list.is_empty {
        report.error(
            &list.span,
            Wrong::new("`methods` is empty, so nobody could log in").hint(format!("any of {words}")),
        );
    }
    let mut methods = Vec::new();
    for text in &list.items {
        let word: &str = text.get_ref();
        let wrong = match Method::ALL.into_iter().find(|method| method.word() == word) {
            Some(method) if !methods.contains(&method) => {
                methods.push(method);
                continue;
            }
            Some(_) => Wrong::new(format!("{} is in `methods` already", quote(word))),
            None => Wrong::new(format!("`methods` cannot have {}", quote(word))).hint(format!("any of {words}")),
        };
        report.error(&text.span(), wrong);
    }
    methods
}

/// It becomes a file name that root opens.
fn pam_service(text: &Text<'_>, key: &str, report: &mut Report<'_>) -> Option<PamService> {
    let name: &str = text.get_ref();
    let is_known = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let is_good =
        (1..=limits::NAME_BYTES).contains(&name.len()) && !name.starts_with('.') && name.chars().all(is_known);
    let wrong = || {
        Wrong::new(format!("`{key}` cannot be {}", quote(name)))
            .hint("the name of a file in /etc/pam.d: letters, digits, `_`, `-` and `.`")
    };
    let name = report.accept(&text.span(), is_good.then_some(name).ok_or_else(wrong))?;
    Some(PamService { name: name.into(), at: report.at(&text.span()) })
}

fn failures(raw: &raw::Failures, report: &mut Report<'_>) -> Failures {
    Failures {
        limit: whole(raw.limit.as_ref(), "limit", 0..=limits::AUTH_FAILURES, report).unwrap_or(FAILURES.limit),
        window: lasting(raw.window.as_ref(), "window", SPANS, report).unwrap_or(FAILURES.window),
        ban: lasting(raw.ban.as_ref(), "ban", SPANS, report).unwrap_or(FAILURES.ban),
    }
}

fn users(raw: &raw::Auth<'_>, wants_secrets: bool, report: &mut Report<'_>) -> Vec<User> {
    let raw = raw.user.as_deref().unwrap_or_default();
    let raw = within(raw, limits::AUTH_USERS, "[[auth.user]]", |raw| &raw.head.span, report);
    let mut lines = HashMap::new();
    raw.iter().filter_map(|raw| user(raw, wants_secrets, &mut lines, report)).collect()
}

fn user(
    raw: &raw::AuthUser<'_>,
    wants_secret: bool,
    lines: &mut HashMap<Name, u32>,
    report: &mut Report<'_>,
) -> Option<User> {
    let text = required(raw.name.as_ref(), "name", &raw.head, report);
    let name = text.and_then(|text| report.accept(&text.span(), word("name", text.get_ref())));
    if let (Some(text), Some(name)) = (text, &name) {
        let line = report.line(&text.span());
        if let Some(first) = lines.insert(Name::clone(name), line) {
            report.error(&text.span(), format!("the user {} is on line {first} already", quote(name)));
        }
    }
    let secret = secret(raw, report);
    let has_none = raw.password_hash.is_none() && raw.head.lacks(raw.password.as_ref(), "password");
    if has_none && wants_secret && raw.head.lacks(raw.password_hash.as_ref(), "password_hash") {
        let hint = "`arus hash-password` makes one; only with the method \"pam\" a user may be without";
        report.error(&raw.head.span, Wrong::new("`password_hash` is missing").hint(hint));
    }
    let groups = raw.groups.as_ref().map(|list| groups(list, report)).unwrap_or_default();
    let at = raw.password.as_ref().map_or_else(|| raw.head.span.clone(), |text| text.span());
    Some(User { name: name?, secret, groups, at: report.at(&at) })
}

fn secret(raw: &raw::AuthUser<'_>, report: &mut Report<'_>) -> Option<Secret> {
    match (&raw.password_hash, &raw.password) {
        (Some(_), Some(password)) => {
            report.error(&password.span(), "a user has `password_hash` or `password`, not both");
            None
        }
        (Some(hash), None) => password_hash(hash, report).map(Secret::Hash),
        (None, Some(password)) => {
            let bytes = password.get_ref().as_bytes();
            if !(1..=limits::CREDENTIAL_BYTES).contains(&bytes.len()) {
                let what = format!("`password` has {} bytes", bytes.len());
                report.error(&password.span(), Wrong::new(what).hint("1 to 255, as SOCKS has it"));
            }
            let mut sum = [0; 32];
            sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
            Some(Secret::Plain(sum))
        }
        (None, None) => None,
    }
}

fn groups(list: &List<Text<'_>>, report: &mut Report<'_>) -> Vec<Name> {
    if list.items.len() > limits::GROUPS_PER_USER {
        report.error(&list.span, format!("more than {} `groups`", limits::GROUPS_PER_USER));
    }
    let mut seen = HashSet::new();
    let mut groups = Vec::new();
    for text in list.items.iter().take(limits::GROUPS_PER_USER) {
        let Some(group) = report.accept(&text.span(), word("groups", text.get_ref())) else { continue };
        if !seen.insert(Name::clone(&group)) {
            report.error(&text.span(), format!("{} is in `groups` already", quote(&group)));
            continue;
        }
        groups.push(group);
    }
    groups
}

/// The name of a user or a group: any that SOCKS can send and a log line can show.
fn word(key: &str, text: &str) -> Result<Name, Wrong> {
    let is_good = (1..=limits::CREDENTIAL_BYTES).contains(&text.len()) && !text.chars().any(char::is_control);
    let wrong =
        || Wrong::new(format!("`{key}` cannot be {}", quote(text))).hint("1 to 255 bytes without control characters");
    is_good.then(|| text.into()).ok_or_else(wrong)
}
