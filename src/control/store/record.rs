//! What the columns of a session's record hold, made from its summary.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::config::plan::Address;
use crate::limits;
use crate::stats::summary::Summary;
use crate::types::{Client, Endpoint, SessionId};

/// Where a session went: what the client asked for, else the backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination<'s> {
    /// In lower case and without the root's dot; an IP address in its one form, or `unix:/path`.
    pub(super) host: Cow<'s, str>,
    pub(super) ip: Option<IpAddr>,
    pub(super) port: Option<u16>,
}

impl<'s> Destination<'s> {
    pub(super) fn of(summary: &'s Summary) -> Option<Self> {
        if let Some(target) = summary.target.as_deref() {
            return Some(Self::parse(target));
        }
        Some(match &summary.backend.as_ref()?.address {
            Address::Endpoint(Endpoint::Ip(address)) => Self::ip(address.ip(), Some(address.port())),
            Address::Endpoint(unix @ Endpoint::Unix(_)) => Self { host: unix.to_string().into(), ip: None, port: None },
            Address::Host { host, port } => Self { host: Cow::Borrowed(host), ip: None, port: Some(*port) },
        })
    }

    /// `host`, `host:port`, `1.2.3.4:80`, `[::1]:80`, `::1`.
    pub(super) fn parse(text: &'s str) -> Self {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::ip(address.ip(), Some(address.port()));
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Self::ip(ip, None);
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.starts_with("unix:") => match port.parse() {
                Ok(port) => (host, Some(port)),
                Err(_) => (text, None),
            },
            _ => (text, None),
        };
        let host = bounded(host.strip_suffix('.').unwrap_or(host));
        let host = match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        Self { host, ip: None, port }
    }

    fn ip(ip: IpAddr, port: Option<u16>) -> Self {
        let ip = ip.to_canonical();
        Self { host: ip.to_string().into(), ip: Some(ip), port }
    }
}

/// The 16 bytes by which addresses are stored and compared; IPv4 in its mapped form.
pub(super) fn ip_key(ip: IpAddr) -> [u8; 16] {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip),
    }
}

pub(super) fn client_key(client: Client) -> Option<[u8; 16]> {
    client.ip().map(ip_key)
}

/// The lowest id of a session that began then.
pub(super) fn first_id(time: SystemTime) -> SessionId {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Ids count milliseconds in 48 bits.
    SessionId(since_epoch.as_millis().min((1 << 48) - 1) << 80)
}

pub(super) fn id_bytes(id: SessionId) -> [u8; 16] {
    id.0.to_be_bytes()
}

/// Microseconds since 1970, as SQLite keeps them.
pub(super) fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => span(since),
        Err(before) => -span(before.duration()),
    }
}

pub(super) fn time_of(micros: i64) -> SystemTime {
    let span = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 { UNIX_EPOCH.checked_sub(span) } else { UNIX_EPOCH.checked_add(span) };
    time.unwrap_or(UNIX_EPOCH)
}

pub(super) fn span(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// SQLite's integers have 63 bits.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The hour in which a session ended, since 1970.
pub(super) fn hour(summary: &Summary) -> i64 {
    hour_of(summary.start + summary.duration)
}

pub(super) fn hour_of(time: SystemTime) -> i64 {
    micros(time).div_euclid(3_600_000_000)
}

/// What came from outside takes so much room and no more.
pub(super) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(limits::RECORD_TEXT_BYTES)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_one_form() {
        let parsed = |text: &str| {
            let Destination { host, ip, port } = Destination::parse(text);
            format!("{host} {} {port:?}", ip.is_some())
        };
        for (text, wanted) in [
            ("Example.COM.:443", "example.com false Some(443)"),
            ("example.com", "example.com false None"),
            ("192.0.2.1:80", "192.0.2.1 true Some(80)"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1 true Some(80)"),
            ("2001:DB8::1", "2001:db8::1 true None"),
            ("[2001:db8::1]", "2001:db8::1 true None"),
            ("unix:/run/x:1", "unix:/run/x:1 false None"),
            ("host:port", "host:port false None"),
            ("", " false None"),
        ] {
            assert_eq!(parsed(text), wanted, "{text}");
        }
        let long = "é".repeat(limits::RECORD_TEXT_BYTES);
        assert_eq!(Destination::parse(&long).host.len(), limits::RECORD_TEXT_BYTES);
    }

    #[test]
    fn ids_sort_by_their_time() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let id = uuid::Builder::from_unix_timestamp_millis(1_700_000_000_123, &[0; 10]).into_uuid().as_u128();
        assert!(first_id(time).0 <= id && first_id(time + Duration::from_millis(1)).0 > id);
        assert_eq!(time_of(micros(time)), time);
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!((time_of(micros(before)), hour_of(before), first_id(before).0), (before, -1, 0));
    }
}
