//! The control socket: a unix socket that only arus's own user can connect to. It is also what tells a second arus with
//! the same state that there is a first one.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The bound socket's file; removed when dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds the control socket; a file that nobody listens on any more is taken over.
///
/// # Errors
/// One line: another arus runs with this state, or the socket cannot be made.
pub(super) fn bind(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    let cannot = |error: io::Error| format!("control socket {} cannot be made: {error}", path.display());
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(format!("control socket {}: there is a file that is no socket", path.display()));
        }
        // Also one that does not let us in, or has its queue full, has an owner.
        Ok(_) if !UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) => {
            return Err(format!(
                "another arus is running with this state: {} answers (stop it, or set [engine] state_dir or [admin] \
                 socket to another place)",
                path.display()
            ));
        }
        Ok(_) => std::fs::remove_file(path).map_err(cannot)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(cannot)?;
    let file = SocketFile(path.to_path_buf());
    // Until here the directory's mode (0700) and the umask keep others out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(cannot)?;
    listener.set_nonblocking(true).map_err(cannot)?;
    Ok((listener, file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_taken_over_and_a_live_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let refused = bind(&path).unwrap_err();
        assert!(refused.starts_with("another arus is running with this state"), "{refused}");
        assert!(path.exists());
        drop((listener, file));
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert!(bind(&path).unwrap_err().contains("no socket"));
        assert!(bind(Path::new("/nonexistent/x.sock")).unwrap_err().contains("cannot be made"));
    }
}
