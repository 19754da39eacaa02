//! The token that arus makes for itself where the configuration has neither users nor tokens: a file in `state_dir`.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::secret;
use crate::config::plan::Plan;

const FILE: &str = "admin.token";
/// What is shorter was not made by arus, and could be guessed.
const LEAST: usize = 32;
const MOST: u64 = 4096;

/// The token in force.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::control) struct Generated {
    pub(in crate::control) path: PathBuf,
    pub(in crate::control) token: String,
    /// It was made now, and nobody has seen it yet.
    pub(in crate::control) is_new: bool,
}

/// Reads the token, or makes it; `None` where a plan needs none.
///
/// # Errors
/// One line: it can neither be read nor made.
pub(in crate::control) fn ensure(plan: &Plan) -> Result<Option<Generated>, String> {
    if plan.admin.listen.is_none() || !plan.admin.users.is_empty() || !plan.admin.tokens.is_empty() {
        return Ok(None);
    }
    let path = plan.engine.state_dir.join(FILE);
    let wrong = |what: &dyn std::fmt::Display| {
        format!("{}: {what} (remove it to get a new one, or configure [admin] users or tokens)", path.display())
    };
    if let Some(token) = read(&path).map_err(|error| wrong(&error))? {
        return Ok(Some(Generated { path, token, is_new: false }));
    }
    let token = secret::random().ok_or_else(|| wrong(&"the system gives no random numbers"))?;
    write(&path, &token).map_err(|error| wrong(&error))?;
    Ok(Some(Generated { path, token, is_new: true }))
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("others than its owner may use this file, so it proves nothing: chmod 600"));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text)?;
    let token = text.trim();
    if token.len() < LEAST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(io::Error::other(format!("there is no token in it: {LEAST} characters without spaces")));
    }
    Ok(Some(token.to_owned()))
}

/// Whole or not at all, and never readable for others.
fn write(path: &Path, token: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::plan::{AdminListen, Place};
    use crate::control::fixture;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_token_is_made_once_and_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = fixture::plan(directory.path());
        assert_eq!(ensure(&plan), Ok(None), "nobody listens");
        let at = Place { line: 1, column: 1 };
        plan.admin.listen = Some(AdminListen { address: "127.0.0.1:0".parse().unwrap(), is_given: true, at });
        let first = ensure(&plan).unwrap().unwrap();
        assert!(first.is_new && first.token.len() == 64);
        assert_eq!(first.path.metadata().unwrap().mode() & 0o777, 0o600);
        let second = ensure(&plan).unwrap().unwrap();
        assert_eq!((second.is_new, &second.token), (false, &first.token));

        fs::set_permissions(&first.path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(ensure(&plan).unwrap_err().contains("chmod 600"));
        fs::set_permissions(&first.path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&first.path, "secret\n").unwrap();
        assert!(ensure(&plan).unwrap_err().contains("no token in it"));
        fs::remove_file(&first.path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &first.path).unwrap();
        assert!(ensure(&plan).is_err());
        fs::remove_file(&first.path).unwrap();
        let third = ensure(&plan).unwrap().unwrap();
        assert!(third.is_new && third.token != first.token);
    }
}
