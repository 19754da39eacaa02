//! Hashes of passwords: their form, and what checking against them would cost.

use std::ops::RangeInclusive;

use super::super::error::{Report, Wrong};
use super::super::plan::PasswordHash;
use super::super::read::Text;

const MAKE_HASH: &str = "`arus hash-password` makes one";
/// KiB that one check takes: more is a slip of the pen, and would let a few logins use up the machine.
const MEMORY_KIB: RangeInclusive<u32> = 8..=1024 * 1024;
const PASSES: RangeInclusive<u32> = 1..=64;
const LANES: RangeInclusive<u32> = 1..=64;
/// 2^16 rounds take some seconds.
const BCRYPT_COST: RangeInclusive<u32> = 4..=16;

/// Checked here, so that nobody learns at the first login that it cannot be used. What it says is never repeated in a
/// message.
pub(super) fn password_hash(text: &Text<'_>, report: &mut Report<'_>) -> Option<PasswordHash> {
    let hash: &str = text.get_ref();
    let checked = if !hash.is_ascii() {
        // Slicing one panics in older versions of bcrypt (RUSTSEC-2026-0199).
        Err("it has other characters than ASCII".into())
    } else if hash.starts_with("$2") {
        bcrypt(hash)
    } else if hash.starts_with("$argon2id$") {
        argon2id(hash)
    } else {
        Err("it begins with neither `$argon2id$` nor `$2`".into())
    };
    let checked =
        checked.map_err(|what: String| Wrong::new(format!("`password_hash` cannot be used: {what}")).hint(MAKE_HASH));
    report.accept(&text.span(), checked).map(|()| PasswordHash(hash.into()))
}

fn bcrypt(hash: &str) -> Result<(), String> {
    if !["$2a$", "$2b$", "$2y$"].iter().any(|version| hash.starts_with(version)) {
        return Err("of bcrypt, `$2a$`, `$2b$` and `$2y$` are known".into());
    }
    let parts: bcrypt::HashParts = hash.parse().map_err(|_| "a bcrypt hash is `$2b$COST$` and 53 characters")?;
    within("bcrypt's cost", parts.get_cost(), BCRYPT_COST)
}

fn argon2id(hash: &str) -> Result<(), String> {
    let parsed = argon2::PasswordHash::new(hash).map_err(|_| "its argon2id parts are malformed")?;
    let params = argon2::Params::try_from(&parsed).map_err(|_| "its argon2id parameters are malformed")?;
    if parsed.version.is_some_and(|version| version != 19) {
        return Err("of argon2, version 19 is known".into());
    }
    if parsed.salt.is_none() || parsed.hash.is_none() {
        return Err("it has no salt, or no hash".into());
    }
    within("argon2id's m", params.m_cost(), MEMORY_KIB)?;
    within("argon2id's t", params.t_cost(), PASSES)?;
    within("argon2id's p", params.p_cost(), LANES)
}

fn within(what: &str, number: u32, range: RangeInclusive<u32>) -> Result<(), String> {
    if range.contains(&number) {
        return Ok(());
    }
    let (least, most) = range.into_inner();
    Err(format!("{what} is {number}, and may be {least} to {most}"))
}
