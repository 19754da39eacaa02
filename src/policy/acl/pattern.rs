//! Names with wildcards: `*.example.com`, `api.*.com`, `prod-*.example.com`. A `*` stands for bytes within one label: for
//! one or more where it is the whole label, for any number where it is a part of one. It never goes over a dot.

use std::fmt;

use crate::types::Name;

/// In lower case, without a trailing dot; with at least one `*`, and not `*` alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(Name);

impl Pattern {
    /// `None` where the text is no name with wildcards in it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
        let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_part);
        let is_pattern = text.contains('*') && text != "*" && text.len() <= crate::limits::HOST_BYTES;
        (is_pattern && text.split('.').all(is_label)).then(|| Self(text.as_str().into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `name` is in its one form.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (mut labels, mut names) = (self.0.split('.'), name.split('.'));
        loop {
            match (labels.next(), names.next()) {
                (None, None) => return true,
                (Some(label), Some(name)) if glob(label.as_bytes(), name.as_bytes()) => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a label is one that a pattern of one label means. Goes back to the last star only, so it takes no more than
/// the product of both lengths.
pub(super) fn glob(pattern: &[u8], label: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < label.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if *byte == label[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((behind, from)) = star else { return false };
                star = Some((behind, from + 1));
                at = behind + 1;
                read = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_within_its_label() {
        let matches = |pattern: &str, name: &str| Pattern::parse(pattern).unwrap().matches(name);
        for (pattern, yes, no) in [
            ("*.a.com", &["x.a.com", "x-y.a.com"][..], &["a.com", "x.y.a.com", "xa.com", "x.a.com.evil"][..]),
            ("api.*.com", &["api.x.com"], &["api.com", "api.x.y.com", "apix.x.com"]),
            ("prod-*.x.com", &["prod-1.x.com", "prod-.x.com"], &["prod.x.com", "prod-1.y.x.com", "aprod-1.x.com"]),
            ("A*B*c.X.com.", &["abc.x.com", "aqqbqbc.x.com"], &["abcd.x.com", "ac.x.com"]),
            ("*.*", &["a.b"], &["a", "a.b.c"]),
        ] {
            yes.iter().for_each(|name| assert!(matches(pattern, name), "{pattern} {name}"));
            no.iter().for_each(|name| assert!(!matches(pattern, name), "{pattern} {name}"));
        }
    }

    #[test]
    fn what_is_no_pattern() {
        for text in ["*", "a.com", "", "*..com", ".*", "*.a b", "*.h\u{f6}st", "*:80", "u@*.x"] {
            assert_eq!(Pattern::parse(text), None, "{text}");
        }
    }
}
