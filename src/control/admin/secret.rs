//! Random secrets, and comparing secrets so that the time it takes says nothing of them.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;

use crate::config::plan::TokenDigest;

/// 256 random bits as hexadecimal digits; `None` where the system has no randomness to give.
pub(in crate::control) fn random() -> Option<String> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(in crate::control) fn digest_of(text: &str) -> TokenDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    TokenDigest(bytes)
}

pub(super) fn is_same(one: &TokenDigest, other: &TokenDigest) -> bool {
    verify_slices_are_equal(&one.0, &other.0).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        assert_eq!(digest_of("test").0[..4], [0x9f, 0x86, 0xd0, 0x81]);
        assert!(is_same(&digest_of("a"), &digest_of("a")) && !is_same(&digest_of("a"), &digest_of("b")));
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(one.len() == 64 && one != other);
    }
}
