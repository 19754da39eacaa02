//! Where the access log goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::config::plan::AccessLog;

/// An open access log.
#[derive(Debug)]
pub(in crate::control) struct Sink {
    /// `None`: switched off.
    out: Option<File>,
    /// The last write ended inside a line.
    is_torn: bool,
}

/// What a write could not place.
#[derive(Debug)]
pub(super) struct Unwritten {
    pub lines: u64,
    pub error: io::Error,
}

impl Sink {
    /// # Errors
    /// One line, when the file cannot be opened.
    pub(in crate::control) fn open(log: &AccessLog) -> Result<Self, String> {
        let out = match log {
            AccessLog::Off => None,
            // A descriptor of its own, past the lock of std's stderr: a log line of control never waits for this one.
            AccessLog::Stderr => match io::stderr().as_fd().try_clone_to_owned() {
                Ok(stderr) => Some(File::from(stderr)),
                Err(error) => return Err(format!("access log: stderr cannot be used: {error}")),
            },
            AccessLog::File(path) => Some(append_to(path).map_err(|error| {
                let why = match error.raw_os_error() {
                    Some(libc::ENXIO) => "nobody reads from this pipe".to_owned(),
                    _ => error.to_string(),
                };
                format!("access log {} cannot be opened: {why}", path.display())
            })?),
        };
        Ok(Self { out, is_torn: false })
    }

    pub(super) fn is_off(&self) -> bool {
        self.out.is_none()
    }

    /// Writes a batch of whole lines, normally with one write(2).
    pub(super) fn write(&mut self, batch: &[u8], lines: u64) -> Result<(), Unwritten> {
        let Some(out) = &mut self.out else { return Ok(()) };
        if batch.is_empty() {
            return Ok(());
        }
        if self.is_torn {
            // Ends the piece of a line that a full disk left behind.
            self.is_torn = out.write_all(b"\n").is_err();
        }
        let mut written = 0;
        while written < batch.len() {
            match out.write(&batch[written..]) {
                Ok(0) => return Err(self.unwritten(batch, written, lines, io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.unwritten(batch, written, lines, error)),
            }
        }
        Ok(())
    }

    fn unwritten(&mut self, batch: &[u8], written: usize, lines: u64, error: io::Error) -> Unwritten {
        let done = &batch[..written];
        if let Some(last) = done.last() {
            self.is_torn = *last != b'\n';
        }
        Unwritten { lines: lines - done.iter().filter(|byte| **byte == b'\n').count() as u64, error }
    }
}

/// Whoever opens a pipe to write to it would wait for its reader, and all of control with it; who writes may wait.
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK).open(path)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}
