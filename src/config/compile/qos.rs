//! `[qos]`.

use std::collections::HashMap;

use toml::Spanned;

use super::super::error::{Report, Wrong, quote};
use super::super::plan::Qos;
use super::super::raw;
use super::super::read::Size;
use super::bounds::whole;
use super::{required, within, word};
use crate::limits;
use crate::policy::terms::{Limits, Period, Quota, User, burst_of};
use crate::types::Name;

const PERIODS: [(&str, Period); 3] =
    [(Period::Hour.word(), Period::Hour), (Period::Day.word(), Period::Day), (Period::Month.word(), Period::Month)];

pub(super) fn qos(raw: Option<&raw::Qos<'_>>, report: &mut Report<'_>) -> Qos {
    let Some(raw) = raw else { return Qos::default() };
    let of_all = raw.per_user.as_ref().map_or_else(Given::default, |raw| Given {
        guaranteed: rate(raw.guaranteed.as_ref(), "guaranteed", report),
        max: rate(raw.max.as_ref(), "max", report),
        burst: burst(raw.burst.as_ref(), report),
    });
    let global = rate(raw.global.as_ref(), "global", report).unwrap_or(0);
    let guaranteed = raw.per_user.as_ref().and_then(|raw| raw.guaranteed.as_ref());
    check(&of_all.limits(), global, guaranteed, report);
    let mut taken = HashMap::new();
    let items = raw.users.as_ref().map_or(&[][..], |list| &list.items);
    let items = within(items, limits::QOS_USERS, "[[qos.users]]", |raw| &raw.head.span, report);
    let mut users: Vec<User> = items.iter().filter_map(|raw| user(raw, &of_all, global, &mut taken, report)).collect();
    users.sort_by(|one, other| one.name.cmp(&other.name));
    let promised: u64 = users.iter().fold(0, |sum, user| sum.saturating_add(user.limits.guaranteed));
    if let Some(text) = raw.global.as_ref().filter(|_| global > 0 && promised > global) {
        let what =
            format!("the users are guaranteed {promised} bytes per second together, which is more than `global`");
        report.warning(&text.span(), what);
    }
    Qos {
        global,
        per_user: of_all.limits(),
        per_connection: rate(raw.per_connection.as_ref(), "per_connection", report).unwrap_or(0),
        connections_per_user: whole(
            raw.connections_per_user.as_ref(),
            "connections_per_user",
            0..=limits::CONNECTIONS,
            report,
        )
        .unwrap_or(0),
        users,
    }
}

/// What is said of a user; `None` where nothing is.
#[derive(Debug, Default, Clone, Copy)]
struct Given {
    guaranteed: Option<u64>,
    max: Option<u64>,
    burst: Option<u64>,
}

impl Given {
    fn limits(self) -> Limits {
        let max = self.max.unwrap_or(0);
        let burst = if max == 0 { 0 } else { self.burst.unwrap_or_else(|| burst_of(max)) };
        Limits { guaranteed: self.guaranteed.unwrap_or(0), max, burst }
    }
}

fn user(
    raw: &raw::QosUser<'_>,
    of_all: &Given,
    global: u64,
    taken: &mut HashMap<Name, u32>,
    report: &mut Report<'_>,
) -> Option<User> {
    let given = Given {
        guaranteed: rate(raw.guaranteed.as_ref(), "guaranteed", report).or(of_all.guaranteed),
        max: rate(raw.max.as_ref(), "max", report).or(of_all.max),
        burst: burst(raw.burst.as_ref(), report).or(of_all.burst),
    };
    let limits = given.limits();
    check(&limits, global, raw.guaranteed.as_ref().or(raw.max.as_ref()), report);
    let quota = raw.quota.as_ref().and_then(|raw| quota(raw, report));
    let text = required(raw.name.as_ref(), "name", &raw.head, report)?;
    let name: Name = text.get_ref().as_ref().into();
    if name.is_empty() || name.len() > 255 {
        report.error(&text.span(), Wrong::new("`name` cannot be a user's").hint("1 to 255 bytes"));
        return None;
    }
    if let Some(line) = taken.get(&name) {
        let wrong = format!("{} has limits on line {line} already", quote(&name));
        report.error(&text.span(), Wrong::new(wrong).hint("one entry of `users` per user"));
        return None;
    }
    taken.insert(Name::clone(&name), report.line(&text.span()));
    Some(User { name, limits, quota })
}

fn quota(raw: &raw::Quota<'_>, report: &mut Report<'_>) -> Option<Quota> {
    let bytes = required(raw.bytes.as_ref(), "bytes", &raw.head, report);
    let per = required(raw.per.as_ref(), "per", &raw.head, report);
    let per = word(per, "per", &PERIODS, Period::Day, report);
    let bytes = bytes?;
    let Size(number) = *bytes.get_ref();
    if number == 0 {
        report.error(&bytes.span(), Wrong::new("`bytes` cannot be 0").hint("without a quota, leave `quota` out"));
        return None;
    }
    Some(Quota { bytes: number, per })
}

/// Bytes per second; 0 is no limit.
fn rate(value: Option<&Spanned<Size>>, key: &str, report: &mut Report<'_>) -> Option<u64> {
    let value = value?;
    let Size(rate) = *value.get_ref();
    if rate == 0 || limits::RATES.contains(&rate) {
        return Some(rate);
    }
    let wrong = Wrong::new(format!("`{key}` cannot be {rate} bytes per second"));
    report.error(&value.span(), wrong.hint("\"1KiB\" to \"1TiB\", or \"0\" for no limit"));
    None
}

/// Bytes; 0 is the default.
fn burst(value: Option<&Spanned<Size>>, report: &mut Report<'_>) -> Option<u64> {
    let value = value?;
    let Size(burst) = *value.get_ref();
    if burst <= *limits::RATES.end() {
        return Some(burst).filter(|burst| *burst > 0);
    }
    let wrong = Wrong::new(format!("`burst` cannot be {burst} bytes"));
    report.error(&value.span(), wrong.hint("at most \"1TiB\", or \"0\" for a tenth of a second's worth"));
    None
}

/// Nobody can be guaranteed more than there is.
fn check(limits: &Limits, global: u64, at: Option<&Spanned<Size>>, report: &mut Report<'_>) {
    let Some(at) = at else { return };
    for (key, most) in [("max", limits.max), ("global", global)] {
        if most > 0 && limits.guaranteed > most {
            let wrong = format!("`guaranteed` ({} bytes per second) is more than `{key}` ({most})", limits.guaranteed);
            report.error(&at.span(), Wrong::new(wrong).hint("guarantee less"));
        }
    }
}
