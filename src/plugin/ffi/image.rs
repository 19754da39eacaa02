//! A plugin's file as it was read once: checked, hashed, and copied into a sealed memfd, so that replacing or changing
//! the file neither touches running code nor confuses which code runs.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::digest;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::LoadError;
use crate::limits::PLUGIN_BYTES;

/// The SHA-256 of a plugin's file: its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Who may own the file of a plugin, and write to it: nobody who could not change arus's configuration as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trust {
    /// Beside root and the user who runs arus.
    pub owner: Option<u32>,
    /// A group that may write to it.
    pub writers: Option<u32>,
}

impl Trust {
    /// What follows from the owner and mode of a configuration file that names plugins; where it cannot be asked, nobody
    /// else is trusted.
    #[must_use]
    pub fn of_configuration(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(file) => Self { owner: Some(file.uid()), writers: (file.mode() & 0o020 != 0).then(|| file.gid()) },
            Err(_) => Self { owner: None, writers: None },
        }
    }

    fn check(self, file: &std::fs::Metadata) -> Result<(), LoadError> {
        let (mode, owner, group) = (file.mode(), file.uid(), file.gid());
        if mode & 0o002 != 0 {
            return Err(LoadError::Trust("everybody may write to it (chmod o-w)".into()));
        }
        // A group-writable file is common where each user has a group of his own; as root it matters who that is.
        let is_root = nix::unistd::geteuid().is_root();
        if is_root && mode & 0o020 != 0 && group != 0 && self.writers != Some(group) {
            return Err(LoadError::Trust(format!("group {group} may write to it, and arus runs as root (chmod g-w)")));
        }
        if is_root && owner != 0 && self.owner != Some(owner) {
            return Err(LoadError::Trust(format!(
                "it belongs to user {owner}, who owns neither arus's process nor its configuration (chown root)"
            )));
        }
        Ok(())
    }
}

/// The copy.
#[derive(Debug)]
pub(super) struct Image {
    /// As /proc/self/maps names the copy.
    pub(super) name: String,
    pub(super) memory: OwnedFd,
}

/// Reads a plugin's file.
pub(super) fn read(path: &Path, trust: Trust) -> Result<(Vec<u8>, Digest), LoadError> {
    let unreadable = |error: std::io::Error| LoadError::Unreadable(error.to_string());
    // Opening a pipe must not wait for who writes to it.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(LoadError::Unreadable("it is not a file".into()));
    }
    trust.check(&metadata)?;
    let mut bytes = Vec::new();
    // One byte more tells a file that is too large, also one that grows meanwhile.
    file.take(PLUGIN_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > PLUGIN_BYTES {
        return Err(LoadError::Unreadable(format!("it has more than {} MiB", PLUGIN_BYTES / (1024 * 1024))));
    }
    let digest = digest::digest(&digest::SHA256, &bytes);
    let digest = Digest(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"));
    Ok((bytes, digest))
}

impl Image {
    pub(super) fn new(bytes: &[u8], digest: Digest) -> Result<Self, LoadError> {
        let failed = |what: &str, error: std::io::Error| LoadError::Image(format!("{what}: {error}"));
        let short = &digest.to_string()[..16];
        let name = format!("arus-plugin-{short}");
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let executable = flags | MFdFlags::from_bits_retain(libc::MFD_EXEC);
        let memory = match memfd_create(name.as_str(), executable) {
            // The flag came with kernel 6.3; without it every memfd may be run.
            Err(Errno::EINVAL) => memfd_create(name.as_str(), flags),
            other => other,
        };
        let memory = memory.map_err(|error| failed("memfd_create", error.into()))?;
        let mut file = File::from(memory);
        file.write_all(bytes).map_err(|error| failed("the copy cannot be written", error))?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(file.as_fd(), FcntlArg::F_ADD_SEALS(seals)).map_err(|error| failed("F_ADD_SEALS", error.into()))?;
        Ok(Self { name: format!("/memfd:{name}"), memory: file.into() })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const NOBODY: Trust = Trust { owner: None, writers: None };

    #[test]
    fn a_file_that_others_may_write_to_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.so");
        std::fs::write(&path, b"x").unwrap();
        assert!(read(&path, NOBODY).is_ok());
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o602);
        assert!(read(&path, NOBODY).unwrap_err().to_string().contains("chmod o-w"));
        mode(0o600);
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(&path, Some(12345.into()), Some(54321.into())).unwrap();
            assert!(read(&path, NOBODY).unwrap_err().to_string().contains("user 12345"));
            let trust = Trust { owner: Some(12345), writers: None };
            assert!(read(&path, trust).is_ok());
            mode(0o660);
            assert!(read(&path, trust).unwrap_err().to_string().contains("group 54321"));
            assert!(read(&path, Trust { writers: Some(54321), ..trust }).is_ok());
        }
    }

    #[test]
    fn only_files_of_some_size_are_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path(), NOBODY).unwrap_err().to_string().contains("not a file"));
        assert!(read(&directory.path().join("none"), NOBODY).unwrap_err().to_string().contains("No such file"));
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(PLUGIN_BYTES + 1).unwrap();
        assert!(read(&large, NOBODY).unwrap_err().to_string().contains("more than"));
    }

    #[test]
    fn the_copy_cannot_be_changed() {
        let digest = digest::digest(&digest::SHA256, b"code");
        let image = Image::new(b"code", Digest(digest.as_ref().try_into().unwrap())).unwrap();
        assert!(image.name.starts_with("/memfd:arus-plugin-"));
        let mut file = File::from(image.memory);
        assert_eq!(file.write(b"other").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        assert!(file.set_len(1).is_err());
    }
}
