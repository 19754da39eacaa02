//! `arus hash-password`: from a password to what a configuration may know of it.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, ensure};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::limits;

/// OWASP's least for argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;

/// Print the hash of a password, for `password_hash`
///
/// The password is read from the terminal, or else the first line of stdin.
///
/// Example: arus hash-password
#[derive(Debug, clap::Args)]
pub(super) struct HashPasswordArgs {}

pub(super) fn run(_: &HashPasswordArgs) -> anyhow::Result<()> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() {
        let first = ask("Password: ")?;
        ensure!(*first == *ask("Again: ")?, "these are two different passwords");
        first
    } else {
        line(stdin.lock())?
    };
    writeln!(io::stdout(), "{}", hash(&password)?)?;
    Ok(())
}

fn hash(password: &[u8]) -> anyhow::Result<String> {
    ensure!(!password.is_empty(), "the password is empty");
    let most = limits::CREDENTIAL_BYTES;
    ensure!(password.len() <= most, "the password has {} bytes, and SOCKS can send {most}", password.len());
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).ok().context("the system gives no random bytes")?;
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password_with_salt(password, &salt).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    Ok(hash.to_string())
}

/// One line, without its end.
fn line(source: impl Read) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(4096));
    BufReader::new(source.take(4096)).read_until(b'\n', &mut line).context("cannot read the password")?;
    let ends = [&b"\r\n"[..], b"\n"];
    let length = ends.iter().find_map(|end| line.strip_suffix(*end)).map_or(line.len(), <[u8]>::len);
    line.truncate(length);
    Ok(line)
}

/// A terminal that shows nothing of what is typed, until it is dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin().as_fd())?;
        let mut quiet = before.clone();
        // Ctrl-C ends the line rather than this process, so that the terminal is always put back.
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Flush, &self.0);
        eprintln!();
    }
}

fn ask(prompt: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    eprint!("{prompt}");
    let _quiet = Quiet::new().context("the terminal cannot be told to be quiet")?;
    let answer = line(io::stdin().lock())?;
    ensure!(!answer.contains(&INTERRUPT), "interrupted");
    Ok(answer)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_line_becomes_a_hash_with_a_salt_of_its_own() {
        for text in ["secret\n", "secret\r\n", "secret", "secret\nmore\n"] {
            assert_eq!(&**line(text.as_bytes()).unwrap(), b"secret");
        }
        let (one, other) = (hash(b"secret").unwrap(), hash(b"secret").unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, other);
        assert!(hash(b"").is_err() && hash(&[b'x'; 256]).is_err());
    }
}
