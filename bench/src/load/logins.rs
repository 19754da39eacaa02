//! Requests on established connections while others log in, each as a user whose password was not checked before.
//!
//! The users are `guest0`, `guest1` and so on, and all have the password of `--login`. One begins whenever it is due,
//! whatever became of those before; who was answered leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use socket2::SockRef;

use super::Load;
use super::socket::{Socket, Target};
use super::socks::{Command, Dialogue, Terms};
use super::tally::Tally;
use super::worker::Worker;
use crate::net::{Interest, Poll};

/// How many users the proxy knows.
pub(crate) const GUESTS: usize = 1_000;
/// Guests under way; more are not begun.
const MOST: usize = 512;
/// The first hashes are under way before anything is measured.
const RISE: Duration = Duration::from_millis(200);

pub(crate) struct Logins {
    worker: Worker,
    guests: Option<Guests>,
    proxy: SocketAddr,
    destination: SocketAddr,
    password: String,
    interval: Duration,
}

/// The name of guest number `index`.
pub(crate) fn guest(index: usize) -> String {
    format!("guest{index}")
}

impl Logins {
    /// Whoever makes requests is `worker`; guests ask `proxy` for `destination`, `rate` of them a second.
    pub(crate) fn new(
        worker: Worker,
        proxy: SocketAddr,
        destination: SocketAddr,
        password: &str,
        rate: f64,
    ) -> Result<Self> {
        ensure!(rate > 0.0, "--logins must be above 0");
        let interval = Duration::from_secs_f64(1.0 / rate);
        Ok(Self { worker, guests: None, proxy, destination, password: password.to_owned(), interval })
    }
}

impl Load for Logins {
    fn prepare(&mut self, warmup: Duration) -> Result<()> {
        self.worker.prepare(warmup)?;
        let (proxy, destination, password) = (self.proxy, self.destination, self.password.clone());
        self.guests = Some(Guests::start(proxy, destination, password, self.interval));
        thread::sleep(RISE);
        Ok(())
    }

    fn measure(&mut self, until: Instant) -> Result<Tally> {
        let guests = self.guests.take().context("logins are prepared before they are measured")?;
        let before = guests.answered();
        let measured = self.worker.measure(until);
        let answered = guests.answered() - before;
        guests.end()?;
        let mut tally = measured?;
        tally.flooded = answered;
        ensure!(answered > 0, "no guest was answered");
        Ok(tally)
    }
}

/// The thread of the guests.
struct Guests {
    thread: JoinHandle<Result<()>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Guests {
    fn start(proxy: SocketAddr, destination: SocketAddr, password: String, interval: Duration) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (must_stop, count) = (Arc::clone(&stop), Arc::clone(&answered));
        // Pinned as the thread that starts it.
        let thread = thread::spawn(move || come(proxy, destination, &password, interval, &must_stop, &count));
        Self { thread, stop, answered }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the guests have panicked"))?
    }
}

fn come(
    proxy: SocketAddr,
    destination: SocketAddr,
    password: &str,
    interval: Duration,
    stop: &AtomicBool,
    answered: &AtomicU64,
) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut under_way: Vec<Option<(Socket, Dialogue)>> = Vec::new();
    under_way.resize_with(MOST, || None);
    let mut due = Instant::now();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        while due <= Instant::now() {
            if let Some(index) = under_way.iter().position(Option::is_none) {
                let name = guest(turn % GUESTS);
                let terms = Arc::new(Terms::new(Command::Connect, destination, Some((&name, password))));
                let target = Target { address: proxy, tls: None, socks: Some(terms) };
                let socket = target.dial_later()?;
                // Leaves with RST: a guest in TIME_WAIT would keep a port.
                SockRef::from(&socket.stream).set_linger(Some(Duration::ZERO))?;
                poll.add(&socket, index, Interest::Write)?;
                under_way[index] = Some((socket, target.dialogue().context("a target with SOCKS")?));
            }
            turn += 1;
            due += interval;
        }
        let events = poll.wait(Some(due.saturating_duration_since(Instant::now())))?;
        for event in 0..events {
            let index = poll.token(event);
            let Some((socket, dialogue)) = &mut under_way[index] else { continue };
            match dialogue.step(socket) {
                Ok(None) => poll.set(&*socket, index, Interest::Read)?,
                // The proxy may have more logins to check than it can.
                Ok(Some(_)) | Err(_) => {
                    answered.fetch_add(1, Ordering::Relaxed);
                    under_way[index] = None;
                }
            }
        }
    }
    Ok(())
}
