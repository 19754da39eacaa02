//! Whose page a browser's request comes from.
//!
//! A foreign page can make a browser send requests to arus. Under a name of its own that it points at arus (DNS
//! rebinding) even the browser takes them for its own, so only names that are known to be arus's are answered. Under
//! arus's own address the browser says whose page it was, in `Origin`, and that must be ours.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, Uri, header};

use super::refusal::Refusal;
use crate::types::Name;

/// # Errors
/// The name that the request was sent to may be anybody's.
pub(super) fn check_host(uri: &Uri, headers: &HeaderMap, known: &[Name]) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().unwrap_or_default(),
        _ => return Err(Refusal::new(StatusCode::BAD_REQUEST, "a request has one Host header")),
    };
    let is_ours = |authority: &str| name_of(authority).is_some_and(|name| is_known(name, known));
    if is_ours(host) && uri.authority().is_none_or(|authority| is_ours(authority.as_str())) {
        return Ok(());
    }
    let message = "this Host is not known: use an IP address or localhost, or add the name to [admin] hosts";
    Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, message))
}

/// # Errors
/// A change that another page asks for.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or_default());
    let foreign = || Refusal::new(StatusCode::FORBIDDEN, "this request comes from another site's page");
    if text(header::HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|site| !["same-origin", "none"].contains(&site))
    {
        return Err(foreign());
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let host = text(header::HOST).unwrap_or_default();
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) { Ok(()) } else { Err(foreign()) }
}

/// Whether the page was loaded through TLS, which ends before arus's admin listener.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

fn is_known(name: &str, known: &[Name]) -> bool {
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if bare.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || known.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// The host of `host:port`.
fn name_of(authority: &str) -> Option<&str> {
    let (name, port) = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => authority.split_at(colon),
        _ => (authority, ""),
    };
    let is_port = port.is_empty() || port[1..].parse::<u16>().is_ok() || port == ":";
    (is_port && !name.is_empty() && !name.contains('@')).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn only_addresses_and_known_names_are_answered() {
        let known: [Name; 1] = ["arus.example.com".into()];
        let check = |host: &str| check_host(&Uri::from_static("/x"), &headers(&[("host", host)]), &known).is_ok();
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "[::1]",
            "[::1]:9090",
            "localhost",
            "LOCALHOST:1",
            "localhost.:9090",
            "arus.example.com:8443",
            "Arus.Example.com.",
        ] {
            assert!(check(host), "{host}");
        }
        for host in [
            "",
            ":9090",
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "sub.arus.example.com",
            "127.0.0.1@evil.example",
            "127.0.0.1:x",
            "2130706433",
            "0x7f.1",
        ] {
            assert!(!check(host), "{host}");
        }
        assert!(check_host(&Uri::from_static("/"), &headers(&[]), &known).is_err());
        let absolute = Uri::from_static("http://evil.example/x");
        assert!(check_host(&absolute, &headers(&[("host", "127.0.0.1")]), &known).is_err());
    }

    #[test]
    fn foreign_pages_change_nothing() {
        let check = |pairs: &[(&'static str, &str)]| {
            let mut headers = headers(pairs);
            headers.insert(header::HOST, "127.0.0.1:9090".parse().unwrap());
            check_origin(&headers).is_ok()
        };
        assert!(check(&[]), "no browser");
        assert!(check(&[("origin", "http://127.0.0.1:9090"), ("sec-fetch-site", "same-origin")]));
        assert!(check(&[("origin", "https://127.0.0.1:9090")]));
        for origin in ["null", "http://evil.example", "http://127.0.0.1:9091", "http://127.0.0.1:9090.evil.example", ""]
        {
            assert!(!check(&[("origin", origin)]), "{origin}");
        }
        assert!(!check(&[("sec-fetch-site", "cross-site")]));
        assert!(!check(&[("sec-fetch-site", "same-site")]));
    }
}
