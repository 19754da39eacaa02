//! The notation of addresses: `127.0.0.1:80`, `[::1]:80`, `unix:/run/x.sock`, host names, port ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::error::{Wrong, quote};
use super::plan::Address;
use crate::limits;
use crate::types::Endpoint;

/// What a listener binds: an IP address with a port or a range of ports, or a unix path (relative to `base`).
pub(super) fn listen(text: &str, base: &Path) -> Result<Vec<Endpoint>, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(vec![Endpoint::Unix(unix_path(path, base)?)]);
    }
    let (ip, ports) = match split(text)? {
        (Host::Ip(ip), ports) => (ip, ports),
        (Host::Name(name), ports) => return Err(not_an_ip(name, ports)),
    };
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        // Sockets of `[..]` addresses are IPv6 only, so the kernel could not bind this.
        return Err(Wrong::new(format!("{} is an IPv4 address", quote(text))).hint(format!("write `{v4}:{ports}`")));
    }
    Ok(port_range(ports)?.map(|port| Endpoint::Ip(SocketAddr::new(ip, port))).collect())
}

/// An IP address with one port, such as the demo backend listens on.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Wrong> {
    match split(text)? {
        (Host::Ip(ip), port) => Ok(SocketAddr::new(ip, parse_port(port)?)),
        (Host::Name(name), port) => Err(not_an_ip(name, port)),
    }
}

/// Where a backend is: an IP address or a host name with a port, or a unix path (relative to `base`).
pub(super) fn backend(text: &str, base: &Path) -> Result<Address, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Address::Endpoint(Endpoint::Unix(unix_path(path, base)?)));
    }
    let (host, port) = split(text)?;
    let port = parse_port(port)?;
    if port == 0 {
        return Err(Wrong::new(format!("{} has port 0, to which nobody can connect", quote(text))));
    }
    Ok(match host {
        Host::Ip(ip) => Address::Endpoint(Endpoint::Ip(SocketAddr::new(ip.to_canonical(), port))),
        Host::Name(name) => Address::Host { host: host_name(name)?.as_str().into(), port },
    })
}

/// A path of the file, made absolute: relative ones count from `base`.
pub(super) fn path(text: &str, base: &Path) -> Result<PathBuf, Wrong> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    if text.contains('\0') {
        return Err(format!("{} has a NUL character", quote(text)).into());
    }
    Ok(base.join(text))
}

/// As [`path`], within what a unix socket address can hold.
pub(super) fn unix_path(text: &str, base: &Path) -> Result<PathBuf, Wrong> {
    let path = path(text, base)?;
    let bytes = path.as_os_str().len();
    if bytes > limits::UNIX_PATH_BYTES {
        return Err(Wrong::new(format!("the path {} has {bytes} bytes", quote(&path.to_string_lossy())))
            .hint(format!("a unix socket's path has at most {}", limits::UNIX_PATH_BYTES)));
    }
    Ok(path)
}

enum Host<'a> {
    Ip(IpAddr),
    /// Anything else; not checked yet.
    Name(&'a str),
}

/// Splits at the colon before the port.
fn split(text: &str) -> Result<(Host<'_>, &str), Wrong> {
    let wrong = |what: &str| Wrong::new(format!("{} {what}", quote(text)));
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once("]:").ok_or_else(|| wrong("has no port").hint("such as `[::1]:80`"))?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| wrong("has no IPv6 address in its brackets"))?;
        return Ok((Host::Ip(ip.into()), port));
    }
    let (host, port) =
        text.rsplit_once(':').ok_or_else(|| wrong("has no port").hint(format!("such as `{text}:80`")))?;
    if host.parse::<Ipv6Addr>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("needs brackets around its IPv6 address").hint(format!("write `[{host}]:{port}`")));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(wrong("has no port").hint(format!("such as `[{text}]:80`")));
    }
    Ok((host.parse::<Ipv4Addr>().map_or(Host::Name(host), |ip| Host::Ip(ip.into())), port))
}

fn not_an_ip(host: &str, port: &str) -> Wrong {
    let wrong = Wrong::new(format!("{} is not an IP address, and a listening address needs one", quote(host)));
    match host {
        "localhost" => wrong.hint(format!("write `127.0.0.1:{port}` or `[::1]:{port}`")),
        "" | "*" => wrong.hint(format!("write `0.0.0.0:{port}` for IPv4, `[::]:{port}` for IPv6")),
        _ => wrong.hint("such as `127.0.0.1:80`"),
    }
}

fn parse_port(text: &str) -> Result<u16, Wrong> {
    // u16's own parser takes a sign as well.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.ok_or_else(|| Wrong::new(format!("{} is not a port", quote(text))).hint("0 to 65535"))
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let Some((first, last)) = text.split_once('-') else {
        let port = parse_port(text)?;
        return Ok(port..=port);
    };
    let (first, last) = (parse_port(first)?, parse_port(last)?);
    if first == 0 || first > last {
        return Err(Wrong::new(format!("{} is not a range of ports", quote(text))).hint("such as `7000-7009`"));
    }
    Ok(first..=last)
}

/// A host name in the one form in which arus keeps it: lower case, no trailing dot.
pub(super) fn host_name(text: &str) -> Result<String, Wrong> {
    let wrong = |hint: &str| Wrong::new(format!("{} is not a host name", quote(text))).hint(hint);
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if !name.is_ascii() {
        return Err(wrong("write names outside ASCII in their `xn--` form"));
    }
    if name.is_empty() || name.len() > limits::HOST_BYTES {
        return Err(wrong(&format!("1 to {} characters", limits::HOST_BYTES)));
    }
    for label in name.split('.') {
        // Underscores are no letters of host names, yet container networks are full of them.
        let letters = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !letters || !(1..=63).contains(&label.len()) || label.starts_with('-') || label.ends_with('-') {
            return Err(wrong("parts of 1 to 63 letters, digits and inner hyphens, joined by dots"));
        }
    }
    // inet_aton(3) would take these for addresses, with octal and hexadecimal parts; resolvers differ on them.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong("an IPv4 address is written with four decimal numbers"));
    }
    Ok(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn base() -> &'static Path {
        Path::new("/etc/arus")
    }

    #[test]
    fn backends() {
        let good = [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:x.sock", "unix:/etc/arus/x.sock"),
            ("DB2.Internal.:5432", "db2.internal:5432"),
            ("my_db:1", "my_db:1"),
            ("1password.com:443", "1password.com:443"),
            ("xn--mnchen-3ya.de:443", "xn--mnchen-3ya.de:443"),
        ];
        for (text, shown) in good {
            assert_eq!(backend(text, base()).unwrap().to_string(), shown, "{text}");
        }
        let bad = [
            "",
            ":",
            ":80",
            "db",
            "db:",
            "db:0",
            "db:65536",
            "db:+1",
            "db:80-90",
            "127.1:80",
            "0177.0.0.1:80",
            "2130706433:80",
            "0x7f000001:80",
            "0x:80",
            "256.1.1.1:80",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[1.2.3.4]:80",
            "a..b:80",
            "-a:80",
            "a-:80",
            "a\0b:80",
            "a b:80",
            "münchen.de:80",
            ".:80",
            "unix:",
            "unix:/a\0b",
            "http://a:80",
        ];
        for text in bad {
            assert!(backend(text, base()).is_err(), "{text:?}");
        }
        assert!(backend(&format!("{}:80", "a.".repeat(126) + "a"), base()).is_ok());
        assert!(backend(&format!("{}:80", "a.".repeat(127) + "a"), base()).is_err());
        assert!(backend(&format!("{}:80", "a".repeat(64)), base()).is_err());
        assert!(backend(&format!("unix:/{}", "a".repeat(107)), base()).is_err());
    }

    #[test]
    fn listening_addresses() {
        assert_eq!(listen("0.0.0.0:7000-7009", base()).unwrap().len(), 10);
        assert_eq!(listen("[::]:443", base()).unwrap(), [Endpoint::Ip("[::]:443".parse().unwrap())]);
        assert_eq!(listen("127.0.0.1:0", base()).unwrap().len(), 1);
        assert_eq!(listen("0.0.0.0:1-65535", base()).unwrap().len(), 65535, "refused later, by the listener's limit");
        for text in
            ["localhost:80", "*:80", ":80", "80", "0.0.0.0:9-8", "0.0.0.0:0-8", "0.0.0.0:1-", "[::ffff:1.2.3.4]:80"]
        {
            let wrong = listen(text, base()).unwrap_err();
            assert!(wrong.hint.is_some(), "{text}: {wrong:?}");
        }
    }
}
