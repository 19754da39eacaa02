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
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use socket2::{Domain, Socket, Type};
use tokio::net::UnixDatagram;
use tokio::sync::{Semaphore, oneshot};

pub use process::{keep, work};
pub use wire::{Answer, Question};

use super::super::events::{Category, Events, Severity};
use crate::control::privilege;
use wire::{Message, PACKET};

/// Questions at a time.
pub(super) const WORKERS: usize = 4;
/// Questions that may wait for a worker.
const WAITING: usize = 256;
/// A module that takes longer is stuck. LDAP servers that are slow answer within some seconds.
const LIMIT: Duration = Duration::from_secs(10);
/// How much later arus gives an answer up that the worker's own limit should have brought.
const MARGIN: Duration = Duration::from_secs(2);
/// Between the end of all processes and new ones: doubled while they end again soon.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(30);
/// Processes that lived so long did not end for being started.
const SETTLED: Duration = Duration::from_secs(60);
/// Where Linux-PAM looks for services.
const DIRECTORIES: [&str; 2] = ["/etc/pam.d", "/usr/lib/pam.d"];

/// Our end of the socket, before there is a runtime.
#[derive(Debug)]
pub struct Started {
    socket: Socket,
    keeper: Child,
    terms: Terms,
}

/// How the processes are started.
#[derive(Debug, Clone)]
struct Terms {
    program: PathBuf,
    workers: usize,
    limit: Duration,
    /// Whether they are root. Others, in their place, could check nobody.
    is_root: bool,
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
    Terms { program: program.into(), workers, limit, is_root: privilege::is_root() }.start()
}

impl Terms {
    fn start(self) -> io::Result<Started> {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET, None)?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.program);
        command.arg(process::KEEPER).arg(self.workers.to_string()).arg(self.limit.as_millis().to_string());
        // A group of its own: Ctrl-C on a terminal is for arus, which may have to drain first.
        command.env_clear().current_dir("/").process_group(0).stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        Ok(Started { socket: ours, keeper: command.spawn()?, terms: self })
    }
}

/// The processes as arus sees them.
#[derive(Debug, Clone)]
pub struct Pam(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Of packets, though not of datagrams: it tells when the other end is closed.
    socket: ArcSwap<UnixDatagram>,
    terms: Terms,
    permits: Semaphore,
    waiting: AtomicUsize,
    next_id: AtomicU64,
    open: Mutex<Open>,
    /// Once it has ended, whoever keeps the workers is no child of arus.
    keeper: Mutex<Option<Child>>,
    restarts: AtomicU64,
    /// Once control has them.
    events: OnceLock<Events>,
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
        let Started { socket, keeper, terms } = started;
        let inner = Arc::new(Inner {
            socket: ArcSwap::from_pointee(watched(socket)?),
            permits: Semaphore::new(terms.workers),
            terms,
            waiting: AtomicUsize::new(0),
            next_id: AtomicU64::new(1),
            open: Mutex::default(),
            keeper: Mutex::new(Some(keeper)),
            restarts: AtomicU64::new(0),
            events: OnceLock::new(),
        });
        tokio::spawn(listen(Arc::clone(&inner)));
        Ok(Self(inner))
    }

    /// Where it is to be told that the processes had to be started again.
    pub(in crate::control) fn set_events(&self, events: Events) {
        let _ = self.0.events.set(events);
    }

    /// How often the processes had to be started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Relaxed)
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

/// To be called inside the runtime.
fn watched(socket: Socket) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(OwnedFd::from(socket).into())
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
        let socket = self.socket.load_full();
        let answer = tokio::time::timeout(self.terms.limit + MARGIN, async {
            match socket.send(&packet).await {
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
            Message::Succeeded { pid } => {
                let taken = std::mem::take(&mut open.taken);
                for asker in taken.values().filter_map(|id| open.questions.remove(id)) {
                    let _ = asker.send(unavailable("its PAM process was killed"));
                }
                drop(open);
                self.restarted(pid);
                return;
            }
        };
        if let Some(asker) = open.questions.remove(&id) {
            let _ = asker.send(answer);
        }
    }

    fn restarted(&self, pid: u32) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        // So that nothing is left of the one before.
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_mut().is_some_and(|keeper| keeper.id() != pid && matches!(keeper.try_wait(), Ok(Some(_)))) {
            *keeper = None;
        }
        drop(keeper);
        self.tell(Severity::Warning, "the process that keeps those that ask PAM was killed: another is there", pid);
    }

    fn tell(&self, severity: Severity, what: &str, pid: u32) {
        match severity {
            Severity::Error => tracing::error!("{what}"),
            Severity::Info | Severity::Warning => tracing::warn!(pid, "{what}"),
        }
        if let Some(events) = self.events.get() {
            events.say_seldom(what, severity, Category::Auth, what, serde_json::json!({ "pid": pid }));
        }
    }

    /// Takes messages until the other end is closed by all who had it.
    async fn hear(&self) {
        let socket = self.socket.load_full();
        let mut packet = [0; PACKET];
        while let Ok(length @ 1..) = socket.recv(&mut packet).await {
            if let Some(message) = packet.get(..length).and_then(wire::read) {
                self.take(message);
            }
        }
        let mut open = self.open();
        open.questions.clear();
        open.taken.clear();
    }

    /// Starts all of the processes again.
    async fn start_again(&self) -> io::Result<()> {
        let terms = self.terms.clone();
        let started = tokio::task::spawn_blocking(move || terms.start()).await.map_err(io::Error::other)?;
        let Started { socket, keeper, .. } = started?;
        self.socket.store(Arc::new(watched(socket)?));
        let pid = keeper.id();
        let before = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).replace(keeper);
        // Nobody has its end of the socket any more: it has ended, or does so now.
        let _ = before.map(|mut before| before.wait());
        self.restarted(pid);
        Ok(())
    }
}

/// Hands answers to whoever waits for them, and sees to it that there is somebody who gives some.
async fn listen(inner: Arc<Inner>) {
    let mut pause = *PAUSES.start();
    loop {
        let begun = Instant::now();
        inner.hear().await;
        if inner.terms.is_root != privilege::is_root() {
            const LOST: &str =
                "the PAM processes have ended, and root was given up: logins by PAM fail until arus is started again";
            inner.permits.close();
            inner.tell(Severity::Error, LOST, 0);
            return;
        }
        if begun.elapsed() >= SETTLED {
            pause = *PAUSES.start();
        }
        loop {
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(*PAUSES.end());
            match inner.start_again().await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the PAM processes cannot be started again"),
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
