//! `[admin]`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::super::address;
use super::super::error::{Report, Wrong};
use super::super::plan::{Admin, AdminListen, AdminToken, AdminUser, Scope, TokenDigest};
use super::super::raw;
use super::super::read::{List, Text};
use super::hash::password_hash;
use super::{required, unique_name, word};
use crate::limits;
use crate::types::Name;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
const SCOPES: [(&str, Scope); 2] = [(Scope::Read.word(), Scope::Read), (Scope::Write.word(), Scope::Write)];
const MAKE_DIGEST: &str = "`printf %s TOKEN | sha256sum` prints it; write \"sha256:\" before it";

pub(super) fn admin(raw: Option<&raw::Admin<'_>>, state_dir: &Path, report: &mut Report<'_>) -> Admin {
    let absent = raw::Admin::default();
    let raw = raw.unwrap_or(&absent);
    let socket = match raw.socket.as_ref() {
        Some(text) => report.accept(&text.span(), address::unix_path(text.get_ref(), state_dir)),
        None => {
            let table = raw.head.span.clone();
            let path = address::unix_path("control.sock", state_dir);
            report.accept(&table, path.map_err(|wrong| wrong.hint("give `[admin] socket` a shorter path")))
        }
    };
    Admin {
        listen: listen(raw, report),
        socket: socket.unwrap_or_default(),
        dashboard: raw.dashboard.as_ref().is_none_or(|dashboard| *dashboard.get_ref()),
        protect_metrics: raw.protect_metrics.as_ref().is_some_and(|protect| *protect.get_ref()),
        hosts: raw.hosts.as_ref().map(|list| hosts(list, report)).unwrap_or_default(),
        users: users(raw, report),
        tokens: tokens(raw, report),
    }
}

fn listen(raw: &raw::Admin<'_>, report: &mut Report<'_>) -> Option<AdminListen> {
    let Some(text) = raw.listen.as_ref() else {
        return Some(AdminListen { address: LISTEN, is_given: false, at: report.at(&raw.head.span) });
    };
    if text.get_ref() == "off" {
        return None;
    }
    let address = address::socket(text.get_ref()).map_err(|wrong| wrong.hint("such as \"127.0.0.1:9090\", or \"off\""));
    let address = report.accept(&text.span(), address)?;
    if !address.ip().to_canonical().is_loopback() {
        let wrong =
            Wrong::new(format!("`listen` on {}: passwords and tokens cross the network in clear", address.ip()));
        let hint =
            "listen on 127.0.0.1, and put a `[[listener]]` with `[listener.tls]` and an `[[upstream]]` before it";
        report.warning(&text.span(), wrong.hint(hint));
    }
    Some(AdminListen { address, is_given: true, at: report.at(&text.span()) })
}

fn hosts(list: &List<Text<'_>>, report: &mut Report<'_>) -> Vec<Name> {
    bounded(list, limits::NAMES_PER_LIST, "hosts", report);
    let name = |text: &Text<'_>| {
        let name = address::host_name(text.get_ref()).map_err(|wrong| wrong.hint("a name without a port"));
        report.accept(&text.span(), name).map(|name| name.as_str().into())
    };
    list.items.iter().take(limits::NAMES_PER_LIST).filter_map(name).collect()
}

fn users(raw: &raw::Admin<'_>, report: &mut Report<'_>) -> Vec<AdminUser> {
    let Some(list) = raw.users.as_ref() else { return Vec::new() };
    bounded(list, limits::ADMINS, "users", report);
    let mut names = HashMap::new();
    let mut user = |raw: &raw::AdminUser<'_>| {
        let name = unique_name(raw.name.as_ref(), &raw.head, &mut names, report);
        let hash = required(raw.password_hash.as_ref(), "password_hash", &raw.head, report);
        let password_hash = hash.and_then(|text| password_hash(text, report));
        let scope = word(raw.scope.as_ref(), "scope", &SCOPES, Scope::Write, report);
        Some(AdminUser { name: name?, password_hash: password_hash?, scope })
    };
    list.items.iter().take(limits::ADMINS).filter_map(&mut user).collect()
}

fn tokens(raw: &raw::Admin<'_>, report: &mut Report<'_>) -> Vec<AdminToken> {
    let Some(list) = raw.tokens.as_ref() else { return Vec::new() };
    bounded(list, limits::ADMINS, "tokens", report);
    let mut names = HashMap::new();
    let mut token = |raw: &raw::AdminToken<'_>| {
        let name = unique_name(raw.name.as_ref(), &raw.head, &mut names, report);
        let hash = required(raw.hash.as_ref(), "hash", &raw.head, report);
        let digest = hash.and_then(|text| digest(text, report));
        let scope = word(raw.scope.as_ref(), "scope", &SCOPES, Scope::Read, report);
        Some(AdminToken { name: name?, digest: digest?, scope })
    };
    list.items.iter().take(limits::ADMINS).filter_map(&mut token).collect()
}

fn bounded<T>(list: &List<T>, most: usize, key: &str, report: &mut Report<'_>) {
    if list.items.len() > most {
        report.error(&list.span, format!("more than {most} `{key}`"));
    }
}

fn digest(text: &Text<'_>, report: &mut Report<'_>) -> Option<TokenDigest> {
    let bytes = text.get_ref().strip_prefix("sha256:").and_then(hex);
    let wrong = || Wrong::new("`hash` is not \"sha256:\" and 64 hexadecimal digits").hint(MAKE_DIGEST);
    report.accept(&text.span(), bytes.ok_or_else(wrong)).map(TokenDigest)
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = (value(pair[0])? * 16 + value(pair[1])?) as u8;
    }
    Some(bytes)
}
