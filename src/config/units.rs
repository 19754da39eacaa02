//! The small notations of the file: durations, sizes, networks and names.

use std::net::IpAddr;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};

use super::error::{Wrong, quote};
use crate::limits;

/// `"500ms"`, `"5s"`, `"1h30m"`, or `"0"`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    /// humantime panics on a sum of seconds that just fits into 64 bits; numbers of nine digits cannot get there.
    const DIGITS: usize = 9;
    const BYTES: usize = 32;
    let wrong = || Wrong::new(format!("{} is not a duration", quote(text))).hint(r#"such as "500ms", "5s" or "10m""#);
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let longest = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > BYTES || longest > DIGITS {
        return Err(wrong());
    }
    humantime::parse_duration(text).map_err(|_| wrong())
}

/// A duration as the file writes it: `1h30m`, `500ms`, `0`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    // humantime would write a year as months, days, hours and more.
    const UNITS: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let mut rest = duration.as_nanos();
    let mut shown = String::new();
    for (unit, nanoseconds) in UNITS {
        if rest >= nanoseconds {
            shown.push_str(&format!("{}{unit}", rest / nanoseconds));
            rest %= nanoseconds;
        }
    }
    if shown.is_empty() { "0".into() } else { shown }
}

/// `"16KiB"` (1024), `"10MB"` (1000).
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    text.parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| Wrong::new(format!("{} is not a size", quote(text))).hint(r#"such as "16KiB" or "10MB""#))
}

/// `"10.0.0.0/8"`, or one address. Also says whether bits behind the prefix were set, which are cleared.
///
/// An IPv4-mapped network becomes the IPv4 network, as sources are compared in that form.
pub(super) fn network(text: &str) -> Result<(IpNet, bool), Wrong> {
    let wrong = || {
        Wrong::new(format!("{} is not a network", quote(text)))
            .hint(r#"such as "10.0.0.0/8", "2001:db8::/32" or "192.0.2.7""#)
    };
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text.parse::<IpNet>().map_err(|_| wrong())?,
    };
    let net = match (net.addr().to_canonical(), net) {
        (IpAddr::V4(address), IpNet::V6(net)) if net.prefix_len() >= 96 => {
            Ipv4Net::new(address, net.prefix_len() - 96).map_err(|_| wrong())?.into()
        }
        _ => net,
    };
    Ok((net.trunc(), net.trunc() != net))
}

/// The name of a listener or upstream; it becomes a label of metrics and a field of logs.
pub(super) fn name(text: &str) -> Result<(), Wrong> {
    let fits = (1..=limits::NAME_BYTES).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte)) {
        return Ok(());
    }
    Err(Wrong::new(format!("{} cannot be a name", quote(text)))
        .hint(format!("1 to {} letters, digits, `_`, `-`, `.` or `:`", limits::NAME_BYTES)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let good = [("0", 0), ("500ms", 500), ("5s", 5_000), ("1h30m", 5_400_000), ("1.5s", 1_500)];
        for (text, ms) in good {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(ms), "{text}");
            assert_eq!(duration(&show_duration(Duration::from_millis(ms))).unwrap(), Duration::from_millis(ms));
        }
        assert_eq!(show_duration(limits::DURATION), "365d");
        for text in ["", " ", "5", "5 parsecs", "-5s", "s", "18446744073709551615s1000ms", "9999999999s", "5s\0", "∞"]
        {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("16KiB", 16_384), ("10MB", 10_000_000), ("0", 0), ("1.5 KiB", 1_536)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "KiB", "-1KiB", "1 potato", "1e3", "NaN", "inf"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks() {
        let good = [
            ("10.0.0.0/8", "10.0.0.0/8", false),
            ("10.1.2.3/8", "10.0.0.0/8", true),
            ("192.0.2.7", "192.0.2.7/32", false),
            ("::ffff:192.0.2.7", "192.0.2.7/32", false),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8", false),
            ("2001:db8::/32", "2001:db8::/32", false),
            ("0.0.0.0/0", "0.0.0.0/0", false),
            ("::/0", "::/0", false),
        ];
        for (text, net, cleared) in good {
            assert_eq!(network(text).unwrap(), (net.parse().unwrap(), cleared), "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0", "10/8", "::/129", "localhost", "10.0.0.0/8 "] {
            assert!(network(text).is_err(), "{text:?}");
        }
    }
}
