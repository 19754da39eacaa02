//! Quotas: what users have used of them, kept over restarts, and begun anew when a period is over. Also forgets users that
//! have gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::handle::Control;
use crate::policy::terms::Qos;
use crate::policy::users::{Users, clock};

const FILE: &str = "quotas.json";
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// A user without sessions is known for so long.
const KNOWN: Duration = Duration::from_secs(60);
/// The file has a line per user of `[qos]`.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// What one user has used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Used {
    per: String,
    /// Which hour, day or month it is.
    period: u64,
    bytes: u64,
}

type Book = BTreeMap<String, Used>;

/// The book of what was used.
#[derive(Debug)]
pub(super) struct Quotas {
    path: PathBuf,
    /// As the file has it.
    written: Book,
    has_failed: bool,
}

impl Quotas {
    /// Takes up what the file in `state_dir` says.
    pub(super) fn open(state_dir: &Path) -> Self {
        let path = path(state_dir);
        let written = read(&path).unwrap_or_else(|error| {
            tracing::warn!("{} cannot be read, so quotas begin anew: {error}", path.display());
            Book::new()
        });
        Self { path, written, has_failed: false }
    }

    /// Brings users and file up to date. To be called by one thread at a time.
    pub(super) fn tend(&mut self, users: &Users, qos: &Qos) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let book = self.count(users, qos, since_epoch);
        if book != self.written {
            match write(&self.path, &book) {
                Ok(()) => {
                    self.written = book;
                    self.has_failed = false;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.has_failed, true) {
                        tracing::warn!(
                            "{} cannot be written, so a restart forgets quotas: {error}",
                            self.path.display()
                        );
                    }
                    self.written = book;
                }
            }
        }
        users.forget(clock().saturating_sub(KNOWN.as_nanos() as u64));
    }

    fn count(&self, users: &Users, qos: &Qos, since_epoch: Duration) -> Book {
        let mut book = Book::new();
        for (terms, quota) in qos.users.iter().filter_map(|user| Some((user, user.quota?))) {
            let Some(user) = users.find(&terms.name) else { continue };
            let (per, period) = (quota.per.word(), quota.per.number(since_epoch));
            match self.written.get(&*terms.name).filter(|used| used.per == per) {
                // Nobody was counted yet: it is the first look after a start.
                Some(used) if used.period == period && user.used() == 0 => user.resume_quota(used.bytes),
                Some(used) if used.period != period => user.renew_quota(),
                _ => {}
            }
            book.insert(terms.name.to_string(), Used { per: per.into(), period, bytes: user.used() });
        }
        book
    }
}

/// The thread runs until this is dropped, and looks a last time then.
#[derive(Debug)]
pub(super) struct QuotaThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl QuotaThread {
    pub(super) fn spawn(control: Control, mut quotas: Quotas) -> std::io::Result<Self> {
        let (stop, stopped) = bounded::<()>(0);
        let thread = std::thread::Builder::new().name("quotas".into()).spawn(move || {
            loop {
                let goes_on = stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout);
                let view = control.view();
                quotas.tend(&view.snapshot.users, &view.snapshot.plan.qos);
                if !goes_on {
                    break;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for QuotaThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

fn read(path: &Path) -> std::io::Result<Book> {
    match std::fs::metadata(path) {
        Ok(file) if file.len() > MOST_BYTES => return Err(std::io::Error::other("it is too large")),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Book::new()),
        Err(error) => return Err(error),
    }
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// All or nothing.
fn write(path: &Path, book: &Book) -> std::io::Result<()> {
    let new = path.with_extension("json.new");
    std::fs::write(&new, serde_json::to_vec(book)?)?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::terms::{Limits, Period, Quota, User};
    use crate::types::Reason;

    fn qos() -> Qos {
        let quota = Some(Quota { bytes: 1000, per: Period::Hour });
        Qos { users: vec![User { name: "alice".into(), limits: Limits::default(), quota }], ..Qos::default() }
    }

    #[test]
    fn what_was_used_is_known_after_a_restart_and_forgotten_in_the_next_period() {
        let directory = tempfile::tempdir().unwrap();
        let (qos, hour) = (qos(), Duration::from_secs(3600));
        let users = Users::new(&qos, clock());
        let mut quotas = Quotas::open(directory.path());
        let session = users.enter(&"alice".into(), clock()).unwrap();
        assert!(session.count(true, 400) && !session.count(false, 600));
        assert_eq!(users.enter(&"alice".into(), clock()).unwrap_err(), Reason::Quota);
        quotas.tend(&users, &qos);

        let users = Users::new(&qos, clock());
        let mut quotas = Quotas::open(directory.path());
        assert!(users.enter(&"alice".into(), clock()).is_ok(), "nobody has read the file yet");
        let at = quotas.written["alice"].period;
        let then = |period: u64| hour * (period - 1) as u32;
        let book = quotas.count(&users, &qos, then(at));
        assert_eq!(book["alice"].bytes, 1000);
        assert_eq!(users.enter(&"alice".into(), clock()).unwrap_err(), Reason::Quota);
        quotas.written = quotas.count(&users, &qos, then(at + 1));
        assert_eq!((quotas.written["alice"].bytes, quotas.written["alice"].period), (0, at + 1));
        assert!(users.enter(&"alice".into(), clock()).is_ok());
    }

    #[test]
    fn a_broken_file_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(path(directory.path()), "{\"alice\": 1}").unwrap();
        assert_eq!(Quotas::open(directory.path()).written, Book::new());
    }
}
