//! The keys of the PROXY protocol: `accept_proxy`, `send_proxy` and `proxy_tlvs`.

use super::super::error::{Report, Wrong, quote};
use super::super::plan::{AcceptProxy, ProxyTlvs, SendProxy};
use super::super::raw;
use super::super::read::{List, Text};
use super::listener::networks;
use super::tls::names;
use super::{required, word};
use crate::types::Endpoint;

/// The word for whoever may open the socket file of a unix listener.
const UNIX: &str = "unix";

/// `listen`: the addresses of the listener; none where all of them were wrong.
pub(super) fn accept(raw: &raw::AcceptProxy<'_>, listen: &[Endpoint], report: &mut Report<'_>) -> Option<AcceptProxy> {
    let mode = required(raw.mode.as_ref(), "mode", &raw.head, report);
    let trusted = raw.trusted.as_ref().map(|list| trusted(list, report));
    let is_required = word(Some(mode?), "mode", &[("off", false), ("require", true)], false, report);
    if !is_required {
        return None;
    }
    let is_empty = raw.trusted.as_ref().is_some_and(|list| list.is_empty);
    if is_empty || raw.head.lacks(raw.trusted.as_ref(), "trusted") {
        let span = raw.trusted.as_ref().map_or(&raw.head.span, |list| &list.span);
        let what = if is_empty { "`trusted` is empty" } else { "`trusted` is missing" };
        let wrong = Wrong::new(format!("{what}, so nobody may send a PROXY header"));
        report.error(
            span,
            wrong.hint("the networks of your load balancers; to believe everybody write [\"0.0.0.0/0\", \"::/0\"]"),
        );
    }
    if let (Some(list), Some(trusted)) = (&raw.trusted, &trusted) {
        look_for_nobody(list, trusted, listen, report);
    }
    trusted
}

/// Peers of one kind are trusted, and only those of the other kind can come.
fn look_for_nobody(list: &List<Text<'_>>, trusted: &AcceptProxy, listen: &[Endpoint], report: &mut Report<'_>) {
    let all_unix = listen.iter().all(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
    let any_unix = listen.iter().any(|endpoint| matches!(endpoint, Endpoint::Unix(_)));
    let has_networks = !trusted.trusted.is_empty();
    let (what, hint, others) = if listen.is_empty() {
        return;
    } else if has_networks && all_unix {
        let what = "a listener with only unix addresses has no peers in `trusted` networks";
        (what, "write \"unix\" for whoever may open the socket file", trusted.trusts_unix)
    } else if trusted.trusts_unix && !any_unix {
        (
            "`trusted` has \"unix\", and the listener has no unix address",
            "networks are for peers over TCP",
            has_networks,
        )
    } else {
        return;
    };
    if others {
        report.warning(&list.span, Wrong::new(what).hint("that does nothing"));
    } else {
        report.error(&list.span, Wrong::new(format!("{what}: every connection would be refused")).hint(hint));
    }
}

fn trusted(list: &List<Text<'_>>, report: &mut Report<'_>) -> AcceptProxy {
    let is_unix = |text: &&Text<'_>| text.get_ref() == UNIX;
    let trusts_unix = list.items.iter().any(|text| is_unix(&text));
    AcceptProxy { trusted: networks(list, "trusted", |text| !is_unix(&text), report), trusts_unix }
}

pub(super) fn send(raw: &raw::Upstream<'_>, report: &mut Report<'_>) -> SendProxy {
    let mode = raw.send_proxy.as_ref();
    let sent_tlvs = raw.proxy_tlvs.as_ref().map(|list| tlvs(list, report)).unwrap_or_default();
    let modes = [("off", SendProxy::Off), ("v1", SendProxy::V1), ("v2", SendProxy::V2(sent_tlvs))];
    let sent = word(mode, "send_proxy", &modes, SendProxy::Off, report);
    // One that is wrong may have been meant to be v2.
    let is_meant = mode.map_or(raw.head.lacks(mode, "send_proxy"), |text| ["off", "v1"].contains(&&**text.get_ref()));
    if let Some(list) = raw.proxy_tlvs.as_ref().filter(|list| is_meant && !list.is_empty) {
        report.error(&list.span, Wrong::new("`proxy_tlvs` needs `send_proxy = \"v2\"`").hint("only v2 has TLVs"));
    }
    sent
}

fn tlvs(list: &List<Text<'_>>, report: &mut Report<'_>) -> ProxyTlvs {
    type Set = fn(&mut ProxyTlvs);
    const KNOWN: [(&str, Set); 5] = [
        ("alpn", |tlvs| tlvs.alpn = true),
        ("authority", |tlvs| tlvs.authority = true),
        ("ssl", |tlvs| tlvs.ssl = true),
        ("unique_id", |tlvs| tlvs.unique_id = true),
        ("crc32c", |tlvs| tlvs.crc32c = true),
    ];
    let find = |text: &str| {
        KNOWN.iter().position(|(word, _)| *word == text).ok_or_else(|| {
            let words: Vec<String> = KNOWN.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let wrong = Wrong::new(format!("`proxy_tlvs` cannot have {}", quote(text)));
            wrong.hint(format!("any of {}", words.join(", ")))
        })
    };
    let mut tlvs = ProxyTlvs::default();
    for index in names(list, "proxy_tlvs", find, report) {
        KNOWN[index].1(&mut tlvs);
    }
    tlvs
}
