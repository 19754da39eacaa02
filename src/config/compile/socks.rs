//! `[socks]`.

use std::time::Duration;

use super::super::address;
use super::super::error::{Report, Wrong, quote};
use super::super::plan::{Commands, ProxyCredentials, Socks, UpstreamProxy};
use super::super::raw;
use super::super::read::{List, Text};
use super::bounds::{lasting, whole};
use crate::limits;

pub(super) fn socks(raw: Option<&raw::Socks<'_>>, report: &mut Report<'_>) -> Socks {
    let absent = raw::Socks::default();
    let raw = raw.unwrap_or(&absent);
    let times = limits::TIMEOUT..=limits::DURATION;
    let commands = raw.commands.as_ref().map(|list| commands(list, report));
    let upstream_proxy = raw.upstream_proxy.as_ref().filter(|text| !text.get_ref().is_empty());
    let socks = Socks {
        commands: commands.unwrap_or(Commands { connect: true, bind: false, udp: false }),
        bind_timeout: lasting(raw.bind_timeout.as_ref(), "bind_timeout", times.clone(), report)
            .unwrap_or(Duration::from_secs(300)),
        udp_idle: lasting(raw.udp_idle.as_ref(), "udp_idle", times, report).unwrap_or(Duration::from_secs(120)),
        udp_max_associations_per_user: whole(
            raw.udp_max_associations_per_user.as_ref(),
            "udp_max_associations_per_user",
            1..=limits::CONNECTIONS,
            report,
        )
        .unwrap_or(16),
        advertise: raw.advertise.as_ref().filter(|text| !text.get_ref().is_empty()).and_then(|text| {
            let address = text.get_ref().parse().map_err(|_| {
                Wrong::new(format!("{} is not an IP address", quote(text.get_ref()))).hint("such as \"203.0.113.5\"")
            });
            report.accept(&text.span(), address)
        }),
        socks4: raw.socks4.as_ref().is_some_and(|socks4| *socks4.get_ref()),
        upstream_proxy: upstream_proxy.and_then(|text| report.accept(&text.span(), proxy(text.get_ref()))),
    };
    if let (Some(text), Commands { bind, udp, .. }) = (upstream_proxy, socks.commands)
        && (bind || udp)
    {
        let wrong = Wrong::new("`upstream_proxy` takes \"connect\" only");
        report.error(&text.span(), wrong.hint("leave \"bind\" and \"udp\" out of `commands`"));
    }
    socks
}

fn commands(list: &List<Text<'_>>, report: &mut Report<'_>) -> Commands {
    let mut commands = Commands { connect: false, bind: false, udp: false };
    if list.is_empty {
        report.error(&list.span, Wrong::new("`commands` is empty, so nothing would be served").hint("[\"connect\"]"));
    }
    for text in &list.items {
        match text.get_ref().as_ref() {
            "connect" => commands.connect = true,
            "bind" => commands.bind = true,
            "udp" => commands.udp = true,
            other => {
                let wrong = Wrong::new(format!("`commands` cannot have {}", quote(other)));
                report.error(&text.span(), wrong.hint("\"connect\", \"bind\" and \"udp\" are known"));
            }
        }
    }
    commands
}

/// `socks5://user:password@host:port`; user and password may have percent-encoded bytes.
fn proxy(text: &str) -> Result<UpstreamProxy, Wrong> {
    // What it cannot be is not shown, as it may have a password.
    let hint = "such as \"socks5://host:1080\" or \"socks5://user:password@host:1080\"";
    let Some(rest) = text.strip_prefix("socks5://") else {
        return Err(Wrong::new("`upstream_proxy` does not begin with `socks5://`").hint(hint));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, host) = match rest.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials), host),
        None => (None, rest),
    };
    if host.starts_with("unix:") {
        return Err(Wrong::new("`upstream_proxy` cannot be a unix socket").hint(hint));
    }
    let address = address::backend(host, std::path::Path::new("/"))?;
    let credentials = credentials.map(|credentials| {
        let (user, password) = credentials
            .split_once(':')
            .ok_or_else(|| Wrong::new("`upstream_proxy` has a user without a password").hint(hint))?;
        let [user, password] = [decode(user), decode(password)];
        let [Some(user), Some(password)] = [user, password] else {
            return Err(Wrong::new("user or password of `upstream_proxy` is not percent-encoded UTF-8"));
        };
        let fits = |text: &str| (1..=255).contains(&text.len());
        if !fits(&user) || !fits(&password) {
            return Err(Wrong::new("user and password of `upstream_proxy` have 1 to 255 bytes each"));
        }
        Ok(ProxyCredentials { user, password })
    });
    Ok(UpstreamProxy { address, credentials: credentials.transpose()? })
}

/// Decodes `%41` (RFC 3986 section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (code, after) = rest.split_at_checked(2)?;
        let code = std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}
