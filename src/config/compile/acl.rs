//! `[acl]`, and the file of its further rules.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use super::super::error::{Report, Wrong, nearest, quote};
use super::super::plan::{Acl, AclFile};
use super::super::raw::{self, WholeOrText};
use super::super::read::{List, Text};
use super::super::{address, units};
use super::listener::networks;
use super::{required, word};
use crate::limits;
use crate::policy::acl::{Action, Conditions, Destination, Pattern, Rule};
use crate::types::{Name, Protocol};

const ACTIONS: [(&str, Action); 2] = [("allow", Action::Allow), ("block", Action::Block)];
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// Of rules that do not say theirs.
const PRIORITY: i32 = 100;

/// `listeners`: the names of those there are.
pub(super) fn acl(raw: Option<&raw::Acl<'_>>, base: &Path, listeners: &[Name], report: &mut Report<'_>) -> Acl {
    let absent = raw::Acl::default();
    let raw = raw.unwrap_or(&absent);
    let file = raw.file.as_ref().filter(|text| !text.get_ref().is_empty()).and_then(|text| {
        let path = report.accept(&text.span(), address::path(text.get_ref(), base))?;
        Some(AclFile { path, shown: text.get_ref().to_string(), at: report.at(&text.span()), digest: None })
    });
    Acl {
        default: word(raw.default.as_ref(), "default", &ACTIONS, Action::Block, report),
        file,
        reevaluate: raw.reevaluate.as_ref().is_none_or(|flag| *flag.get_ref()),
        rules: rules(raw.rule.as_deref().unwrap_or_default(), listeners, report),
    }
}

pub(in crate::config) fn rules(raw: &[raw::AclRule<'_>], listeners: &[Name], report: &mut Report<'_>) -> Vec<Rule> {
    let file = report.file();
    raw.iter().map(|raw| rule(raw, &file, listeners, report)).collect()
}

fn rule(raw: &raw::AclRule<'_>, file: &Arc<str>, listeners: &[Name], report: &mut Report<'_>) -> Rule {
    let action = required(raw.action.as_ref(), "action", &raw.head, report);
    let action = word(action, "action", &ACTIONS, Action::Block, report);
    let priority = raw.priority.as_ref().map_or(Some(PRIORITY), |whole| {
        let priority = i32::try_from(*whole.get_ref());
        report.accept(&whole.span(), priority.map_err(|_| Wrong::new("`priority` does not fit into 32 bits")))
    });
    let name = |text: &str| Ok(text.into());
    let known = |text: &str| {
        let wrong = || {
            let hint = nearest(text, listeners.iter().map(|name| &**name));
            Wrong::new(format!("there is no listener {}", quote(text))).hint_if(hint)
        };
        listeners.iter().find(|name| ***name == *text).map(Name::clone).ok_or_else(wrong)
    };
    let conditions = Conditions {
        users: items(raw.users.as_ref(), "users", name, report),
        groups: items(raw.groups.as_ref(), "groups", |text| Ok(text.to_ascii_lowercase().into()), report),
        sources: raw.sources.as_ref().map(|list| {
            refuse_empty(list.is_empty, &list.span, "sources", report);
            networks(list, "sources", |_| true, report)
        }),
        destinations: items(raw.destinations.as_ref(), "destinations", destination, report),
        ports: raw.ports.as_ref().and_then(|list| ports(list, report)),
        protocols: items(raw.protocols.as_ref(), "protocols", protocol, report),
        listeners: items(raw.listeners.as_ref(), "listeners", known, report),
    };
    let description = raw.description.as_ref().and_then(|text| {
        let is_good =
            text.get_ref().len() <= limits::RULE_DESCRIPTION_BYTES && !text.get_ref().contains(char::is_control);
        let wrong = || {
            let hint = format!("at most {} bytes, without control characters", limits::RULE_DESCRIPTION_BYTES);
            Wrong::new("this is no description").hint(hint)
        };
        report.accept(&text.span(), is_good.then(|| Name::from(text.get_ref().as_ref())).ok_or_else(wrong))
    });
    Rule {
        action,
        priority: priority.unwrap_or(PRIORITY),
        description: description.filter(|description| !description.is_empty()),
        conditions,
        file: Arc::clone(file),
        line: report.line(&raw.head.span),
    }
}

fn refuse_empty(is_empty: bool, span: &super::super::error::Span, key: &str, report: &mut Report<'_>) {
    if is_empty {
        let wrong = Wrong::new(format!("`{key}` is empty, so the rule would never hold"));
        report.error(span, wrong.hint("leave it away to match any"));
    }
}

fn items<T>(
    list: Option<&List<Text<'_>>>,
    key: &str,
    read: impl Fn(&str) -> Result<T, Wrong>,
    report: &mut Report<'_>,
) -> Option<Vec<T>> {
    let list = list?;
    refuse_empty(list.is_empty, &list.span, key, report);
    if list.items.len() > limits::NAMES_PER_LIST {
        report.error(&list.span, format!("`{key}` has more than {} items", limits::NAMES_PER_LIST));
        return None;
    }
    let read = |text: &Text<'_>| match text.get_ref().is_empty() {
        true => report.accept(&text.span(), Err(Wrong::new(format!("`{key}` has an empty item")))),
        false => report.accept(&text.span(), read(text.get_ref())),
    };
    Some(list.items.iter().filter_map(read).collect())
}

/// An address, a network, a name, a name with wildcards, or `*`.
fn destination(text: &str) -> Result<Destination, Wrong> {
    if text == "*" {
        return Ok(Destination::Any);
    }
    if text.contains('/') || text.contains(':') || text.parse::<std::net::IpAddr>().is_ok() {
        return units::network(text).map(|(net, _)| Destination::Net(net)).map_err(|_| no_destination(text));
    }
    if text.contains('*') {
        return Pattern::parse(text).map(Destination::Pattern).ok_or_else(|| no_destination(text));
    }
    address::host_name(text).map(|name| Destination::Name(name.as_str().into()))
}

fn no_destination(text: &str) -> Wrong {
    Wrong::new(format!("{} is no destination", quote(text)))
        .hint("such as \"192.0.2.0/24\", \"2001:db8::1\", \"host.example\", \"*.example.com\" or \"*\"; ports have a list of their own")
}

fn protocol(text: &str) -> Result<Protocol, Wrong> {
    let found = PROTOCOLS.iter().find(|(word, _)| *word == text).map(|(_, protocol)| *protocol);
    found.ok_or_else(|| Wrong::new(format!("`protocols` cannot have {}", quote(text))).hint("\"tcp\" or \"udp\""))
}

/// `None`: any port.
fn ports(list: &List<WholeOrText<'_>>, report: &mut Report<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    refuse_empty(list.is_empty, &list.span, "ports", report);
    let mut ports = Vec::new();
    let mut is_any = false;
    for item in &list.items {
        let (span, text) = match item {
            WholeOrText::Whole(whole) => (whole.span(), whole.get_ref().to_string()),
            WholeOrText::Text(text) => (text.span(), text.get_ref().to_string()),
        };
        for part in text.split(',').map(str::trim) {
            if part == "*" {
                is_any = true;
                continue;
            }
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let port = |text: &str| {
                let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse::<u16>().ok().filter(|_| is_number)
            };
            match port(first).zip(port(last)) {
                Some((first, last)) if first <= last => ports.push(first..=last),
                _ => {
                    let wrong = Wrong::new(format!("{} is neither a port nor a range of ports", quote(part)));
                    report.error(&span, wrong.hint("such as \"443\", \"8000-9000\" or \"80,8080\""));
                }
            }
        }
        if ports.len() > limits::NAMES_PER_LIST {
            report.error(&list.span, format!("`ports` has more than {} items", limits::NAMES_PER_LIST));
            return None;
        }
    }
    (!is_any).then_some(ports)
}
