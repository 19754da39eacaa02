//! PAM, which may need root, block, crash and leave things behind: so it runs in processes of its own (`process`), which are
//! asked over a socket (`wire`) and load libpam themselves (`ffi`).

mod ffi;
mod process;
mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::UnixDatagram;
use tokio::sync::{Semaphore, oneshot};

pub use process::{keep, work};
pub use wire::{Answer, Question};

use wire::{Message, PACKET};

/// Questions at a time.
const WORKERS: usize = 4;
/// Questions that may wait for a worker.
const WAITING: usize = 256;
/// A module that takes longer is stuck. LDAP servers that are slow answer within some seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// How much later arus gives an answer up that the worker's own limit should have brought.
const MARGIN: Duration = Duration::from_secs(2);
/// Where Linux-PAM looks for services.
const DIRECTORIES: [&str; 2] = ["/etc/pam.d", "/usr/lib/pam.d"];

/// Our end of the socket, before there is a runtime.
#[derive(Debug)]
pub struct Started {
    socket: Socket,
    limit: Duration,
    workers: usize,
}

/// Starts the processes: as who this process is now.
///
/// # Errors
/// When they cannot be started.
pub fn start() -> io::Result<Started> {
    start_as(Path::new("/proc/self/exe"), WORKERS, LIMIT)
}

/// As [`start`], from a program at another path, as tests need it.
///
/// # Errors
/// When they cannot be started.
pub fn start_as(program: &Path, workers: usize, limit: Duration) -> io::Result<Started> {
    let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(program);
    command.arg(process::KEEPER).arg(workers.to_string()).arg(limit.as_millis().to_string());
    // A group of its own: Ctrl-C on a terminal is for arus, which may have to drain first.
    command.env_clear().current_dir("/").process_group(0).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
    let child = command.spawn()?;
    // It ends when arus does, and whoever adopts it then reaps it. Should it end before, one entry stays in the table.
    drop(child);
    Ok(Started { socket: ours, limit, workers })
}

/// The processes as arus sees them.
#[derive(Debug, Clone)]
pub struct Pam(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Of packets, though not of datagrams: it tells when the other end is closed.
    socket: UnixDatagram,
    limit: Duration,
    permits: Semaphore,
    waiting: AtomicUsize,
    next_id: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    questions: HashMap<u64, oneshot::Sender<Answer>>,
    /// Which worker has which.
    taken: HashMap<u32, u64>,
}

impl Pam {
    /// To be made inside the runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn new(started: Started) -> io::Result<Self> {
        let Started { socket, limit, workers } = started;
        let inner = Arc::new(Inner {
            socket: UnixDatagram::from_std(OwnedFd::from(socket).into())?,
            limit,
            permits: Semaphore::new(workers),
            waiting: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            open: Mutex::default(),
        });
        tokio::spawn(listen(Arc::clone(&inner)));
        Ok(Self(inner))
    }

    /// One answer. Whoever stops waiting for it leaves its worker busy, and counted as such.
    pub async fn ask(&self, question: Question) -> Answer {
        let inner = Arc::clone(&self.0);
        if inner.waiting.fetch_add(1, Ordering::SeqCst) >= WAITING {
            inner.waiting.fetch_sub(1, Ordering::SeqCst);
            return unavailable("too many logins are waiting");
        }
        let asked = tokio::spawn(async move {
            let permit = inner.permits.acquire().await;
            inner.waiting.fetch_sub(1, Ordering::SeqCst);
            let Ok(_permit) = permit else { return unavailable("arus is stopping") };
            inner.ask(&question).await
        });
        asked.await.unwrap_or_else(|_| unavailable("it was interrupted"))
    }
}

fn unavailable(why: &str) -> Answer {
    Answer::Unavailable(why.into())
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, question: &Question) -> Answer {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // What PAM would take for something else than the client sent is not right.
        let Some(packet) = wire::write_question(id, question) else { return Answer::Refused };
        let (sender, answer) = oneshot::channel();
        self.open().questions.insert(id, sender);
        let sent = self.socket.send(&packet);
        let answer = tokio::time::timeout(self.limit + MARGIN, async {
            match sent.await {
                Ok(_) => answer.await.unwrap_or_else(|_| unavailable("the PAM processes have ended")),
                Err(error) => unavailable(&format!("the PAM processes cannot be asked: {error}")),
            }
        });
        let answer = answer.await.unwrap_or_else(|_| unavailable("no PAM process answers"));
        self.open().questions.remove(&id);
        answer
    }

    fn take(&self, message: Message) {
        let mut open = self.open();
        let (id, answer) = match message {
            Message::Taken { id, pid } => {
                open.taken.insert(pid, id);
                return;
            }
            Message::Died { pid } => {
                let Some(id) = open.taken.remove(&pid) else { return };
                (id, unavailable("its PAM process has crashed, or was stuck"))
            }
            Message::Answer { id, answer } => {
                open.taken.retain(|_, taken| *taken != id);
                (id, answer)
            }
        };
        if let Some(asker) = open.questions.remove(&id) {
            let _ = asker.send(answer);
        }
    }
}

/// Hands answers to whoever waits for them.
async fn listen(inner: Arc<Inner>) {
    let mut packet = [0; PACKET];
    loop {
        let read = inner.socket.recv(&mut packet).await;
        match read {
            Ok(length) if length > 0 => {
                if let Some(message) = packet.get(..length).and_then(wire::read) {
                    inner.take(message);
                }
            }
            Ok(_) | Err(_) => {
                tracing::error!("the PAM processes have ended: logins by PAM fail until arus is started again");
                inner.permits.close();
                inner.open().questions.clear();
                return;
            }
        }
    }
}

/// Why `service` could not be asked on this machine.
pub(super) fn missing(service: &str) -> Option<(String, &'static str)> {
    static LIBRARY: std::sync::LazyLock<Result<(), String>> =
        std::sync::LazyLock::new(|| ffi::Library::open().map(drop));
    if let Err(error) = &*LIBRARY {
        return Some((format!("PAM needs libpam, which cannot be loaded: {error}"), "apt-get install libpam0g"));
    }
    let mut files = DIRECTORIES.iter().map(|directory| PathBuf::from(directory).join(service));
    if files.any(|file| file.exists()) {
        return None;
    }
    Some((
        format!("there is no PAM service `{service}`"),
        "make /etc/pam.d/SERVICE: see docs/OPERATIONS.md, section 16",
    ))
}
