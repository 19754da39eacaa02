//! Requests on established connections while others log in, each as a user whose password was not checked before.
//!
//! The users are `guest0`, `guest1` and so on, and all have the password of `--login`. One begins whenever it is due,
//! whatever became of those before; who was answered leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::beside::Beside;
use super::socket::{Socket, Target};
use super::socks::{Command, Dialogue, Terms};
use super::worker::Worker;
use crate::net::{Interest, Poll};

/// How many users the proxy knows.
pub(crate) const GUESTS: usize = 1_000;
/// Guests under way; more are not begun.
const MOST: usize = 512;
/// The first hashes are under way before anything is measured.
const RISE: Duration = Duration::from_millis(200);

/// The name of guest number `index`.
pub(crate) fn guest(index: usize) -> String {
    format!("guest{index}")
}

/// Whoever makes requests is `worker`; guests ask `proxy` for `destination`, `rate` of them a second.
pub(crate) fn beside(
    worker: Worker,
    proxy: SocketAddr,
    destination: SocketAddr,
    password: &str,
    rate: f64,
) -> Result<Beside> {
    ensure!(rate > 0.0, "--logins must be above 0");
    let (password, interval) = (password.to_owned(), Duration::from_secs_f64(1.0 / rate));
    Ok(Beside::new(worker, RISE, move |stop, answered| come(proxy, destination, &password, interval, stop, answered)))
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
