//! Comparing a password with what is known of it. Nothing here is quick on purpose, and all of it takes the same time for
//! a right and a wrong password.

use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};

use argon2::{Argon2, PasswordVerifier};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::config::plan::{PasswordHash, Secret};

/// Hashes that were computed, for tests.
#[cfg(test)]
pub(super) static COMPUTED: AtomicU64 = AtomicU64::new(0);

/// Whether `password` is the one that `secret` is of. Takes milliseconds to seconds.
pub(super) fn matches(secret: &Secret, password: &[u8]) -> bool {
    #[cfg(test)]
    COMPUTED.fetch_add(1, Ordering::SeqCst);
    match secret {
        Secret::Hash(PasswordHash(hash)) if hash.starts_with("$2") => bcrypt::verify(password, hash).unwrap_or(false),
        Secret::Hash(PasswordHash(hash)) => {
            argon2::PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
        }
        Secret::Plain(sum) => verify_slices_are_equal(digest(&SHA256, password).as_ref(), sum).is_ok(),
    }
}

/// The bytes that change when the secret does.
pub(super) fn bytes(secret: &Secret) -> &[u8] {
    match secret {
        Secret::Hash(PasswordHash(hash)) => hash.as_bytes(),
        Secret::Plain(sum) => sum,
    }
}

/// A secret whose check is worked through for somebody who is not known: one of those that are, so that it costs what
/// theirs cost, and for the same name always the same one. `number`: not to be guessed from outside.
pub(super) fn stand_in(secrets: &[Arc<Secret>], number: u64) -> Option<Arc<Secret>> {
    let index = number.checked_rem(secrets.len() as u64)?;
    secrets.get(index as usize).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> Secret {
        Secret::Hash(PasswordHash(text.into()))
    }

    #[test]
    fn every_kind_knows_right_from_wrong() {
        // `htpasswd -nbBC 4`, python's argon2-cffi, and the password itself.
        let argon2 = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0$";
        let params = argon2::Params::new(64, 1, 1, Some(32)).expect("parameters");
        let made = {
            use argon2::PasswordHasher;
            Argon2::from(params).hash_password_with_salt(b"pass", b"somesalt1234").expect("a hash").to_string()
        };
        assert!(made.starts_with(argon2), "{made}");
        let bcrypt = bcrypt::hash("pass", 4).expect("a hash");
        let plain = {
            let mut sum = [0; 32];
            sum.copy_from_slice(digest(&SHA256, b"pass").as_ref());
            Secret::Plain(sum)
        };
        for secret in [hash(&made), hash(&bcrypt), hash(&bcrypt.replacen("$2b$", "$2y$", 1)), plain] {
            assert!(matches(&secret, b"pass"));
            for wrong in [&b"Pass"[..], b"", b"pass ", b"pas", &[0xff; 255]] {
                assert!(!matches(&secret, wrong));
            }
        }
        assert!(!matches(&hash("$2b$"), b"pass") && !matches(&hash("rubbish"), b"pass"));
    }

    #[test]
    fn nothing_of_a_secret_is_shown() {
        let shown = format!("{:?}{:?}", hash("$2b$04$abc"), Secret::Plain([7; 32]));
        assert_eq!(shown, "Hash(..)Plain(..)");
    }
}
