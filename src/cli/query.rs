//! The query of a request's path, from words of the command line.

use std::fmt::Write as _;

/// `path?key=value&...` with the values that are there.
pub(super) fn with_query(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let mut text = path.to_owned();
    for (key, value) in pairs.iter().filter_map(|(key, value)| Some((key, (*value)?))) {
        text.push(if text.len() == path.len() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
                other => drop(write!(text, "%{other:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        assert_eq!(with_query("/a", &[("x", None)]), "/a");
        assert_eq!(
            with_query("/a", &[("x", Some("10.0.0.0/8")), ("y", None), ("z", Some("é &"))]),
            "/a?x=10.0.0.0%2F8&z=%C3%A9%20%26"
        );
    }
}
